//! Sorts a model's tensors into pieces: the units that are cached, digested and moved.

use std::fmt;

use thiserror::Error;

use crate::architecture::{Architecture, ArchitectureError, PER_LAYER_KEYS, architecture, reason_to_run_whole};
use crate::metadata::{MetadataError, optional};
use crate::parse::{Gguf, Tensor};

/// Most layers of a model: llama.cpp's own limit, beyond which it aborts.
pub const MAX_LAYERS: u32 = 512;

/// Widest residual stream accepted: several times the widest published, and small enough to make rows of.
pub const MAX_EMBEDDING_LENGTH: u32 = 1 << 18;

pub(crate) const TOKEN_EMBEDDING: &str = "token_embd.weight";
pub(crate) const OUTPUT: &str = "output.weight";
pub(crate) const OUTPUT_NORM: &str = "output_norm.weight";

/// A unit of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Piece {
    /// What every stage needs: tensors outside layers, embedding and output, such as rotary factors. Often empty.
    Shared,
    /// The token embedding, for the head.
    Embedding,
    /// One layer, by its number in the source.
    Layer(u32),
    /// The output norm and matrix, for the tail; where weights are tied, the token embedding again.
    Output,
}

impl Piece {
    /// The name of the piece's file in a cache directory.
    pub fn file_name(self) -> String {
        match self {
            Self::Shared => "shared.gguf".to_owned(),
            Self::Embedding => "embedding.gguf".to_owned(),
            Self::Layer(layer) => format!("layer-{layer:05}.gguf"),
            Self::Output => "output.gguf".to_owned(),
        }
    }
}

impl fmt::Display for Piece {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shared => formatter.write_str("shared"),
            Self::Embedding => formatter.write_str("embedding"),
            Self::Layer(layer) => write!(formatter, "layer {layer}"),
            Self::Output => formatter.write_str("output"),
        }
    }
}

/// Why a file cannot be taken as a model.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PieceError {
    /// A key is missing or of the wrong type.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The architecture does not run.
    #[error(transparent)]
    Architecture(#[from] ArchitectureError),
    /// The file is one of several, and the others are not there.
    #[error(
        "the file is part of a model in {count} files; open them together, by the first, `…-00001-of-{count:05}.gguf`"
    )]
    ManyFiles {
        /// Files of the model.
        count: u32,
    },
    /// A layer count outside 1 to [`MAX_LAYERS`].
    #[error("the model states {layers} layers, not 1 to {MAX_LAYERS}; the file is damaged")]
    LayerCount {
        /// The count in the file.
        layers: u32,
    },
    /// An embedding length outside 1 to [`MAX_EMBEDDING_LENGTH`].
    #[error("the model states an embedding length of {found}, not 1 to {MAX_EMBEDDING_LENGTH}; the file is damaged")]
    EmbeddingLength {
        /// The length in the file.
        found: u32,
    },
    /// A tensor of a layer that is not there.
    #[error("tensor `{tensor}` belongs to none of the model's {layers} layers; convert the model again")]
    StrayTensor {
        /// The tensor's name.
        tensor: String,
        /// Layers of the model.
        layers: u32,
    },
    /// A layer without tensors.
    #[error("layer {layer} has no tensors; the file is incomplete, convert the model again")]
    EmptyLayer {
        /// The layer's number.
        layer: u32,
    },
    /// A tensor that every model of the architecture has is missing.
    #[error("the model has no tensor `{tensor}`; the file is incomplete, convert the model again")]
    MissingTensor {
        /// The tensor's name.
        tensor: &'static str,
    },
    /// The embedding does not fit the hyperparameters.
    #[error(
        "the token embedding has the shape {found:?} but the metadata says [{embedding_length}, {vocabulary_size}]; convert the model again"
    )]
    EmbeddingShape {
        /// The tensor's dimensions.
        found: Vec<u64>,
        /// Per the metadata.
        embedding_length: u32,
        /// Per the metadata.
        vocabulary_size: u32,
    },
    /// A per-layer array with another number of values than layers.
    #[error("`{key}` holds {found} values for {layers} layers; convert the model again")]
    ArrayLength {
        /// The key.
        key: String,
        /// Values in the array.
        found: u64,
        /// Layers of the model.
        layers: u32,
    },
}

