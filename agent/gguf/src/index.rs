//! Digests of a model's weights: one per piece, and one root per stage.
//!
//! All digests are SHA-256 over a domain tag and then numbers in little endian, strings and data preceded by their
//! length as 64 bits:
//!
//! ```text
//! tensor list    count, then per tensor in the order of names: name, type id (32 bits), dimension count (32 bits),
//!                dimensions (64 bits each), SHA-256 of its data
//! frame          "shardwright.weights.frame.v1\0"     hyperparameters (count, then key, type id, value, ordered by
//!                key: `general.architecture` and all keys of the architecture), tensor list of the shared piece
//! piece          "shardwright.weights.piece.v1\0"     frame digest, kind (8 bits: 1 embedding, 2 layer, 3 output),
//!                layer number (32 bits, else 0), tensor list
//! leaf           "shardwright.weights.leaf.v1\0"      piece digest
//! node           "shardwright.weights.node.v1\0"      left, right; a node without a partner goes up as it is
//! root           "shardwright.weights.root.v1\0"      number of leaves (64 bits), topmost node
//! ```
//!
//! Names, types and dimensions are the source's, so a digest does not depend on the slice a piece is in. The frame is
//! in every piece's digest: hyperparameters and rotary factors decide what the layers compute as much as weights do.
//!
//! Since tensors enter by their SHA-256, a header and a [`WeightIndex`] give all digests of a model without its weights.

mod build;
mod check;
mod digest;
mod weights;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

pub use build::{BuildError, IndexBuilder, build};
pub use digest::{Digest, NoDigest};
pub use weights::{
    INDEX_SUFFIX, IndexedFile, IndexedTensor, MAX_FILE_NAME_BYTES, MAX_INDEX_BYTES, MAX_TENSORS, WeightIndex,
    WeightIndexError,
};

use crate::cache::{COPY_BYTES, piece_path};
use crate::parse::Tensor;
use crate::piece::{Piece, Pieces};
use crate::slice::{SliceError, SlicePlan, places};
use crate::source::TensorSource;

/// Why weights could not be digested or are not what they should be.
#[derive(Debug, Error)]
pub enum IndexError {
    /// A file could not be read.
    #[error("reading the weights of the {piece} piece failed: {source}")]
    Io {
        /// The piece.
        piece: Piece,
        /// The system's answer.
        source: io::Error,
    },
    /// The range is no slice.
    #[error(transparent)]
    Slice(#[from] SliceError),
    /// The file's weights differ.
    #[error("the {piece} file {} does not hold the weights that were asked for; remove it and fetch again", path.display())]
    Mismatch {
        /// The piece.
        piece: Piece,
        /// Its file.
        path: PathBuf,
    },
}

/// Digests of all of a model's pieces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Of the token embedding.
    pub embedding: Digest,
    /// Of each layer, in order.
    pub layers: Vec<Digest>,
    /// Of the output norm and matrix.
    pub output: Digest,
}

impl Index {
    /// The root of the stage with layers `[first, end)`; `None` for a range that the model has not.
    pub fn stage_root(&self, first: u32, end: u32) -> Option<Digest> {
        let layers = self
            .layers
            .get(first as usize..end as usize)
            .filter(|layers| !layers.is_empty())?;
        let head = (first == 0).then_some(self.embedding);
        let tail = (end as usize == self.layers.len()).then_some(self.output);
        Some(stage_root(head.into_iter().chain(layers.iter().copied()).chain(tail)))
    }
}

/// The Merkle root over a stage's piece digests in order: embedding if it is the head, its layers, output if it is the
/// tail.
pub fn stage_root(pieces: impl IntoIterator<Item = Digest>) -> Digest {
    let mut level: Vec<Digest> = pieces
        .into_iter()
        .map(|piece| tagged(b"shardwright.weights.leaf.v1\0", &[&piece.0]))
        .collect();
    let leaves = level.len() as u64;
    while level.len() > 1 {
        level = level
            .chunks(2)
            .map(|pair| match pair {
                [left, right] => tagged(b"shardwright.weights.node.v1\0", &[&left.0, &right.0]),
                _ => pair[0],
            })
            .collect();
    }
    let top = level.first().map_or([0; 32], |top| top.0);
    tagged(b"shardwright.weights.root.v1\0", &[&leaves.to_le_bytes(), &top])
}

