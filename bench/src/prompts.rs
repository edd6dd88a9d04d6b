//! Prompts as token ids. For most measurements it does not matter what they say, only how many tokens there are and that no two
//! share a beginning; where drafts are computed, it does: [`texts`].

use engine::tokenizer::Tokenizer;
use linkemu::random::Random;
use localplane::assets;

use crate::error::{Result, trying};

/// Ids below this one are special in the vocabularies of the models that are measured.
const FIRST_PLAIN: u64 = 1000;
/// Ids up to this one exist in all of them.
const LAST_PLAIN: u64 = 30_000;

/// `length` tokens that depend on `seed` alone.
pub fn prompt(seed: u64, length: usize) -> Vec<i32> {
    let mut state = Random::new(seed);
    let span = LAST_PLAIN - FIRST_PLAIN;
    (0..length)
        .map(|_| i32::try_from(FIRST_PLAIN + state.any() % span).unwrap_or(i32::MAX))
        .collect()
}

/// What people ask: answers in prose, in verse, in lists, in code, and about a text that is given.
const TEXTS: [&str; 6] = [
    "What causes the tides, and why are there two of them a day?",
    "Write a short poem about a lighthouse keeper in winter.",
    "Give me a list of ten things to take on a walk in the mountains, with a reason for each.",
    "Write a Python function that returns the n-th Fibonacci number, and explain how it works.",
    "Summarise: The harbour was built in 1842, when the old harbour had silted up. Two moles of granite shelter it from the \
     west. The northern mole carries a lighthouse, the southern one a crane that has not moved since 1961. Fishing boats \
     lie in the inner basin; the outer basin is too deep for them and too shallow for ships.",
    "Tell me how bread is made, from the grain to the oven.",
];

/// Questions as a chat's tokens in the model's vocabulary.
///
/// # Errors
/// When the model is missing, or has no vocabulary.
pub fn texts() -> Result<Vec<Vec<i32>>> {
    let model = assets::model()?;
    let tokenizer = Tokenizer::open(&model).map_err(trying("the model's vocabulary"))?;
    let chat = |text: &&str| format!("<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n");
    let tokens = TEXTS.iter().map(|text| tokenizer.tokenize(&chat(text), true, true));
    tokens.map(|tokens| tokens.map_err(trying("a prompt"))).collect()
}

#[cfg(test)]
mod tests {
    use super::prompt;

    #[test]
    fn prompts_are_as_long_as_asked_and_differ_by_their_seed() {
        let first = prompt(1, 1024);
        assert_eq!(first.len(), 1024);
        assert_eq!(first, prompt(1, 1024));
        assert_ne!(first[..4], prompt(2, 1024)[..4]);
        assert!(first.iter().all(|token| (1000..30_000).contains(token)));
    }
}
