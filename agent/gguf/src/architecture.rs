//! Which architectures run, and which of them may be cut, where, and what a slice of them must say.
//!
//! An architecture is splittable only when cuts at every allowed point are shown to give the whole model's numbers:
//! the engine's `architectures` test does it for each name in the [table](table). llama.cpp hard-codes rules by layer
//! number or layer count in many of them, and a wrong cut gives wrong text without an error.

mod reasons;
mod state;
mod table;

use thiserror::Error;

use crate::piece::Pieces;
use crate::value::Value;

pub(crate) use reasons::reason_to_run_whole;
pub(crate) use state::USUAL_ATTENTION_PERIOD;
pub use state::{Form, Keepers, States, kept_states, refuses_strict_steps, stateful, strict_hybrids};
use table::{MISCOMPUTED, NO_TEXT_GENERATORS, RUN_WHOLE, SPLITTABLE};

/// Where an architecture may be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Division {
    /// Between any two layers.
    BetweenLayers,
    /// Where the number of layers before the cut is a multiple of this.
    Every(u32),
    /// Nowhere: all layers run on one device.
    Whole,
}

/// How an architecture scales looked-up embedding rows before its first layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputScale {
    /// Not at all.
    None,
    /// By `embedding_scale`, whatever it is fed: slices behind the head state 0, which means none.
    Key,
    /// By the root of the embedding length, but only rows that it looks up itself.
    LookedUp,
    /// By the root of the embedding length, whatever it is fed, and no key can stop it.
    Always,
}

/// What the loader demands for the output layer, beside a norm's weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputLayer {
    /// The norm has a bias.
    pub norm_bias: bool,
    /// `output.weight` must be there; elsewhere the embedding serves where it is not.
    pub separate: bool,
    /// The output matrix has a bias.
    pub bias: bool,
}

/// Sliding windows of an architecture's layers: each last layer of a period has none, unless the file says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Windows {
    /// No layer has one.
    Never,
    /// In models that state a window.
    Stated {
        /// The usual period.
        period: u32,
    },
    /// In every model.
    Always {
        /// The usual period.
        period: u32,
    },
}

/// A property of one model that decides whether it may be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Models of this many layers or more are computed by other rules, which a slice with fewer would not follow.
    FewerLayersThan(u32),
    /// Without the key, llama.cpp derives its value from the number of layers.
    States(&'static str),
    /// The key brings a rule that is not shown to survive a cut.
    LacksKey(&'static str),
}

/// What is known of one architecture.
#[derive(Debug, PartialEq, Eq)]
pub struct Architecture {
    /// The name in `general.architecture`, which also begins the keys of its hyperparameters.
    pub name: &'static str,
    /// Where it may be cut.
    pub division: Division,
    /// How it scales embedding rows.
    pub input_scale: InputScale,
    /// What its output layer consists of.
    pub output: OutputLayer,
    /// Which layers have sliding windows.
    pub windows: Windows,
    /// Numbers of layers for which llama.cpp has rules of their own, so that no slice may have them.
    pub reserved_lengths: &'static [u32],
    /// Numbers, by keys after `<name>.`, that slices state where the model does not.
    pub stated: &'static [(&'static str, u32)],
    /// What must hold of a model for it to be cut.
    pub conditions: &'static [Condition],
    /// Whether the tensors of a layer may be divided among devices that work as one; see [`crate::group`].
    pub splits_tensors: bool,
}

/// Keys, after `<architecture>.`, that may hold one value per layer and are sliced with the layers.
pub const PER_LAYER_KEYS: &[&str] = &[
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "expert_used_count",
    "expert_feed_forward_length",
    WINDOW_PATTERN,
];

/// The key that says which layers have a sliding window: a period, or one truth value per layer.
pub(crate) const WINDOW_PATTERN: &str = "attention.sliding_window_pattern";

/// The tensor in which [`InputScale::Always`] leaves the scaled input.
const SCALED_INPUT: &str = "inp_scaled";

impl Architecture {
    /// Whether any model of it may be cut.
    pub fn is_splittable(&self) -> bool {
        self.division != Division::Whole
    }

    /// Whether a head may look embedding rows up itself and feed them in place of tokens. Where it is not shown that
    /// this gives the same, tokens are fed: some architectures end the process when they are given rows.
    pub fn embeds_outside(&self) -> bool {
        self.is_splittable()
    }

    /// The factor by which a head multiplies the rows it looks up, for an embedding of `length` values. The graph
    /// applies every other scale itself.
    pub fn lookup_scale(&self, length: usize) -> f32 {
        match self.input_scale {
            // In single precision, as the graph has it.
            InputScale::LookedUp => (length as f32).sqrt(),
            InputScale::None | InputScale::Key | InputScale::Always => 1.0,
        }
    }

