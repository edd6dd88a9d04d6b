//! The agent's end of the control socket.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use worker::control::{Answer, Phase, Request, Status};

use super::wait_for;

pub struct Agent {
    stream: Mutex<BufReader<UnixStream>>,
}

impl Agent {
    /// Connects once the worker has opened its socket.
    pub async fn attach(socket: &Path) -> Self {
        let stream = wait_for("the control socket", || async {
            UnixStream::connect(socket).await.ok()
        });
        Self {
            stream: Mutex::new(BufReader::new(stream.await)),
        }
    }

    /// One line there, one line back; `None` when the worker has closed.
    pub async fn exchange(&self, line: &[u8]) -> Option<String> {
        let mut stream = self.stream.lock().await;
        stream.get_mut().write_all(line).await.ok()?;
        stream.get_mut().write_all(b"\n").await.ok()?;
        let mut answer = String::new();
        let read = stream.read_line(&mut answer).await.ok()?;
        (read > 0).then_some(answer)
    }

    pub async fn request(&self, request: &Request) -> Option<Answer> {
        let line = serde_json::to_vec(request).unwrap();
        self.exchange(&line)
            .await
            .map(|answer| serde_json::from_str(&answer).unwrap())
    }

    pub async fn status(&self) -> Option<Status> {
        match self.request(&Request::Status).await? {
            Answer::Status(status) => Some(status),
            other => panic!("no status: {other:?}"),
        }
    }

    /// The worker's endpoint once it serves.
    pub async fn endpoint(&self) -> String {
        wait_for("the worker serves", || async {
            let status = self.status().await.expect("the worker is there");
            assert_ne!(status.phase, Phase::Failed, "{status:?}");
            status.endpoint
        })
        .await
    }

    pub async fn idle(&self) {
        wait_for("the worker holds nothing", || async {
            let status = self.status().await.expect("the worker is there");
            (status.active_sequences == 0).then_some(())
        })
        .await;
    }

    /// `Err` is the reason and the message of a refusal.
    pub async fn install(&self, envelope: &[u8], next: Option<&str>) -> Result<(), (String, String)> {
        let envelope = STANDARD.encode(envelope);
        let request = Request::Install {
            envelope,
            next: next.map(str::to_owned),
        };
        self.decision(&request).await
    }

    /// Has it take the leaf that lies in its directory. `Err` is the reason and the message of a refusal.
    pub async fn renew(&self) -> Result<(), (String, String)> {
        self.decision(&Request::Renew).await
    }

    async fn decision(&self, request: &Request) -> Result<(), (String, String)> {
        match self.request(request).await.expect("the worker is there") {
            Answer::Outcome { ok: true, .. } => Ok(()),
            Answer::Outcome { reason, message, .. } => Err((reason.unwrap(), message.unwrap())),
            other => panic!("no outcome: {other:?}"),
        }
    }

    pub async fn metrics(&self) -> String {
        match self.request(&Request::Metrics).await.expect("the worker is there") {
            Answer::Metrics { text } => text,
            other => panic!("no metrics: {other:?}"),
        }
    }

    /// The value of a metric, named with its labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.metrics().await;
        let value = text
            .lines()
            .find_map(|found| found.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("{name} in {text}")).parse().unwrap()
    }
}
