//! What the sides of the comparison are asked.

use super::contestants::STREAMS;
use crate::peer::Question;
use crate::prompts::prompt;

/// A stream's prompt where decoding is measured.
pub const SHORT_PROMPT: usize = 16;
/// Tokens of each of several streams.
pub const STREAM_TOKENS: usize = 64;
/// Of the one prompt.
pub const PREFILL_TOKENS: usize = 1024;
/// Of the one stream.
pub const ONE_TOKENS: usize = 96;

/// What is asked of everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// [`STREAMS`] at once.
    Eight,
    /// One prompt.
    Prefill,
    /// One stream.
    One,
    /// The same over slow links.
    OneDelayed,
}

impl Work {
    /// In the order in which it is asked.
    pub const ALL: [Self; 4] = [Self::Eight, Self::Prefill, Self::One, Self::OneDelayed];

    /// For the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Eight => "eight_streams",
            Self::Prefill => "prefill",
            Self::One => "one_stream",
            Self::OneDelayed => "one_stream_1ms",
        }
    }

    /// Asked one after the other, the same of everybody. How fast one stream is depends on what it says: it is asked all texts.
    pub fn questions(self, round: usize, texts: &[Vec<i32>]) -> Vec<Question> {
        let seed = 1000 * round as u64;
        match self {
            Self::Eight => {
                let prompts = (1..=u64::from(STREAMS)).map(|stream| prompt(seed + stream, SHORT_PROMPT));
                vec![Question::Together(prompts.collect(), STREAM_TOKENS)]
            }
            Self::Prefill => vec![Question::Prefill(prompt(seed + 100, PREFILL_TOKENS))],
            Self::One | Self::OneDelayed => {
                let questions = texts.iter().map(|text| Question::Decode(text.clone(), ONE_TOKENS));
                questions.collect()
            }
        }
    }
}
