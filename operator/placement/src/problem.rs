//! What is to be decided.

use std::{collections::BTreeMap, collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};
use topology::{Device, Effect, Taint, Topology};

/// One model, the cluster it may run on, what is allowed and what is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub model: Model,
    pub topology: Topology,
    pub constraints: Constraints,
    pub objective: Objective,
    /// Layers that devices hold already. Where any are named, the plan moves the fewest bytes onto devices that do not have them,
    /// and of those plans it is the one of the least latency.
    pub held: Vec<HeldLayers>,
}

/// Layers `[first_layer, end_layer)` that a device has loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldLayers {
    pub device: String,
    pub first_layer: u32,
    pub end_layer: u32,
}

impl HeldLayers {
    /// Weights of a span of layers that are not among those a device holds.
    pub fn missing_bytes(held: &[Self], model: &Model, device: &str, first_layer: u32, end_layer: u32) -> u64 {
        let is_here = |layer: u32| {
            held.iter()
                .any(|h| h.device == device && (h.first_layer..h.end_layer).contains(&layer))
        };
        (first_layer..end_layer)
            .filter(|layer| !is_here(*layer))
            .filter_map(|layer| model.layers.get(usize::try_from(layer).ok()?))
            .map(|layer| layer.weight_bytes)
            .fold(0, u64::saturating_add)
    }
}

/// What a placement must know of a model. [`crate::estimate`] makes one from the figures of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// For people.
    pub name: String,
    pub layers: Vec<Layer>,
    /// Input embedding: the first stage keeps it in the node's memory and reads one row of it a token.
    pub embedding_bytes: u64,
    /// Output norm and matrix: the last stage keeps and reads all of it.
    pub output_bytes: u64,
    /// One token's activations between two stages.
    pub activation_bytes: u64,
    /// Working memory of any stage (an estimate).
    pub compute_buffer_bytes: u64,
    /// Working memory of the last stage on top of that (an estimate).
    pub output_buffer_bytes: u64,
    /// Layers before which the model may be cut. Empty: it runs whole.
    pub cuts: BTreeSet<u32>,
}

/// One layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    pub weight_bytes: u64,
    /// Of these, what one token reads: of a mixture of experts, those it is sent to.
    pub active_bytes: u64,
    /// Cached keys and values of all sequences at full context, and the states of all sequences.
    pub kv_bytes: u64,
    /// Cached bytes that one token reads on average, and what it reads and writes of its sequence's state.
    pub kv_read_bytes: u64,
}

/// What a plan must respect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Constraints {
    /// Devices that work as one count once, here and in `max_devices`.
    pub min_devices: u32,
    pub max_devices: Option<u32>,
    /// How many devices may work as one at most. 1: each by itself.
    pub max_group_devices: u32,
    pub allow_software_devices: bool,
    /// Empty: any.
    pub vendors: BTreeSet<String>,
    /// Labels that a device's node must all have.
    pub node_selector: BTreeMap<String, String>,
    /// Labels that the nodes of the first and the last stage must all have: there tokens are seen, elsewhere only activations.
    pub token_node_selector: BTreeMap<String, String>,
    pub pinned_layers: Vec<Pin>,
    /// Over many streams, counted with one token of one stream in each step: no stage, pool or link works longer for it than
    /// this allows. Streams that share a step give more.
    pub min_tokens_per_second: Option<u32>,
    /// At that rate, all hops over a link and what placed pipelines put on it take no more of it than this share together. Without a
    /// rate there is nothing to limit; without a share it is the whole link.
    pub max_link_percent: Option<u32>,
    /// Taints that do not keep the model away.
    pub tolerations: Vec<Toleration>,
}

impl Constraints {
    /// The longest that a part may work for one token.
    pub fn cap_ns(&self) -> Option<u64> {
        self.min_tokens_per_second
            .map(|tokens| 1_000_000_000 / u64::from(tokens.max(1)))
    }