/// A model's tensors by piece, each piece's tensors in the order of their names.
#[derive(Debug, Clone)]
pub struct Pieces<'a> {
    gguf: &'a Gguf,
    architecture: &'static Architecture,
    embedding_length: u32,
    vocabulary_size: u32,
    tied: bool,
    shared: Vec<&'a Tensor>,
    embedding: Vec<&'a Tensor>,
    layers: Vec<Vec<&'a Tensor>>,
    output: Vec<&'a Tensor>,
    whole_because: Option<String>,
}

/// Sorts the tensors of a model. Fails where the file is not one whole, known, consistent model.
pub fn pieces(gguf: &Gguf) -> Result<Pieces<'_>, PieceError> {
    let metadata = &gguf.metadata;
    let architecture = architecture(metadata.string("general.architecture")?)?;
    match optional(metadata.u32("split.count"))? {
        Some(count) if count > 1 && count as usize != gguf.files.len() => return Err(PieceError::ManyFiles { count }),
        _ => {}
    }
    let key = |suffix: &str| format!("{}.{suffix}", architecture.name);
    let layers = metadata.u32(&key("block_count"))?;
    if !(1..=MAX_LAYERS).contains(&layers) {
        return Err(PieceError::LayerCount { layers });
    }
    let embedding_length = metadata.u32(&key("embedding_length"))?;
    if !(1..=MAX_EMBEDDING_LENGTH).contains(&embedding_length) {
        return Err(PieceError::EmbeddingLength {
            found: embedding_length,
        });
    }
    let mut sorted = Pieces {
        gguf,
        architecture,
        embedding_length,
        vocabulary_size: 0,
        tied: gguf.tensor(OUTPUT).is_none(),
        shared: Vec::new(),
        embedding: Vec::new(),
        layers: vec![Vec::new(); layers as usize],
        output: Vec::new(),
        whole_because: None,
    };
    sorted.sort_tensors()?;
    sorted.vocabulary_size = sorted.read_vocabulary_size()?;
    sorted.check()?;
    sorted.whole_because = reason_to_run_whole(&sorted)?;
    Ok(sorted)
}

