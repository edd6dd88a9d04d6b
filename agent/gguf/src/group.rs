//! Whether a model's layers can be divided evenly among devices that work as one on each of them, and what each of these then holds.
//!
//! llama.cpp gives every device some heads of each attention and some columns of each feed-forward network, in whole blocks of the
//! weights' number format (`llama_meta_device_get_split_state` in `src/llama-model.cpp`). What does not divide evenly it gives to
//! some devices and not to others, or ends the process. So only what is known to divide evenly is ever given to it.
//!
//! What [`is_divided`] does not name every device holds whole: norms, routers, shared experts, and an embedding that is the output
//! matrix too.

use std::collections::HashMap;

use thiserror::Error;

use crate::architecture::splits_tensors;
use crate::metadata::{Metadata, MetadataError, optional};
use crate::parse::{Gguf, Tensor};
use crate::piece::{MAX_LAYERS, OUTPUT, TOKEN_EMBEDDING};

/// Devices that work as one, at most.
pub const MEMBERS_MAX: u32 = 8;

/// Parts are whole multiples of so many elements where that does not leave a device without any.
const USUAL_PART: u64 = 128;

/// The last matrices of feed-forward networks; by the first that is there, llama.cpp divides all of the layer's.
const FEED_FORWARD_ENDS: [&str; 2] = ["ffn_down.weight", "ffn_down_exps.weight"];

/// Tensors of layers of which each member has a part.
const DIVIDED: [&str; 22] = [
    "attn_q.weight",
    "attn_k.weight",
    "attn_v.weight",
    "attn_qkv.weight",
    "attn_output.weight",
    "attn_q.bias",
    "attn_k.bias",
    "attn_v.bias",
    "attn_qkv.bias",
    "attn_sinks.weight",
    "ffn_up.weight",
    "ffn_gate.weight",
    "ffn_down.weight",
    "ffn_up.bias",
    "ffn_gate.bias",
    "ffn_up_exps.weight",
    "ffn_gate_exps.weight",
    "ffn_gate_up_exps.weight",
    "ffn_down_exps.weight",
    "ffn_up_exps.bias",
    "ffn_gate_exps.bias",
    "ffn_gate_up_exps.bias",
];

/// Why a model cannot be divided among so many devices.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GroupError {
    /// A key is missing or of the wrong type.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// No layer of the architecture is.
    #[error(
        "dividing layers of the architecture `{name}` among devices is not shown to keep its answers; use single devices"
    )]
    Architecture {
        /// The name in the file.
        name: String,
    },
    /// The parts would not be equal, or some device would have none.
    #[error(
        "layer {layer}: {count} {what}, {together} of which stay together, cannot be divided evenly among {members} devices; use \
         fewer, or single ones"
    )]
    Uneven {
        /// The layer's number in the file.
        layer: u32,
        /// What is divided, in words.
        what: &'static str,
        /// How many there are.
        count: u64,
        /// How many of them a number format or a head keeps in one piece.
        together: u64,
        /// The devices.
        members: u32,
    },
    /// A layer is made in a way that is not known to divide.
    #[error("layer {layer}: {problem}, so that it cannot be divided among devices; use single ones")]
    Form {
        /// The layer's number in the file.
        layer: u32,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The output layer is.
    #[error(
        "the output has a bias and no matrix of its own, so that it cannot be divided among devices; use single ones"
    )]
    Output,
}

/// Attention of a model whose layers can be divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attention {
    /// Key and value heads, the most of any layer.
    pub kv_heads: u32,
    /// Query heads for each of them, the most of any layer.
    pub queries_per_head: u32,
    /// Length of each head.
    pub head_length: u32,
    /// Elements of keys and values that one position adds, in all layers together.
    pub kv_elements: u64,
}

/// The numbers of devices, from 2 to [`MEMBERS_MAX`], among which a whole model can be divided.
pub fn sizes(gguf: &Gguf) -> Vec<u32> {
    let Ok(layers) = Layers::read(&gguf.metadata, &gguf.tensors) else {
        return Vec::new();
    };
    let possible = |members: &u32| layers.check(*members).is_ok();
    (2..=MEMBERS_MAX).filter(possible).collect()
}

