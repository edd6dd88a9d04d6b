//! The messages on the tokenizer's standard streams.

use serde::{Deserialize, Serialize};

/// The first line out.
#[derive(Debug, Serialize)]
pub(super) struct Greeting {
    pub(super) ready: Ready,
}

/// The vocabulary as its user needs it.
#[derive(Debug, Serialize)]
pub(super) struct Ready {
    /// The bytes of each token id, in base64.
    pub(super) pieces_base64: Vec<String>,
    /// Tokens that end a generation.
    pub(super) eog: Vec<i32>,
    pub(super) bos: Option<i32>,
    pub(super) eos: Option<i32>,
    /// Whether the model wants its prompts to begin with `bos`.
    pub(super) add_bos: bool,
}

/// A line in.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    pub(super) id: u64,
    pub(super) tokenize: Tokenize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tokenize {
    pub(super) text: String,
    #[serde(default)]
    pub(super) parse_special: bool,
    #[serde(default)]
    pub(super) add_special: bool,
}

/// A line out.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    /// The request's; `null` where the line was too damaged to tell.
    id: Option<u64>,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Tokens(Vec<i32>),
    Error(String),
}

impl Answer {
    pub(super) fn tokens(id: u64, tokens: Vec<i32>) -> Self {
        Self {
            id: Some(id),
            outcome: Outcome::Tokens(tokens),
        }
    }

    pub(super) fn error(id: Option<u64>, message: String) -> Self {
        Self {
            id,
            outcome: Outcome::Error(message),
        }
    }
}

/// The id of a line that is JSON with an id, whatever else is wrong with it.
pub(super) fn id_of(line: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Id {
        id: u64,
    }
    serde_json::from_slice::<Id>(line).ok().map(|id| id.id)
}
