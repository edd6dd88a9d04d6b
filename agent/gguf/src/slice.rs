//! What the files of a slice say: the layers `[first, end)` of a model as a model of their own.
//!
//! A slice is a GGUF split set, loaded with `llama_model_load_from_splits`: a first file with the slice's metadata and
//! then one file per piece. Only the headers of the piece files depend on the slice (names `blk.0…`, `split.no`); a
//! filler key keeps each header at the same size, so that the weights behind it never move.
//!
//! | | metadata | tensors beside the layers |
//! |---|---|---|
//! | whole model | the source's own | the source's own |
//! | tail | hyperparameters of the slice, full vocabulary | output norm; the output matrix under the name `token_embd.weight` |
//! | any other | hyperparameters of the slice, tokenizer `none` of one token | a one-row `token_embd.weight` of zeros, an output norm of ones |
//!
//! A tail takes activations, never tokens, but the loader demands a full-size `token_embd.weight` beside the
//! vocabulary; without an `output.weight` it uses the same tensor as output matrix. So the output matrix goes by that
//! name and nothing is stored or loaded twice. Architectures that demand an `output.weight` too have both in their
//! tail, where nobody reads the embedding. In the other slices the output tensors only satisfy the loader.
//!
//! Nothing in a slice depends on its number of layers or on where in the model they stood: per-layer arrays are cut,
//! a pattern of sliding windows becomes such an array, leading dense layers are counted again, and only the head
//! scales its input.

use thiserror::Error;

use crate::architecture::{InputScale, PER_LAYER_KEYS, WINDOW_PATTERN, Windows};
use crate::encode::{ALIGNMENT_BYTES, HeaderBuilder, HeaderTooLarge};
use crate::parse::Tensor;
use crate::piece::{OUTPUT, OUTPUT_NORM, Piece, PieceError, Pieces, TOKEN_EMBEDDING};
use crate::tensor_type::TensorType;
use crate::value::{Array, Value};

/// Why layers cannot become a slice.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SliceError {
    /// The file is not a model that runs.
    #[error(transparent)]
    Piece(#[from] PieceError),
    /// Not a range of the model's layers.
    #[error("layers {first} to {end} (exclusive) are no range of a model with {layers} layers")]
    OutOfRange {
        /// First layer asked for.
        first: u32,
        /// One after the last layer asked for.
        end: u32,
        /// Layers of the model.
        layers: u32,
    },
    /// The model must stay whole.
    #[error("the model runs whole and cannot be cut after layer {cut}: {reason}")]
    RunsWhole {
        /// Layers before the cut.
        cut: u32,
        /// Why.
        reason: String,
    },
    /// The architecture is not to be cut just there.
    #[error("a `{architecture}` model cannot be cut after layer {cut}, only after layers {allowed:?}")]
    CutNotAllowed {
        /// The architecture's name.
        architecture: &'static str,
        /// Layers before the cut.
        cut: u32,
        /// Where it may be cut.
        allowed: Vec<u32>,
    },
    /// A header outgrew the room that its file keeps for it.
    #[error(transparent)]
    Header(#[from] HeaderTooLarge),
}

/// The layers `[first, end)` of a model, checked to be a slice that may exist.
#[derive(Debug, Clone)]
pub struct SlicePlan<'a> {
    pieces: &'a Pieces<'a>,
    first: u32,
    end: u32,
}

impl<'a> SlicePlan<'a> {
    /// Checks the range against the model's layers and allowed cuts.
    pub fn new(pieces: &'a Pieces<'a>, first: u32, end: u32) -> Result<Self, SliceError> {
        let layers = pieces.layer_count();
        if first >= end || end > layers {
            return Err(SliceError::OutOfRange { first, end, layers });
        }
        if let Some(reason) = pieces.whole_because().filter(|_| first > 0 || end < layers) {
            let cut = if first > 0 { first } else { end };
            return Err(SliceError::RunsWhole {
                cut,
                reason: reason.to_owned(),
            });
        }
        let allowed = pieces.allowed_cuts();
        let mut inside = [first, end].into_iter().filter(|&cut| cut > 0 && cut < layers);
        if let Some(cut) = inside.find(|cut| !allowed.contains(cut)) {
            let architecture = pieces.architecture().name;
            return Err(SliceError::CutNotAllowed {
                architecture,
                cut,
                allowed,
            });
        }
        Ok(Self { pieces, first, end })
    }

