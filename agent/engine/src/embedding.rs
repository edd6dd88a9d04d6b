//! The token embedding as f32 rows, read row by row from its file.
//!
//! Only the first stage's process has it: slices take activations, so that none but the last holds
//! a vocabulary. Rows are decoded by ggml's own routine, the one its `get_rows` uses, so they are
//! bit for bit what the whole model would have looked up. The file stays on disk and in the page
//! cache: a step reads a few rows of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use gguf::architecture::{Architecture, ArchitectureError, architecture};
use gguf::{Gguf, Limits, MetadataError, ParseError};

use crate::ffi::numbers::RowFormat;

#[cfg(test)]
mod tests;

/// The embedding tensor's name in every architecture.
pub(crate) const EMBEDDING_TENSOR: &str = "token_embd.weight";

/// Most rows looked up at once: more than any step has, and it bounds what one call allocates.
pub const MAX_LOOKUP_ROWS: usize = 4096;

/// Why an embedding cannot be opened or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddingError {
    /// The file is not a readable GGUF.
    #[error("{}: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: ParseError,
    },
    /// The file's metadata lacks something.
    #[error("{}: {source}", file.display())]
    Metadata {
        /// The file.
        file: PathBuf,
        /// Why.
        source: MetadataError,
    },
    /// The file holds no usable embedding.
    #[error("{}: {cause}; fetch the model again", file.display())]
    Unusable {
        /// The file.
        file: PathBuf,
        /// Why.
        cause: String,
    },
    /// The architecture does not run.
    #[error("{}: {source}", file.display())]
    Architecture {
        /// The file.
        file: PathBuf,
        /// Why.
        source: ArchitectureError,
    },
    /// A token id outside the vocabulary.
    #[error("token {token} is outside the vocabulary of {rows}")]
    UnknownToken {
        /// The token id.
        token: i32,
        /// Rows of the embedding.
        rows: u64,
    },
    /// Too many rows at once.
    #[error("{rows} rows at once: at most {MAX_LOOKUP_ROWS}")]
    TooManyRows {
        /// Rows asked for.
        rows: usize,
    },
    /// The file could not be opened or read.
    #[error("cannot read {}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// An open embedding table. Shared freely between threads: reads are positioned.
#[derive(Debug)]
pub struct Embedding {
    file: File,
    path: PathBuf,
    format: RowFormat,
    length: usize,
    rows: u64,
    offset_bytes: u64,
    scale: f32,
    feeds_rows: bool,
}

impl Embedding {
    /// Opens the embedding in the GGUF file `path`: an embedding file of the cache, or a whole
    /// model.
    ///
    /// # Errors
    /// Where the file is not a GGUF with a two-dimensional `token_embd.weight` of a known type, or
    /// its architecture is not known to the lookup.
    pub fn open(path: &Path) -> Result<Self, EmbeddingError> {
        let io = |source| EmbeddingError::Io {
            file: path.to_path_buf(),
            source,
        };
        let mut file = File::open(path).map_err(io)?;
        let file_bytes = file.metadata().map_err(io)?.len();
        let header =
            Gguf::parse(&mut file, file_bytes, Limits::default()).map_err(|source| EmbeddingError::Unreadable {
                file: path.to_path_buf(),
                source,
            })?;
        let architecture = architecture_of(&header, path)?;

        let unusable = |cause: String| EmbeddingError::Unusable {
            file: path.to_path_buf(),
            cause,
        };
        let tensor = header
            .tensor(EMBEDDING_TENSOR)
            .ok_or_else(|| unusable(format!("there is no tensor {EMBEDDING_TENSOR}")))?;
        let [columns, rows] = tensor.dimensions[..] else {
            return Err(unusable(format!(
                "{EMBEDDING_TENSOR} has the shape {:?}",
                tensor.dimensions
            )));
        };
        let length = usize::try_from(columns)
            .map_err(|_| unusable(format!("{EMBEDDING_TENSOR} has rows of {columns} values")))?;
        let format = RowFormat::new(tensor.tensor_type.id(), length).ok_or_else(|| {
            unusable(format!(
                "{EMBEDDING_TENSOR} of type {} cannot be decoded",
                tensor.tensor_type
            ))
        })?;
        let row_bytes = format.row_bytes() as u64;
        if row_bytes.checked_mul(rows) != Some(tensor.size_bytes) {
            return Err(unusable(format!(
                "{EMBEDDING_TENSOR} has {} bytes, not {rows} rows of {row_bytes}",
                tensor.size_bytes
            )));
        }
        let offset_bytes = tensor.offset_bytes;
        Ok(Self {
            file,
            path: path.to_path_buf(),
            format,
            length,
            rows,
            offset_bytes,
            scale: architecture.lookup_scale(length),
            feeds_rows: architecture.embeds_outside(),
        })
    }

    /// Values of one row.
    pub fn embedding_length(&self) -> usize {
        self.length
    }

    /// Rows, that is token ids.
    pub fn vocabulary_size(&self) -> u64 {
        self.rows
    }

    /// Whether the first stage is fed [`rows`](Self::rows). Where it is not, the whole model runs there and takes the
    /// tokens themselves.
    pub fn feeds_rows(&self) -> bool {
        self.feeds_rows
    }

    /// The rows of `tokens`, one after the other: what the first stage takes as activations. Empty where it
    /// is to take the tokens (see [`feeds_rows`](Self::feeds_rows)).
    ///
    /// # Errors
    /// For a token outside the vocabulary, more than [`MAX_LOOKUP_ROWS`] tokens, or a failed read.
    pub fn rows(&self, tokens: &[i32]) -> Result<Vec<f32>, EmbeddingError> {
        if tokens.len() > MAX_LOOKUP_ROWS {
            return Err(EmbeddingError::TooManyRows { rows: tokens.len() });
        }
        let row_bytes = self.format.row_bytes();
        let indices = tokens
            .iter()
            .map(|token| self.index(*token))
            .collect::<Result<Vec<u64>, _>>()?;
        if !self.feeds_rows {
            return Ok(Vec::new());
        }
        let mut encoded = vec![0u8; row_bytes];
        let mut values = vec![0f32; tokens.len() * self.length];
        for (index, row) in indices.into_iter().zip(values.chunks_exact_mut(self.length)) {
            self.file
                .read_exact_at(&mut encoded, self.offset_bytes + index * row_bytes as u64)
                .map_err(|source| EmbeddingError::Io {
                    file: self.path.clone(),
                    source,
                })?;
            if !self.format.decode(&encoded, row) {
                let cause = format!("a row of {EMBEDDING_TENSOR} has the wrong length");
                return Err(EmbeddingError::Unusable {
                    file: self.path.clone(),
                    cause,
                });
            }
            if self.scale != 1.0 {
                row.iter_mut().for_each(|value| *value *= self.scale);
            }
        }
        Ok(values)
    }

    fn index(&self, token: i32) -> Result<u64, EmbeddingError> {
        let index = u64::try_from(token).ok().filter(|index| *index < self.rows);
        index.ok_or(EmbeddingError::UnknownToken { token, rows: self.rows })
    }
}

fn architecture_of(header: &Gguf, path: &Path) -> Result<&'static Architecture, EmbeddingError> {
    let file = || path.to_path_buf();
    let name = header.metadata.string("general.architecture");
    let name = name.map_err(|source| EmbeddingError::Metadata { file: file(), source })?;
    architecture(name).map_err(|source| EmbeddingError::Architecture { file: file(), source })
}
