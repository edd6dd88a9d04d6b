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

/// How far a client came with an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Of the last event.
    pub id: Option<String>,
    /// Of the text up to that event.
    pub bytes: usize,
    finish_reason: Option<String>,
    tokens: Option<u64>,
}

/// An event stream that has been read so far.
#[derive(Debug, Default)]
pub struct Stream {
    pending: Vec<u8>,
    /// The event that is not complete yet: it counts with the empty line behind it.
    id: Option<String>,
    data: Option<String>,
    seen: Seen,
}

impl Stream {
    /// The rest of an answer, or all of it where nothing was seen.
    pub fn after(seen: Seen) -> Self {
        Self {
            seen,
            ..Self::default()
        }
    }

    /// From where on to ask for the rest. Without an id of an event that is from the beginning.
    pub fn seen(self) -> Seen {
        match self.seen.id {
            Some(_) => self.seen,
            None => Seen::default(),
        }
    }

    /// What these bytes complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Event> {
        self.pending.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            events.extend(self.line(String::from_utf8_lossy(&line).trim_end()));
        }
        events
    }

    fn line(&mut self, line: &str) -> Option<Event> {
        if let Some(id) = line.strip_prefix("id: ") {
            self.id = Some(id.to_owned());
        } else if let Some(data) = line.strip_prefix("data: ") {
            self.data = Some(data.to_owned());
        } else if line.is_empty() {
            let event = self.data.take().and_then(|data| self.event(&data));
            if let Some(Event::Text(text)) = &event {
                self.seen.bytes += text.len();
            }
            self.seen.id = self.id.take().or_else(|| self.seen.id.take());
            return event;
        }
        None
    }

    fn event(&mut self, data: &str) -> Option<Event> {
        if data == "[DONE]" {
            let end = match &self.seen.finish_reason {
                Some(finish_reason) => End::Answered {
                    finish_reason: finish_reason.clone(),
                    tokens: self.seen.tokens,
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
            self.seen.tokens = Some(tokens);
        }
        let choice = &chunk["choices"][0];
        if let Some(reason) = choice["finish_reason"].as_str() {
            self.seen.finish_reason = Some(reason.to_owned());
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

    use super::{Event, Seen, Stream, refusal};
    use crate::history::End;

    fn chunk(value: &serde_json::Value) -> Vec<u8> {
        format!("data: {value}\n\n").into_bytes()
    }

    fn text(text: &str) -> Vec<u8> {
        chunk(&json!({ "choices": [{ "delta": { "content": text }, "finish_reason": null }], "usage": null }))
    }

    #[test]
    fn an_answer_is_its_texts_and_ends_with_its_reason_and_count() {
        let mut stream = Stream::default();
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
        let events: Vec<Event> = bytes.chunks(3).flat_map(|bytes| stream.push(bytes)).collect();
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
        assert_eq!(Stream::default().push(&error), [Event::End(interrupted)]);
        let done = Stream::default().push(b"data: [DONE]\n\n");
        assert!(matches!(done.as_slice(), [Event::End(End::Cut { .. })]), "{done:?}");
    }

    fn with_id(id: &str, of: Vec<u8>) -> Vec<u8> {
        [format!("id: {id}\n").into_bytes(), of].concat()
    }

    #[test]
    fn an_event_counts_with_the_empty_line_behind_it_and_its_id_says_how_far_that_is() {
        let mut stream = Stream::default();
        assert_eq!(stream.push(&with_id("1", text("ab"))).len(), 1);
        let cut = with_id("2", text("cd"));
        assert_eq!(stream.push(&cut[..cut.len() - 1]), []);
        let seen = stream.seen();
        assert_eq!((seen.id.as_deref(), seen.bytes), (Some("1"), 2));

        let mut rest = Stream::after(seen);
        rest.push(&with_id("3", text("cdef")));
        let end = json!({ "choices": [{ "delta": {}, "finish_reason": "stop" }] });
        rest.push(&with_id("4", chunk(&end)));
        let seen = rest.seen();
        assert_eq!((seen.id.as_deref(), seen.bytes), (Some("4"), 6));
        // All but the last word was seen: that alone is sent again.
        let events = Stream::after(seen).push(b"id: 4\ndata: [DONE]\n\n");
        assert!(
            matches!(events.as_slice(), [Event::End(End::Answered { .. })]),
            "{events:?}"
        );
    }

    #[test]
    fn where_events_have_no_ids_an_answer_is_asked_for_from_its_beginning() {
        let mut stream = Stream::default();
        stream.push(&text("ab"));
        assert_eq!(stream.seen(), Seen::default());
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