    /// Whether it begins with the model's first layer.
    pub fn is_head(&self) -> bool {
        self.first == 0
    }

    /// Whether it ends with the model's last layer, and so gives logits.
    pub fn is_tail(&self) -> bool {
        self.end == self.pieces.layer_count()
    }

    /// Whether it is all of the model.
    pub fn is_whole(&self) -> bool {
        self.is_head() && self.is_tail()
    }

    /// The pieces a node must have for this slice: shared, the embedding for a head (and for the tail of an
    /// architecture that loads both), the layers, the output for a tail.
    pub fn needs(&self) -> Vec<Piece> {
        let mut needs = vec![Piece::Shared];
        needs.extend((self.is_head() || self.loads_embedding()).then_some(Piece::Embedding));
        needs.extend((self.first..self.end).map(Piece::Layer));
        needs.extend(self.is_tail().then_some(Piece::Output));
        needs
    }

    /// The pieces whose digests make the root of the stage: the embedding for a head, the layers, the output for a
    /// tail.
    pub fn rooted(&self) -> Vec<Piece> {
        let head = self.is_head();
        let mut pieces = self.needs();
        pieces.retain(|&piece| piece != Piece::Shared && (head || piece != Piece::Embedding));
        pieces
    }

    /// Bytes of the weights in [`needs`](Self::needs).
    pub fn weight_bytes(&self) -> u64 {
        self.needs()
            .into_iter()
            .map(|piece| self.pieces.weight_bytes(piece))
            .sum()
    }

    /// The pieces of the split set after its first file, in order.
    ///
    /// The head's embedding is in none of them, for the head looks rows up by itself; only a whole model with an
    /// output matrix of its own has it, and so can be fed tokens as well, and a tail whose loader insists.
    pub fn parts(&self) -> Vec<Piece> {
        let mut parts = Vec::new();
        parts.extend((!self.pieces.tensors(Piece::Shared).is_empty()).then_some(Piece::Shared));
        parts.extend(self.loads_embedding().then_some(Piece::Embedding));
        parts.extend((self.first..self.end).map(Piece::Layer));
        parts.extend(self.is_tail().then_some(Piece::Output));
        parts
    }

    fn loads_embedding(&self) -> bool {
        let insists = self.is_tail() && self.pieces.architecture().output.separate;
        (self.is_whole() || insists) && !self.pieces.tied()
    }

    /// The name of the slice's first file in a cache directory.
    pub fn file_name(&self) -> String {
        format!("slice-{:05}-{:05}.gguf", self.first, self.end)
    }

    /// The first file of the split set, complete: metadata and, but for a tail, the tensors that satisfy the loader.
    pub fn first_file(&self) -> Vec<u8> {
        let mut header = HeaderBuilder::new();
        if self.is_whole() {
            self.copy_metadata(&mut header);
        } else {
            self.describe(&mut header);
        }
        let data = if self.is_tail() {
            Vec::new()
        } else {
            self.add_output_stand_ins(&mut header)
        };
        let parts = self.parts();
        let in_parts: usize = parts.iter().map(|&part| self.pieces.tensors(part).len()).sum();
        let tensors = in_parts + header.tensor_count() as usize;
        header
            .entry("split.no", &Value::U16(0))
            .entry("split.count", &Value::U16(parts.len() as u16 + 1))
            .entry("split.tensors.count", &Value::I32(tensors as i32));
        let mut file = header.finish();
        file.extend(data);
        file
    }

