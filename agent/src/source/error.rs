//! Why a source cannot be read. Every message names the source as it may be shown: without user names, queries and tokens.

use crate::shard::observed::Fault;
use crds::conditions::reason;
use std::time::Duration;

/// Why a source cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The address or something in it makes no sense.
    #[error("source {source_name}: {what}")]
    Bad {
        /// The source.
        source_name: String,
        /// What is wrong, and what would be right.
        what: String,
    },
    /// A format that is converted first.
    #[error(
        "{source_name} holds safetensors, which is not read; convert the model's folder with llama.cpp's `python \
         convert_hf_to_gguf.py <folder> --outfile model.gguf` and give that file"
    )]
    Safetensors {
        /// The source.
        source_name: String,
    },
    /// It is not there.
    #[error("{source_name} is not there{note}")]
    NotFound {
        /// The source.
        source_name: String,
        /// Where it was looked for, where that is not plain.
        note: String,
    },
    /// It is there, and not for us.
    #[error("{source_name} denies access ({status}); name a Secret that may read it in spec.source.secretRef")]
    Denied {
        /// The source.
        source_name: String,
        /// The server's answer.
        status: u16,
    },
    /// Ranges are not served.
    #[error(
        "{source_name} ignores Range requests, so layers cannot be read by themselves; use a server that honours them"
    )]
    RangeIgnored {
        /// The source.
        source_name: String,
    },
    /// Another content than at first.
    #[error("{source_name} changed while it was read ({what}); it is read anew from the start")]
    Changed {
        /// The source.
        source_name: String,
        /// What is different.
        what: String,
    },
    /// Less than there should be, again and again.
    #[error("{source_name} ends at byte {at} of {expected}; restore the file")]
    Truncated {
        /// The source.
        source_name: String,
        /// Where.
        at: u64,
        /// Where it should.
        expected: u64,
    },
    /// Nothing comes.
    #[error("{source_name} sent nothing for {} s, {attempts} times in a row", limit.as_secs_f32())]
    Stalled {
        /// The source.
        source_name: String,
        /// How long it was waited.
        limit: Duration,
        /// How often.
        attempts: u32,
    },
    /// No answer, or one that says "later", too often.
    #[error("{source_name} cannot be reached ({attempts} attempts): {cause}")]
    Unavailable {
        /// The source.
        source_name: String,
        /// The last attempt's end.
        cause: String,
        /// How often.
        attempts: u32,
    },
    /// An answer that is against the rules.
    #[error("{source_name} answers with {what}")]
    Malformed {
        /// The source.
        source_name: String,
        /// What is wrong with it.
        what: String,
    },
    /// A file of this node.
    #[error("{action} {source_name} failed: {cause}")]
    Io {
        /// What was done, in words.
        action: &'static str,
        /// The file.
        source_name: String,
        /// The system's answer.
        cause: std::io::Error,
    },
}

impl SourceError {
    pub(super) fn bad(source: &str, what: impl Into<String>) -> Self {
        Self::Bad {
            source_name: source.to_owned(),
            what: what.into(),
        }
    }

    pub(super) fn malformed(source: &str, what: impl Into<String>) -> Self {
        Self::Malformed {
            source_name: source.to_owned(),
            what: what.into(),
        }
    }

    /// One CamelCase word for a condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Bad { .. } | Self::Malformed { .. } | Self::Io { .. } => reason::UNREADABLE,
            Self::Safetensors { .. } => reason::UNSUPPORTED_FORMAT,
            Self::NotFound { .. } => reason::SOURCE_NOT_FOUND,
            Self::Denied { .. } => reason::ACCESS_DENIED,
            Self::RangeIgnored { .. } => reason::RANGE_NOT_SUPPORTED,
            Self::Changed { .. } => reason::SOURCE_CHANGED,
            Self::Truncated { .. } => reason::TRUNCATED,
            Self::Stalled { .. } => reason::SOURCE_STALLED,
            Self::Unavailable { .. } => reason::SOURCE_UNAVAILABLE,
        }
    }
}

impl From<SourceError> for Fault {
    fn from(error: SourceError) -> Self {
        Self::new(error.reason(), error.to_string())
    }
}
