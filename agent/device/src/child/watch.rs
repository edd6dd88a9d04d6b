//! A child that reads a backend's devices again and again, one line of JSON each time.

use super::starved::{self, Late};
use super::{COMPLAINT_LIMIT_BYTES, Guarded, Quota, last_words};
use crate::telemetry::Reading;
use crate::{Backend, Selection};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout};

/// A reading of sixteen devices with a hundred processes each is a tenth of that.
const LINE_LIMIT_BYTES: u64 = 1 << 20;
/// Its last words are in the pipe already when it has ended.
const LAST_WORDS_LIMIT: Duration = Duration::from_millis(500);

/// What a watch child is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// From one reading to the next.
    pub interval: Duration,
    /// Which devices.
    pub only: Selection,
    /// "/" but in tests.
    pub root: PathBuf,
}

/// What came of waiting for a watch child.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// A line.
    Reading(Reading),
    /// Nothing for as long as it may be silent: its driver hangs.
    Silence,
    /// Nothing, since the node had no processor for it: more may come.
    Starved,
    /// It ended by itself and well: there is nothing to read here.
    Finished,
    /// It crashed, or said what cannot be read: a sentence.
    Broken(String),
}

/// A running watch child. When it is dropped the child is ended.
#[derive(Debug)]
pub struct WatchChild {
    backend: Backend,
    guarded: Guarded,
    lines: BufReader<ChildStdout>,
    line: Vec<u8>,
    complaint: Arc<Mutex<VecDeque<u8>>>,
    complaining: tokio::task::JoinHandle<()>,
    /// Held open: the child ends when it closes.
    _stdin: Option<ChildStdin>,
}

impl WatchChild {
    /// Runs `executable watch --backend <backend> …`. Needs a running tokio runtime.
    ///
    /// # Errors
    /// It could not be started: a sentence.
    pub fn start(executable: &Path, backend: Backend, order: &Order, quota: &Quota) -> Result<Self, String> {
        let not_made = |error: String| format!("the {} watcher was not made: {error}", backend.name());
        let mut guarded = Guarded::start(executable, arguments(backend, order), quota).map_err(not_made)?;
        let pipes = guarded
            .child()
            .and_then(|child| Some((child.stdin.take(), child.stdout.take()?, child.stderr.take()?)));
        let (stdin, stdout, stderr) = pipes.ok_or_else(|| not_made("it has no pipes".to_owned()))?;
        let complaint = Arc::new(Mutex::new(VecDeque::new()));
        let complaining = tokio::spawn(keep_tail(stderr, Arc::clone(&complaint)));
        Ok(Self {
            backend,
            guarded,
            lines: BufReader::new(stdout),
            line: Vec::new(),
            complaint,
            complaining,
            _stdin: stdin,
        })
    }

    /// The next thing that happens. After anything but a reading, or [`Heard::Starved`], the child is of no more use.
    pub async fn next(&mut self, silence: Duration) -> Heard {
        let pid = self.guarded.child().and_then(|child| child.id());
        match starved::within(silence, || pid.and_then(starved::delay_of), self.line()).await {
            Err(Late::Silent) => Heard::Silence,
            Err(Late::Starved) => Heard::Starved,
            Ok(Err(reason)) => Heard::Broken(reason),
            Ok(Ok(Some(reading))) => Heard::Reading(reading),
            Ok(Ok(None)) => self.end(silence).await,
        }
    }

    async fn line(&mut self) -> Result<Option<Reading>, String> {
        let name = self.backend.name();
        let mut bounded = (&mut self.lines).take(LINE_LIMIT_BYTES);
        bounded
            .read_until(b'\n', &mut self.line)
            .await
            .map_err(|error| format!("the {name} watcher cannot be heard: {error}"))?;
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return Ok(None);
        }
        let reading: Reading = serde_json::from_slice(&line)
            .map_err(|error| format!("the {name} watcher said what cannot be read: {error}"))?;
        if reading.backend == self.backend {
            Ok(Some(reading))
        } else {
            Err(format!("the {name} watcher read {}", reading.backend.name()))
        }
    }

    /// Its output is closed: how it ended.
    async fn end(&mut self, silence: Duration) -> Heard {
        let name = self.backend.name();
        let Some(child) = self.guarded.child() else {
            return Heard::Finished;
        };
        match tokio::time::timeout(silence, child.wait()).await {
            Err(_) => Heard::Silence,
            Ok(Ok(status)) if status.success() => Heard::Finished,
            Ok(Ok(status)) => {
                // What it left behind may hold the pipe open; then its last words are what was heard so far.
                let _ = tokio::time::timeout(LAST_WORDS_LIMIT, &mut self.complaining).await;
                Heard::Broken(format!(
                    "the {name} driver took its watcher down ({status}): {}",
                    self.last_words()
                ))
            }
            Ok(Err(error)) => Heard::Broken(format!("the {name} watcher could not be waited for: {error}")),
        }
    }

    /// The last line that it complained.
    pub fn last_words(&self) -> String {
        let mut complaint = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        last_words(complaint.make_contiguous())
    }
}

impl Drop for WatchChild {
    fn drop(&mut self) {
        self.complaining.abort();
    }
}

/// Reads to the end and keeps the last bytes: a watcher lives long, and what it said last tells why it ended.
async fn keep_tail(mut pipe: impl AsyncRead + Unpin, kept: Arc<Mutex<VecDeque<u8>>>) {
    let mut chunk = [0_u8; 1024];
    while let Ok(count @ 1..) = pipe.read(&mut chunk).await {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(&chunk[..count]);
        let over = kept.len().saturating_sub(COMPLAINT_LIMIT_BYTES as usize);
        kept.drain(..over);
    }
}

fn arguments(backend: Backend, order: &Order) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec![
        "watch".into(),
        "--backend".into(),
        backend.name().into(),
        "--interval-ms".into(),
        order.interval.as_millis().to_string().into(),
        "--sysfs-root".into(),
        order.root.clone().into(),
    ];
    if order.only != Selection::All {
        arguments.push("--only".into());
        arguments.push(order.only.to_string().into());
    }
    arguments
}