    /// Adds the output tensors that the loader demands of a slice without output; gives their data.
    fn add_output_stand_ins(&self, header: &mut HeaderBuilder) -> Vec<u8> {
        let output = self.pieces.architecture().output;
        let width = u64::from(self.pieces.embedding_length());
        let (row, vector): (&[u64], &[u64]) = (&[width, 1], &[width]);
        let stand_ins = [
            (true, TOKEN_EMBEDDING, row, 0f32),
            (true, OUTPUT_NORM, vector, 1.0),
            (output.norm_bias, "output_norm.bias", vector, 0.0),
            (output.separate, OUTPUT, row, 0.0),
            (output.bias, "output.bias", &[1], 0.0),
        ];
        let mut data = Vec::new();
        for (_, name, dimensions, value) in stand_ins.into_iter().filter(|(demanded, ..)| *demanded) {
            let elements: u64 = dimensions.iter().product();
            let bytes = elements * TensorType::F32.block_bytes();
            let at = header.tensor(name, TensorType::F32, dimensions, bytes);
            data.resize(at as usize, 0);
            data.extend((0..elements).flat_map(|_| value.to_le_bytes()));
        }
        data.resize(header.data_bytes() as usize, 0);
        data
    }

    /// The header that a part's file has in this slice: exactly [`header_bytes`] long.
    /// `number` is its place in the split set, from 1.
    pub fn part_header(&self, part: Piece, number: u16) -> Result<Vec<u8>, SliceError> {
        piece_header(self.pieces, part, number, |tensor| self.name_in_slice(part, tensor))
    }

    fn name_in_slice(&self, part: Piece, tensor: &Tensor) -> String {
        match part {
            Piece::Layer(layer) => {
                let rest = tensor
                    .name
                    .strip_prefix(&format!("blk.{layer}."))
                    .unwrap_or(&tensor.name);
                format!("blk.{}.{rest}", layer - self.first)
            }
            Piece::Output if tensor.name == OUTPUT && !self.loads_embedding() => TOKEN_EMBEDDING.to_owned(),
            _ => tensor.name.clone(),
        }
    }

    /// The source's metadata, but for what describes the source's own file.
    fn copy_metadata(&self, header: &mut HeaderBuilder) {
        for (key, value) in self.pieces.gguf().metadata.iter() {
            if key != "general.alignment" && !key.starts_with("split.") {
                header.entry(key, value);
            }
        }
    }

    /// Metadata of a slice: a model with fewer layers and, but for the tail, without a vocabulary.
    fn describe(&self, header: &mut HeaderBuilder) {
        const GENERAL: [&str; 5] = [
            "general.architecture",
            "general.type",
            "general.name",
            "general.quantization_version",
            "general.file_type",
        ];
        let prefix = format!("{}.", self.pieces.architecture().name);
        for (key, value) in self.pieces.gguf().metadata.iter() {
            if let Some(suffix) = key.strip_prefix(&prefix) {
                if let Some(value) = self.hyperparameter(suffix, value) {
                    header.entry(key, &value);
                }
            } else if GENERAL.contains(&key) || (self.is_tail() && key.starts_with("tokenizer.")) {
                header.entry(key, value);
            }
        }
        self.state_what_was_implied(&prefix, header);
        if !self.is_tail() {
            header
                .entry("tokenizer.ggml.model", &Value::string("none"))
                .entry(&format!("{prefix}vocab_size"), &Value::U32(1));
        }
    }

    /// Entries that take the place of the source's own, or of what their absence means in a whole model.
    fn state_what_was_implied(&self, prefix: &str, header: &mut HeaderBuilder) {
        let architecture = self.pieces.architecture();
        if let Some(windows) = architecture.windowed_layers(self.pieces) {
            let own =
                (self.first as usize..self.end as usize).map(|layer| windows.get(layer).copied().unwrap_or(false));
            header.entry(
                &format!("{prefix}{WINDOW_PATTERN}"),
                &Value::Array(Array::of_bools(own)),
            );
        }
        for (key, number) in architecture.stated {
            let key = format!("{prefix}{key}");
            if self.pieces.gguf().metadata.get(&key).is_none() {
                header.entry(&key, &Value::U32(*number));
            }
        }
        if self.unscales_input() {
            header.entry(&format!("{prefix}{EMBEDDING_SCALE}"), &Value::F32(0.0));
        }
    }

    fn unscales_input(&self) -> bool {
        !self.is_head() && self.pieces.architecture().input_scale == InputScale::Key
    }

