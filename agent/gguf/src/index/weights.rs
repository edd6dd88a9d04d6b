//! The weight index: where every tensor of a model lies and what its bytes must be.
//!
//! With an index pinned by its digest, a node fetches only the tensors it needs, from anywhere, and knows each for the
//! right one. It is JSON in one canonical form, so the same model files always give the same bytes:
//!
//! ```text
//! {"version":1,
//!  "sha256":"<of all files, one after the other>",
//!  "files":[{"name":"m-00001-of-00002.gguf","bytes":8,"header_bytes":4,"header_sha256":"<of the first header_bytes>"}, …],
//!  "tensors":[{"name":"blk.0.attn_q.weight","file":0,"offset":4,"bytes":4,"sha256":"<of those bytes>"}, …]}
//! ```
//!
//! written without the spaces and line breaks shown here and closed by one line feed. Keys stand in this order, files in
//! the order of the set, tensors in the order of their places; digests are lower-case hexadecimal. `offset` counts from
//! the start of the file, and `header_bytes` is where its data section begins. The digest of an index is the SHA-256 of
//! these bytes.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::io::Cursor;
use thiserror::Error;

use super::{Digest, Index, index_with};
use crate::parse::split::{MAX_FILES, SplitError};
use crate::parse::{Gguf, Limits, MAX_FILE_BYTES, ParseError, Tensor};
use crate::piece::Pieces;

pub use super::check::{MAX_FILE_NAME_BYTES, MAX_TENSORS};

/// Longest index. The largest published models take about 1 MiB; all tensors that a header may have fit as well.
pub const MAX_INDEX_BYTES: usize = 16 << 20;

/// The only version of the form that there is.
pub const VERSION: u32 = 1;

/// What follows a model's first file name to give the name of its index.
pub const INDEX_SUFFIX: &str = ".index.json";

/// Why an index, or a model beside it, is not accepted.
#[derive(Debug, Error)]
pub enum WeightIndexError {
    /// A count or length above its limit.
    #[error("the weight index has {found} {what}, more than the {limit} accepted; make it anew from the model")]
    TooLarge {
        /// What was counted.
        what: &'static str,
        /// How many there are.
        found: u64,
        /// The most accepted.
        limit: u64,
    },
    /// Not the JSON that an index is.
    #[error("this is no weight index: {0}; make it anew with `kubectl-shardwright model index`")]
    Json(#[from] serde_json::Error),
    /// Made by another version.
    #[error("the weight index has the version {found}, this version reads {VERSION}; make it anew from the model")]
    Version {
        /// The version in the file.
        found: u32,
    },
    /// The same content in another form, which has another digest.
    #[error(
        "the weight index is not in its canonical form (reformatted or edited); use the file as it was made, or make it anew"
    )]
    NotCanonical,
    /// An entry that makes no sense.
    #[error("the weight index is damaged: {what}; make it anew from the model")]
    Malformed {
        /// What, in words, with the name concerned.
        what: String,
    },
    /// A header with other bytes than the index was made from.
    #[error(
        "the header of {file} has {found}, the weight index says {expected}; the model is another one than the index was made from"
    )]
    HeaderMismatch {
        /// The file's name.
        file: String,
        /// Length or digest found, in words.
        found: String,
        /// Length or digest in the index, in words.
        expected: String,
    },
    /// Headers of another number of files.
    #[error("{found} headers were given for the {expected} files of the weight index")]
    HeaderCount {
        /// Headers given.
        found: usize,
        /// Files in the index.
        expected: usize,
    },
    /// A header that cannot be read although it is the one in the index.
    #[error("the header of {file}: {source}")]
    Header {
        /// The file's name.
        file: String,
        /// Why.
        source: ParseError,
    },
    /// Files that are no split set although they are those in the index.
    #[error(transparent)]
    Split(#[from] SplitError),
    /// The model has other tensors, or elsewhere.
    #[error("tensor `{tensor}` {what}; the weight index belongs to another model, make it anew")]
    TensorDiffers {
        /// The tensor's name.
        tensor: String,
        /// How, in words.
        what: String,
    },
}

