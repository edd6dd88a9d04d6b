//! How a command fails: a message for people and an exit code for scripts.

use std::io;
use std::process::ExitCode;

use gguf::index::BuildError;
use gguf::{ParseError, SplitError, WeightIndexError};
use thiserror::Error;

/// Why a command did not do what it was asked. The codes are those of `sysexits.h`.
#[derive(Debug, Error)]
pub enum Failure {
    /// 64: the command line asks for something that does not exist.
    #[error("{0}")]
    Usage(String),
    /// 65: what was read is not what it should be.
    #[error("{0}")]
    BadData(String),
    /// 66: what should be read is not there or must not be read.
    #[error("{0}")]
    MissingInput(String),
    /// 69: a server could not be reached or would not answer.
    #[error("{0}")]
    Unavailable(String),
    /// 73: the result could not be written.
    #[error("{0}")]
    Unwritable(String),
    /// 74: reading failed midway.
    #[error("{0}")]
    Io(String),
}

impl Failure {
    /// The process's exit code.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) => 64,
            Self::BadData(_) => 65,
            Self::MissingInput(_) => 66,
            Self::Unavailable(_) => 69,
            Self::Unwritable(_) => 73,
            Self::Io(_) => 74,
        })
    }
}

/// A failure to open or read: told apart by whether the thing is there.
pub fn reading(what: &str, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::NotADirectory => {
            Failure::MissingInput(format!("{what} cannot be opened: {error}"))
        }
        _ => Failure::Io(format!("reading {what} failed: {error}")),
    }
}

impl From<SplitError> for Failure {
    fn from(error: SplitError) -> Self {
        match &error {
            SplitError::Part {
                name,
                source: ParseError::Open { source, .. } | ParseError::Io(source),
            } => reading(name, source),
            _ => Self::BadData(error.to_string()),
        }
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        match &error {
            BuildError::Io { file, source } => reading(file, source),
            _ => Self::BadData(error.to_string()),
        }
    }
}

impl From<WeightIndexError> for Failure {
    fn from(error: WeightIndexError) -> Self {
        Self::BadData(error.to_string())
    }
}
