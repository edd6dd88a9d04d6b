//! A tokenizer as a child process: JSON lines on standard streams.
//!
//! llama.cpp's vocabulary code throws and aborts on some inputs, and vocabularies come from
//! strangers' files; so it runs in a process that its parent can afford to lose. The protocol:
//!
//! ```text
//! ◀ {"ready":{"pieces_base64":["PA==",…],"eog":[2],"bos":1,"eos":2,"add_bos":false}}
//! ▶ {"id":1,"tokenize":{"text":"Hello","parse_special":true,"add_special":false}}
//! ◀ {"id":1,"tokens":[19556]}
//! ◀ {"id":2,"error":"…"}         for a request that cannot be answered; the process goes on
//! ```
//!
//! Answers come in the order of requests. `pieces_base64` has the bytes that each token id stands
//! for, so the parent turns tokens into text by itself; control tokens stand for nothing. The
//! process ends when its input ends.

mod protocol;

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::ffi::model::{Model, ModelOptions, Placing};
use protocol::{Answer, Ready, Request};

#[cfg(test)]
mod tests;

/// The longest text of one request. Far longer than any context, and it bounds the memory that
/// one request can take (a token per byte, 4 bytes each).
pub const MAX_TEXT_BYTES: usize = 4 * 1024 * 1024;

/// The longest request line: a text in which every byte is written as `\u00XX`, and its wrapping.
const MAX_LINE_BYTES: usize = 6 * MAX_TEXT_BYTES + 4096;

/// The largest vocabulary served; four times the largest published one.
const MAX_VOCABULARY: usize = 1 << 20;

/// Why a tokenizer cannot serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// llama.cpp refused the vocabulary.
    #[error("cannot load the vocabulary {}: {cause}", file.display())]
    LoadRefused {
        /// The file.
        file: PathBuf,
        /// llama.cpp's account.
        cause: String,
    },
    /// The file has no tokenizer, or one that is too large.
    #[error("{}: {cause}; give a model file with its tokenizer", file.display())]
    Unusable {
        /// The file.
        file: PathBuf,
        /// Why.
        cause: String,
    },
    /// A standard stream failed.
    #[error("the tokenizer's stream failed: {0}")]
    Stream(#[from] io::Error),
}

/// A text that cannot be tokenised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// It is too long.
    #[error("a text of {bytes} bytes: at most {MAX_TEXT_BYTES}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// llama.cpp gave no tokens.
    #[error("the text cannot be tokenised")]
    Refused,
}

/// A vocabulary without weights.
#[derive(Debug)]
pub struct Tokenizer {
    model: Model,
}

impl Tokenizer {
    /// Loads the vocabulary of a GGUF file, with or without weights. Needs no backend.
    ///
    /// # Errors
    /// Where llama.cpp refuses the file, or it has no tokenizer.
    pub fn open(file: &Path) -> Result<Self, TokenizerError> {
        let unusable = |cause: String| TokenizerError::Unusable {
            file: file.to_path_buf(),
            cause,
        };
        let files = [file.to_path_buf()];
        let options = ModelOptions {
            files: &files,
            placing: Placing::Host,
            mapped: true,
            vocabulary_only: true,
            repack: false,
            stated: None,
        };
        let model = Model::load(&options).map_err(|cause| TokenizerError::LoadRefused {
            file: file.to_path_buf(),
            cause,
        })?;
        if !model.has_tokenizer() {
            return Err(unusable("it has no tokenizer".to_owned()));
        }
        if model.vocabulary_size() > MAX_VOCABULARY {
            return Err(unusable(format!(
                "a vocabulary of {} tokens: at most {MAX_VOCABULARY}",
                model.vocabulary_size()
            )));
        }
        Ok(Self { model })
    }

    /// Number of token ids.
    pub fn vocabulary_size(&self) -> usize {
        self.model.vocabulary_size()
    }