    /// A hyperparameter as the slice has it; `None` where it is left out.
    fn hyperparameter(&self, suffix: &str, value: &Value) -> Option<Value> {
        match suffix {
            "block_count" => Some(Value::U32(self.end - self.first)),
            "nextn_predict_layers" => Some(Value::U32(0)),
            "vocab_size" if !self.is_tail() => None,
            EMBEDDING_SCALE if self.unscales_input() => None,
            WINDOW_PATTERN if self.pieces.architecture().windows != Windows::Never => None,
            "leading_dense_block_count" => {
                let dense = value.as_u64().and_then(|dense| u32::try_from(dense).ok())?;
                Some(Value::U32(dense.saturating_sub(self.first)))
            }
            _ if PER_LAYER_KEYS.contains(&suffix) => match value {
                Value::Array(array) => array.slice(self.first.into(), self.end.into()).map(Value::Array),
                alike => Some(alike.clone()),
            },
            _ => Some(value.clone()),
        }
    }
}

/// The key of a factor on what enters the first layer.
const EMBEDDING_SCALE: &str = "embedding_scale";

/// Headers end on a page, so that a mapped file's weights begin on one.
const HEADER_UNIT_BYTES: usize = 4096;

/// How much longer a tensor's name may get in a slice than in the source: `output.weight` to `token_embd.weight`,
/// with room to spare.
const NAME_ROOM_BYTES: usize = 16;

/// Length in bytes of the header of a piece's file, whatever slice it is in.
pub fn header_bytes(pieces: &Pieces<'_>, piece: Piece) -> usize {
    let header = piece_builder(pieces, piece, 0, |tensor| tensor.name.clone());
    let room = header.least_bytes() + pieces.tensors(piece).len() * NAME_ROOM_BYTES;
    room.next_multiple_of(HEADER_UNIT_BYTES)
}

/// The header of a piece's file that is in no slice yet: the source's own names, `split.no` 0.
pub fn source_header(pieces: &Pieces<'_>, piece: Piece) -> Result<Vec<u8>, SliceError> {
    piece_header(pieces, piece, 0, |tensor| tensor.name.clone())
}

/// Length in bytes of a piece's whole file.
pub fn file_bytes(pieces: &Pieces<'_>, piece: Piece) -> u64 {
    header_bytes(pieces, piece) as u64 + placed(pieces, piece).1
}

/// Each tensor of a piece with its place in the piece's file, in bytes from the file's start.
pub fn places<'a>(pieces: &Pieces<'a>, piece: Piece) -> Vec<(&'a Tensor, u64)> {
    placed(pieces, piece).0
}

fn placed<'a>(pieces: &Pieces<'a>, piece: Piece) -> (Vec<(&'a Tensor, u64)>, u64) {
    let start = header_bytes(pieces, piece) as u64;
    let mut next = 0u64;
    let mut places = Vec::new();
    for &tensor in pieces.tensors(piece) {
        places.push((tensor, start + next));
        next = (next + tensor.size_bytes).next_multiple_of(ALIGNMENT_BYTES);
    }
    (places, next)
}

fn piece_builder(pieces: &Pieces<'_>, piece: Piece, number: u16, name: impl Fn(&Tensor) -> String) -> HeaderBuilder {
    let mut header = HeaderBuilder::new();
    header
        .entry("general.architecture", &Value::string(pieces.architecture().name))
        .entry("shardwright.piece", &Value::string(&piece.to_string()))
        .entry("split.no", &Value::U16(number));
    for tensor in pieces.tensors(piece) {
        header.tensor(&name(tensor), tensor.tensor_type, &tensor.dimensions, tensor.size_bytes);
    }
    header
}

fn piece_header(
    pieces: &Pieces<'_>,
    piece: Piece,
    number: u16,
    name: impl Fn(&Tensor) -> String,
) -> Result<Vec<u8>, SliceError> {
    let header = piece_builder(pieces, piece, number, name);
    Ok(header.finish_with_size(header_bytes(pieces, piece))?)
}

#[cfg(test)]
mod tests;
