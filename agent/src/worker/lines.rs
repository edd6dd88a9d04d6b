//! A worker's output, line by line, into the agent's log.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncReadExt};

/// A longer line is cut into several.
const LINE_BYTES_MAX: usize = 4096;
/// Those that a backend writes about the error that it ends the process for, and what the C++ runtime adds.
const LAST_LINES: usize = 8;

/// The last lines that a process wrote.
#[derive(Clone, Default)]
pub struct LastLines(Arc<Mutex<VecDeque<String>>>);

impl LastLines {
    /// The lines, oldest first.
    pub fn get(&self) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect()
    }

    fn push(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LAST_LINES {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }
}

/// Logs every line of `pipe` under the shard's name until it ends.
pub async fn log(mut pipe: impl AsyncRead + Unpin, shard: String, last: LastLines) {
    let mut pending: Vec<u8> = Vec::new();
    let mut chunk = [0_u8; LINE_BYTES_MAX];
    while let Ok(count) = pipe.read(&mut chunk).await {
        if count == 0 {
            break;
        }
        for byte in &chunk[..count] {
            if *byte == b'\n' || pending.len() == LINE_BYTES_MAX {
                emit(&pending, &shard, &last);
                pending.clear();
            }
            if *byte != b'\n' {
                pending.push(*byte);
            }
        }
    }
    emit(&pending, &shard, &last);
}

fn emit(line: &[u8], shard: &str, last: &LastLines) {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end();
    if !text.is_empty() {
        tracing::info!(target: "worker", shard, "{text}");
        last.push(text);
    }
}
