//! Scenarios as people write them: kinds of cards, sets of equal nodes, links between these, devices that work as one, a model by name.
//!
//! ```toml
//! [model]
//! shape = "llama-3.1-70b"
//! quantisation = "Q4_K_M"
//!
//! [card.l4]
//! memory_gib = 22
//! promised_gb_per_second = 300
//!
//! [[node]]
//! name = "l4"          # l4-0 to l4-7
//! count = 8
//! cards = ["l4", "l4"]
//!
//! [[link]]
//! between = ["*", "*"]
//! latency_us = 500
//! mbit_per_second = 10_000
//!
//! [[group]]
//! devices = ["l4-0-cuda0", "l4-0-cuda1"]
//! gb_per_second = 420
//! ```

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use topology::{
    CONFIDENT_SAMPLES, DeviceReport, GroupReport, Input, Kind, LinkKind, LinkReport, MAX_GROUP_DEVICES, Reading, Steps,
    Traffic,
};

use super::{
    Scenario, ScenarioError, Show,
    shapes::{Quantisation, SHAPES},
};
use crate::{Constraints, Figures, HeldLayers, KvElement, Objective};

const GIB: f64 = (1_u64 << 30) as f64;
const GIGA: f64 = 1e9;
const TERA: f64 = 1e12;
const BYTES_PER_MBIT: u64 = 125_000;

/// More nodes than any scenario needs; a bound on what is read into memory.
const MAX_NODES: u32 = 4096;

/// Any node.
const EVERY: &str = "*";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Compact {
    model: ModelByName,
    card: BTreeMap<String, Card>,
    node: Vec<Nodes>,
    #[serde(default)]
    link: Vec<Ways>,
    #[serde(default)]
    group: Vec<AsOne>,
    #[serde(default)]
    traffic: Vec<Placed>,
    #[serde(default)]
    constraints: Constraints,
    #[serde(default)]
    objective: Objective,
    #[serde(default)]
    held: Vec<HeldLayers>,
    #[serde(default = "super::one_replica")]
    replicas: u32,
    /// Of the search.
    #[serde(default)]
    steps: Option<u64>,
    #[serde(default)]
    show: Show,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelByName {
    shape: String,
    quantisation: Quantisation,
    #[serde(default = "default_context_tokens")]
    context_tokens: u64,
    #[serde(default = "one")]
    sequences: u64,
    #[serde(default)]
    kv_element: KvElement,
    /// Rows of one micro-batch.
    #[serde(default = "default_step_rows")]
    step_rows: u64,
}

/// One kind of device. Rates in gigabytes and in 10^12 operations.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Card {
    #[serde(default)]
    vendor: String,
    #[serde(default = "default_backend")]
    backend: String,
    #[serde(default = "default_kind")]
    kind: Kind,
    /// What shards may use of it.
    memory_gib: f64,
    #[serde(default)]
    measured_gb_per_second: Option<f64>,
    /// The maker's figure.
    #[serde(default)]
    promised_gb_per_second: Option<f64>,
    /// Measured.
    #[serde(default)]
    teraflops: Option<f64>,
    #[serde(default)]
    launch_us: Option<u64>,
}

/// A set of equal nodes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nodes {
    name: String,
    #[serde(default = "one_node")]
    count: u32,
    cards: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// One token's way from the gateways and back, where it was measured.
    #[serde(default)]
    entry_us: Option<u64>,
}

/// Links between all nodes of two sets, in both directions; what comes later in the file counts.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ways {
    between: [String; 2],
    latency_us: u64,
    mbit_per_second: u64,
}

/// Devices that work as one, with what was measured of them together.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AsOne {
    devices: Vec<String>,
    gb_per_second: f64,
    #[serde(default)]
    step_us: u64,
    #[serde(default)]
    layer_us: u64,
    #[serde(default)]
    teraflops: Option<f64>,
}

/// What a pipeline that is placed already puts on a link, in one direction.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Placed {
    from: String,
    to: String,
    by: String,
    mbit_per_second: f64,
    /// What it leaves to all others there, where it comes before the model.
    #[serde(default)]
    leaves_mbit_per_second: Option<f64>,
}

fn default_context_tokens() -> u64 {
    4096
}
fn default_step_rows() -> u64 {
    63
}
fn default_backend() -> String {
    "cuda".to_owned()
}
fn default_kind() -> Kind {
    Kind::Discrete
}
fn one() -> u64 {
    1
}
fn one_node() -> u32 {
    1
}

