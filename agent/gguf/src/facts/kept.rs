//! What layers keep of the tokens before: keys and values, or a state.
//!
//! The sizes of states are those of `llama_hparams::n_embd_r` and `n_embd_s` (`src/llama-hparams.cpp` of llama.cpp), which keeps
//! them in 32-bit floats and, because no stage asks it for snapshots to go back to (`n_rs_seq`), once for each sequence.

use crate::architecture::{Form, Keepers, States, USUAL_ATTENTION_PERIOD, kept_states};
use crate::metadata::{MetadataError, optional};
use crate::piece::Pieces;
use crate::value::Value;

const FLOAT_BYTES: u64 = 4;

/// Where a file does not say how many last tokens `rwkv` mixes in.
const USUAL_TOKEN_SHIFTS: u64 = 2;

/// The number of kept inputs of a convolution that `kimi-linear` has where the file does not say.
const USUAL_DELTA_INPUTS: u64 = 3;

/// The architectures whose attention may compress keys and values together: `llama_hparams::is_mla`. Of what is compressed
/// `llama_kv_cache` (`src/llama-kv-cache.cpp`) keeps keys alone, from which values are read too.
const COMPRESSING: [&str; 3] = ["deepseek2", "mistral4", "kimi-linear"];

/// Figures of attention, and of what each layer keeps.
pub(super) struct Kept {
    /// The most of any layer.
    pub(super) heads: u32,
    /// The most of any layer.
    pub(super) kv_heads: u32,
    pub(super) key_length: u32,
    pub(super) value_length: u32,
    /// Elements of K and V together of one token, for each layer.
    pub(super) kv_elements: Vec<u32>,
    /// Bytes of one sequence's state, for each layer.
    pub(super) state_bytes: Vec<u64>,
}

/// Heads and their lengths, with llama.cpp's defaults: as many KV heads as heads, lengths of embedding / heads. Where
/// windowed layers have other lengths, the longer counts; their caches keep all positions, as the others' do.
pub(super) fn kept(pieces: &Pieces<'_>) -> Result<Kept, MetadataError> {
    let keys = Keys { pieces };
    let heads = keys.by_layer("attention.head_count")?.unwrap_or_default();
    let kv_heads = match keys.by_layer("attention.head_count_kv")? {
        Some(kv_heads) => kv_heads,
        None => heads.clone(),
    };
    let most = |of_layers: &[u32]| of_layers.iter().copied().max().unwrap_or(0);
    let default_length = pieces.embedding_length().checked_div(most(&heads)).unwrap_or(0);
    let length = |suffix: &str| -> Result<u32, MetadataError> {
        let everywhere = keys.number(&format!("attention.{suffix}"))?.unwrap_or(default_length);
        let windowed = keys.number(&format!("attention.{suffix}_swa"))?;
        Ok(everywhere.max(windowed.unwrap_or(0)))
    };
    let (key_length, value_length) = (length("key_length")?, length("value_length")?);
    let kept_length = match keys.compresses()? {
        true => key_length,
        false => key_length.saturating_add(value_length),
    };
    let states = kept_states(pieces.architecture().name);
    let mut layers = match states {
        Some(states) => keys.keepers(states, &kv_heads)?,
        None => vec![Layer::ATTENTION; pieces.layer_count() as usize],
    };
    if states.is_none_or(|states| states.keepers == Keepers::Listed) {
        let computed = keys.computed_layers()?;
        for layer in layers.iter_mut().skip(computed) {
            *layer = Layer::NOTHING;
        }
    }
    let state_bytes = match states {
        Some(states) => keys.state_bytes(states.form, heads.first().copied().unwrap_or(0))?,
        None => 0,
    };
    let elements = |(layer, kv_heads): (&Layer, &u32)| match layer.attention {
        true => kept_length.saturating_mul(*kv_heads),
        false => 0,
    };
    // A model without heads has no numbers of them.
    let no_heads = vec![0; layers.len()];
    let heads_of_layers = if kv_heads.is_empty() { &no_heads } else { &kv_heads };
    Ok(Kept {
        heads: most(&heads),
        kv_heads: most(&kv_heads),
        key_length,
        value_length,
        kv_elements: layers.iter().zip(heads_of_layers).map(elements).collect(),
        state_bytes: layers
            .iter()
            .map(|layer| if layer.state { state_bytes } else { 0 })
            .collect(),
    })
}

/// What one layer keeps.
#[derive(Debug, Clone, Copy)]
struct Layer {
    attention: bool,
    state: bool,
}

impl Layer {
    const ATTENTION: Self = Self {
        attention: true,
        state: false,
    };
    const STATE: Self = Self {
        attention: false,
        state: true,
    };
    const BOTH: Self = Self {
        attention: true,
        state: true,
    };
    const NOTHING: Self = Self {
        attention: false,
        state: false,
    };
}

/// A model's keys, named without its architecture.
struct Keys<'a> {
    pieces: &'a Pieces<'a>,
}