/// Checks whether the layers of a file, or of several with one's metadata, can be divided among so many devices; gives what they
/// compute then beside products with weights.
///
/// # Errors
/// The first thing that forbids it.
pub fn check<'a>(
    metadata: &Metadata,
    tensors: impl IntoIterator<Item = &'a Tensor>,
    members: u32,
) -> Result<Attention, GroupError> {
    let layers = Layers::read(metadata, tensors)?;
    layers.check(members)?;
    let heads = layers.queries.iter().zip(&layers.keys);
    let shared = heads.filter_map(|(queries, keys)| queries.checked_div(*keys));
    let all_heads: u64 = layers.keys.iter().copied().map(u64::from).sum();
    Ok(Attention {
        kv_heads: layers.keys.iter().copied().max().unwrap_or(0),
        queries_per_head: shared.max().unwrap_or(0),
        head_length: layers.head_length,
        kv_elements: all_heads.saturating_mul(2 * u64::from(layers.head_length)),
    })
}

/// Whether each member holds a part of a tensor of this name; what is not divided all of them hold.
pub fn is_divided(name: &str) -> bool {
    let of_layer = || name.strip_prefix("blk.")?.split_once('.');
    name == OUTPUT || of_layer().is_some_and(|(_, suffix)| DIVIDED.contains(&suffix))
}

/// Bytes of weights that each of so many members holds, as far as parts are equal. The token embedding stays with the processor, but
/// where it is the output matrix too.
pub fn member_bytes<'a>(tensors: impl IntoIterator<Item = &'a Tensor>, members: u32) -> u64 {
    let tensors: Vec<&Tensor> = tensors.into_iter().collect();
    let tied = tensors.iter().all(|tensor| tensor.name != OUTPUT);
    let of_member = |tensor: &&Tensor| match tensor.name.as_str() {
        TOKEN_EMBEDDING if !tied => 0,
        name if is_divided(name) => tensor.size_bytes.div_ceil(u64::from(members.max(1))),
        _ => tensor.size_bytes,
    };
    tensors.iter().map(of_member).fold(0, u64::saturating_add)
}

/// What decides how layers can be divided.
struct Layers<'a> {
    queries: Vec<u32>,
    keys: Vec<u32>,
    head_length: u32,
    tensors: HashMap<&'a str, &'a Tensor>,
}

impl<'a> Layers<'a> {
    fn read(metadata: &Metadata, tensors: impl IntoIterator<Item = &'a Tensor>) -> Result<Self, GroupError> {
        let name = metadata.string("general.architecture")?;
        if !splits_tensors(name) {
            let name = name.to_owned();
            return Err(GroupError::Architecture { name });
        }
        let key = |suffix: &str| format!("{name}.{suffix}");
        let number = |suffix: &str| optional(metadata.u32(&key(suffix)));
        // More are refused wherever a model is read.
        let layers = metadata.u32(&key("block_count"))?.min(MAX_LAYERS);
        let queries = metadata
            .by_layer(&key("attention.head_count"), layers)?
            .unwrap_or_default();
        let keys = metadata.by_layer(&key("attention.head_count_kv"), layers)?;
        let keys = keys.unwrap_or_else(|| queries.clone());
        let width = metadata.u32(&key("embedding_length"))?;
        let usual = queries.first().and_then(|heads| width.checked_div(*heads)).unwrap_or(0);
        let length = number("attention.key_length")?.unwrap_or(usual);
        let lengths = [
            number("attention.value_length")?.unwrap_or(usual),
            number("attention.key_length_swa")?.unwrap_or(length),
            number("attention.value_length_swa")?.unwrap_or(length),
        ];
        if length == 0 || lengths.iter().any(|other| *other != length) {
            let problem = "its heads are not all of one length";
            return Err(GroupError::Form { layer: 0, problem });
        }
        let tensors = tensors
            .into_iter()
            .map(|tensor| (tensor.name.as_str(), tensor))
            .collect();
        Ok(Self {
            queries,
            keys,
            head_length: length,
            tensors,
        })
    }