/// What a scenario names and does not say.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    #[error("no model shape is called {shape}; known are {}", known_shapes())]
    UnknownShape { shape: String },
    #[error("node {node} has a card {card}, and there is no [card.{card}]")]
    UnknownCard { node: String, card: String },
    #[error("a link names {name}, and no [[node]] has that name")]
    UnknownNode { name: String },
    #[error("a group names {name}, and no [[node]] has such a device")]
    UnknownDevice { name: String },
    #[error("a group has {count} devices: it must have from 2 to {MAX_GROUP_DEVICES}, of one node")]
    NoGroup { count: usize },
    #[error("two entries of [[node]] make a node called {name}")]
    NodeTwice { name: String },
    #[error("more than {MAX_NODES} nodes")]
    TooManyNodes,
}

fn known_shapes() -> String {
    let names: Vec<&str> = SHAPES.iter().map(|shape| shape.name).collect();
    names.join(", ")
}

pub(super) fn read(text: &str) -> Result<Scenario, ScenarioError> {
    let compact: Compact = toml::from_str(text)?;
    Ok(Scenario {
        cluster: compact.cluster()?,
        model: compact.model.figures()?,
        constraints: compact.constraints,
        objective: compact.objective,
        held: compact.held,
        replicas: compact.replicas,
        steps: compact.steps,
        show: compact.show,
    })
}

impl ModelByName {
    fn figures(&self) -> Result<Figures, CompactError> {
        let shape = SHAPES.iter().find(|shape| shape.name == self.shape);
        let shape = shape.ok_or_else(|| CompactError::UnknownShape {
            shape: self.shape.clone(),
        })?;
        let bytes = |thousands: u64| self.quantisation.bytes(thousands * 1000);
        let runs = || shape.layers.iter().flat_map(|run| (0..run.count).map(move |_| run));
        let embedding_bytes = self.quantisation.bytes(shape.embedding_weights());
        Ok(Figures {
            name: format!("{} {:?}", self.shape, self.quantisation),
            layer_weight_bytes: runs().map(|run| bytes(run.thousands)).collect(),
            layer_active_bytes: runs().map(|run| bytes(run.active_thousands)).collect(),
            embedding_bytes,
            output_bytes: embedding_bytes,
            embedding_length: shape.embedding_length,
            vocabulary_size: shape.vocabulary_size,
            kv_elements_per_token_per_layer: shape.kv_elements_per_token_per_layer,
            layer_kv_elements: Vec::new(),
            layer_state_bytes: Vec::new(),
            kv_element: self.kv_element,
            context_length: self.context_tokens,
            parallel_sequences: self.sequences,
            kv_cells: 0,
            max_step_rows: self.step_rows,
            allowed_cuts: (1..shape.layer_count()).collect(),
        })
    }
}

impl Compact {
    fn cluster(&self) -> Result<Input, CompactError> {
        let total = self
            .node
            .iter()
            .fold(0_u32, |sum, nodes| sum.saturating_add(nodes.count));
        if total > MAX_NODES {
            return Err(CompactError::TooManyNodes);
        }
        let mut input = Input::default();
        for nodes in &self.node {
            for node in nodes.names() {
                let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
                for card in &nodes.cards {
                    let kind = self.card.get(card).ok_or_else(|| CompactError::UnknownCard {
                        node: node.clone(),
                        card: card.clone(),
                    })?;
                    let count = counts.entry(&kind.backend).or_default();
                    input.devices.push(kind.report(card, &node, *count));
                    *count += 1;
                }
                input.node_labels.insert(node.clone(), nodes.labels.clone());
                input.entry_us.extend(nodes.entry_us.map(|us| (node.clone(), us)));
                if !input.attached_nodes.insert(node.clone()) {
                    return Err(CompactError::NodeTwice { name: node });
                }
            }
        }
        input.links = self.links()?;
        let groups = self.group.iter().map(|group| group.report(&input.devices));
        input.groups = groups.collect::<Result<_, _>>()?;
        input.traffic = self.traffic.iter().map(Placed::traffic).collect();
        Ok(input)
    }