    /// The tensor that every slice but the head must overwrite with the very rows it was fed, since the graph has
    /// multiplied them; `None` where it leaves them alone.
    pub fn overwritten_input(&self) -> Option<&'static str> {
        (self.input_scale == InputScale::Always).then_some(SCALED_INPUT)
    }

    /// Numbers of layers after which a model may be cut, as far as the architecture goes.
    pub(crate) fn cuts(&self, pieces: &Pieces<'_>) -> Vec<u32> {
        let step = match self.division {
            Division::BetweenLayers => 1,
            Division::Every(step) => step,
            Division::Whole => return Vec::new(),
        };
        let step = self.unreserved_step(step, pieces.layer_count());
        let all = (1..pieces.layer_count()).filter(|cut| cut.is_multiple_of(step));
        let Some(windows) = self.windowed_layers(pieces) else {
            return all.collect();
        };
        // llama.cpp ends the process for a slice without any windowed layer. The first one of each slice has a window,
        // so all slices have, if the head has.
        let first = windows.iter().position(|windowed| *windowed);
        let has_window = |layer: u32| windows.get(layer as usize) == Some(&true);
        all.filter(|&cut| has_window(cut) && first.is_some_and(|first| first < cut as usize))
            .collect()
    }

    /// The least multiple of `step` at whose multiples `layers` layers may be cut without making a slice of a reserved
    /// length.
    fn unreserved_step(&self, step: u32, layers: u32) -> u32 {
        let reserved = |cuts: u32| {
            let makes = |length: &u32| {
                let inside = *length < layers && length.is_multiple_of(cuts);
                let last = *length < layers && (layers - length).is_multiple_of(cuts);
                inside || last
            };
            self.reserved_lengths.iter().any(makes)
        };
        (1..=layers)
            .map(|times| times * step)
            .find(|&cuts| !reserved(cuts))
            .unwrap_or(layers)
    }

    /// Which layers of a model have a sliding window; `None` for a model without windows.
    pub(crate) fn windowed_layers(&self, pieces: &Pieces<'_>) -> Option<Vec<bool>> {
        let stated = |key: &str| pieces.gguf().metadata.get(&format!("{}.{key}", self.name));
        let period = match self.windows {
            Windows::Never => return None,
            Windows::Always { period } => period,
            Windows::Stated { period } => {
                let window = stated("attention.sliding_window").and_then(|value| value.as_u64());
                window.filter(|window| *window > 0).map(|_| period)?
            }
        };
        let pattern = stated(WINDOW_PATTERN);
        if let Some(array) = pattern.and_then(|value| value.as_array()) {
            let truth = |value: Value| value.as_bool().unwrap_or_else(|| value.as_u64() != Some(0));
            return Some(array.values().map(truth).collect());
        }
        let period = pattern
            .and_then(|value| value.as_u64())
            .and_then(|stated| u32::try_from(stated).ok())
            .unwrap_or(period);
        // A period of 0 gives every layer a window.
        let windowed = |layer: u32| layer.checked_rem(period).is_none_or(|place| place + 1 < period);
        Some((0..pieces.layer_count()).map(windowed).collect())
    }
}

/// An architecture that does not run at all.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ArchitectureError {
    /// The engine has never heard of it.
    #[error("the architecture `{name}` is unknown to this version; use a model of another architecture, such as llama")]
    Unknown {
        /// The name in the file.
        name: String,
    },
    /// The engine knows it, but it is no language model that answers prompts.
    #[error("the architecture `{name}` does not generate text by itself; use a language model")]
    NoTextGenerator {
        /// The name in the file.
        name: String,
    },
    /// The engine loads it, and gives wrong text without an error.
    #[error(
        "the architecture `{name}` would give wrong text: the engine of this version mixes up the states of several \
         streams of it; use a model of another architecture"
    )]
    Miscomputed {
        /// The name in the file.
        name: String,
    },
}

/// Looks an architecture up by its name in `general.architecture`.
pub fn architecture(name: &str) -> Result<&'static Architecture, ArchitectureError> {
    if let Some(found) = SPLITTABLE.iter().chain(RUN_WHOLE).find(|known| known.name == name) {
        return Ok(found);
    }
    let name = name.to_owned();
    if NO_TEXT_GENERATORS.contains(&name.as_str()) {
        return Err(ArchitectureError::NoTextGenerator { name });
    }
    if MISCOMPUTED.contains(&name.as_str()) {
        return Err(ArchitectureError::Miscomputed { name });
    }
    Err(ArchitectureError::Unknown { name })
}

/// Whether llama.cpp divides the tensors of such layers among devices that work as one, and the engine's `device_groups` test shows
/// that they give what one device gives.
pub fn splits_tensors(name: &str) -> bool {
    architecture(name).is_ok_and(|known| known.splits_tensors)
}

/// The names of all architectures for which [`splits_tensors`] holds.
pub fn splitting_tensors() -> impl Iterator<Item = &'static str> {
    let all = SPLITTABLE.iter().chain(RUN_WHOLE);
    all.filter(|known| known.splits_tensors).map(|known| known.name)
}

/// The names of all architectures whose models may be cut.
pub fn splittable() -> impl Iterator<Item = &'static str> {
    SPLITTABLE.iter().map(|known| known.name)
}

#[cfg(test)]
mod tests;
