//! A client that may say anything: HTTP/1.1 by hand over verified TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{KEY, LIMIT, MODEL};

pub struct Client {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// `error.<field>` as text.
    pub fn error(&self, field: &str) -> String {
        self.json()["error"][field].as_str().unwrap_or_default().to_owned()
    }

    /// Data of the events, in order.
    pub fn events(&self) -> Vec<String> {
        self.body
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .map(str::to_owned)
            .collect()
    }

    /// Events but for `[DONE]`, parsed.
    pub fn chunks(&self) -> Vec<Value> {
        let data = self.events().into_iter().filter(|data| data != "[DONE]");
        data.map(|data| serde_json::from_str(&data).unwrap()).collect()
    }

    /// The text that the events of a chat make.
    pub fn streamed_text(&self) -> String {
        let content = |chunk: &Value| {
            chunk["choices"][0]["delta"]["content"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        self.chunks().iter().map(content).collect()
    }
}

/// An answer whose body is still coming.
pub struct Open {
    reader: BufReader<TlsStream<TcpStream>>,
    pub status: u16,
    pub headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Open {
    async fn line(&mut self) -> String {
        let mut line = String::new();
        tokio::time::timeout(LIMIT, self.reader.read_line(&mut line))
            .await
            .expect("a line in time")
            .expect("a line");
        line.trim_end().to_owned()
    }

    /// Reads the next part of the body; false at its end.
    async fn part(&mut self) -> bool {
        let header = |wanted: &str| {
            self.headers
                .iter()
                .find(|(name, _)| name == wanted)
                .map(|(_, value)| value.clone())
        };
        let (chunked, size) = match header("content-length") {
            Some(length) => (false, length.parse::<usize>().expect("a length") - self.body.len()),
            None => (
                true,
                usize::from_str_radix(&self.line().await, 16).expect("a chunk's size"),
            ),
        };
        let mut part = vec![0; size];
        tokio::time::timeout(LIMIT, self.reader.read_exact(&mut part))
            .await
            .expect("a part in time")
            .expect("a part");
        self.body.extend_from_slice(&part);
        if chunked {
            self.line().await;
        }
        size > 0
    }

    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("text")
    }

    /// Reads until the body contains `text`.
    pub async fn wait_for(&mut self, text: &str) {
        while !self.text().contains(text) {
            assert!(self.part().await, "no {text:?} in {:?}", self.text());
        }
    }

    /// The rest of it.
    pub async fn finish(mut self) -> Answer {
        while self.part().await {}
        Answer {
            status: self.status,
            body: self.text(),
            headers: self.headers,
        }
    }
}

impl Client {
    pub fn new(address: SocketAddr, bundle_pem: &str) -> Self {
        let mut tls = ClientConfig::clone(&identity::tls::bootstrap_client_config(bundle_pem).unwrap());
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self {
            address,
            tls: Arc::new(tls),
        }
    }

    /// Connects; an error is why the gateway is not believed.
    pub async fn shake_hands(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await.expect("a connection");
        let name = self.address.ip().into();
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        connector.connect(name, stream).await
    }

    /// Sends these bytes and reads the head of the answer.
    pub async fn raw(&self, request: &[u8]) -> Open {
        let stream = self.shake_hands().await.expect("a handshake");
        let mut open = Open {
            reader: BufReader::new(stream),
            status: 0,
            headers: Vec::new(),
            body: Vec::new(),
        };
        open.reader.write_all(request).await.expect("a request");
        open.reader.flush().await.expect("a request");
        let status = open.line().await;
        open.status = status
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or_else(|| panic!("{status:?}"));
        loop {
            let line = open.line().await;
            let Some((name, value)) = line.split_once(": ") else {
                return open;
            };
            open.headers.push((name.to_lowercase(), value.to_owned()));
        }
    }

    pub async fn open(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Open {
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        self.raw(&[request.as_bytes(), body].concat()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.open("GET", path, &[authorization().as_ref()], b"")
            .await
            .finish()
            .await
    }

    pub async fn post(&self, path: &str, body: &[u8]) -> Answer {
        self.open("POST", path, &[authorization().as_ref()], body)
            .await
            .finish()
            .await
    }

    /// A chat about `content`, whole.
    pub async fn chat(&self, content: &str) -> Answer {
        self.ask(json!({ "messages": [{ "role": "user", "content": content }] }))
            .await
    }

    /// A chat with these fields beside the model.
    pub async fn ask(&self, fields: Value) -> Answer {
        self.post("/v1/chat/completions", body(fields).as_bytes()).await
    }

    /// The same, its answer still coming.
    pub async fn ask_open(&self, fields: Value) -> Open {
        let authorization = authorization();
        self.open(
            "POST",
            "/v1/chat/completions",
            &[authorization.as_ref()],
            body(fields).as_bytes(),
        )
        .await
    }
}

/// `fields` over a minimal chat.
pub fn body(fields: Value) -> String {
    let mut body = json!({ "model": MODEL, "messages": [{ "role": "user", "content": "Hi" }] });
    let Value::Object(fields) = fields else {
        panic!("fields are an object")
    };
    for (name, value) in fields {
        body[name] = value;
    }
    body.to_string()
}

struct Authorization(String);

impl Authorization {
    fn as_ref(&self) -> (&str, &str) {
        ("authorization", &self.0)
    }
}

fn authorization() -> Authorization {
    Authorization(format!("Bearer {KEY}"))
}
