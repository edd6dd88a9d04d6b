//! Digests of a model's weights: one per piece, and one root per stage.
//!
//! All digests are SHA-256 over a domain tag and then numbers in little endian, strings and data preceded by their
//! length as 64 bits:
//!
//! ```text
//! tensor list    count, then per tensor in the order of names: name, type id (32 bits), dimension count (32 bits),
//!                dimensions (64 bits each), data
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

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::cache::{COPY_BYTES, piece_path};
use crate::parse::Tensor;
use crate::piece::{Piece, Pieces};
use crate::slice::{SliceError, SlicePlan, places};

/// A SHA-256 digest, shown as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// Text or bytes that are no SHA-256 digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a SHA-256 digest is 64 hexadecimal digits or 32 bytes")]
pub struct NoDigest;

impl FromStr for Digest {
    type Err = NoDigest;

    fn from_str(text: &str) -> Result<Self, NoDigest> {
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(NoDigest);
        if text.len() != 64 {
            return Err(NoDigest);
        }
        let mut digest = [0; 32];
        for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        Ok(Self(digest))
    }
}

impl TryFrom<String> for Digest {
    type Error = NoDigest;

    fn try_from(text: String) -> Result<Self, NoDigest> {
        text.parse()
    }
}

impl TryFrom<&[u8]> for Digest {
    type Error = NoDigest;

    fn try_from(bytes: &[u8]) -> Result<Self, NoDigest> {
        bytes.try_into().map(Self).map_err(|_| NoDigest)
    }
}

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

/// Digests every piece of a source model. Reads all its weights once, with bounded memory.
pub fn index(source: &mut (impl Read + Seek), pieces: &Pieces<'_>) -> Result<Index, IndexError> {
    let frame = frame(source, pieces, &in_source(pieces, Piece::Shared))?;
    let mut digest = |piece| piece_digest(source, &frame, piece, &in_source(pieces, piece));
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
        let mut file = open(directory, Piece::Shared)?;
        let frame = frame(&mut file, pieces, &places(pieces, Piece::Shared))?;
        Ok(Self {
            directory,
            pieces,
            frame,
        })
    }

    /// The digest of a piece's cached file. What its header says does not enter.
    pub fn digest(&self, piece: Piece) -> Result<Digest, IndexError> {
        let mut file = open(self.directory, piece)?;
        piece_digest(&mut file, &self.frame, piece, &places(self.pieces, piece))
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
        let needs = SlicePlan::new(self.pieces, first, end)?.needs();
        let leaves = needs.into_iter().filter(|&piece| piece != Piece::Shared);
        Ok(stage_root(
            leaves.map(|piece| self.digest(piece)).collect::<Result<Vec<_>, _>>()?,
        ))
    }
}

fn open(directory: &Path, piece: Piece) -> Result<File, IndexError> {
    File::open(piece_path(directory, piece)).map_err(|source| IndexError::Io { piece, source })
}

/// A piece's tensors with their places in the source file.
fn in_source<'a>(pieces: &Pieces<'a>, piece: Piece) -> Vec<(&'a Tensor, u64)> {
    pieces
        .tensors(piece)
        .iter()
        .map(|&tensor| (tensor, tensor.offset_bytes))
        .collect()
}

fn frame(
    source: &mut (impl Read + Seek),
    pieces: &Pieces<'_>,
    shared: &[(&Tensor, u64)],
) -> Result<Digest, IndexError> {
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
    update_tensors(&mut hash, source, shared).map_err(|source| IndexError::Io {
        piece: Piece::Shared,
        source,
    })?;
    Ok(Digest(hash.finalize().into()))
}

fn piece_digest(
    source: &mut (impl Read + Seek),
    frame: &Digest,
    piece: Piece,
    tensors: &[(&Tensor, u64)],
) -> Result<Digest, IndexError> {
    let (kind, layer) = match piece {
        Piece::Shared => return Ok(*frame),
        Piece::Embedding => (1u8, 0u32),
        Piece::Layer(layer) => (2, layer),
        Piece::Output => (3, 0),
    };
    let mut hash = Sha256::new();
    hash.update(b"shardwright.weights.piece.v1\0");
    hash.update(frame.0);
    hash.update([kind]);
    hash.update(layer.to_le_bytes());
    update_tensors(&mut hash, source, tensors).map_err(|source| IndexError::Io { piece, source })?;
    Ok(Digest(hash.finalize().into()))
}

fn update_sized(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

fn update_tensors(hash: &mut Sha256, source: &mut (impl Read + Seek), tensors: &[(&Tensor, u64)]) -> io::Result<()> {
    hash.update((tensors.len() as u64).to_le_bytes());
    let mut buffer = vec![0; COPY_BYTES];
    for &(tensor, place) in tensors {
        update_sized(hash, tensor.name.as_bytes());
        hash.update(tensor.tensor_type.id().to_le_bytes());
        hash.update((tensor.dimensions.len() as u32).to_le_bytes());
        tensor
            .dimensions
            .iter()
            .for_each(|size| hash.update(size.to_le_bytes()));
        hash.update(tensor.size_bytes.to_le_bytes());
        source.seek(SeekFrom::Start(place))?;
        let mut left = tensor.size_bytes;
        while left > 0 {
            let count = left.min(COPY_BYTES as u64) as usize;
            source.read_exact(&mut buffer[..count])?;
            hash.update(&buffer[..count]);
            left -= count as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