fn tagged(tag: &[u8], parts: &[&[u8]]) -> Digest {
    let mut hash = Sha256::new();
    hash.update(tag);
    parts.iter().for_each(|part| hash.update(part));
    Digest(hash.finalize().into())
}

/// Digests every piece of a source model. Reads its weights once (a tied embedding twice), with bounded memory.
pub fn index(source: &mut impl TensorSource, pieces: &Pieces<'_>) -> Result<Index, IndexError> {
    index_with(pieces, |piece, tensor| {
        data_digest(source, tensor.file, tensor.offset_bytes, tensor.size_bytes)
            .map_err(|source| IndexError::Io { piece, source })
    })
}

/// Digests every piece, given the digest of each tensor's data.
fn index_with<E>(pieces: &Pieces<'_>, mut data: impl FnMut(Piece, &Tensor) -> Result<Digest, E>) -> Result<Index, E> {
    let mut digested = |piece| -> Result<Vec<_>, E> {
        let tensors = pieces.tensors(piece).iter().copied();
        tensors.map(|tensor| Ok((tensor, data(piece, tensor)?))).collect()
    };
    let frame = frame(pieces, &digested(Piece::Shared)?);
    let mut digest = |piece| Ok(piece_digest(&frame, piece, &digested(piece)?));
    Ok(Index {
        embedding: digest(Piece::Embedding)?,
        layers: (0..pieces.layer_count())
            .map(Piece::Layer)
            .map(&mut digest)
            .collect::<Result<_, _>>()?,
        output: digest(Piece::Output)?,
    })
}

/// SHA-256 of everything that `source` gives, from where it stands.
pub fn file_digest(source: &mut impl Read) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(Digest(hash.finalize().into())),
            Ok(count) => hash.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Digests of pieces as they lie in a cache directory.
#[derive(Debug)]
pub struct CachedWeights<'a> {
    directory: &'a Path,
    pieces: &'a Pieces<'a>,
    frame: Digest,
}

impl<'a> CachedWeights<'a> {
    /// Begins with the directory's shared piece, whose file must be there.
    pub fn new(directory: &'a Path, pieces: &'a Pieces<'a>) -> Result<Self, IndexError> {
        let frame = frame(pieces, &digested(directory, pieces, Piece::Shared)?);
        Ok(Self {
            directory,
            pieces,
            frame,
        })
    }

    /// The digest of a piece's cached file. What its header says does not enter.
    pub fn digest(&self, piece: Piece) -> Result<Digest, IndexError> {
        Ok(piece_digest(
            &self.frame,
            piece,
            &digested(self.directory, self.pieces, piece)?,
        ))
    }

    /// Fails unless a piece's cached file holds the weights with this digest.
    pub fn verify(&self, piece: Piece, expected: &Digest) -> Result<(), IndexError> {
        if self.digest(piece)? == *expected {
            return Ok(());
        }
        Err(IndexError::Mismatch {
            piece,
            path: piece_path(self.directory, piece),
        })
    }

    /// The root of the stage with layers `[first, end)`, recomputed from the files.
    pub fn stage_root(&self, first: u32, end: u32) -> Result<Digest, IndexError> {
        let leaves = SlicePlan::new(self.pieces, first, end)?.rooted().into_iter();
        Ok(stage_root(
            leaves.map(|piece| self.digest(piece)).collect::<Result<Vec<_>, _>>()?,
        ))
    }
}

