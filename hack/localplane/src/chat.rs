//! A small client of the gateway, for the demo and the tests: what any OpenAI client does, with the pieces visible.

use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::{Error, Result, file};

/// Longer than any answer that the demo or a test asks for takes on two cores.
const REQUEST_LIMIT: Duration = Duration::from_secs(120);

/// What most applications send first. SmolLM2's template has a default of its own, under which this small model, quantised to four
/// bits, answers geography in French verse, by llama.cpp alone too.
const SYSTEM: &str = "You are a helpful assistant.";

/// The text that SmolLM2's template makes of `prompt`, for those who compare with llama.cpp's own loop.
pub fn rendered(prompt: &str) -> String {
    format!("<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n")
}

/// A client of one gateway.
#[derive(Debug, Clone)]
pub struct Chat {
    http: reqwest::Client,
    endpoint: String,
    key: String,
}

/// An answer that has been read to its end.
#[derive(Debug, Default, Clone)]
pub struct Answer {
    pub text: String,
    pub finish_reason: Option<String>,
    /// The error object that ended the stream early, if one did.
    pub error: Option<Value>,
    pub completion_tokens: u64,
}

impl Chat {
    /// Trusts only the authority in `bundle`. `endpoint` ends in `/v1`.
    pub fn new(endpoint: &str, key: &str, bundle: &Path) -> Result<Self> {
        let pem = std::fs::read(bundle).map_err(file(bundle))?;
        let authorities = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| explain(&error))?;
        let http = reqwest::Client::builder()
            .tls_certs_only(authorities)
            .timeout(REQUEST_LIMIT)
            .build()
            .map_err(|error| explain(&error))?;
        Ok(Self {
            http,
            endpoint: endpoint.to_owned(),
            key: key.to_owned(),
        })
    }

    /// POSTs any body to a path below the endpoint; returns the HTTP status and the JSON answer.
    pub async fn post(&self, path: &str, body: String) -> Result<(u16, Value)> {
        let response = self
            .http
            .post(format!("{}{path}", self.endpoint))
            .bearer_auth(&self.key)
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await
            .map_err(|error| explain(&error))?;
        let status = response.status().as_u16();
        let text = response.text().await.map_err(|error| explain(&error))?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// A greedy chat answer, streamed; `each` sees every piece of text as it comes. [`Error::Refused`] where there is none.
    pub async fn stream(
        &self,
        model: &str,
        prompt: &str,
        max_tokens: u32,
        each: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Answer> {
        let body = json!({
            "model": model,
            "messages": [{ "role": "system", "content": SYSTEM }, { "role": "user", "content": prompt }],
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": true,
            "stream_options": { "include_usage": true },
        });
        let response = self
            .http
            .post(format!("{}/chat/completions", self.endpoint))
            .bearer_auth(&self.key)
            .header("content-type", "application/json")
            .body(body.to_string())
            .send()
            .await
            .map_err(|error| explain(&error))?;
        if !response.status().is_success() {
            let status = response.status().as_u16();
            let retry_after = response.headers().get("retry-after");
            let retry_after_s = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
            let text = response.text().await.unwrap_or_default();
            return Err(Error::Refused {
                status,
                retry_after_s,
                text,
            });
        }
        let mut answer = Answer::default();
        let mut pending = Vec::new();
        let mut stream = response.bytes_stream();
        while let Some(bytes) = stream.next().await {
            pending.extend_from_slice(&bytes.map_err(|error| explain(&error))?);
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                take_line(&String::from_utf8_lossy(&line), &mut answer, each);
            }
        }
        Ok(answer)
    }
}

/// One line of a server-sent event stream.
fn take_line(line: &str, answer: &mut Answer, each: &mut (dyn FnMut(&str) + Send)) {
    let Some(data) = line.trim_end().strip_prefix("data: ") else {
        return;
    };
    let Ok(chunk) = serde_json::from_str::<Value>(data) else {
        return;
    };
    if !chunk["error"].is_null() {
        answer.error = Some(chunk["error"].clone());
    }
    if let Some(tokens) = chunk["usage"]["completion_tokens"].as_u64() {
        answer.completion_tokens = tokens;
    }
    let choice = &chunk["choices"][0];
    // The first chunk names the role and has no text yet.
    if let Some(text) = choice["delta"]["content"].as_str().filter(|text| !text.is_empty()) {
        answer.text.push_str(text);
        each(text);
    }
    if let Some(reason) = choice["finish_reason"].as_str() {
        answer.finish_reason = Some(reason.to_owned());
    }
}

pub(crate) fn explain(error: &reqwest::Error) -> Error {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    Error::Other(text)
}
