//! Which devices may take part, and what any span of layers costs on each.

use std::collections::{BTreeMap, BTreeSet};

use topology::Device;

use crate::{
    HeldLayers, Model, Problem,
    cost::{Goal, NEVER_NS, transfer_ns, us_to_ns},
    crowd, groups, links,
};

/// Devices the search looks at: one bit each in a machine word, and as many as a model may have stages.
pub(crate) const MAX_CANDIDATES: usize = crate::core::MAX_UNITS;

/// A layer never counts for more than a pebibyte: sums of absurd inputs stay far from overflow, and fit nowhere.
const MAX_LAYER_BYTES: u64 = 1 << 50;

/// A device that could take layers but for a constraint. Reads on after the device's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub device: String,
    pub backend: String,
    pub node: String,
    pub why: String,
}

/// One device, or several that work as one, that may hold a stage.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    /// Index into `Topology::devices`.
    pub device: usize,
    /// How many devices it is.
    pub members: u64,
    /// Several that work as one have one of their own.
    pub pool: usize,
    pub usable_bytes: u64,
    /// What any stage takes here besides its layers, on all members together.
    pub overhead_bytes: u64,
    /// What the first stage takes on top.
    pub head_bytes: u64,
    /// Time of the layers before each layer: a span's time is a difference.
    pub elapsed_ns: Vec<u64>,
    pub launch_ns: u64,
    /// Time of the output in the last stage.
    pub output_ns: u64,
    pub bytes_per_second: u64,
    /// From the gateway to a first stage here, and back.
    pub entry_ns: u64,
    /// Whether the first or the last stage may be here.
    pub sees_tokens: bool,
    /// Longest time of a stage here.
    pub most_ns: u64,
    /// Layers the pins allow at least and at most, whatever other devices take part.
    pub min_layers: usize,
    pub max_layers: usize,
}

/// What one of several replicas is decided within, by the places of devices in the topology.
#[derive(Clone, Debug, Default)]
pub(crate) struct Within {
    /// No stage on these works longer than that.
    pub most_ns: BTreeMap<usize, u64>,
    /// From the first of two devices it does not go to the second.
    pub closed: BTreeSet<(usize, usize)>,
}

/// The candidates and the tables the search works on.
#[derive(Clone, Debug)]
pub(crate) struct Domain<'p> {
    pub problem: &'p Problem,
    pub candidates: Vec<Candidate>,
    /// Most devices of one candidate.
    pub widest: usize,
    /// Per candidate: those that may not take part beside it, one bit each.
    pub excludes: Vec<u64>,
    /// Whether devices were left out because there are too many: then nothing can be proved.
    pub truncated: bool,
    pub layers: usize,
    pub min_stages: usize,
    pub max_stages: usize,
    /// Whether a stage may begin at this layer; the last entry stands for the end.
    pub boundary: Vec<bool>,
    /// Bytes of the layers before each layer.
    pub content_bytes: Vec<u64>,
    /// What the last stage takes on top.
    pub tail_bytes: u64,
    /// Between two candidates: latency there and back and one activation, and the activation alone.
    pub hop_ns: Vec<Vec<u64>>,
    pub carry_ns: Vec<Vec<u64>>,
    /// Candidates that match each pin, one bit each.
    pub pin_members: Vec<u64>,
    /// No part works longer for one token.
    pub cap_ns: u64,
    /// Between two candidates: the link, and of each link how many hops it carries.
    pub link_of: Vec<Vec<usize>>,
    pub most_hops: Vec<usize>,
    /// Ways between candidates that are closed whatever their links carry.
    pub closed: BTreeSet<(usize, usize)>,
    /// Per candidate: what moving the layers before each layer to it is taken to cost. Empty where nothing is held.
    pub moving_ns: Vec<Vec<u64>>,
}