    fn check(&self, members: u32) -> Result<(), GroupError> {
        for layer in (0u32..).take(self.queries.len()) {
            self.check_attention(layer, members)?;
            self.check_feed_forward(layer, members)?;
        }
        if self.queries.is_empty() {
            let problem = "it has no attention";
            return Err(GroupError::Form { layer: 0, problem });
        }
        if self.tensors.contains_key("output.bias") && !self.tensors.contains_key(OUTPUT) {
            return Err(GroupError::Output);
        }
        Ok(())
    }

    fn tensor(&self, layer: u32, suffix: &str) -> Option<&'a Tensor> {
        self.tensors.get(format!("blk.{layer}.{suffix}").as_str()).copied()
    }

    fn check_attention(&self, layer: u32, members: u32) -> Result<(), GroupError> {
        let form = |problem| Err(GroupError::Form { layer, problem });
        let of_layer = |all: &[u32]| all.get(layer as usize).copied().map_or(0, u64::from);
        let (queries, keys) = (of_layer(&self.queries), of_layer(&self.keys));
        if queries == 0 || keys == 0 || !queries.is_multiple_of(keys) {
            return form("its query heads are not as many for each key and value head");
        }
        let Some(output) = self.tensor(layer, "attn_output.weight") else {
            return form("its attention has no output matrix");
        };
        let is_packed = self.tensor(layer, "attn_qkv.weight").is_some();
        let apart = ["attn_q.weight", "attn_k.weight", "attn_v.weight"];
        if !is_packed && !apart.iter().all(|name| self.tensor(layer, name).is_some()) {
            return form("its attention is of no known form");
        }
        if is_packed && self.tensor(layer, "attn_q.bias").is_some() {
            return form("its attention has packed weights and separate biases");
        }
        let shared = (queries / keys).saturating_mul(self.head_length.into());
        let together = heads_together(shared, output.tensor_type.block_elements(), members);
        if keys.is_multiple_of(together.saturating_mul(members.into())) {
            return Ok(());
        }
        Err(GroupError::Uneven {
            layer,
            what: "key and value heads",
            count: keys,
            together,
            members,
        })
    }

    fn check_feed_forward(&self, layer: u32, members: u32) -> Result<(), GroupError> {
        let ends = FEED_FORWARD_ENDS.map(|suffix| self.tensor(layer, suffix));
        let ends: Vec<&Tensor> = ends.into_iter().flatten().collect();
        let Some(first) = ends.first() else {
            let problem = "its feed-forward network is of no known form";
            return Err(GroupError::Form { layer, problem });
        };
        let together = least_common_multiple(first.tensor_type.block_elements(), USUAL_PART);
        for end in ends {
            let count = end.dimensions.first().copied().unwrap_or(0);
            let whole_blocks = together.is_multiple_of(end.tensor_type.block_elements());
            if !whole_blocks || count / together < u64::from(members) {
                return Err(GroupError::Uneven {
                    layer,
                    what: "columns of its feed-forward network",
                    count,
                    together,
                    members,
                });
            }
        }
        Ok(())
    }
}

/// Key and value heads that no two devices share: `get_split_granularity` of llama.cpp. All query heads of one key and value head have
/// `shared` elements together, and the output matrix behind them is in blocks of `block`.
fn heads_together(shared: u64, block: u64, members: u32) -> u64 {
    let mut part = block.max(1);
    while part < USUAL_PART && part * u64::from(members) < shared {
        part *= 2;
    }
    least_common_multiple(shared, part) / shared.max(1)
}

fn least_common_multiple(a: u64, b: u64) -> u64 {
    let (mut divisor, mut rest) = (a, b);
    while rest != 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    (a / divisor.max(1)).saturating_mul(b)
}

#[cfg(test)]
mod tests;
