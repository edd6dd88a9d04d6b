//! A slice of made-up layers, as short on disk as its header: what is not written reads as zeros, which are computed like any
//! other weights.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use gguf::encode::HeaderBuilder;
use gguf::{TensorType, Value};

/// Formats that are measured.
pub const FORMATS: usize = 3;

/// Number formats of weights that stand for all others of about as many bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// Blocks of 4-bit numbers.
    Q4,
    /// Blocks of 8-bit numbers.
    Q8,
    /// 16-bit floats.
    F16,
}

impl Weights {
    /// The most common first.
    pub const ALL: [Self; FORMATS] = [Self::Q4, Self::Q8, Self::F16];

    fn tensor_type(self) -> TensorType {
        // As GGUF numbers them: Q4_1, Q8_0, F16.
        let id = match self {
            Self::Q4 => 3,
            Self::Q8 => 8,
            Self::F16 => 1,
        };
        TensorType::from_id(id).unwrap_or(TensorType::F32)
    }

    /// Bits of a weight, its part of the block's scales too.
    pub fn bits(self) -> u32 {
        let kind = self.tensor_type();
        u32::try_from(kind.block_bytes() * 8 / kind.block_elements()).unwrap_or(u32::MAX)
    }
}

/// Layers of one shape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) layers: u32,
    width: u32,
    feed_forward: u32,
    heads: u32,
    kv_heads: u32,
    pub(super) weights: Weights,
}

/// What computes a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// One device.
    One,
    /// Several that divide each layer: it must have a head and a piece of a feed-forward network for each of the most there may be.
    Group,
}

impl By {
    /// A device of so many members.
    pub(super) fn members(members: u32) -> Self {
        if members > 1 { Self::Group } else { Self::One }
    }
}

impl Shape {
    /// So little to read that a layer takes what it takes beside.
    pub(super) fn thin(layers: u32, by: By) -> Self {
        let (width, feed_forward, heads, kv_heads) = match by {
            By::One => (128, 128, 2, 1),
            By::Group => (512, 1024, 8, 8),
        };
        Self {
            layers,
            width,
            feed_forward,
            heads,
            kv_heads,
            weights: Weights::Q4,
        }
    }

    /// As narrow as the smallest models, in as many layers: together beyond the caches of most processors.
    pub(super) fn narrow(by: By) -> Self {
        Self {
            layers: 36,
            width: 512,
            feed_forward: 1536,
            heads: 8,
            kv_heads: match by {
                By::One => 2,
                By::Group => 8,
            },
            weights: Weights::Q4,
        }
    }

    /// More than 100 MB in a few layers: beyond the caches of most devices.
    pub(super) fn thick(weights: Weights) -> Self {
        let layers = match weights {
            Weights::Q4 => 4,
            Weights::Q8 => 3,
            Weights::F16 => 2,
        };
        Self {
            layers,
            width: 2048,
            feed_forward: 5632,
            heads: 32,
            kv_heads: 8,
            weights,
        }
    }