/// The tensors of a piece's cached file whose data is not what the index says, by name.
pub fn damaged_tensors<'a>(
    directory: &Path,
    pieces: &Pieces<'a>,
    piece: Piece,
    index: &WeightIndex,
) -> Result<Vec<&'a str>, IndexError> {
    let found = digested(directory, pieces, piece)?.into_iter();
    let wrong = found.filter(|(tensor, found)| index.tensor(&tensor.name).is_none_or(|known| known.sha256 != *found));
    Ok(wrong.map(|(tensor, _)| tensor.name.as_str()).collect())
}

/// Each tensor of a piece's cached file with the digest of its data.
fn digested<'a>(directory: &Path, pieces: &Pieces<'a>, piece: Piece) -> Result<Vec<(&'a Tensor, Digest)>, IndexError> {
    let failed = |source| IndexError::Io { piece, source };
    let mut file = File::open(piece_path(directory, piece)).map_err(failed)?;
    let places = places(pieces, piece).into_iter();
    places
        .map(|(tensor, place)| {
            let digest = data_digest(&mut file, 0, place, tensor.size_bytes).map_err(failed)?;
            Ok((tensor, digest))
        })
        .collect()
}

/// SHA-256 of a range of a source's bytes.
pub fn data_digest(
    source: &mut impl TensorSource,
    file: u16,
    offset_bytes: u64,
    size_bytes: u64,
) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; size_bytes.min(COPY_BYTES as u64) as usize];
    let mut done = 0;
    while done < size_bytes {
        let count = (size_bytes - done).min(COPY_BYTES as u64) as usize;
        source.read(file, offset_bytes + done, &mut buffer[..count])?;
        hash.update(&buffer[..count]);
        done += count as u64;
    }
    Ok(Digest(hash.finalize().into()))
}

fn frame(pieces: &Pieces<'_>, shared: &[(&Tensor, Digest)]) -> Digest {
    let prefix = format!("{}.", pieces.architecture().name);
    let mut entries: Vec<_> = pieces
        .gguf()
        .metadata
        .iter()
        .filter(|(key, _)| *key == "general.architecture" || key.starts_with(&prefix))
        .collect();
    entries.sort_by_key(|(key, _)| *key);
    let mut hash = Sha256::new();
    hash.update(b"shardwright.weights.frame.v1\0");
    hash.update((entries.len() as u64).to_le_bytes());
    for (key, value) in entries {
        update_sized(&mut hash, key.as_bytes());
        hash.update(value.value_type().id().to_le_bytes());
        let mut encoded = Vec::new();
        value.encode(&mut encoded);
        update_sized(&mut hash, &encoded);
    }
    update_tensors(&mut hash, shared);
    Digest(hash.finalize().into())
}

fn piece_digest(frame: &Digest, piece: Piece, tensors: &[(&Tensor, Digest)]) -> Digest {
    let (kind, layer) = match piece {
        Piece::Shared => return *frame,
        Piece::Embedding => (1u8, 0u32),
        Piece::Layer(layer) => (2, layer),
        Piece::Output => (3, 0),
    };
    let mut hash = Sha256::new();
    hash.update(b"shardwright.weights.piece.v1\0");
    hash.update(frame.0);
    hash.update([kind]);
    hash.update(layer.to_le_bytes());
    update_tensors(&mut hash, tensors);
    Digest(hash.finalize().into())
}

fn update_sized(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

fn update_tensors(hash: &mut Sha256, tensors: &[(&Tensor, Digest)]) {
    hash.update((tensors.len() as u64).to_le_bytes());
    for (tensor, data) in tensors {
        update_sized(hash, tensor.name.as_bytes());
        hash.update(tensor.tensor_type.id().to_le_bytes());
        hash.update((tensor.dimensions.len() as u32).to_le_bytes());
        tensor
            .dimensions
            .iter()
            .for_each(|size| hash.update(size.to_le_bytes()));
        hash.update(data.0);
    }
}

#[cfg(test)]
mod tests;
