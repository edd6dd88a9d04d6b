//! GGUF model files: read them, cut them into slices, know their weights by digest.
//!
//! ```text
//!  source.gguf ── parse ──▶ Gguf ── pieces ──▶ Pieces ─┬─ facts ──────▶ Facts        (what placement must know)
//!                                                      ├─ index ──────▶ WeightIndex  (place and digest per tensor)
//!                                                      │                └▶ Index     (digest per piece, stage roots)
//!                                                      ├─ cache::PartialPiece ─▶ one file per piece, tensor by tensor
//!                                                      └─ slice ──▶ cache::link_slice ──▶ SliceFiles for llama.cpp
//!                                 ├─ vocabulary ──▶ a GGUF without tensors, for tokenising
//!                                 └─ group ──▶ among how many devices its layers can be divided
//! ```
//!
//! Everything works on `Read + Seek` or a [`source::TensorSource`] but for [`cache`], which owns the files of a directory,
//! and [`FileSet`], which finds the files of a model in several. A header is read as if it
//! came from an enemy: see [`parse`].

pub mod architecture;
pub mod cache;
pub mod encode;
pub mod facts;
pub mod group;
pub mod index;
pub mod metadata;
pub mod parse;
pub mod piece;
pub mod slice;
pub mod source;
pub mod tensor_type;
pub mod value;
pub mod vocabulary;

#[cfg(test)]
mod fixture;

pub use cache::{SliceFiles, prepare_slice, write_piece};
pub use facts::{Facts, model_facts};
pub use index::{Digest, Index, IndexBuilder, WeightIndex, WeightIndexError, stage_root};
pub use metadata::{Metadata, MetadataError};
pub use parse::split::{FileSet, SplitError, SplitName};
pub use parse::{Gguf, Limits, ParseError, Tensor};
pub use piece::{Piece, PieceError, Pieces, pieces};
pub use slice::{SliceError, SlicePlan};
pub use source::{SourceFiles, TensorSource};
pub use tensor_type::TensorType;
pub use value::{Array, Value, ValueType};
pub use vocabulary::vocabulary;