impl<'a> Pieces<'a> {
    /// The file the pieces are of.
    pub fn gguf(&self) -> &'a Gguf {
        self.gguf
    }

    /// The model's architecture.
    pub fn architecture(&self) -> &'static Architecture {
        self.architecture
    }

    /// Number of layers.
    pub fn layer_count(&self) -> u32 {
        self.layers.len() as u32
    }

    /// Width of the residual stream.
    pub fn embedding_length(&self) -> u32 {
        self.embedding_length
    }

    /// Rows of the token embedding.
    pub fn vocabulary_size(&self) -> u32 {
        self.vocabulary_size
    }

    /// Whether the token embedding is the output matrix too.
    pub fn tied(&self) -> bool {
        self.tied
    }

    /// Why the model may not be cut, in words; `None` if it may be cut at the [`allowed_cuts`](Self::allowed_cuts).
    pub fn whole_because(&self) -> Option<&str> {
        self.whole_because.as_deref()
    }

    /// Numbers of layers after which the model may be cut, ascending; empty when it runs whole.
    pub fn allowed_cuts(&self) -> Vec<u32> {
        if self.whole_because.is_some() {
            return Vec::new();
        }
        self.architecture.cuts(self)
    }

    /// All pieces, in the order shared, embedding, layers, output.
    pub fn all(&self) -> Vec<Piece> {
        let mut all = vec![Piece::Shared, Piece::Embedding];
        all.extend((0..self.layer_count()).map(Piece::Layer));
        all.push(Piece::Output);
        all
    }

    /// The tensors of a piece in the order of their names; none for a layer that the model has not.
    pub fn tensors(&self, piece: Piece) -> &[&'a Tensor] {
        match piece {
            Piece::Shared => &self.shared,
            Piece::Embedding => &self.embedding,
            Piece::Layer(layer) => self.layers.get(layer as usize).map_or(&[], Vec::as_slice),
            Piece::Output => &self.output,
        }
    }

    /// Bytes of a piece's weights, without padding.
    pub fn weight_bytes(&self, piece: Piece) -> u64 {
        self.tensors(piece).iter().map(|tensor| tensor.size_bytes).sum()
    }

    fn sort_tensors(&mut self) -> Result<(), PieceError> {
        let mut tensors: Vec<&'a Tensor> = self.gguf.tensors.iter().collect();
        tensors.sort_by(|one, other| one.name.cmp(&other.name));
        for tensor in tensors {
            if let Some(rest) = tensor.name.strip_prefix("blk.") {
                let layer = layer_number(rest).and_then(|layer| self.layers.get_mut(layer));
                let Some(layer) = layer else {
                    let layers = self.layer_count();
                    return Err(PieceError::StrayTensor {
                        tensor: tensor.name.clone(),
                        layers,
                    });
                };
                layer.push(tensor);
            } else if tensor.name == TOKEN_EMBEDDING {
                self.embedding.push(tensor);
                if self.tied {
                    self.output.push(tensor);
                }
            } else if tensor.name.starts_with("output") {
                self.output.push(tensor);
            } else {
                self.shared.push(tensor);
            }
        }
        Ok(())
    }

    fn read_vocabulary_size(&self) -> Result<u32, PieceError> {
        let metadata = &self.gguf.metadata;
        if let Some(tokens) = optional(metadata.array("tokenizer.ggml.tokens"))? {
            return Ok(u32::try_from(tokens.len()).unwrap_or(u32::MAX));
        }
        Ok(metadata.u32(&format!("{}.vocab_size", self.architecture.name))?)
    }

    fn check(&self) -> Result<(), PieceError> {
        let Some(embedding) = self.embedding.first() else {
            return Err(PieceError::MissingTensor {
                tensor: TOKEN_EMBEDDING,
            });
        };
        if let Some(layer) = self.layers.iter().position(Vec::is_empty) {
            return Err(PieceError::EmptyLayer { layer: layer as u32 });
        }
        let expected = [u64::from(self.embedding_length), u64::from(self.vocabulary_size)];
        let splittable = self.architecture.is_splittable();
        if splittable && embedding.dimensions != expected {
            return Err(PieceError::EmbeddingShape {
                found: embedding.dimensions.clone(),
                embedding_length: self.embedding_length,
                vocabulary_size: self.vocabulary_size,
            });
        }
        if splittable && self.gguf.tensor(OUTPUT_NORM).is_none() {
            return Err(PieceError::MissingTensor { tensor: OUTPUT_NORM });
        }
        for suffix in PER_LAYER_KEYS.iter().filter(|_| splittable) {
            let key = format!("{}.{suffix}", self.architecture.name);
            let array = self.gguf.metadata.get(&key).and_then(|value| value.as_array());
            if let Some(array) = array.filter(|array| array.len() != u64::from(self.layer_count())) {
                return Err(PieceError::ArrayLength {
                    key,
                    found: array.len(),
                    layers: self.layer_count(),
                });
            }
        }
        Ok(())
    }
}

/// The layer in `12.attn_q.weight`, if written as numbers are.
fn layer_number(rest: &str) -> Option<usize> {
    let (digits, _) = rest.split_once('.')?;
    let number: usize = digits.parse().ok()?;
    (number.to_string() == digits).then_some(number)
}

#[cfg(test)]
mod tests;
