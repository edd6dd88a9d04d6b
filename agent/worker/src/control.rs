//! The agent's side door: a Unix socket, one JSON object a line each way.
//!
//! | request | answer |
//! |---|---|
//! | `{"op":"status"}` | [`Status`] |
//! | `{"op":"install","envelope":base64,"next":"host:port"\|null}` | `{"ok":true}` or `{"ok":false,"reason":…,"message":…}` |
//! | `{"op":"drain"}` | `{"ok":true}` |
//! | `{"op":"metrics"}` | `{"text":…}` |
//! | `{"op":"renew"}`: another identity lies in the directory | as `install` |
//!
//! What cannot be read is answered `{"ok":false,"reason":"BadRequest",…}`; only a line that is too long ends the connection.

mod protocol;
mod socket;

pub use protocol::{Answer, MemoryUse, Pace, Phase, Request, Status};
pub use socket::{ControlError, bind};

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

use crate::shard::Shard;

/// An envelope has at most 64 KiB, in base64 a third more; the rest of a request is small.
const MAX_LINE_BYTES: u64 = 128 * 1024;

/// The agent keeps one connection; a restarted agent and a person with a terminal may overlap with it.
const MAX_CONNECTIONS: usize = 8;

/// Pause when the system cannot accept: long enough for others to free descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the socket for as long as it is polled.
pub async fn serve(listener: UnixListener, shard: Arc<Shard>) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    let mut failing = false;
    loop {
        while connections.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "the control socket cannot accept; trying on");
                }
                failing = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        failing = false;
        match Arc::clone(&room).try_acquire_owned() {
            Ok(permit) => {
                let shard = Arc::clone(&shard);
                connections.spawn(async move {
                    let _permit = permit;
                    let _present = Present::enter(&shard.agents);
                    if let Err(error) = converse(stream, &shard).await {
                        tracing::warn!(%error, "a control connection ended");
                    }
                });
            }
            Err(_) => tracing::warn!("control connection refused: {MAX_CONNECTIONS} are open"),
        }
    }
}

/// Counts an agent's connection for as long as it lasts.
struct Present<'a>(&'a watch::Sender<usize>);

impl<'a> Present<'a> {
    fn enter(agents: &'a watch::Sender<usize>) -> Self {
        agents.send_modify(|count| *count += 1);
        Self(agents)
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

async fn converse(mut stream: UnixStream, shard: &Shard) -> std::io::Result<()> {
    socket::check_peer(&stream)?;
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        (&mut reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Ok(());
        }
        let too_long = line.last() != Some(&b'\n') && line.len() as u64 == MAX_LINE_BYTES;
        let request = if too_long {
            Err(format!("a line has more than {MAX_LINE_BYTES} bytes"))
        } else {
            serde_json::from_slice(&line).map_err(|error| format!("the request cannot be read: {error}"))
        };
        let drains = matches!(request, Ok(Request::Drain));
        let answer = match request {
            Ok(request) => answer(request, shard),
            Err(problem) => Answer::refused("BadRequest", problem),
        };
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        writer.write_all(&text).await?;
        if too_long {
            return Ok(());
        }
        shard.answered.send_modify(|count| *count += 1);
        // After the answer: an idle worker ends at once.
        if drains {
            shard.drain("the agent asked for it");
        }
    }
}

fn answer(request: Request, shard: &Shard) -> Answer {
    match request {
        Request::Status => Answer::Status(shard.status()),
        Request::Install { envelope, next } => match STANDARD.decode(&envelope) {
            Ok(envelope) => match shard.install(&envelope, next) {
                Ok(()) => Answer::done(),
                Err(error) => {
                    tracing::warn!(reason = error.reason(), %error, "a placement was refused");
                    Answer::refused(error.reason(), error.to_string())
                }
            },
            Err(error) => Answer::refused("BadSignature", format!("the envelope is not base64: {error}")),
        },
        Request::Drain => Answer::done(),
        Request::Metrics => match shard.metrics_text() {
            Ok(text) => Answer::Metrics { text },
            Err(error) => Answer::refused("Internal", error.to_string()),
        },
        Request::Renew => match shard.identity.take() {
            Ok(_) => Answer::done(),
            Err(problem) => Answer::refused("BadIdentity", problem),
        },
    }
}
