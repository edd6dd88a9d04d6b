//! `topology`: the cluster as placement sees it, out of the objects that agents write.
//!
//! kubectl fetches them: it knows the cluster, the user and every way to log in.

use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crds::{DeviceGPUState, NodeLinkState};
use serde::Serialize;
use serde_json::Value;
use topology::{DevicePair, DeviceReport, Input, LinkReport, Topology, build};

use crate::args::{Output, TopologyArgs};
use crate::failure::{Failure, reading};

/// What is asked of kubectl.
const KINDS: &str = "devicegpustates.shardwright.dev,nodelinkstates.shardwright.dev";
/// Objects of ten thousand devices have a tenth of it.
const LIST_BYTES_MAX: u64 = 512 << 20;

#[derive(Debug, Serialize)]
struct Shown<'a> {
    nodes: usize,
    devices: usize,
    excluded: usize,
    usable_bytes: u64,
    bandwidth_bytes_per_second: u64,
    links: Vec<Link<'a>>,
    peer_to_peer: Vec<&'a DevicePair>,
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
    let listed = match &args.file {
        Some(path) => read(path)?,
        None => ask_kubectl()?,
    };
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

/// Reads a file of objects, or standard input.
pub fn read(path: &Path) -> Result<String, Failure> {
    let failed = |error| reading(&path.display().to_string(), &error);
    let mut text = String::new();
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(path).map_err(failed)?)
    };
    source.take(LIST_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

fn ask_kubectl() -> Result<String, Failure> {
    let answer = Command::new("kubectl").args(["get", KINDS, "-o", "json"]).output();
    let answer = answer.map_err(|error| {
        Failure::MissingInput(format!(
            "kubectl cannot be run ({error}); give the objects with --file: kubectl get {KINDS} -o json"
        ))
    })?;
    if !answer.status.success() {
        let complaint = String::from_utf8_lossy(&answer.stderr);
        return Err(Failure::Unavailable(format!("kubectl: {}", complaint.trim())));
    }
    String::from_utf8(answer.stdout).map_err(|error| Failure::BadData(format!("kubectl's answer: {error}")))
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
    }
}