impl Keys<'_> {
    fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.pieces.architecture().name)
    }

    fn number(&self, suffix: &str) -> Result<Option<u32>, MetadataError> {
        optional(self.pieces.gguf().metadata.u32(&self.key(suffix)))
    }

    /// A number that llama.cpp takes for 0 where the file has none.
    fn or_zero(&self, suffix: &str) -> Result<u64, MetadataError> {
        Ok(self.number(suffix)?.unwrap_or(0).into())
    }

    fn by_layer(&self, suffix: &str) -> Result<Option<Vec<u32>>, MetadataError> {
        let metadata = &self.pieces.gguf().metadata;
        metadata.by_layer(&self.key(suffix), self.pieces.layer_count())
    }

    fn keepers(&self, states: States, kv_heads: &[u32]) -> Result<Vec<Layer>, MetadataError> {
        let layers = self.pieces.layer_count() as usize;
        let has_heads = |layer: usize| kv_heads.get(layer).is_some_and(|heads| *heads > 0);
        let in_turn = |attention: bool| if attention { Layer::ATTENTION } else { Layer::STATE };
        Ok(match states.keepers {
            Keepers::All => vec![Layer::STATE; layers],
            Keepers::Beside => vec![Layer::BOTH; layers],
            Keepers::WithoutHeads => (0..layers).map(|layer| in_turn(has_heads(layer))).collect(),
            Keepers::WithoutHeadsAndWidth => {
                let widths = self.by_layer("feed_forward_length")?.unwrap_or_default();
                let has_width = |layer: usize| widths.get(layer).is_some_and(|width| *width > 0);
                let of = |layer| match has_width(layer) {
                    true => Layer::NOTHING,
                    false => in_turn(has_heads(layer)),
                };
                (0..layers).map(of).collect()
            }
            Keepers::Listed => self.listed(layers)?.into_iter().map(in_turn).collect(),
        })
    }

    /// Whether keys and values are compressed together: where a file says how long they are once decompressed.
    fn compresses(&self) -> Result<bool, MetadataError> {
        let decompressed = ["attention.key_length_mla", "attention.value_length_mla"];
        let mut stated = COMPRESSING.contains(&self.pieces.architecture().name);
        for key in decompressed {
            stated = stated && self.or_zero(key)? > 0;
        }
        Ok(stated)
    }

    /// Layers before those that only predict further tokens, which nobody asks for: nothing is kept for them. A model of
    /// such layers alone has all of them.
    fn computed_layers(&self) -> Result<usize, MetadataError> {
        let layers = self.pieces.layer_count() as usize;
        let predicting = usize::try_from(self.or_zero("nextn_predict_layers")?).unwrap_or(usize::MAX);
        Ok(match layers.saturating_sub(predicting) {
            0 => layers,
            computed => computed,
        })
    }

    /// For each layer whether it has attention.
    fn listed(&self, layers: usize) -> Result<Vec<bool>, MetadataError> {
        let list = self.pieces.gguf().metadata.get(&self.key("attention.recurrent_layers"));
        if let Some(list) = list.and_then(|value| value.as_array()) {
            let keeps = |value: Value| value.as_bool().unwrap_or_else(|| value.as_u64() != Some(0));
            let mut attention: Vec<bool> = list.values().map(|value| !keeps(value)).collect();
            attention.resize(layers, true);
            return Ok(attention);
        }
        let period = self
            .number("full_attention_interval")?
            .unwrap_or(USUAL_ATTENTION_PERIOD);
        let attention = |layer: usize| (layer + 1).is_multiple_of(period.max(1) as usize);
        Ok((0..layers).map(attention).collect())
    }

    /// Bytes of one layer's state of one sequence: `n_embd_r` and `n_embd_s` together.
    fn state_bytes(&self, form: Form, heads: u32) -> Result<u64, MetadataError> {
        let width = u64::from(self.pieces.embedding_length());
        let heads = u64::from(heads);
        let (inputs, state) = match form {
            Form::Scan { groups } => {
                let (inner, states) = (self.or_zero("ssm.inner_size")?, self.or_zero("ssm.state_size")?);
                let groups = if groups { self.or_zero("ssm.group_count")? } else { 0 };
                let kernel = self.or_zero("ssm.conv_kernel")?;
                let seen = inner.saturating_add(2 * groups.saturating_mul(states));
                (
                    kernel.saturating_sub(1).saturating_mul(seen),
                    inner.saturating_mul(states),
                )
            }
            Form::Convolution => {
                let kernel = self.or_zero("shortconv.l_cache")?;
                (kernel.saturating_sub(1).saturating_mul(width), 0)
            }
            Form::Delta => {
                let head = self.or_zero("kda.head_dim")?;
                let inputs = match self.or_zero("ssm.conv_kernel")? {
                    0 => USUAL_DELTA_INPUTS,
                    kernel => kernel - 1,
                };
                let inner = heads.saturating_mul(head);
                (
                    inputs.saturating_mul(3).saturating_mul(inner),
                    inner.saturating_mul(head),
                )
            }
            Form::Wkv => {
                let shifts = self.number("token_shift_count")?.map_or(USUAL_TOKEN_SHIFTS, u64::from);
                let head = self.or_zero("wkv.head_size")?;
                (shifts.saturating_mul(width), width.saturating_mul(head))
            }
        };
        Ok(inputs.saturating_add(state).saturating_mul(FLOAT_BYTES))
    }
}
