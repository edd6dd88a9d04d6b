//! What must be remembered of a request to ask for the rest of its answer, anywhere.

use std::time::Duration;

use proto::shard::v1::{GenerateRequest, Sampling, Token};
use tokio::time::Instant;

use crate::routes::Weights;

/// All that is needed to ask again, anywhere: the prompt, what was answered so far, and how to sample.
#[derive(Debug, Clone)]
pub struct RequestMemory {
    /// Which model, by its object's unique id.
    pub model_uid: String,
    /// Of which weights the answer is: no others may go on with it.
    pub weights: Weights,
    /// For logs on both sides.
    pub request_id: String,
    /// The prompt.
    pub prompt: Vec<i32>,
    /// Tokens received from the workers.
    pub emitted: Vec<i32>,
    /// Tokens to emit at most.
    pub max_tokens: u32,
    /// The same seed gives the same tokens wherever it goes on.
    pub sampling: Sampling,
    /// Tokens that end the sequence.
    pub stop_tokens: Vec<i32>,
    /// Until when it may wait for a free sequence before its first token.
    pub wait_until: Instant,
    /// Whose prefixes it may share.
    pub prefix_scope: Vec<u8>,
}

/// What a token means for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It is the next one.
    Next,
    /// It was received before.
    Known,
    /// One before it is missing.
    Gap,
}

impl RequestMemory {
    /// Whether a part of the answer was received.
    #[must_use]
    pub fn begun(&self) -> bool {
        !self.emitted.is_empty()
    }

    /// Whether every token that may be emitted was received.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.emitted.len() >= self.max_tokens as usize
    }

    /// The request that yields what is still missing, willing to wait for so long for a free sequence.
    #[must_use]
    pub fn request(&self, epoch: u64, wait: Duration) -> GenerateRequest {
        let emitted = u32::try_from(self.emitted.len()).unwrap_or(u32::MAX);
        GenerateRequest {
            model_uid: self.model_uid.clone(),
            epoch,
            request_id: self.request_id.clone(),
            prompt_tokens: self.prompt.iter().chain(&self.emitted).copied().collect(),
            max_tokens: self.max_tokens.saturating_sub(emitted),
            sampling: Some(self.sampling),
            stop_tokens: self.stop_tokens.clone(),
            // 0 would mean any time.
            max_wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1),
            prefix_scope: self.prefix_scope.clone(),
            resumed: self.begun(),
        }
    }

    /// Where a token stands in the answer: a token counts once, and none is left out.
    pub(super) fn place(&self, token: &Token) -> Place {
        let next = self.prompt.len() + self.emitted.len();
        match (token.position as usize).cmp(&next) {
            std::cmp::Ordering::Equal => Place::Next,
            std::cmp::Ordering::Less => Place::Known,
            std::cmp::Ordering::Greater => Place::Gap,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(emitted: Vec<i32>) -> RequestMemory {
        RequestMemory {
            model_uid: "uid".into(),
            weights: Weights::default(),
            request_id: "req".into(),
            prompt: vec![1, 2],
            emitted,
            max_tokens: 10,
            sampling: Sampling {
                temperature: 0.5,
                top_p: 0.9,
                top_k: 0,
                seed: 7,
            },
            stop_tokens: vec![9],
            wait_until: Instant::now(),
            prefix_scope: vec![5; 16],
        }
    }

    #[test]
    fn a_memory_asks_for_what_is_still_missing() {
        let fresh = memory(vec![]).request(3, Duration::from_secs(30));
        assert_eq!(
            (fresh.epoch, fresh.prompt_tokens, fresh.max_tokens, fresh.resumed),
            (3, vec![1, 2], 10, false)
        );
        assert_eq!((fresh.max_wait_ms, fresh.prefix_scope), (30_000, vec![5; 16]));
        let resumed = memory(vec![3, 4, 5]).request(4, Duration::ZERO);
        assert_eq!(
            (
                resumed.epoch,
                resumed.prompt_tokens,
                resumed.max_tokens,
                resumed.resumed
            ),
            (4, vec![1, 2, 3, 4, 5], 7, true)
        );
        assert_eq!(resumed.sampling.map(|sampling| sampling.seed), Some(7));
        assert_eq!(resumed.max_wait_ms, 1, "0 would mean any time");
    }

    #[test]
    fn a_token_counts_once_and_none_is_left_out() {
        let memory = memory(vec![3]);
        for (position, place) in [(2, Place::Known), (3, Place::Next), (4, Place::Gap)] {
            assert_eq!(memory.place(&Token { id: 4, position }), place);
        }
    }

    #[test]
    fn an_answer_is_complete_with_its_last_token() {
        assert!(!memory(vec![0; 9]).complete());
        assert!(memory(vec![0; 10]).complete());
    }
}
