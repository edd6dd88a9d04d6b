//! `topology`: the cluster as placement sees it, out of the objects that agents write.

use std::time::{SystemTime, UNIX_EPOCH};

use crds::{DeviceGPUState, NodeLinkState};
use serde::Serialize;
use serde_json::Value;
use topology::{DevicePair, DeviceReport, GroupReport, Input, LinkReport, Topology, build};

use crate::args::{Output, TopologyArgs};
use crate::failure::Failure;
use crate::kubectl;

/// What is asked of kubectl.
const KINDS: &str = "devicegpustates.shardwright.dev,nodelinkstates.shardwright.dev";

#[derive(Debug, Serialize)]
struct Shown<'a> {
    nodes: usize,
    devices: usize,
    excluded: usize,
    usable_bytes: u64,
    bandwidth_bytes_per_second: u64,
    links: Vec<Link<'a>>,
    peer_to_peer: Vec<&'a DevicePair>,
    /// Devices that work as one, where a model allows it.
    groups: Vec<Group<'a>>,
}

#[derive(Debug, Serialize)]
struct Group<'a> {
    devices: Vec<&'a str>,
    usable_bytes: u64,
    bandwidth_bytes_per_second: u64,
}

#[derive(Debug, Serialize)]
struct Link<'a> {
    from: &'a str,
    to: &'a str,
    latency_us: u64,
    latency_p99_us: Option<u64>,
    bytes_per_second: u64,
    samples: u32,
    kind: &'a str,
    unreachable: bool,
}

/// Shows the graph.
pub fn run(args: &TopologyArgs, output: Output) -> Result<String, Failure> {
    let listed = kubectl::listed(args.file.as_deref(), KINDS, &[])?;
    let now_unix_s = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |passed| i64::try_from(passed.as_secs()).unwrap_or(i64::MAX));
    let topology = graph(&listed, now_unix_s)?;
    match output {
        Output::Text => Ok(topology.summary()),
        Output::Json => serde_json::to_string_pretty(&shown(&topology))
            .map(|text| text + "\n")
            .map_err(|error| Failure::BadData(error.to_string())),
    }
}

/// The graph of a List of our objects. Whose agents are connected only the operator knows: here all of them are.
fn graph(listed: &str, now_unix_s: i64) -> Result<Topology, Failure> {
    let bad = |error: serde_json::Error| Failure::BadData(format!("not a List of our objects: {error}"));
    let list: Value = serde_json::from_str(listed).map_err(bad)?;
    let mut input = Input::default();
    for item in list["items"].as_array().into_iter().flatten() {
        match item["kind"].as_str() {
            Some("DeviceGPUState") => {
                let state: DeviceGPUState = serde_json::from_value(item.clone()).map_err(bad)?;
                input.devices.extend(DeviceReport::from_state(&state));
            }
            Some("NodeLinkState") => {
                let state: NodeLinkState = serde_json::from_value(item.clone()).map_err(bad)?;
                input.links.extend(LinkReport::from_state(&state, now_unix_s));
                input.device_pairs.extend(DevicePair::from_state(&state));
                input.groups.extend(GroupReport::from_state(&state));
            }
            _ => {}
        }
    }
    input.attached_nodes = input.devices.iter().map(|device| device.node.clone()).collect();
    Ok(build(&input))
}

fn shown(topology: &Topology) -> Shown<'_> {
    let totals = topology.totals();
    Shown {
        nodes: totals.nodes,
        devices: totals.devices,
        excluded: totals.excluded,
        usable_bytes: totals.usable_bytes,
        bandwidth_bytes_per_second: totals.bandwidth_bytes_per_second,
        links: topology
            .links
            .iter()
            .map(|(from, to, known)| Link {
                from,
                to,
                latency_us: known.link.latency_us,
                latency_p99_us: known.latency_p99_us,
                bytes_per_second: known.link.rate.bytes_per_second,
                samples: known.samples,
                kind: known.kind.as_str(),
                unreachable: known.unreachable,
            })
            .collect(),
        peer_to_peer: topology.peer_to_peer_pairs(),
        groups: topology
            .devices
            .iter()
            .filter(|device| device.is_group())
            .map(|group| Group {
                devices: group.parts().collect(),
                usable_bytes: group.usable_bytes,
                bandwidth_bytes_per_second: group.bandwidth.bytes_per_second,
            })
            .collect(),
    }
}
