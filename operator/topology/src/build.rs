//! From what is reported to the graph.

use std::borrow::{Borrow, Cow};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crds::names;
use serde::{Deserialize, Serialize};

use crate::groups::{GroupReport, groups};
use crate::links::{DevicePair, LinkReport, Links};
use crate::{Device, DeviceReport, Excluded, Exclusion, Kind, Origin, Pool, Rate, Topology, Traffic, prior};

/// Everything that is known at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// One per device; of two with the same name the first counts.
    pub devices: Vec<DeviceReport>,
    /// Nodes whose agent is connected.
    pub attached_nodes: BTreeSet<String>,
    /// Labels of the Nodes.
    #[serde(default)]
    pub node_labels: BTreeMap<String, BTreeMap<String, String>>,
    /// Measured groups of devices that work as one; of two of the same devices the first counts.
    #[serde(default)]
    pub groups: Vec<GroupReport>,
    /// Memory that *other* models' placements take: what the model to be placed holds itself is free for it.
    #[serde(default)]
    pub held: Vec<HeldMemory>,
    /// Measured links, as either end reports them.
    #[serde(default)]
    pub links: Vec<LinkReport>,
    /// Measured copies between devices of one node.
    #[serde(default)]
    pub device_pairs: Vec<DevicePair>,
    /// Measured ways from the gateways to nodes and back, microseconds.
    #[serde(default)]
    pub entry_us: BTreeMap<String, u64>,
    /// What *other* pipelines put on links.
    #[serde(default)]
    pub traffic: Vec<Traffic>,
}

/// The labels of a Node; every device of it has the same.
pub type NodeLabels = Arc<BTreeMap<String, String>>;

/// The same for whoever builds many graphs of one cluster: what all of them share is not copied.
#[derive(Clone, Debug)]
pub struct View<'v> {
    /// One per device; of two with the same name the first counts. All that share a memory pool with one of them are among them.
    pub devices: Vec<Cow<'v, DeviceReport>>,
    /// Nodes whose agent is connected.
    pub attached_nodes: BTreeSet<&'v str>,
    pub node_labels: &'v BTreeMap<String, NodeLabels>,
    /// As [`Input::groups`]. Those that have a member which is not in the graph are not in it either.
    pub groups: Vec<&'v GroupReport>,
    /// As [`Input::held`].
    pub held: Vec<HeldMemory>,
}

/// Memory that a placement takes on a device, or on all members of a group together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldMemory {
    pub device: String,
    pub bytes: u64,
}

/// Builds the graph.
///
/// A device takes layers if it is not cordoned, its agent is connected, it is healthy and verified, nothing bars it and it
/// has memory left. Whose layers, its taints say: they are for the model's tolerations to answer.
/// Devices of one pool share its budget: the CPU's figure where a CPU is among them (the memory is its own), else the
/// largest; devices that take no layers still count there, with what they hold. A group takes layers if all its members do.
pub fn build(input: &Input) -> Topology {
    let labels = input.node_labels.iter();
    let node_labels = labels.map(|(node, labels)| (node.clone(), Arc::new(labels.clone())));
    let built = build_view(&View {
        devices: input.devices.iter().map(Cow::Borrowed).collect(),
        attached_nodes: input.attached_nodes.iter().map(String::as_str).collect(),
        node_labels: &node_labels.collect(),
        groups: input.groups.iter().collect(),
        held: input.held.clone(),
    });
    Topology {
        links: Links::build(&input.links, &input.device_pairs),
        entry_us: input.entry_us.clone(),
        traffic: input.traffic.clone(),
        ..built
    }
}

