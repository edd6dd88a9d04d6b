//! Asking a backend in a process of its own, because a driver may hang or crash.
//!
//! Two kinds of children: one that [`probe`]s and ends, one that [`watch`]es and stays. Both end when their standard
//! input closes, which is when the process that started them has ended, however it ended.

pub mod parts;
pub mod probe;
mod starved;
pub mod watch;

use crate::Backend;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Of what the driver wrote to stderr, as much as helps a person.
const COMPLAINT_LIMIT_BYTES: u64 = 4 << 10;
/// Processes of one backend at once: a watcher, a probe, and a few that hang in the kernel and cannot be killed.
const PROCESSES_MAX: usize = 6;

/// How many processes may be at a backend's driver at once. One that hangs in the kernel survives its killing; it counts
/// until it is gone, so that a wedged driver costs a handful of processes and not one more every few seconds.
#[derive(Clone, Debug)]
pub struct Quota {
    permits: Arc<Semaphore>,
    /// What is left to others.
    left: usize,
    backend: Backend,
}

impl Quota {
    /// With nobody at the driver.
    pub fn new(backend: Backend) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(PROCESSES_MAX)),
            left: 0,
            backend,
        }
    }

    /// The same for who leaves so many places to others.
    fn leaving(&self, left: usize) -> Self {
        Self { left, ..self.clone() }
    }

    fn take(&self) -> Result<OwnedSemaphorePermit, String> {
        let full = || {
            format!(
                "{PROCESSES_MAX} processes hang in the {} driver and cannot be ended; the node needs a restart",
                self.backend.name()
            )
        };
        // Two that look at once may leave one place less: nobody counts on a certain one.
        if self.permits.available_permits() <= self.left {
            return Err(full());
        }
        Arc::clone(&self.permits).try_acquire_owned().map_err(|_| full())
    }
}

/// A child and its place in the quota. When it is dropped the child is killed, and its place is free when it is gone.
#[derive(Debug)]
struct Guarded {
    child: Option<Child>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Guarded {
    /// Starts `executable <arguments>` with pipes for all three streams.
    fn start<S: AsRef<OsStr>>(
        executable: &Path,
        arguments: impl IntoIterator<Item = S>,
        quota: &Quota,
    ) -> Result<Self, String> {
        let permit = quota.take()?;
        let child = tokio::process::Command::new(executable)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A signal from the terminal is the agent's to hear; the children end when their input closes.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{} could not be started: {error}", executable.display()))?;
        Ok(Self {
            child: Some(child),
            permit: Some(permit),
        })
    }

    /// Present until it is dropped.
    fn child(&mut self) -> Option<&mut Child> {
        self.child.as_mut()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let (Some(mut child), permit) = (self.child.take(), self.permit.take()) else {
            return;
        };
        // It may have ended already; then there is nothing to kill, and waiting for it returns at once.
        let _ = child.start_kill();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // Whatever the status: it is gone, and its place is free.
                let _ = child.wait().await;
                drop(permit);
            });
        }
    }
}

/// The first `limit` bytes; the rest is read and dropped, so that the child never blocks on a full pipe.
async fn read_to_limit(pipe: Option<impl AsyncRead + Unpin>, limit: u64) -> Vec<u8> {
    let mut kept = Vec::new();
    if let Some(mut pipe) = pipe {
        // A pipe that breaks gives what it gave: the exit status tells the rest.
        let _ = (&mut pipe).take(limit).read_to_end(&mut kept).await;
        let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    }
    kept
}

/// The last line of what a child complained, in printable characters.
fn last_words(complaint: &[u8]) -> String {
    let text = String::from_utf8_lossy(complaint);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    last.unwrap_or("it said nothing")
        .chars()
        .filter(|character| !character.is_control())
        .take(LAST_WORDS_CHARACTERS)
        .collect()
}

/// Of a line that a driver wrote, as much as a message has room for.
const LAST_WORDS_CHARACTERS: usize = 300;

#[cfg(test)]
mod tests;