impl<'p> Domain<'p> {
    pub(crate) fn new(problem: &'p Problem) -> Self {
        let model = &problem.model;
        let layers = model.layers.len();
        let mut eligible = eligible(problem);
        let truncated = eligible.len() > MAX_CANDIDATES;
        if truncated {
            eligible = crowd::most_promising(problem, &eligible);
        }
        let mut candidates: Vec<Candidate> = eligible.iter().map(|d| candidate(problem, *d)).collect();
        let pin_members = pin_members(problem, &candidates);
        bound_by_pins(problem, &pin_members, &mut candidates);
        let (hop_ns, carry_ns) = hops(problem, &candidates);
        let (link_of, most_hops) = links(problem, &candidates);
        let segments = model.cuts.len().saturating_add(1).min(layers.max(1));
        let wanted = problem.constraints.max_devices.map_or(MAX_CANDIDATES, index);
        let mut boundary = vec![false; layers + 1];
        for layer in model.cuts.iter().map(|c| index(*c)).chain([0, layers]) {
            if let Some(entry) = boundary.get_mut(layer) {
                *entry = true;
            }
        }
        Self {
            problem,
            widest: candidates
                .iter()
                .map(|c| c.members)
                .max()
                .map_or(1, |most| most as usize),
            excludes: groups::excludes(problem, &candidates),
            truncated,
            layers,
            min_stages: index(problem.constraints.min_devices).max(1),
            max_stages: wanted.min(candidates.len()).min(segments),
            boundary,
            content_bytes: prefix(
                model
                    .layers
                    .iter()
                    .map(|layer| layer.weight_bytes.saturating_add(layer.kv_bytes).min(MAX_LAYER_BYTES)),
            ),
            tail_bytes: model
                .output_bytes
                .saturating_add(model.output_buffer_bytes)
                .min(MAX_LAYER_BYTES),
            hop_ns,
            carry_ns,
            pin_members,
            cap_ns: problem.constraints.cap_ns().unwrap_or(NEVER_NS),
            link_of,
            most_hops,
            closed: BTreeSet::new(),
            moving_ns: moving(problem, &candidates),
            candidates,
        }
    }