    fn links(&self) -> Result<Vec<LinkReport>, CompactError> {
        let mut links: BTreeMap<(String, String), LinkReport> = BTreeMap::new();
        for ways in &self.link {
            let [one, other] = [self.nodes_of(&ways.between[0])?, self.nodes_of(&ways.between[1])?];
            let pairs = one.iter().flat_map(|a| other.iter().map(move |b| (a, b)));
            for (a, b) in pairs.filter(|(a, b)| a != b) {
                for (from, to) in [(a, b), (b, a)] {
                    let link = LinkReport {
                        from_node: from.clone(),
                        to_node: to.clone(),
                        latency_us: ways.latency_us,
                        bandwidth_bytes_per_second: ways.mbit_per_second.saturating_mul(BYTES_PER_MBIT),
                        latency_p99_us: None,
                        samples: CONFIDENT_SAMPLES,
                        age_s: 0,
                        kind: LinkKind::default(),
                        unreachable: false,
                    };
                    links.insert((from.clone(), to.clone()), link);
                }
            }
        }
        Ok(links.into_values().collect())
    }

    /// The nodes of a set, or all.
    fn nodes_of(&self, name: &str) -> Result<BTreeSet<String>, CompactError> {
        let named = self.node.iter().filter(|nodes| name == EVERY || nodes.name == name);
        let nodes: BTreeSet<String> = named.flat_map(Nodes::names).collect();
        if nodes.is_empty() {
            return Err(CompactError::UnknownNode { name: name.to_owned() });
        }
        Ok(nodes)
    }
}

impl AsOne {
    fn report(&self, devices: &[DeviceReport]) -> Result<GroupReport, CompactError> {
        let find = |name: &String| {
            let found = devices.iter().find(|device| device.name == *name);
            found.ok_or_else(|| CompactError::UnknownDevice { name: name.clone() })
        };
        let members: Vec<&DeviceReport> = self.devices.iter().map(find).collect::<Result<_, _>>()?;
        let count = members.len();
        let is_of_one_node = members.windows(2).all(|pair| pair[0].node == pair[1].node);
        let backend = members
            .first()
            .filter(|_| is_of_one_node && (2..=MAX_GROUP_DEVICES).contains(&count));
        let backend = backend.ok_or(CompactError::NoGroup { count })?.backend.clone();
        let one_format = Reading {
            bits: 8,
            bytes_per_second: whole(self.gb_per_second * GIGA),
        };
        Ok(GroupReport {
            devices: self.devices.clone(),
            backend,
            steps: Steps {
                flops_per_second: self.teraflops.map(|tera| whole(tera * TERA)),
                ..Steps::plain(
                    self.step_us.saturating_mul(1000),
                    self.layer_us.saturating_mul(1000),
                    vec![one_format],
                )
            },
        })
    }
}

impl Placed {
    fn traffic(&self) -> Traffic {
        Traffic {
            from_node: self.from.clone(),
            to_node: self.to.clone(),
            bytes_per_second: whole(self.mbit_per_second * BYTES_PER_MBIT as f64),
            by: self.by.clone(),
            leaves_bytes_per_second: self
                .leaves_mbit_per_second
                .map(|mbit| whole(mbit * BYTES_PER_MBIT as f64)),
        }
    }
}

impl Nodes {
    /// The set's own name for a node alone, numbered ones for several.
    fn names(&self) -> Vec<String> {
        match self.count {
            1 => vec![self.name.clone()],
            count => (0..count).map(|index| format!("{}-{index}", self.name)).collect(),
        }
    }
}

impl Card {
    fn report(&self, card: &str, node: &str, index: usize) -> DeviceReport {
        let name = format!("{node}-{}{index}", self.backend);
        let memory_pool = if self.kind.uses_host_memory() {
            format!("{node}-host")
        } else {
            name.clone()
        };
        DeviceReport {
            taints: Vec::new(),
            name,
            node: node.to_owned(),
            vendor: self.vendor.clone(),
            model: card.to_owned(),
            backend: self.backend.clone(),
            kind: self.kind,
            memory_pool,
            memory_usable_bytes: whole(self.memory_gib * GIB),
            max_memory_percent: None,
            bandwidth_bytes_per_second: self.measured_gb_per_second.map(|gb| whole(gb * GIGA)),
            prior_bandwidth_bytes_per_second: self.promised_gb_per_second.map(|gb| whole(gb * GIGA)),
            launch_us: self.launch_us,
            steps: None,
            flops_per_second: self.teraflops.map(|tera| whole(tera * TERA)),
            temperature_celsius: None,
            throttled: false,
            cordoned: false,
            verified: true,
            fault: None,
            barred: None,
            no_new_layers: None,
            missing_operators: None,
        }
    }
}

/// Written by people with a decimal point, reckoned with in whole numbers. What is negative or no number is nothing.
fn whole(value: f64) -> u64 {
    value.round() as u64
}

#[cfg(test)]
mod tests;