/// Builds the graph as [`build`] does, without links. Takes time in proportion to the devices, but for a sort of their names.
pub fn build_view(view: &View<'_>) -> Topology {
    let mut reports: Vec<&DeviceReport> = view.devices.iter().map(Borrow::borrow).collect();
    // Stable: the first of a name stays the first. What is in order already costs nothing.
    reports.sort_by(|a, b| a.name.cmp(&b.name));
    reports.dedup_by(|later, first| later.name == first.name);
    let held = held_by_device(&view.held);
    let (pools, pool_of) = build_pools(&reports, &held);
    let mut topology = Topology::default();
    let mut node = OfNode::default();
    for (report, pool) in reports.into_iter().zip(pool_of) {
        node.look_at(view, &report.node);
        let held_bytes = held.get(report.name.as_str()).copied().unwrap_or(0);
        let usable_bytes = limit_bytes(report)
            .saturating_sub(held_bytes)
            .min(pools[pool].usable_bytes);
        match exclusion(&node, report, usable_bytes, held_bytes.max(pools[pool].held_bytes)) {
            Some(why) => topology.excluded.push(Excluded {
                device: report.name.clone(),
                node: report.node.clone(),
                backend: report.backend.clone(),
                kind: report.kind,
                why,
            }),
            None => topology.devices.push(device(&node, report, pool, usable_bytes)),
        }
    }
    let groups = groups(&view.groups, &topology.devices, &pools);
    topology.devices.extend(groups);
    topology.pools = pools;
    topology
}

/// What is held on each device; every member of a group holds the same, rounded up.
fn held_by_device(held: &[HeldMemory]) -> HashMap<&str, u64> {
    let mut by_device: HashMap<&str, u64> = HashMap::new();
    for memory in held {
        let members = names::members(&memory.device).count() as u64;
        for member in names::members(&memory.device) {
            let bytes = by_device.entry(member).or_default();
            *bytes = bytes.saturating_add(memory.bytes.div_ceil(members.max(1)));
        }
    }
    by_device
}

/// What the devices of one node have in common. They stand together, so that each node is looked up once.
#[derive(Default)]
struct OfNode<'v> {
    name: &'v str,
    is_attached: bool,
    labels: NodeLabels,
}

impl<'v> OfNode<'v> {
    fn look_at(&mut self, view: &View<'_>, name: &'v str) {
        if self.name != name {
            *self = Self {
                name,
                is_attached: view.attached_nodes.contains(name),
                labels: view.node_labels.get(name).cloned().unwrap_or_default(),
            };
        }
    }
}

fn exclusion(node: &OfNode<'_>, report: &DeviceReport, usable_bytes: u64, held_bytes: u64) -> Option<Exclusion> {
    if report.cordoned {
        Some(Exclusion::Cordoned)
    } else if !node.is_attached {
        Some(Exclusion::AgentGone {
            node: report.node.clone(),
        })
    } else if let Some(fault) = &report.fault {
        Some(Exclusion::Faulty { fault: fault.clone() })
    } else if !report.verified {
        Some(Exclusion::NotVerified)
    } else if let Some(why) = report.barred.as_ref().or(report.no_new_layers.as_ref()) {
        Some(Exclusion::Barred { why: why.clone() })
    } else if usable_bytes == 0 {
        Some(Exclusion::NoMemory { held_bytes })
    } else {
        None
    }
}

fn device(node: &OfNode<'_>, report: &DeviceReport, pool: usize, usable_bytes: u64) -> Device {
    Device {
        name: report.name.clone(),
        node: report.node.clone(),
        node_labels: node.labels.clone(),
        vendor: report.vendor.clone(),
        model: report.model.clone(),
        backend: report.backend.clone(),
        kind: report.kind,
        pool,
        usable_bytes,
        fixed_bytes: prior::fixed_bytes(&report.backend),
        bandwidth: bandwidth(report),
        launch_us: report.launch_us.unwrap_or_else(|| prior::launch_us(report.kind)),
        steps: report.steps.clone(),
        flops_per_second: report.flops_per_second,
        thermal_headroom_percent: thermal_headroom_percent(report),
        taints: report.taints.clone(),
        members: Vec::new(),
    }
}

/// In proportion to the degrees that are left until a device commonly throttles; none where it does already, whatever its
/// sensor says.
fn thermal_headroom_percent(report: &DeviceReport) -> Option<u8> {
    if report.throttled {
        return Some(0);
    }
    let celsius = report
        .temperature_celsius?
        .clamp(prior::COOL_CELSIUS, prior::THROTTLE_CELSIUS);
    let span = prior::THROTTLE_CELSIUS - prior::COOL_CELSIUS;
    u8::try_from((prior::THROTTLE_CELSIUS - celsius) * 100 / span).ok()
}