    pub(crate) fn device(&self, candidate: usize) -> &'p Device {
        &self.problem.topology.devices[self.candidates[candidate].device]
    }

    /// Narrows it.
    pub(crate) fn limit(&mut self, within: &Within) {
        for candidate in &mut self.candidates {
            candidate.most_ns = within.most_ns.get(&candidate.device).copied().unwrap_or(NEVER_NS);
        }
        let at = |device: usize| self.candidates.iter().position(|c| c.device == device);
        let closed = within.closed.iter();
        self.closed = closed.filter_map(|(from, to)| Some((at(*from)?, at(*to)?))).collect();
    }

    /// Bytes of a pool that new shards may take.
    pub(crate) fn pool_bytes(&self, pool: usize) -> u64 {
        if groups::is_own(pool) {
            return u64::MAX;
        }
        self.problem.topology.pools.get(pool).map_or(0, |p| p.usable_bytes)
    }

    /// Memory of layers `[first, end)` on a candidate.
    pub(crate) fn memory_bytes(&self, candidate: usize, first: usize, end: usize) -> u64 {
        let c = &self.candidates[candidate];
        if c.members > 1 {
            return self.group_memory_bytes(c, first, end);
        }
        let mut bytes = (self.content_bytes[end] - self.content_bytes[first]).saturating_add(c.overhead_bytes);
        if first == 0 {
            bytes = bytes.saturating_add(c.head_bytes);
        }
        if end == self.layers {
            bytes = bytes.saturating_add(self.tail_bytes);
        }
        bytes
    }

    /// The same on several devices that work as one, all of them together. Weights and cache are divided evenly. The output counts whole
    /// on each: where it is the embedding too, llama.cpp does not divide it.
    fn group_memory_bytes(&self, c: &Candidate, first: usize, end: usize) -> u64 {
        let mut divided_bytes = self.content_bytes[end] - self.content_bytes[first];
        if first == 0 {
            divided_bytes = divided_bytes.saturating_add(c.head_bytes);
        }
        let mut member_bytes = divided_bytes
            .div_ceil(c.members)
            .saturating_add(c.overhead_bytes / c.members);
        if end == self.layers {
            member_bytes = member_bytes.saturating_add(self.tail_bytes);
        }
        member_bytes.saturating_mul(c.members)
    }

    /// Whether two of an order may not both take part.
    pub(crate) fn clashes(&self, order: &[usize]) -> bool {
        let members = order.iter().fold(0_u64, |set, candidate| set | 1 << candidate);
        order.iter().any(|candidate| self.excludes[*candidate] & members != 0)
    }

    /// Whether a stage of layers `[first, end)` may be on a candidate, whatever its size.
    pub(crate) fn may_hold(&self, candidate: usize, first: usize, end: usize) -> bool {
        self.candidates[candidate].sees_tokens || (first > 0 && end < self.layers)
    }

    /// Time of one token through layers `[first, end)` on a candidate.
    pub(crate) fn time_ns(&self, candidate: usize, first: usize, end: usize) -> u64 {
        let c = &self.candidates[candidate];
        let output_ns = if end == self.layers { c.output_ns } else { 0 };
        c.launch_ns + (c.elapsed_ns[end] - c.elapsed_ns[first]) + output_ns
    }

    /// That time, and what moving the layers there costs.
    pub(crate) fn cost_ns(&self, candidate: usize, first: usize, end: usize) -> u64 {
        let moving_ns = self.moving_ns.get(candidate).map_or(0, |ns| ns[end] - ns[first]);
        self.time_ns(candidate, first, end).saturating_add(moving_ns)
    }

    /// Whether a plan may go from one candidate to the other at all.
    pub(crate) fn is_open(&self, from: usize, to: usize) -> bool {
        !self.closed.contains(&(from, to)) && self.most_hops[self.link_of[from][to]] > 0
    }

    /// The first link that carries fewer hops than an order has there, with one hop more than it carries.
    pub(crate) fn overfull(&self, order: &[usize]) -> Option<Vec<(usize, usize)>> {
        let mut over: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
        for pair in order.windows(2) {
            let (from, to) = (pair[0], pair[1]);
            let hops = over.entry(self.link_of[from][to]).or_default();
            hops.push((from, to));
            if hops.len() > self.most_hops[self.link_of[from][to]] {
                return Some(hops.clone());
            }
        }
        None
    }

    /// Whether links can make stages get in each other's way.
    pub(crate) fn shares_links(&self) -> bool {
        // No plan goes over a link more often than there are candidates before it.
        let mut before = vec![0; self.most_hops.len()];
        for row in &self.link_of {
            row.iter()
                .collect::<BTreeSet<_>>()
                .into_iter()
                .for_each(|link| before[*link] += 1);
        }
        let mut links = self.most_hops.iter().zip(before);
        links.any(|(most, before)| *most > 0 && *most < before)
    }

    /// Whether a part of this length may be in a plan.
    pub(crate) fn admits(&self, goal: Goal, ns: u64) -> bool {
        ns <= self.cap_ns && goal.admits(ns)
    }

    /// Cost, under a goal, of going from one candidate to the next; `None` if the goal forbids it.
    pub(crate) fn way_ns(&self, goal: Goal, from: usize, to: usize) -> Option<u64> {
        let carry_ns = self.carry_ns[from][to];
        let admitted = self.is_open(from, to) && self.admits(goal, carry_ns);
        admitted.then(|| match goal {
            Goal::Sum { .. } => self.hop_ns[from][to],
            Goal::Slowest => carry_ns,
        })
    }
}

/// Devices that the constraints let take part.
pub(crate) fn eligible(problem: &Problem) -> Vec<usize> {
    let devices = problem.topology.devices.iter().enumerate();
    let is_allowed = |device: &Device| problem.constraints.may_group(device) && refusal(problem, device).is_none();
    let allowed = devices.filter(|(_, device)| is_allowed(device));
    allowed.map(|(index, _)| index).collect()
}

