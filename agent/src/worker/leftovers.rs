//! Workers that an earlier life of the agent left behind: found by their notes on disk. Those that are still wanted are watched on,
//! the others are ended before anything is started.

use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const NOTE: &str = "process.json";
/// Workers below one state directory; more notes than this are not ours.
const WORKERS_MAX: usize = 4096;
/// A worker that is asked to end and does not within this is killed. It would end by itself, its agent being gone.
const END_LIMIT: Duration = Duration::from_secs(2);
const END_POLL: Duration = Duration::from_millis(20);
/// Paths of a few hundred layers.
const CONFIG_BYTES_MAX: usize = 1 << 20;

/// Which process it was. A process id alone may belong to another process by now.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    pid: i32,
    start_ticks: u64,
    name: String,
}

/// Notes a worker's process in its directory. Without a note the worker still ends by itself when its agent is gone.
pub fn note(directory: &Path, pid: Pid, name: &str) {
    let pid = pid.as_raw_nonzero().get();
    let Some(start_ticks) = start_ticks(pid) else { return };
    let note = Note {
        pid,
        start_ticks,
        name: name.to_owned(),
    };
    let written = serde_json::to_vec(&note)
        .map_err(|error| error.to_string())
        .and_then(|text| {
            identity::store::write_private(&directory.join(NOTE), &text).map_err(|error| error.to_string())
        });
    if let Err(error) = written {
        tracing::warn!(name, error, "the worker's process could not be noted");
    }
}

/// Removes a worker's note.
pub fn forget(directory: &Path) {
    let _ = std::fs::remove_file(directory.join(NOTE));
}

/// A worker that lives and was started by an earlier life.
#[derive(Debug)]
pub struct Left {
    directory: PathBuf,
    note: Note,
}

impl Left {
    /// The key of its slot.
    pub fn key(&self) -> String {
        let name = self.directory.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// What it was started with.
    pub fn config(&self) -> Option<serde_json::Value> {
        let text = identity::store::read_text(&self.directory.join("config.json"), CONFIG_BYTES_MAX).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// The process, and a descriptor that becomes readable at its end; `None` where it is gone.
    pub fn process(&self) -> Option<(Pid, OwnedFd)> {
        let pid = Pid::from_raw(self.note.pid)?;
        let descriptor = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
        // After it was opened: it cannot be that of a successor of the process id.
        is_ours(&self.directory, &self.note).then_some((pid, descriptor))
    }
}

/// Every worker that is noted below `workers` and is still the process that was noted. What other notes say is forgotten.
pub fn living(workers: &Path) -> Vec<Left> {
    let noted = noted(workers).into_iter();
    let (living, gone): (Vec<Left>, Vec<Left>) = noted.partition(|left| is_ours(&left.directory, &left.note));
    gone.iter().for_each(|left| forget(&left.directory));
    living
}

/// The processes of all workers that are noted below `workers`, whichever life of the agent started them. Nothing is written: notes are
/// made and forgotten meanwhile.
pub fn processes(workers: &Path) -> BTreeSet<u32> {
    let noted = noted(workers).into_iter();
    let living = noted.filter(|left| is_ours(&left.directory, &left.note));
    living.filter_map(|left| u32::try_from(left.note.pid).ok()).collect()
}

fn noted(workers: &Path) -> Vec<Left> {
    let Ok(entries) = std::fs::read_dir(workers) else {
        return Vec::new();
    };
    let directories = entries.take(WORKERS_MAX).filter_map(|entry| Some(entry.ok()?.path()));
    let noted = directories.filter_map(|directory| {
        Some(Left {
            note: read(&directory)?,
            directory,
        })
    });
    noted.collect()
}

/// Ends them. Blocks for at most a few seconds.
pub fn end(mut left: Vec<Left>) {
    for Left { directory, note } in &left {
        tracing::warn!(pid = note.pid, name = note.name, "ending a worker of an earlier life");
        signal(directory, note, Signal::TERM);
    }
    let deadline = Instant::now() + END_LIMIT;
    while !left.is_empty() && Instant::now() < deadline {
        std::thread::sleep(END_POLL);
        left.retain(|left| is_ours(&left.directory, &left.note));
    }
    for Left { directory, note } in left {
        signal(&directory, &note, Signal::KILL);
        forget(&directory);
    }
}

fn read(directory: &Path) -> Option<Note> {
    let text = identity::store::read_text(&directory.join(NOTE), 4096).ok()?;
    serde_json::from_str(&text).ok()
}

/// The same start time, and our configuration on its command line.
fn is_ours(directory: &Path, note: &Note) -> bool {
    let config = directory.join("config.json");
    let named = std::fs::read(format!("/proc/{}/cmdline", note.pid)).is_ok_and(|line| {
        line.split(|byte| *byte == 0)
            .any(|argument| argument == config.as_os_str().as_encoded_bytes())
    });
    named && start_ticks(note.pid) == Some(note.start_ticks)
}

/// Through a descriptor opened before the last check, so that the signal cannot reach a successor of the process id.
fn signal(directory: &Path, note: &Note, signal: Signal) {
    let Some(pid) = Pid::from_raw(note.pid) else { return };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) if is_ours(directory, note) => {
            if let Err(error) = pidfd_send_signal(&process, signal) {
                tracing::debug!(pid = note.pid, %error, "the process cannot be signalled; it is ending already");
            }
        }
        Ok(_) => {}
        Err(error) => tracing::debug!(pid = note.pid, %error, "the process is gone already"),
    }
}

/// Field 22 of /proc/<pid>/stat; the name in field 2 may hold spaces and parentheses. A zombie has no start.
fn start_ticks(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}
