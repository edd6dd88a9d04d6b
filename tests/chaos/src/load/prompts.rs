//! How long the prompts of a run are, and how fast one is computed: what a stream that goes on elsewhere has to compute again.

use std::time::Instant;

use serde_json::{Value, json};

use super::{Load, chain};
use crate::history::Prompts;
use crate::{Error, Result};

/// A sentence of the prompts that are timed, and how many of them a short and a long one have: together they fit the context.
const SENTENCE: &str =
    "The harbour was built when the old one had silted up, and its lamp was lit in the year of the flood. ";
const SENTENCES: [usize; 2] = [2, 14];

impl Load {
    /// Asks for one token after every prompt of the book, and after two that nobody asks otherwise, one at a time.
    ///
    /// # Errors
    /// A request that is not answered.
    pub async fn prompts(&self) -> Result<Prompts> {
        let mut tokens = Vec::new();
        for request in &self.requests {
            tokens.push(self.time(&request.prompt).await?.0);
        }
        let mut timed = Vec::new();
        for sentences in SENTENCES {
            // The number in front keeps what is reused of one prompt for the next as short as the system's message.
            timed.push(
                self.time(&format!("{sentences}. {}", SENTENCE.repeat(sentences)))
                    .await?,
            );
        }
        let [(few, short_s), (many, long_s)] = timed[..] else {
            return Err(Error::Other("two prompts were timed".to_owned()));
        };
        let tokens_per_second = many.saturating_sub(few) as f64 / (long_s - short_s);
        Ok(Prompts {
            tokens,
            tokens_per_second: Some(tokens_per_second).filter(|rate| rate.is_finite() && *rate > 0.0),
        })
    }

    /// A prompt's tokens, and the seconds until the token after it was answered.
    async fn time(&self, prompt: &str) -> Result<(u64, f64)> {
        let unanswered =
            |cause: String| Error::Other(format!("before any fault, {prompt:?} was not answered: {cause}"));
        let body = json!({
            "model": self.model,
            "messages": [{ "role": "system", "content": super::SYSTEM }, { "role": "user", "content": prompt }],
            "max_tokens": 1,
        });
        let asked = Instant::now();
        let answered = self
            .http
            .post(format!("{}/chat/completions", self.endpoints[0]))
            .bearer_auth(&self.key)
            .header("content-type", "application/json")
            .body(body.to_string())
            .send()
            .await
            .map_err(|error| unanswered(chain(&error)))?;
        let text = answered.text().await.map_err(|error| unanswered(chain(&error)))?;
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        let tokens = answer["usage"]["prompt_tokens"].as_u64();
        tokens
            .map(|tokens| (tokens, asked.elapsed().as_secs_f64()))
            .ok_or_else(|| unanswered(text))
    }
}
