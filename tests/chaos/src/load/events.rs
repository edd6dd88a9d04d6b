//! PURE: server-sent events of the OpenAI API, from bytes as they come.

use serde_json::Value;

use crate::history::End;

/// What an event means for a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// More of the answer.
    Text(String),
    /// The last thing of interest.
    End(End),
}

/// An event stream that has been read so far.
#[derive(Debug, Default)]
pub struct Lines {
    pending: Vec<u8>,
    finish_reason: Option<String>,
    tokens: Option<u64>,
}

impl Lines {
    /// What these bytes complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Event> {
        self.pending.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).into_owned();
            events.extend(line.trim_end().strip_prefix("data: ").and_then(|data| self.event(data)));
        }
        events
    }

    fn event(&mut self, data: &str) -> Option<Event> {
        if data == "[DONE]" {
            let end = match self.finish_reason.take() {
                Some(finish_reason) => End::Answered {
                    finish_reason,
                    tokens: self.tokens,
                },
                None => End::Cut {
                    cause: "the stream says that it is done without a finish_reason".to_owned(),
                },
            };
            return Some(Event::End(end));
        }
        let chunk: Value = serde_json::from_str(data).ok()?;
        if !chunk["error"].is_null() {
            let (code, message) = told(&chunk);
            return Some(Event::End(End::Interrupted { code, message }));
        }
        if let Some(tokens) = chunk["usage"]["completion_tokens"].as_u64() {
            self.tokens = Some(tokens);
        }
        let choice = &chunk["choices"][0];
        if let Some(reason) = choice["finish_reason"].as_str() {
            self.finish_reason = Some(reason.to_owned());
        }
        // The first chunk names the role and has no text yet.
        let text = choice["delta"]["content"].as_str().filter(|text| !text.is_empty());
        text.map(|text| Event::Text(text.to_owned()))
    }
}

/// What an answer is that has no choices: a refusal, if it says so as OpenAI's API does.
pub fn refusal(status: u16, answer: &Value, text: &str) -> End {
    if answer["error"]["message"].is_string() {
        let (code, message) = told(answer);
        return End::Refused { status, code, message };
    }
    End::Cut {
        cause: format!("HTTP {status} without an error object: {text}"),
    }
}

fn told(answer: &Value) -> (String, String) {
    let error = &answer["error"];
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let code = text(&error["code"]).or_else(|| text(&error["type"]));
    (code.unwrap_or_default(), text(&error["message"]).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Event, Lines, refusal};
    use crate::history::End;

    fn chunk(value: &serde_json::Value) -> Vec<u8> {
        format!("data: {value}\n\n").into_bytes()
    }

    fn text(text: &str) -> Vec<u8> {
        chunk(&json!({ "choices": [{ "delta": { "content": text }, "finish_reason": null }], "usage": null }))
    }

    #[test]
    fn an_answer_is_its_texts_and_ends_with_its_reason_and_count() {
        let mut lines = Lines::default();
        let bytes = [
            chunk(&json!({ "choices": [{ "delta": { "role": "assistant", "content": "" } }] })),
            text("a"),
            b": a comment\n\n".to_vec(),
            text("\u{e9}"),
            chunk(&json!({ "choices": [{ "delta": {}, "finish_reason": "stop" }] })),
            chunk(&json!({ "choices": [], "usage": { "completion_tokens": 2 } })),
            b"data: [DONE]\n\n".to_vec(),
        ]
        .concat();
        // In whatever portions the network has.
        let events: Vec<Event> = bytes.chunks(3).flat_map(|bytes| lines.push(bytes)).collect();
        let end = End::Answered {
            finish_reason: "stop".to_owned(),
            tokens: Some(2),
        };
        let expected = [
            Event::Text("a".to_owned()),
            Event::Text("\u{e9}".to_owned()),
            Event::End(end),
        ];
        assert_eq!(events, expected);
    }

    #[test]
    fn an_error_object_interrupts_and_a_done_without_a_reason_is_no_end() {
        let error = chunk(&json!({ "error": { "type": "server_error", "code": "workers_lost", "message": "m" } }));
        let interrupted = End::Interrupted {
            code: "workers_lost".to_owned(),
            message: "m".to_owned(),
        };
        assert_eq!(Lines::default().push(&error), [Event::End(interrupted)]);
        let done = Lines::default().push(b"data: [DONE]\n");
        assert!(matches!(done.as_slice(), [Event::End(End::Cut { .. })]), "{done:?}");
    }

    #[test]
    fn only_an_error_object_is_a_refusal() {
        let object = json!({ "error": { "type": "server_error", "code": null, "message": "m" } });
        let refused = End::Refused {
            status: 503,
            code: "server_error".to_owned(),
            message: "m".to_owned(),
        };
        assert_eq!(refusal(503, &object, ""), refused);
        assert!(matches!(refusal(502, &json!("x"), "x"), End::Cut { .. }));
    }
}