    /// Of one layer: name, columns, rows.
    fn matrices(&self) -> [(&'static str, u32, u32); 7] {
        let keys = self.width / self.heads * self.kv_heads;
        [
            ("attn_q", self.width, self.width),
            ("attn_k", self.width, keys),
            ("attn_v", self.width, keys),
            ("attn_output", self.width, self.width),
            ("ffn_gate", self.width, self.feed_forward),
            ("ffn_up", self.width, self.feed_forward),
            ("ffn_down", self.feed_forward, self.width),
        ]
    }

    /// Of all layers.
    pub(super) fn parameters(&self) -> u64 {
        let matrices = self.matrices();
        let layer: u64 = matrices
            .iter()
            .map(|(_, columns, rows)| u64::from(*columns) * u64::from(*rows))
            .sum();
        layer * u64::from(self.layers)
    }

    /// Rows of all matrices, were each as long as the model is wide.
    pub(super) fn rows(&self) -> u64 {
        self.parameters() / u64::from(self.width)
    }

    /// Of one row's attention to so many positions, in all layers: a product with each key, and one with each value.
    pub(super) fn attention_flops(&self, positions: u32) -> u64 {
        4 * u64::from(self.width) * u64::from(positions) * u64::from(self.layers)
    }

    /// Of all layers.
    pub(super) fn weight_bytes(&self) -> u64 {
        self.weights.tensor_type().bytes_of(self.parameters()).unwrap_or(0)
    }

    /// Writes the slice.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let mut header = HeaderBuilder::new();
        for (key, value) in self.metadata() {
            header.entry(&key, &value);
        }
        let width = u64::from(self.width);
        let vector_bytes = width * TensorType::F32.block_bytes();
        // Norms multiply: they are ones, all else may be zero.
        let mut ones = vec![header.tensor("output_norm.weight", TensorType::F32, &[width], vector_bytes)];
        header.tensor("token_embd.weight", TensorType::F32, &[width, 1], vector_bytes);
        for layer in 0..self.layers {
            for norm in ["attn_norm", "ffn_norm"] {
                let name = format!("blk.{layer}.{norm}.weight");
                ones.push(header.tensor(&name, TensorType::F32, &[width], vector_bytes));
            }
            for (name, columns, rows) in self.matrices() {
                let (kind, elements) = (self.weights.tensor_type(), u64::from(columns) * u64::from(rows));
                let bytes = kind.bytes_of(elements).unwrap_or(0);
                let name = format!("blk.{layer}.{name}.weight");
                header.tensor(&name, kind, &[columns.into(), rows.into()], bytes);
            }
        }
        let head = header.finish();
        let data_at = head.len() as u64;
        let mut file = File::create(path)?;
        file.write_all(&head)?;
        let vector: Vec<u8> = (0..width).flat_map(|_| 1_f32.to_le_bytes()).collect();
        for at in ones {
            file.seek(SeekFrom::Start(data_at + at))?;
            file.write_all(&vector)?;
        }
        file.set_len(data_at + header.data_bytes())
    }

    fn metadata(&self) -> Vec<(String, Value)> {
        let number = |key: &str, value: u32| (format!("llama.{key}"), Value::U32(value));
        vec![
            ("general.architecture".to_owned(), Value::string("llama")),
            ("tokenizer.ggml.model".to_owned(), Value::string("none")),
            number("vocab_size", 1),
            number("block_count", self.layers),
            number("context_length", 4096),
            number("embedding_length", self.width),
            number("feed_forward_length", self.feed_forward),
            number("attention.head_count", self.heads),
            number("attention.head_count_kv", self.kv_heads),
            number("rope.dimension_count", self.width / self.heads),
            ("llama.attention.layer_norm_rms_epsilon".to_owned(), Value::F32(1e-5)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_a_model_that_gguf_reads_and_takes_little_room() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("m.gguf");
        for weights in Weights::ALL {
            let shape = Shape::thick(weights);
            shape.write(&path).expect("written");
            let read = gguf::Gguf::open(&path).expect("a model");
            assert_eq!(read.metadata.string("general.architecture").ok(), Some("llama"));
            let found = read.tensor("blk.1.ffn_down.weight").expect("a tensor");
            assert_eq!(found.dimensions, [5632, 2048]);
            let metadata = std::fs::metadata(&path).expect("a file");
            assert!(metadata.len() > shape.weight_bytes());
            assert!(metadata.blocks() * 512 < 1 << 20, "only headers and norms are written");
        }
        assert_eq!(Weights::ALL.map(Weights::bits), [5, 8, 16]);
    }

    #[test]
    fn what_a_group_is_measured_with_divides_among_two_four_and_eight_devices() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("m.gguf");
        let by = By::members(2);
        let beside = [Shape::thin(2, by), Shape::narrow(by)];
        for shape in beside.into_iter().chain(Weights::ALL.map(Shape::thick)) {
            shape.write(&path).expect("written");
            let read = gguf::Gguf::open(&path).expect("a model");
            for members in [2, 4, 8] {
                let checked = gguf::group::check(&read.metadata, &read.tensors, members);
                assert!(checked.is_ok(), "{shape:?} among {members}: {checked:?}");
            }
        }
    }
}
