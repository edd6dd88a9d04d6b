//! A child process with a line in and a line out, which dies when it is dropped or when we die.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use crate::error::{Result, failed, trying};

/// Bytes of a log that an error shows.
const LOG_TAIL_BYTES: usize = 2048;

/// A running child.
#[derive(Debug)]
pub struct Part {
    name: String,
    child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    log: PathBuf,
}

impl Part {
    /// Starts `command`; what it writes to standard error goes to `<directory>/<name>.log`.
    ///
    /// To be called from the main thread: the child dies with the thread that starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(name: &str, command: Command, directory: &Path) -> Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let errors = std::fs::File::create(&log).map_err(trying(log.display().to_string()))?;
        let mut child = tokio::process::Command::from(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .map_err(trying(format!("starting {name}")))?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (stdin, stdout) = pipes.ok_or_else(|| failed(name, "started without pipes"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            stdin,
            stdout: BufReader::new(stdout).lines(),
            log,
        })
    }

    /// Its process id; 0 once it has ended.
    pub fn id(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// An error that shows the log, if the process has ended.
    ///
    /// # Errors
    /// That one.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.ended(&status.to_string())),
            Err(error) => Err(failed(&self.name, error.to_string())),
        }
    }

    /// The next line that it says.
    ///
    /// # Errors
    /// When it ends instead, or says nothing within `limit`.
    pub async fn line(&mut self, limit: Duration) -> Result<String> {
        let waited = tokio::time::timeout(limit, self.stdout.next_line()).await;
        let silent = |_| failed(&self.name, format!("said nothing within {} s", limit.as_secs()));
        match waited.map_err(silent)? {
            Ok(Some(line)) => Ok(line),
            Ok(None) => Err(self.ended("no last word")),
            Err(error) => Err(failed(&self.name, error.to_string())),
        }
    }

    /// Asks by one line of JSON and takes one line as the answer.
    ///
    /// # Errors
    /// When the child ends, says no such thing, or takes longer than `limit`.
    pub async fn ask<A: DeserializeOwned>(&mut self, question: &impl Serialize, limit: Duration) -> Result<A> {
        let mut line = serde_json::to_vec(question).map_err(trying("a question"))?;
        line.push(b'\n');
        let sent = self.stdin.write_all(&line).await;
        sent.map_err(trying(format!("asking {}", self.name)))?;
        self.stdin.flush().await.map_err(trying("asking"))?;
        let answer = self.line(limit).await?;
        serde_json::from_str(&answer).map_err(trying(format!("{} said {answer:?}", self.name)))
    }

    fn ended(&self, status: &str) -> crate::Error {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let tail = &log[log.len().saturating_sub(LOG_TAIL_BYTES)..];
        let tail = String::from_utf8_lossy(tail);
        failed(&self.name, format!("ended with {status}; the end of its log:\n{tail}"))
    }
}