/// Why the constraints keep a device out, if they do.
pub(crate) fn refusal(problem: &Problem, device: &Device) -> Option<Refusal> {
    let constraints = &problem.constraints;
    let missing = constraints
        .node_selector
        .iter()
        .find(|(key, value)| device.node_labels.get(*key) != Some(*value));
    let why = if device.kind == topology::Kind::Software && !constraints.allow_software_devices {
        "is software and allowSoftwareDevices is false".to_owned()
    } else if !constraints.vendors.is_empty() && !constraints.vendors.contains(&device.vendor) {
        format!("is of vendor {:?}, which vendors does not list", device.vendor)
    } else if let Some((key, value)) = missing {
        format!(
            "is on node {}, which lacks the label {key}={value} of nodeSelector",
            device.node
        )
    } else if let Some(taint) = constraints.untolerated(device) {
        format!("is tainted {taint}")
    } else {
        return None;
    };
    Some(Refusal {
        device: device.name.clone(),
        backend: device.backend.clone(),
        node: device.node.clone(),
        why,
    })
}

/// Every single device that takes no part, with the reason, in the order of names.
pub(crate) fn refusals(problem: &Problem) -> Vec<Refusal> {
    let excluded = problem.topology.excluded.iter().map(|e| Refusal {
        device: e.device.clone(),
        backend: e.backend.clone(),
        node: e.node.clone(),
        why: e.why.to_string(),
    });
    let refused = problem.topology.single_devices().filter_map(|d| refusal(problem, d));
    let mut all: Vec<Refusal> = excluded.chain(refused).collect();
    all.sort_by(|a, b| a.device.cmp(&b.device));
    all
}

pub(crate) fn candidate(problem: &Problem, device_index: usize) -> Candidate {
    let device = &problem.topology.devices[device_index];
    let (rate, layer_ns) = (device.bandwidth.bytes_per_second, device.layer_ns());
    let elapsed_ns = problem.model.layers.iter().map(|layer| {
        let read_ns = transfer_ns(layer.active_bytes.saturating_add(layer.kv_read_bytes), rate);
        read_ns.saturating_add(layer_ns)
    });
    Candidate {
        elapsed_ns: prefix(elapsed_ns),
        ..bare_candidate(problem, device_index)
    }
}

/// The same without the times of its layers: among thousands of devices few are asked for these.
pub(crate) fn bare_candidate(problem: &Problem, device_index: usize) -> Candidate {
    let model: &Model = &problem.model;
    let device = &problem.topology.devices[device_index];
    let rate = device.bandwidth.bytes_per_second;
    let head_bytes = if device.kind.uses_host_memory() {
        model.embedding_bytes
    } else {
        0
    };
    let members = device.size() as u64;
    let member_overhead_bytes = device
        .fixed_bytes
        .saturating_add(model.compute_buffer_bytes)
        .min(MAX_LAYER_BYTES);
    Candidate {
        device: device_index,
        members,
        pool: groups::pool_of(device, device_index),
        usable_bytes: device.usable_bytes,
        overhead_bytes: member_overhead_bytes.saturating_mul(members),
        head_bytes: head_bytes.min(MAX_LAYER_BYTES),
        elapsed_ns: Vec::new(),
        launch_ns: us_to_ns(device.launch_us),
        output_ns: transfer_ns(model.output_bytes, rate),
        bytes_per_second: rate.max(1),
        entry_ns: us_to_ns(problem.topology.entry_us.get(&device.node).copied().unwrap_or(0)),
        sees_tokens: problem.constraints.may_see_tokens(device),
        most_ns: NEVER_NS,
        min_layers: 1,
        max_layers: model.layers.len(),
    }
}

fn pin_members(problem: &Problem, candidates: &[Candidate]) -> Vec<u64> {
    let pins = problem.constraints.pinned_layers.iter();
    pins.map(|pin| {
        let members = candidates
            .iter()
            .enumerate()
            .filter(|(_, c)| pin.matches(&problem.topology.devices[c.device]));
        members.fold(0, |bits, (i, _)| bits | (1 << i))
    })
    .collect()
}

