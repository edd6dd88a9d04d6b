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
    /// Which of the answers to the prompt.
    pub choice: u32,
}

/// What is said of one answer in whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The text.
    pub text: String,
    /// Why it ended.
    pub finish_reason: &'static str,
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
    /// Of several answers to one prompt, which counts once.
    #[must_use]
    pub fn of_all(usages: &[Self]) -> Self {
        Self {
            prompt_tokens: usages.first().map_or(0, |first| first.prompt_tokens),
            completion_tokens: usages.iter().map(|usage| usage.completion_tokens).sum(),
            cached_tokens: usages.iter().filter_map(|usage| usage.cached_tokens).min(),
        }
    }

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
    /// The whole answer: all choices.
    #[must_use]
    pub fn whole(&self, choices: &[Choice], usage: Usage) -> Value {
        let choice = |(index, Choice { text, finish_reason }): (usize, &Choice)| match self.kind {
            Kind::Chat => json!({
                "index": index,
                "message": { "role": "assistant", "content": text, "refusal": null },
                "logprobs": null,
                "finish_reason": finish_reason,
            }),
            Kind::Text => json!({ "index": index, "text": text, "logprobs": null, "finish_reason": finish_reason }),
        };
        let object = match self.kind {
            Kind::Chat => "chat.completion",
            Kind::Text => "text_completion",
        };
        let choices: Vec<Value> = choices.iter().enumerate().map(choice).collect();
        let mut answer = self.envelope(object, &json!(choices));
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
        let choice = json!({ "index": self.choice, "delta": delta, "logprobs": null, "finish_reason": finish_reason });
        self.envelope(self.chunk_object(), &json!([choice]))
    }

    fn text_chunk(&self, text: &str, finish_reason: Option<&str>) -> Value {
        let choice = json!({ "index": self.choice, "text": text, "logprobs": null, "finish_reason": finish_reason });
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
