//! The JSON of answers, whole and in pieces.

use serde_json::{Value, json};

use super::turn::Kind;

/// What all parts of one answer repeat.
#[derive(Debug, Clone)]
pub struct Header {
    /// Which form.
    pub kind: Kind,
    /// `chatcmpl-…` or `cmpl-…`.
    pub id: String,
    /// Seconds since the Unix epoch.
    pub created_unix_s: i64,
    /// The model's id as the client wrote it.
    pub model: String,
}

/// Tokens of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The prompt, template and special tokens included.
    pub prompt_tokens: usize,
    /// Tokens that the model emitted.
    pub completion_tokens: usize,
    /// Tokens of the prompt that were kept from earlier requests. `None` where the workers did not get to say.
    pub cached_tokens: Option<u32>,
}

impl Usage {
    fn json(self) -> Value {
        let Self {
            prompt_tokens,
            completion_tokens,
            cached_tokens,
        } = self;
        let total_tokens = prompt_tokens + completion_tokens;
        let mut usage = json!({
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": total_tokens,
        });
        if let Some(cached_tokens) = cached_tokens {
            usage["prompt_tokens_details"] = json!({ "cached_tokens": cached_tokens });
        }
        usage
    }
}

impl Header {
    /// The whole answer.
    #[must_use]
    pub fn whole(&self, text: &str, finish_reason: &str, usage: Usage) -> Value {
        let choice = match self.kind {
            Kind::Chat => json!({
                "index": 0,
                "message": { "role": "assistant", "content": text, "refusal": null },
                "logprobs": null,
                "finish_reason": finish_reason,
            }),
            Kind::Text => json!({ "index": 0, "text": text, "logprobs": null, "finish_reason": finish_reason }),
        };
        let object = match self.kind {
            Kind::Chat => "chat.completion",
            Kind::Text => "text_completion",
        };
        let mut answer = self.envelope(object, &json!([choice]));
        answer["usage"] = usage.json();
        answer
    }

    /// The first piece of a chat: who speaks. Text completions begin with their text.
    #[must_use]
    pub fn opening(&self) -> Option<Value> {
        match self.kind {
            Kind::Chat => Some(self.chat_chunk(&json!({ "role": "assistant", "content": "" }), None)),
            Kind::Text => None,
        }
    }

    /// A piece of text.
    #[must_use]
    pub fn text(&self, text: &str) -> Value {
        match self.kind {
            Kind::Chat => self.chat_chunk(&json!({ "content": text }), None),
            Kind::Text => self.text_chunk(text, None),
        }
    }

    /// The end of the text.
    #[must_use]
    pub fn closing(&self, finish_reason: &str) -> Value {
        match self.kind {
            Kind::Chat => self.chat_chunk(&json!({}), Some(finish_reason)),
            Kind::Text => self.text_chunk("", Some(finish_reason)),
        }
    }

    /// The token counts, after the end.
    #[must_use]
    pub fn usage(&self, usage: Usage) -> Value {
        let mut chunk = self.envelope(self.chunk_object(), &json!([]));
        chunk["usage"] = usage.json();
        chunk
    }

    fn chunk_object(&self) -> &'static str {
        match self.kind {
            Kind::Chat => "chat.completion.chunk",
            Kind::Text => "text_completion",
        }
    }

    fn chat_chunk(&self, delta: &Value, finish_reason: Option<&str>) -> Value {
        let choice = json!({ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason });
        self.envelope(self.chunk_object(), &json!([choice]))
    }

    fn text_chunk(&self, text: &str, finish_reason: Option<&str>) -> Value {
        let choice = json!({ "index": 0, "text": text, "logprobs": null, "finish_reason": finish_reason });
        self.envelope(self.chunk_object(), &json!([choice]))
    }

    fn envelope(&self, object: &str, choices: &Value) -> Value {
        let Self {
            id,
            created_unix_s,
            model,
            ..
        } = self;
        json!({ "id": id, "object": object, "created": created_unix_s, "model": model, "choices": choices })
    }
}
