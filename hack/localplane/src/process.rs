//! A child process that cannot outlive its parent, with its output in a log file.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::{Error, Result, file};

/// How much of a log an error shows.
const LOG_TAIL_BYTES: u64 = 4096;
/// How often a stop looks whether the process has gone.
const POLL: Duration = Duration::from_millis(20);

/// A running child, in a process group of its own. Dropping it kills the whole group.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with both outputs appended to `log`.
    ///
    /// The child is wrapped in `setpriv --pdeathsig KILL`: it dies with the thread that starts it, so call this from a
    /// thread that lives as long as the program.
    pub fn spawn(name: &str, command: &Command, log: &Path) -> Result<Self> {
        let out = File::options().create(true).append(true).open(log).map_err(file(log))?;
        let err = out.try_clone().map_err(file(log))?;
        let mut wrapped = Command::new("setpriv");
        wrapped.args(["--pdeathsig", "KILL", "--"]);
        wrapped.arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(key, value),
                None => wrapped.env_remove(key),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            wrapped.current_dir(dir);
        }
        std::os::unix::process::CommandExt::process_group(&mut wrapped, 0);
        let child = wrapped
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .map_err(|source| Error::Spawn {
                name: name.to_owned(),
                source,
            })?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The end of the log, for error messages.
    pub fn log_tail(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut log = File::open(&self.log)?;
            let length = log.metadata()?.len();
            log.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
            let mut bytes = Vec::new();
            log.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_else(|error| format!("(no log: {error})"))
    }

    /// An error that shows the log, if the process has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(Some(status)) => Err(Error::Exited {
                name: self.name.clone(),
                status: status.to_string(),
                log: self.log_tail(),
            }),
            Ok(None) => Ok(()),
            Err(source) => Err(Error::Spawn {
                name: self.name.clone(),
                source,
            }),
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.check().is_ok()
    }

    /// Asks the process to end, and kills its group when it has not within `limit`.
    pub async fn stop(&mut self, limit: Duration) {
        self.signal_group(Signal::TERM);
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if !self.is_running() {
                break;
            }
            // Not a blocking sleep: what it waits for may wait for a connection of this very program.
            tokio::time::sleep(POLL).await;
        }
        self.kill();
    }

    /// Kills the process and all that it started, as the end of a Pod does.
    pub fn kill(&mut self) {
        self.signal_group(Signal::KILL);
        // The group leader is our child: reap it, so that no zombie stays.
        let _ = self.child.wait();
    }

    fn signal_group(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(id) = id {
            // The group may be gone already: that is what is wanted.
            let _ = kill_process_group(id, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// All descendants of a process, as /proc shows them now.
pub fn descendants(ancestor: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let parents: Vec<(u32, u32)> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|id: u32| Some((id, parent_of(id)?)))
        .collect();
    let mut found = vec![ancestor];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(id, _)| *id));
        next += 1;
    }
    found.split_off(1)
}

/// Processes of this executable that have an argument below a folder, whoever their parents are.
pub fn working_in(folder: &Path, name: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let names_it = |id: u32| {
        let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let mut arguments = line.split(|byte| *byte == 0);
        arguments.any(|argument| Path::new(OsStr::from_bytes(argument)).starts_with(folder))
    };
    ids.filter(|id| executable(*id).as_deref() == Some(name) && names_it(*id))
        .collect()
}

/// The parent's id is the second field after the command, which is in parentheses and may hold anything.
fn parent_of(id: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
}

/// The name of the file that a process runs; `None` when it is gone.
pub fn executable(id: u32) -> Option<String> {
    let path = std::fs::read_link(format!("/proc/{id}/exe")).ok()?;
    // The kernel appends this where the file was replaced since: a build went on meanwhile.
    let name = path.file_name()?.to_str()?.trim_end_matches(" (deleted)");
    Some(name.to_owned())
}

/// Kills one process by its id. It may be gone already.
pub fn kill(id: u32) {
    signal(id, Signal::KILL);
}

/// Stops a process where it stands, as a machine does that swaps, or a hypervisor that moves it.
pub fn freeze(id: u32) {
    signal(id, Signal::STOP);
}

/// Lets a frozen process go on.
pub fn thaw(id: u32) {
    signal(id, Signal::CONT);
}

fn signal(id: u32, signal: Signal) {
    if let Some(id) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        // It may be gone already.
        let _ = rustix::process::kill_process(id, signal);
    }
}
