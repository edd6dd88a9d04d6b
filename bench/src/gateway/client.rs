//! The gateway's users: one connection each, answers read as they come.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::BoxStream;
use identity::{ConnectOptions, Credentials, Expected, Role, connect, tls};
use proto::shard::v1::GenerateRequest;
use proto::shard::v1::generate_event::Event;
use proto::shard::v1::head_client::HeadClient;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::fakes::{MODEL, request_id};
use crate::error::{Result, failed, trying};
use crate::realm::spiffe_id;

/// The one key that the gateway accepts.
pub const KEY: &str = "key-of-the-measurement";
/// Nothing takes longer, but for idle streams, which are dropped before.
const READ_LIMIT: Duration = Duration::from_secs(60);

/// A way to the gateway.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    endpoint: String,
}

impl Client {
    /// A client of the gateway on a local port. HTTP/1.1, so that every stream has a connection of its own, as users have.
    ///
    /// # Errors
    /// When the bundle cannot be used.
    pub fn new(port: u16, bundle_pem: &str) -> Result<Self> {
        let authorities = reqwest::Certificate::from_pem_bundle(bundle_pem.as_bytes()).map_err(trying("the bundle"))?;
        let http = reqwest::Client::builder()
            .tls_certs_only(authorities)
            .http1_only()
            .tcp_nodelay(true)
            .read_timeout(READ_LIMIT)
            .build()
            .map_err(trying("the client"))?;
        Ok(Self {
            http,
            endpoint: format!("https://localhost:{port}/v1"),
        })
    }

    /// Whether the model is listed.
    ///
    /// # Errors
    /// When the gateway does not answer.
    pub async fn models(&self) -> Result<bool> {
        let asked = self
            .http
            .get(format!("{}/models", self.endpoint))
            .bearer_auth(KEY)
            .send()
            .await;
        let answer = asked.map_err(trying("the gateway"))?;
        let text = answer.text().await.map_err(trying("the gateway"))?;
        Ok(text.contains(&format!("\"{MODEL}\"")))
    }

    /// Opens a streamed chat, known to the heads by its number.
    ///
    /// # Errors
    /// When the gateway refuses.
    pub async fn open(&self, number: usize, max_tokens: u32) -> Result<Stream> {
        let body = json!({
            "model": MODEL,
            "messages": [{ "role": "user", "content": "Tell me a story." }],
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": true,
        });
        let asked = self
            .http
            .post(format!("{}/chat/completions", self.endpoint))
            .bearer_auth(KEY)
            .header("x-request-id", request_id(number))
            .header("content-type", "application/json")
            .body(body.to_string())
            .send()
            .await;
        let answer = asked.map_err(trying("the gateway"))?;
        if !answer.status().is_success() {
            let status = answer.status();
            let text = answer.text().await.unwrap_or_default();
            return Err(failed("the gateway", format!("answered {status}: {text}")));
        }
        let bytes = answer.bytes_stream().map(|bytes| bytes.map(|bytes| bytes.to_vec()));
        Ok(Stream {
            bytes: bytes.boxed(),
            pending: Vec::new(),
            arrived: Instant::now(),
        })
    }
}

/// One answer, still coming.
pub struct Stream {
    bytes: BoxStream<'static, reqwest::Result<Vec<u8>>>,
    pending: Vec<u8>,
    arrived: Instant,
}

impl Stream {
    /// When the next piece of text arrived; `None` at the end.
    ///
    /// # Errors
    /// When the connection breaks or the stream carries an error.
    pub async fn next_piece(&mut self) -> Result<Option<Instant>> {
        loop {
            while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                if is_text(&line)? {
                    return Ok(Some(self.arrived));
                }
            }
            let Some(bytes) = self.bytes.next().await else {
                return Ok(None);
            };
            self.arrived = Instant::now();
            self.pending.extend(bytes.map_err(trying("the gateway's stream"))?);
        }
    }
}

/// Whether a line of an event stream carries text of the answer.
fn is_text(line: &[u8]) -> Result<bool> {
    let Some(data) = line.strip_prefix(b"data: ") else {
        return Ok(false);
    };
    let Ok(chunk) = serde_json::from_slice::<Value>(data) else {
        return Ok(false);
    };
    if !chunk["error"].is_null() {
        return Err(failed("the gateway's stream", chunk["error"].to_string()));
    }
    let text = chunk["choices"][0]["delta"]["content"].as_str();
    Ok(text.is_some_and(|text| !text.is_empty()))
}

/// Reads the same streams from the head itself, as the gateway would; when each token arrived.
pub async fn read_directly(
    credentials: &Credentials,
    address: SocketAddr,
    head: Role,
    streams: usize,
) -> Result<Vec<Vec<Instant>>> {
    let config = tls::client_config(credentials);
    let expected = Expected::Exactly(spiffe_id(head)?);
    let channel = connect(&address.to_string(), config, expected, ConnectOptions::default()).await;
    let client = HeadClient::new(channel.map_err(trying("the head"))?);
    let mut readers = JoinSet::new();
    for number in 0..streams {
        let mut client = client.clone();
        readers.spawn(async move {
            let request = GenerateRequest {
                request_id: request_id(number),
                max_tokens: u32::MAX,
                ..GenerateRequest::default()
            };
            let mut events = client.generate(request).await?.into_inner();
            let mut arrived = Vec::new();
            while let Some(event) = events.message().await? {
                if let Some(Event::Token(_)) = event.event {
                    arrived.push(Instant::now());
                }
            }
            Ok::<_, tonic::Status>((number, arrived))
        });
    }
    let mut all = vec![Vec::new(); streams];
    while let Some(read) = readers.join_next().await {
        let (number, arrived) = read.map_err(trying("a stream"))?.map_err(trying("a stream"))?;
        all[number] = arrived;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::is_text;

    #[test]
    fn only_chunks_with_content_are_text() {
        let chunk = |delta: &str| format!("data: {{\"choices\":[{{\"delta\":{delta}}}]}}\n").into_bytes();
        assert!(is_text(&chunk("{\"content\":\" the\"}")).unwrap());
        assert!(!is_text(&chunk("{\"role\":\"assistant\",\"content\":\"\"}")).unwrap());
        assert!(!is_text(b"data: [DONE]\n").unwrap());
        assert!(!is_text(b": keepalive\n").unwrap());
        assert!(is_text(b"data: {\"error\":{\"message\":\"gone\"}}\n").is_err());
    }
}
