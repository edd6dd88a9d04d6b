//! A link with a delay, in user space: forwards TCP connections and holds every byte back for as long as a longer cable would.
//!
//! ```text
//!  accept ─┬─ read ─▶ delay line ─▶ write ─▶ target
//!          └─ write ◀─ delay line ◀─ read ◀─┘
//! ```
//!
//! Each piece that is read gets its own due time, so that pieces under way together all arrive one delay after they were sent:
//! latency grows, bandwidth does not shrink. Opening a connection is not delayed, and nothing is lost or reordered.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::line::{Line, Quality};

/// Bytes read at once: a prefill step's activations take a handful of pieces.
const PIECE_BYTES: usize = 256 * 1024;
/// Bytes under way in one direction before the sender is held back: 64 Gbit/s at one millisecond.
const MAX_HELD_BYTES: usize = 8 << 20;
/// Connections at once: a pipeline has one or two, more is a mistake.
const MAX_CONNECTIONS: usize = 64;
/// A target in the next namespace answers at once or not at all.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How long such a link takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delay {
    /// For every piece.
    pub base: Duration,
    /// At most so much more, differently for each piece.
    pub jitter: Duration,
    /// What the jitter follows from.
    pub seed: u64,
}

/// Forwards what comes to `listener`, for ever.
///
/// # Errors
/// When no connection can be accepted any more.
pub fn forward(listener: &TcpListener, target: SocketAddr, delay: Delay) -> std::io::Result<()> {
    let open = Arc::new(());
    loop {
        let (near, _) = listener.accept()?;
        if Arc::strong_count(&open) > MAX_CONNECTIONS {
            eprintln!("{MAX_CONNECTIONS} connections are open; another one is refused");
            continue;
        }
        let guard = Arc::clone(&open);
        std::thread::spawn(move || {
            if let Err(error) = carry(&near, target, delay) {
                eprintln!("{target}: {error}");
            }
            drop(guard);
        });
    }
}

/// Both directions of one connection, until both have ended.
fn carry(near: &TcpStream, target: SocketAddr, delay: Delay) -> std::io::Result<()> {
    let far = TcpStream::connect_timeout(&target, CONNECT_LIMIT)?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let back = Delay {
        // Both directions differ, and both are the same in every run.
        seed: delay.seed.wrapping_add(1),
        ..delay
    };
    let (there, here) = (Pipe::new(delay), Pipe::new(back));
    std::thread::scope(|scope| {
        scope.spawn(|| there.fill(near));
        scope.spawn(|| there.drain(&far, near));
        scope.spawn(|| here.fill(&far));
        here.drain(near, &far);
    });
    Ok(())
}

/// One direction.
struct Pipe {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    line: Line,
    /// No more comes in.
    ended: bool,
    /// No more goes out.
    broken: bool,
}

impl Pipe {
    fn new(delay: Delay) -> Self {
        let quality = Quality {
            delay: delay.base,
            jitter: delay.jitter,
            ..Quality::PERFECT
        };
        let state = State {
            line: Line::new(quality, delay.seed, Instant::now()),
            ended: false,
            broken: false,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Reads until the end, or until nobody takes it any more.
    fn fill(&self, mut source: &TcpStream) {
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            // A reset is an end too.
            let count = source.read(&mut buffer).unwrap_or(0);
            let now = Instant::now();
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let full = |state: &mut State| state.line.held_bytes() > MAX_HELD_BYTES && !state.broken;
            let waited = self.changed.wait_while(state, full);
            let mut state = waited.unwrap_or_else(PoisonError::into_inner);
            state.ended = count == 0 || state.broken;
            if !state.ended {
                state.line.push(now, buffer[..count].to_vec());
            }
            self.changed.notify_all();
            if state.ended {
                return;
            }
        }
    }

    /// Writes what is due, then ends the direction. When the target takes no more, `source` is ended as well.
    fn drain(&self, mut target: &TcpStream, source: &TcpStream) {
        while let Some(piece) = self.next() {
            if target.write_all(&piece).is_err() {
                self.state.lock().unwrap_or_else(PoisonError::into_inner).broken = true;
                self.changed.notify_all();
                // Either may be closed already.
                let _ = source.shutdown(Shutdown::Read);
                break;
            }
        }
        let _ = target.shutdown(Shutdown::Write);
    }

    /// Waits for the next piece to be due; `None` at the end.
    fn next(&self) -> Option<Vec<u8>> {
        loop {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let idle = |state: &mut State| state.line.due().is_none() && !state.ended;
            let waited = self.changed.wait_while(state, idle);
            let mut state = waited.unwrap_or_else(PoisonError::into_inner);
            let due = state.line.due()?;
            let now = Instant::now();
            if let Some(piece) = state.line.pop(now) {
                self.changed.notify_all();
                return Some(piece);
            }
            drop(state);
            std::thread::sleep(due.saturating_duration_since(now));
        }
    }
}

#[cfg(test)]
mod tests;