    /// `text` as tokens. `parse_special` reads special tokens written out in the text as such;
    /// `add_special` adds what the model puts around a text.
    ///
    /// # Errors
    /// For a text above [`MAX_TEXT_BYTES`], or one llama.cpp gives no tokens for.
    pub fn tokenize(&self, text: &str, parse_special: bool, add_special: bool) -> Result<Vec<i32>, TextError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TextError::TooLong { bytes: text.len() });
        }
        self.model
            .tokenize(text, add_special, parse_special)
            .ok_or(TextError::Refused)
    }

    /// The bytes that `token` stands for; none for control tokens and ids outside the vocabulary.
    pub fn piece(&self, token: i32) -> Vec<u8> {
        self.model.piece(token).unwrap_or_default()
    }

    fn ready(&self) -> Ready {
        let tokens = || 0..i32::try_from(self.vocabulary_size()).unwrap_or(i32::MAX);
        Ready {
            pieces_base64: tokens().map(|token| STANDARD.encode(self.piece(token))).collect(),
            eog: tokens()
                .filter(|token| self.model.is_end_of_generation(*token))
                .collect(),
            bos: self.model.bos(),
            eos: self.model.eos(),
            add_bos: self.model.adds_bos(),
        }
    }

    fn answer(&self, line: &[u8]) -> Answer {
        let request: Request = match serde_json::from_slice(line) {
            Ok(request) => request,
            Err(error) => return Answer::error(protocol::id_of(line), format!("bad request: {error}")),
        };
        let asked = &request.tokenize;
        match self.tokenize(&asked.text, asked.parse_special, asked.add_special) {
            Ok(tokens) => Answer::tokens(request.id, tokens),
            Err(error) => Answer::error(Some(request.id), error.to_string()),
        }
    }
}

/// Loads `vocabulary` and serves it on the process's standard streams until its input ends.
///
/// # Errors
/// As [`Tokenizer::open`] and [`serve`].
pub fn run(vocabulary: &Path) -> Result<(), TokenizerError> {
    serve(&Tokenizer::open(vocabulary)?, io::stdin().lock(), io::stdout().lock())
}

/// Serves `tokenizer` until `input` ends.
///
/// # Errors
/// Only where a stream fails; a bad line is answered with an error.
pub fn serve(tokenizer: &Tokenizer, mut input: impl BufRead, mut output: impl Write) -> Result<(), TokenizerError> {
    write_line(
        &mut output,
        &protocol::Greeting {
            ready: tokenizer.ready(),
        },
    )?;
    loop {
        let answer = match read_line(&mut input)? {
            Line::End => return Ok(()),
            Line::TooLong => Answer::error(None, format!("a request line above {MAX_LINE_BYTES} bytes")),
            Line::Read(line) if line.trim_ascii().is_empty() => continue,
            Line::Read(line) => tokenizer.answer(&line),
        };
        write_line(&mut output, &answer)?;
    }
}

fn write_line(output: &mut impl Write, message: &impl serde::Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message).map_err(io::Error::other)?;
    line.push(b'\n');
    output.write_all(&line)?;
    output.flush()
}

enum Line {
    Read(Vec<u8>),
    TooLong,
    End,
}

/// Reads one line in bounded memory; of a longer one nothing is kept and the rest is skipped.
fn read_line(input: &mut impl BufRead) -> io::Result<Line> {
    let mut line = Vec::new();
    let mut too_long = false;
    loop {
        let buffer = match input.fill_buf() {
            Ok(buffer) => buffer,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if buffer.is_empty() {
            return Ok(match (too_long, line.is_empty()) {
                (true, _) => Line::TooLong,
                (false, true) => Line::End,
                (false, false) => Line::Read(line),
            });
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let part = &buffer[..end.unwrap_or(buffer.len())];
        too_long |= line.len() + part.len() > MAX_LINE_BYTES;
        if too_long {
            line = Vec::new();
        } else {
            line.extend_from_slice(part);
        }
        let used = end.map_or(buffer.len(), |end| end + 1);
        input.consume(used);
        if end.is_some() {
            return Ok(if too_long { Line::TooLong } else { Line::Read(line) });
        }
    }
}
