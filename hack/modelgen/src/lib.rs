//! Language models with random weights, for tests and measurements.
//!
//! A [`Recipe`] names an architecture and a shape; [`Recipe::write`] makes a GGUF file that llama.cpp loads and runs.
//! Its answers mean nothing, but they are the same for the same recipe, and they depend on every weight. The
//! vocabulary has a token for each byte, so any text can be tokenised.

mod family;
mod metadata;
mod vocabulary;
mod weights;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use gguf::Value;
use gguf::encode::HeaderBuilder;

use family::Family;
pub use family::{Feature, families};
pub use vocabulary::LEAST_TOKENS;
pub use weights::Format;

/// The experts of a mixture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Experts {
    /// Experts of a layer.
    pub count: u32,
    /// Those of them that a token uses.
    pub used: u32,
    /// Width of each.
    pub feed_forward: u32,
    /// Layers at the beginning that have none.
    pub leading_dense: u32,
}

/// A model to make. Widths must suit the format: multiples of 32 for blocks.
#[derive(Debug, Clone)]
pub struct Recipe {
    family: &'static Family,
    /// Number of layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub width: u32,
    /// Attention heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Length of a head, where it is not width / heads; ignored by architectures that know no other.
    pub head_length: Option<u32>,
    /// Width of the feed-forward network.
    pub feed_forward: u32,
    /// Experts, for the architectures that have or may have them.
    pub experts: Option<Experts>,
    /// Tokens, at least [`LEAST_TOKENS`].
    pub vocabulary: u32,
    /// Whether the embedding is the output matrix too, where the architecture leaves the choice.
    pub tied: bool,
    /// Positions of the sliding window, for the architectures that have one.
    pub window: Option<u32>,
    /// Context length that the model claims to be trained for.
    pub context_length: u32,
    /// Parts that some models of the architecture have.
    pub features: Vec<Feature>,
    /// Format of the matrices; all else is in 32-bit floats.
    pub format: Format,
    /// Hyperparameters beside or in place of the usual ones, named without the architecture.
    pub hyperparameters: Vec<(String, Value)>,
    /// Chooses the weights.
    pub seed: u64,
}

impl Recipe {
    /// A tiny model of `architecture`; `None` for one that this crate does not know (see [`families`]).
    pub fn new(architecture: &str) -> Option<Self> {
        let family = family::find(architecture)?;
        Some(Self {
            family,
            layers: 4,
            width: 64,
            heads: 4,
            kv_heads: family.least_kv_heads(2, 4),
            head_length: None,
            feed_forward: 96,
            experts: family.usual_experts(),
            vocabulary: 288,
            tied: true,
            window: family.usual_window(),
            context_length: 4096,
            features: Vec::new(),
            format: Format::Q8_0,
            hyperparameters: Vec::new(),
            seed: 1,
        })
    }

    /// The architecture's name.
    pub fn architecture(&self) -> &'static str {
        self.family.name
    }

    /// Adds a hyperparameter, named without the architecture.
    #[must_use]
    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.hyperparameters.push((key.to_owned(), value));
        self
    }

    fn head(&self) -> u32 {
        match self.head_length {
            Some(length) if self.family.any_head_length => length,
            _ => self.width / self.heads.max(1),
        }
    }

    fn has_plain_queries(&self) -> bool {
        self.family.plain_queries || self.features.contains(&Feature::PlainQueries)
    }

    /// Writes the model.
    ///
    /// # Errors
    /// The file cannot be written, or the shape does not suit the format.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let tensors = family::tensors(self);
        let mut header = HeaderBuilder::new();
        for (key, value) in metadata::entries(self) {
            header.entry(&key, &value);
        }
        let mut places = Vec::with_capacity(tensors.len());
        for tensor in &tensors {
            let kind = tensor.format.tensor_type();
            let row = tensor.dimensions.first().copied().unwrap_or(1);
            let bytes = kind
                .bytes_of(tensor.dimensions.iter().product())
                .filter(|_| row.is_multiple_of(kind.block_elements()));
            let bytes = bytes.ok_or_else(|| {
                let shape = &tensor.dimensions;
                io::Error::other(format!("{} of shape {shape:?} cannot be of type {kind}", tensor.name))
            })?;
            places.push((header.tensor(&tensor.name, kind, &tensor.dimensions, bytes), bytes));
        }
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(&header.finish())?;
        let mut at = 0u64;
        for (tensor, (place, bytes)) in tensors.iter().zip(places) {
            io::copy(&mut io::Read::take(io::repeat(0), place - at), &mut file)?;
            weights::write(tensor, self.seed, &mut file)?;
            at = place + bytes;
        }
        io::copy(&mut io::Read::take(io::repeat(0), header.data_bytes() - at), &mut file)?;
        file.flush()
    }
}

#[cfg(test)]
mod tests;