/// What the device offers before anything is held: the administrator's share of what the agent found.
fn limit_bytes(report: &DeviceReport) -> u64 {
    let percent = u128::from(report.max_memory_percent.unwrap_or(100).min(100));
    let bytes = u128::from(report.memory_usable_bytes) * percent / 100;
    u64::try_from(bytes).unwrap_or(report.memory_usable_bytes)
}

/// The measured rate, else what a table says of such devices, else what is assumed of their kind; less while the device is
/// throttled. Software renderers are told by their kind: a copy measures the machine's memory, and their arithmetic is
/// what takes the time.
fn bandwidth(report: &DeviceReport) -> Rate {
    let mut rate = full_bandwidth(report);
    if report.throttled {
        rate.bytes_per_second = hundredths(rate.bytes_per_second, prior::THROTTLED_PERCENT);
    }
    rate
}

fn full_bandwidth(report: &DeviceReport) -> Rate {
    let assumed = prior::bandwidth_bytes_per_second(report.kind);
    let (bytes_per_second, origin) = match (
        report.bandwidth_bytes_per_second,
        report.prior_bandwidth_bytes_per_second,
    ) {
        (Some(measured), _) if report.kind == Kind::Software && measured > assumed => (assumed, Origin::Assumed),
        (Some(measured), _) if measured >= prior::LEAST_DEVICE_BYTES_PER_SECOND => (measured, Origin::Measured),
        (_, Some(promised)) if report.kind != Kind::Software && promised >= prior::LEAST_DEVICE_BYTES_PER_SECOND => {
            (hundredths(promised, prior::REACHED_PERCENT), Origin::Prior)
        }
        _ => (assumed, Origin::Assumed),
    };
    Rate {
        bytes_per_second,
        origin,
    }
}

/// Never zero.
pub(crate) fn hundredths(of: u64, percent: u64) -> u64 {
    let product = u128::from(of) * u128::from(percent) / 100;
    u64::try_from(product).unwrap_or(of).max(1)
}

/// In the order of their names; and of each report, the place of its pool.
fn build_pools(reports: &[&DeviceReport], held: &HashMap<&str, u64>) -> (Vec<Pool>, Vec<usize>) {
    let mut order: Vec<usize> = (0..reports.len()).collect();
    // Most pools are named as their device: those stand in order already.
    order.sort_by(|a, b| reports[*a].memory_pool.cmp(&reports[*b].memory_pool));
    let (mut pools, mut pool_of) = (Vec::new(), vec![0; reports.len()]);
    for members in order.chunk_by(|a, b| reports[*a].memory_pool == reports[*b].memory_pool) {
        for member in members {
            pool_of[*member] = pools.len();
        }
        let devices: Vec<&DeviceReport> = members.iter().map(|member| reports[*member]).collect();
        pools.push(pool(&devices[0].memory_pool, &devices, held));
    }
    (pools, pool_of)
}

fn pool(name: &str, devices: &[&DeviceReport], held: &HashMap<&str, u64>) -> Pool {
    let largest = |only_cpu: bool| {
        let counted = devices.iter().filter(|d| !only_cpu || d.kind == Kind::Cpu);
        counted.map(|d| d.memory_usable_bytes).max()
    };
    let budget_bytes = largest(true).or_else(|| largest(false)).unwrap_or(0);
    let held_bytes = devices
        .iter()
        .filter_map(|d| held.get(d.name.as_str()))
        .fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
    // A measured rate says more about the memory than one from a table, and that more than an assumed one, even where it
    // is lower. Heat slows the processor before it slows the memory.
    let certainty = |origin| match origin {
        Origin::Measured => 2,
        Origin::Prior => 1,
        Origin::Assumed => 0,
    };
    let fastest = devices
        .iter()
        .map(|d| full_bandwidth(d))
        .max_by_key(|rate| (certainty(rate.origin), rate.bytes_per_second));
    Pool {
        name: name.to_owned(),
        usable_bytes: budget_bytes.saturating_sub(held_bytes),
        held_bytes,
        bandwidth: fastest.unwrap_or(Rate {
            bytes_per_second: 1,
            origin: Origin::Assumed,
        }),
    }
}

#[cfg(test)]
mod tests;