/// A pin bounds each of its devices from above, and its only device from below.
fn bound_by_pins(problem: &Problem, pin_members: &[u64], candidates: &mut [Candidate]) {
    for (pin, members) in problem.constraints.pinned_layers.iter().zip(pin_members) {
        for (i, candidate) in candidates
            .iter_mut()
            .enumerate()
            .filter(|(i, _)| (members >> i) & 1 == 1)
        {
            if let Some(max) = pin.max_layers {
                candidate.max_layers = candidate.max_layers.min(index(max));
            }
            if *members == 1 << i {
                candidate.min_layers = candidate.min_layers.max(index(pin.min_layers));
            }
        }
    }
}

/// Bytes that move weigh more than any difference in latency, as far as sums allow: this much for each of them.
const MOVED_BYTE_NS: u64 = 10_000;

/// All moves together count for no more.
const MAX_MOVING_NS: u64 = 1 << 54;

/// What one byte that moves is taken to cost: the same on whichever devices, so that plans on different ones compare.
pub(crate) fn moved_byte_ns(model: &Model) -> u64 {
    let all_bytes = model.layers.iter().map(|l| l.weight_bytes).fold(0, u64::saturating_add);
    (MAX_MOVING_NS / all_bytes.saturating_mul(MAX_CANDIDATES as u64).max(1)).min(MOVED_BYTE_NS)
}

fn moving(problem: &Problem, candidates: &[Candidate]) -> Vec<Vec<u64>> {
    if problem.held.is_empty() {
        return Vec::new();
    }
    let model = &problem.model;
    let byte_ns = moved_byte_ns(model);
    let of = |candidate: &Candidate| {
        let device = &problem.topology.devices[candidate.device].name;
        let layers = 0..u32::try_from(model.layers.len()).unwrap_or(u32::MAX);
        prefix(layers.map(|layer| {
            let bytes = HeldLayers::missing_bytes(&problem.held, model, device, layer, layer.saturating_add(1));
            bytes.saturating_mul(byte_ns)
        }))
    };
    candidates.iter().map(of).collect()
}

fn hops(problem: &Problem, candidates: &[Candidate]) -> (Vec<Vec<u64>>, Vec<Vec<u64>>) {
    let node = |c: &Candidate| problem.topology.devices[c.device].node.as_str();
    let mut hop_ns = vec![vec![0; candidates.len()]; candidates.len()];
    let mut carry_ns = hop_ns.clone();
    for (i, from) in candidates.iter().enumerate() {
        for (j, to) in candidates.iter().enumerate() {
            let there = problem.topology.link(node(from), node(to));
            let back = problem.topology.link(node(to), node(from));
            let carry = transfer_ns(problem.model.activation_bytes, there.rate.bytes_per_second);
            carry_ns[i][j] = carry;
            hop_ns[i][j] = us_to_ns(there.latency_us) + us_to_ns(back.latency_us) + carry;
        }
    }
    (hop_ns, carry_ns)
}

/// The link between every two candidates, and how many hops each carries. Without a limit all are one, which carries any number.
fn links(problem: &Problem, candidates: &[Candidate]) -> (Vec<Vec<usize>>, Vec<usize>) {
    let mut link_of = vec![vec![0; candidates.len()]; candidates.len()];
    let mut most_hops = vec![usize::MAX];
    let carrying = links::Carrying::new(problem);
    if !carrying.is_limited() {
        return (link_of, most_hops);
    }
    let node = |c: &Candidate| problem.topology.devices[c.device].node.as_str();
    let mut known: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (i, from) in candidates.iter().enumerate() {
        for (j, to) in candidates.iter().enumerate() {
            let (from, to) = (node(from), node(to));
            link_of[i][j] = *known.entry((from, to)).or_insert_with(|| {
                most_hops.push(carrying.most_hops(from, to));
                most_hops.len() - 1
            });
        }
    }
    (link_of, most_hops)
}

fn prefix(values: impl Iterator<Item = u64>) -> Vec<u64> {
    let sums = values.scan(0_u64, |sum, value| {
        *sum = sum.saturating_add(value);
        Some(*sum)
    });
    std::iter::once(0).chain(sums).collect()
}

/// A count of the API as an index; one that does not fit is larger than anything there is.
pub(crate) fn index(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