/// One file of the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexedFile {
    /// Its name without a folder, at most [`MAX_FILE_NAME_BYTES`] long.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// Length in bytes of what stands before its data section.
    pub header_bytes: u64,
    /// SHA-256 of these.
    pub header_sha256: Digest,
}

/// One tensor's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexedTensor {
    /// The name in the source.
    pub name: String,
    /// Number of its file, from 0.
    pub file: u16,
    /// Where it begins, in bytes from the start of the file.
    #[serde(rename = "offset")]
    pub offset_bytes: u64,
    /// Length in bytes, without padding.
    #[serde(rename = "bytes")]
    pub size_bytes: u64,
    /// SHA-256 of these bytes.
    pub sha256: Digest,
}

/// The index as it stands in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    pub version: u32,
    pub sha256: Digest,
    pub files: Vec<IndexedFile>,
    pub tensors: Vec<IndexedTensor>,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

/// A checked index: within all limits, every tensor inside its file and apart from the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightIndex {
    table: Table,
    /// Places in `table.tensors`, ordered by name.
    by_name: Vec<u32>,
    digest: Digest,
}

impl WeightIndex {
    /// Reads an index, trusting nothing in it. Accepts the canonical form alone: what was read and what
    /// [`to_bytes`](Self::to_bytes) gives are the same bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, WeightIndexError> {
        within("bytes", bytes.len() as u64, MAX_INDEX_BYTES as u64)?;
        let VersionOnly { version } = serde_json::from_slice(bytes)?;
        if version != VERSION {
            return Err(WeightIndexError::Version { found: version });
        }
        let index = Self::seal(serde_json::from_slice(bytes)?)?;
        if index.to_bytes() != bytes {
            return Err(WeightIndexError::NotCanonical);
        }
        Ok(index)
    }

    /// Checks a table and makes it an index.
    pub(super) fn seal(table: Table) -> Result<Self, WeightIndexError> {
        let by_name = super::check::check(&table)?;
        let bytes = canonical(&table);
        within("bytes", bytes.len() as u64, MAX_INDEX_BYTES as u64)?;
        let digest = Digest(Sha256::digest(&bytes).into());
        Ok(Self { table, by_name, digest })
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        canonical(&self.table)
    }

    /// SHA-256 of the canonical bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// SHA-256 of all files, one after the other; for a single file, of the file.
    pub fn sha256(&self) -> Digest {
        self.table.sha256
    }

    /// The model's files in order.
    pub fn files(&self) -> &[IndexedFile] {
        &self.table.files
    }

    /// Length of all files together in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.table.files.iter().map(|file| file.bytes).sum()
    }

    /// All tensors in the order of their places.
    pub fn tensors(&self) -> &[IndexedTensor] {
        &self.table.tensors
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&IndexedTensor> {
        let tensor = |place: u32| &self.table.tensors[place as usize];
        let found = self
            .by_name
            .binary_search_by(|&place| tensor(place).name.as_str().cmp(name))
            .ok()?;
        Some(tensor(self.by_name[found]))
    }

    /// Fails unless `bytes` is the whole header of file number `file`.
    pub fn check_header(&self, file: u16, bytes: &[u8]) -> Result<(), WeightIndexError> {
        let count = self.table.files.len();
        let indexed = self
            .table
            .files
            .get(usize::from(file))
            .ok_or(WeightIndexError::HeaderCount {
                found: usize::from(file) + 1,
                expected: count,
            })?;
        let mismatch = |found: String, expected: String| WeightIndexError::HeaderMismatch {
            file: indexed.name.clone(),
            found,
            expected,
        };
        if bytes.len() as u64 != indexed.header_bytes {
            return Err(mismatch(
                format!("{} bytes", bytes.len()),
                format!("{} bytes", indexed.header_bytes),
            ));
        }
        let found = Digest(Sha256::digest(bytes).into());
        if found != indexed.header_sha256 {
            return Err(mismatch(
                format!("SHA-256 {found}"),
                format!("SHA-256 {}", indexed.header_sha256),
            ));
        }
        Ok(())
    }

    /// The model from its headers, one for each file in order: checks each against the index, reads and joins them, and
    /// checks that index and model name the same tensors at the same places.
    pub fn read_headers(&self, headers: &[impl AsRef<[u8]>]) -> Result<Gguf, WeightIndexError> {
        if headers.len() != self.table.files.len() {
            return Err(WeightIndexError::HeaderCount {
                found: headers.len(),
                expected: self.table.files.len(),
            });
        }
        let mut parts = Vec::new();
        for ((number, header), indexed) in (0u16..).zip(headers).zip(&self.table.files) {
            self.check_header(number, header.as_ref())?;
            let part = Gguf::parse(&mut Cursor::new(header.as_ref()), indexed.bytes, Limits::default());
            parts.push(part.map_err(|source| WeightIndexError::Header {
                file: indexed.name.clone(),
                source,
            })?);
        }
        let first = parts.remove(0);
        let gguf = Gguf::merge(first, parts)?;
        self.check_model(&gguf)?;
        Ok(gguf)
    }

    /// Fails unless index and model name the same tensors at the same places.
    pub fn check_model(&self, gguf: &Gguf) -> Result<(), WeightIndexError> {
        for tensor in &gguf.tensors {
            self.entry(tensor)?;
        }
        if gguf.tensors.len() == self.table.tensors.len() {
            return Ok(());
        }
        let missing = self
            .table
            .tensors
            .iter()
            .find(|indexed| gguf.tensor(&indexed.name).is_none());
        Err(differs(
            missing.map_or("", |indexed| &indexed.name),
            "is not in the model".to_owned(),
        ))
    }

    /// Digests of all pieces, and by them the roots of all stages, without reading a weight.
    pub fn piece_digests(&self, pieces: &Pieces<'_>) -> Result<Index, WeightIndexError> {
        index_with(pieces, |_, tensor| Ok(self.entry(tensor)?.sha256))
    }

    /// The index's entry of a tensor of the model, at the same place.
    pub fn entry(&self, tensor: &Tensor) -> Result<&IndexedTensor, WeightIndexError> {
        let indexed = self
            .tensor(&tensor.name)
            .ok_or_else(|| differs(&tensor.name, "is not in the weight index".to_owned()))?;
        let place = |file, offset, bytes| format!("{bytes} bytes at {offset} of file {file}");
        let expected = (indexed.file, indexed.offset_bytes, indexed.size_bytes);
        let found = (tensor.file, tensor.offset_bytes, tensor.size_bytes);
        if found == expected {
            return Ok(indexed);
        }
        Err(differs(
            &tensor.name,
            format!(
                "takes {}, in the weight index {}",
                place(found.0, found.1, found.2),
                place(expected.0, expected.1, expected.2)
            ),
        ))
    }
}

fn differs(tensor: &str, what: String) -> WeightIndexError {
    WeightIndexError::TensorDiffers {
        tensor: tensor.to_owned(),
        what,
    }
}

pub(super) fn within(what: &'static str, found: u64, limit: u64) -> Result<(), WeightIndexError> {
    if found > limit {
        return Err(WeightIndexError::TooLarge { what, found, limit });
    }
    Ok(())
}

fn canonical(table: &Table) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(table).expect("a table of strings and numbers is always JSON");
    bytes.push(b'\n');
    bytes
}

// An index names no more and no longer files than a split set may have.
const _: () = assert!(MAX_FILES <= u16::MAX as usize && MAX_FILE_BYTES < u64::MAX / 2);

#[cfg(test)]
mod tests;