    /// Whether as many devices may work as one as a device is.
    pub fn may_group(&self, device: &Device) -> bool {
        !device.is_group() || u32::try_from(device.size()).is_ok_and(|size| size <= self.max_group_devices)
    }

    /// Whether tokens may be seen on a device's node.
    pub fn may_see_tokens(&self, device: &Device) -> bool {
        let mut wanted = self.token_node_selector.iter();
        wanted.all(|(key, value)| device.node_labels.get(key) == Some(value))
    }
}

impl Default for Constraints {
    fn default() -> Self {
        Self {
            min_devices: 1,
            max_devices: None,
            max_group_devices: 1,
            allow_software_devices: false,
            vendors: BTreeSet::new(),
            node_selector: BTreeMap::new(),
            token_node_selector: BTreeMap::new(),
            pinned_layers: Vec::new(),
            min_tokens_per_second: None,
            max_link_percent: None,
            tolerations: Vec::new(),
        }
    }
}

impl Constraints {
    /// The first taint of a device that keeps the model's layers away from it.
    pub fn untolerated<'d>(&self, device: &'d Device) -> Option<&'d Taint> {
        let tolerated = |taint: &Taint| self.tolerations.iter().any(|toleration| toleration.covers(taint));
        device.taints.iter().find(|taint| !tolerated(taint))
    }
}

/// Taints that do not keep a model away from a device: those that agree in every field given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Toleration {
    /// Absent: any, if `exists`.
    pub key: Option<String>,
    /// Whatever the value.
    pub exists: bool,
    /// Empty: of taints without one.
    pub value: String,
    /// Absent: either.
    pub effect: Option<Effect>,
}

impl Toleration {
    fn covers(&self, taint: &Taint) -> bool {
        let key = match &self.key {
            Some(key) => *key == taint.key,
            None => self.exists,
        };
        key && (self.exists || self.value == taint.value) && self.effect.is_none_or(|effect| effect == taint.effect)
    }
}

/// The devices that match every field given hold, between them, this many layers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pin {
    pub backend: Option<String>,
    pub node: Option<String>,
    pub device: Option<String>,
    pub min_layers: u32,
    pub max_layers: Option<u32>,
}

impl Pin {
    /// Whether a device is one of those the pin speaks of. A group is where one of its members is, which has a part of all its layers.
    pub fn matches(&self, device: &Device) -> bool {
        let is_named = |name: &str| self.matches_parts(&device.backend, &device.node, name);
        is_named(&device.name) || device.members.iter().any(|member| is_named(&member.device))
    }

    pub(crate) fn matches_parts(&self, backend: &str, node: &str, device: &str) -> bool {
        let agrees = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|w| w == is);
        agrees(&self.backend, backend) && agrees(&self.node, node) && agrees(&self.device, device)
    }
}

/// "2-4 layers on backend vulkan".
impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count: u32| if count == 1 { "layer" } else { "layers" };
        match (self.min_layers, self.max_layers) {
            (min, None) => write!(f, "at least {min} {}", plural(min))?,
            (0, Some(max)) => write!(f, "at most {max} {}", plural(max))?,
            (min, Some(max)) if min == max => write!(f, "{min} {}", plural(min))?,
            (min, Some(max)) => write!(f, "{min}-{max} layers")?,
        }
        let parts = [
            ("backend", &self.backend),
            ("node", &self.node),
            ("device", &self.device),
        ];
        let named = parts.iter().filter_map(|(what, name)| Some((what, name.as_deref()?)));
        for (i, (what, name)) in named.enumerate() {
            write!(f, "{}{what} {name}", if i == 0 { " on " } else { ", " })?;
        }
        Ok(())
    }
}

/// What a good plan is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Objective {
    /// The least time for one token of one stream.
    #[default]
    Latency,
    /// The most tokens over many streams.
    Throughput,
}

#[cfg(test)]
mod tests;
