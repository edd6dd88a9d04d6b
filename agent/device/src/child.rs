//! Asking a backend in a process of its own, because a driver may hang or crash.

use crate::{Answer, Backend};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};

/// A driver of a healthy card answers within two seconds even when it has to wake the card first.
pub const PROBE_LIMIT: Duration = Duration::from_secs(8);
/// An answer is about a kibibyte per device.
const ANSWER_LIMIT_BYTES: u64 = 1 << 20;
/// Of what the driver wrote to stderr, as much as helps a person.
const COMPLAINT_LIMIT_BYTES: u64 = 4 << 10;

/// Runs `executable probe --json --backends <backend>` and reads one [`Answer`] from its stdout. Whatever goes wrong is
/// an answer without devices that says so.
pub async fn probe_in_child(executable: &Path, backend: Backend, limit: Duration) -> Answer {
    let outcome = ask(executable, backend, limit).await;
    outcome.unwrap_or_else(|note| Answer::nothing(backend, note))
}

async fn ask(executable: &Path, backend: Backend, limit: Duration) -> Result<Answer, String> {
    let name = backend.name();
    let mut child = tokio::process::Command::new(executable)
        .args(["probe", "--json", "--backends", name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("the {name} probe could not be started: {error}"))?;
    let stdout = read_to_limit(child.stdout.take(), ANSWER_LIMIT_BYTES);
    let stderr = read_to_limit(child.stderr.take(), COMPLAINT_LIMIT_BYTES);
    let ended = tokio::time::timeout(limit, async {
        let (answer, complaint) = tokio::join!(stdout, stderr);
        (child.wait().await, answer, complaint)
    })
    .await;
    let (status, answer, complaint) = ended.map_err(|_| {
        format!(
            "the {name} driver did not answer within {} s and was left alone; check the kernel's log for it",
            limit.as_secs()
        )
    })?;
    let status = status.map_err(|error| format!("the {name} probe could not be waited for: {error}"))?;
    if !status.success() {
        let complaint = String::from_utf8_lossy(&complaint);
        let last = complaint.lines().last().unwrap_or("it said nothing");
        return Err(format!("the {name} driver took its probe down ({status}): {last}"));
    }
    let answers: Vec<Answer> = serde_json::from_slice(&answer)
        .map_err(|error| format!("the {name} probe's answer cannot be read: {error}"))?;
    answers
        .into_iter()
        .find(|answer| answer.backend == backend)
        .ok_or_else(|| format!("the {name} probe answered for another backend"))
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

#[cfg(test)]
mod tests;
