//! Writes GGUF headers (version 3).

use thiserror::Error;

use crate::tensor_type::TensorType;
use crate::value::{Value, encode_string};

/// Alignment of tensors in every file this crate writes: the format's default, so that no key need state it.
pub const ALIGNMENT_BYTES: u64 = 32;

/// The key whose value pads a header to its size.
pub const FILLER_KEY: &str = "shardwright.filler";

/// Bytes of a filler entry with an empty value: key length, key, type, value length.
const FILLER_ENTRY_BYTES: usize = 8 + FILLER_KEY.len() + 4 + 8;

/// A header that does not fit where it must.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a GGUF header of {needed} bytes does not fit into the {room} bytes kept for it")]
pub struct HeaderTooLarge {
    /// Bytes the header takes.
    pub needed: usize,
    /// Bytes there are.
    pub room: usize,
}

/// Collects entries and tensors, then gives the header's bytes.
#[derive(Debug, Default)]
pub struct HeaderBuilder {
    entries: Vec<u8>,
    entry_count: u64,
    tensors: Vec<u8>,
    tensor_count: u64,
    next_offset: u64,
}

impl HeaderBuilder {
    /// A header without entries and tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a metadata entry. Keys must differ; readers refuse a key that appears twice.
    pub fn entry(&mut self, key: &str, value: &Value) -> &mut Self {
        encode_string(key.as_bytes(), &mut self.entries);
        self.entries.extend(value.value_type().id().to_le_bytes());
        value.encode(&mut self.entries);
        self.entry_count += 1;
        self
    }

    /// Adds a tensor of `size_bytes`, laid after those before it, and gives its offset in the data section.
    pub fn tensor(&mut self, name: &str, tensor_type: TensorType, dimensions: &[u64], size_bytes: u64) -> u64 {
        let offset = self.next_offset;
        encode_string(name.as_bytes(), &mut self.tensors);
        self.tensors.extend((dimensions.len() as u32).to_le_bytes());
        self.tensors
            .extend(dimensions.iter().flat_map(|size| size.to_le_bytes()));
        self.tensors.extend(tensor_type.id().to_le_bytes());
        self.tensors.extend(offset.to_le_bytes());
        self.tensor_count += 1;
        self.next_offset = (offset + size_bytes).next_multiple_of(ALIGNMENT_BYTES);
        offset
    }

    /// Number of tensors added.
    pub fn tensor_count(&self) -> u64 {
        self.tensor_count
    }

    /// Length of the data section in bytes, padding after the last tensor included.
    pub fn data_bytes(&self) -> u64 {
        self.next_offset
    }

    /// Bytes that the header takes with an empty filler.
    pub fn least_bytes(&self) -> usize {
        self.plain_bytes() + FILLER_ENTRY_BYTES
    }

    fn plain_bytes(&self) -> usize {
        4 + 4 + 8 + 8 + self.entries.len() + self.tensors.len()
    }

    /// The header, zero-padded to the alignment: the data section follows at once.
    pub fn finish(&self) -> Vec<u8> {
        let mut out = self.assemble(None);
        out.resize(out.len().next_multiple_of(ALIGNMENT_BYTES as usize), 0);
        out
    }

    /// The header in exactly `size_bytes`, a filler entry taking what is left.
    /// `size_bytes` must be a multiple of [`ALIGNMENT_BYTES`] for the data section to follow at once.
    pub fn finish_with_size(&self, size_bytes: usize) -> Result<Vec<u8>, HeaderTooLarge> {
        let needed = self.least_bytes();
        let filler = size_bytes.checked_sub(needed).ok_or(HeaderTooLarge {
            needed,
            room: size_bytes,
        })?;
        Ok(self.assemble(Some(filler)))
    }

    fn assemble(&self, filler: Option<usize>) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.least_bytes() + filler.unwrap_or(0));
        out.extend(b"GGUF");
        out.extend(3u32.to_le_bytes());
        out.extend(self.tensor_count.to_le_bytes());
        out.extend((self.entry_count + u64::from(filler.is_some())).to_le_bytes());
        out.extend(&self.entries);
        if let Some(length) = filler {
            encode_string(FILLER_KEY.as_bytes(), &mut out);
            let spaces = Value::String(vec![b' '; length]);
            out.extend(spaces.value_type().id().to_le_bytes());
            spaces.encode(&mut out);
        }
        out.extend(&self.tensors);
        out
    }
}
