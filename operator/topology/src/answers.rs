//! What people and programs ask of the graph.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::links::{Confidence, DevicePair, KnownLink};
use crate::{Origin, Rate, Topology};

/// Lines of links that [`Topology::summary`] shows of each sort: enough to see what is slow, and no page more.
const LINKS_SHOWN: usize = 5;

/// The cluster in figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Nodes with devices that can take layers.
    pub nodes: usize,
    /// Devices that can take layers, each by itself.
    pub devices: usize,
    /// Devices that cannot.
    pub excluded: usize,
    /// What new shards may use, memory that devices share counted once.
    pub usable_bytes: u64,
    /// Rate at which all memories together are read, those that devices share counted once.
    pub bandwidth_bytes_per_second: u64,
    /// Links between those nodes, each direction for itself.
    pub links: usize,
    /// How many of them were measured and count.
    pub links_measured: usize,
}

impl Topology {
    /// The rate at which bytes get from one device to another: within a device that of its memory, else that of the way
    /// between the two processes that would hold the stages. `None` for a device that is not known.
    pub fn bandwidth(&self, from_device: &str, to_device: &str) -> Option<Rate> {
        if from_device == to_device {
            return self.device(from_device).map(|device| device.bandwidth);
        }
        Some(self.link(self.node_of(from_device)?, self.node_of(to_device)?).rate)
    }

    /// How long `bytes` are on their way from one device to another, in nanoseconds; nothing within a device.
    pub fn transfer_time_ns(&self, from_device: &str, to_device: &str, bytes: u64) -> Option<u64> {
        let (from, to) = (self.node_of(from_device)?, self.node_of(to_device)?);
        if from_device == to_device {
            return Some(0);
        }
        let link = self.link(from, to);
        let carried = u128::from(bytes) * 1_000_000_000 / u128::from(link.rate.bytes_per_second.max(1));
        let time = u128::from(link.latency_us) * 1000 + carried;
        Some(u64::try_from(time).unwrap_or(u64::MAX))
    }

    /// Devices of one node that copy to each other without main memory between them.
    pub fn peer_to_peer_pairs(&self) -> Vec<&DevicePair> {
        let pairs = self.links.device_pairs().iter();
        pairs
            .filter(|pair| pair.peer_to_peer)
            .filter(|pair| self.device(&pair.from_device).is_some() && self.device(&pair.to_device).is_some())
            .collect()
    }

    /// The cluster in figures.
    pub fn totals(&self) -> Totals {
        let nodes = self.nodes();
        let used: BTreeSet<usize> = self.devices.iter().map(|device| device.pool).collect();
        let pools = || used.iter().filter_map(|pool| self.pools.get(*pool));
        let sum = |figures: &mut dyn Iterator<Item = u64>| figures.fold(0_u64, u64::saturating_add);
        let measured = self
            .links
            .iter()
            .filter(|(from, to, known)| from != to && nodes.contains(from) && nodes.contains(to) && is_measured(known));
        Totals {
            nodes: nodes.len(),
            devices: self.single_devices().count(),
            excluded: self.excluded.len(),
            usable_bytes: sum(&mut pools().map(|pool| pool.usable_bytes)),
            bandwidth_bytes_per_second: sum(&mut pools().map(|pool| pool.bandwidth.bytes_per_second)),
            links: nodes.len() * nodes.len().saturating_sub(1),
            links_measured: measured.count(),
        }
    }

    /// The graph for a person: totals, devices that take no layers and why, the slowest links, those that are not there, devices that
    /// work as one.
    pub fn summary(&self) -> String {
        let totals = self.totals();
        let mut text = format!(
            "{} devices on {} nodes, {:.1} GiB for new shards, read at {} in all\n",
            totals.devices,
            totals.nodes,
            totals.usable_bytes as f64 / f64::from(1 << 30),
            rate(totals.bandwidth_bytes_per_second),
        );
        for excluded in &self.excluded {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  without: {} {}", excluded.device, excluded.why);
        }
        let _ = writeln!(
            text,
            "{} of {} links measured; of the others {} and {} µs are assumed",
            totals.links_measured,
            totals.links,
            rate(crate::prior::UNKNOWN.rate.bytes_per_second),
            crate::prior::UNKNOWN.latency_us,
        );
        let nodes = self.nodes();
        let known: Vec<_> = self
            .links
            .iter()
            .filter(|(from, to, _)| nodes.contains(from) && nodes.contains(to))
            .collect();
        let mut slowest: Vec<_> = known.iter().filter(|(_, _, known)| is_measured(known)).collect();
        slowest.sort_by_key(|(from, to, known)| (known.link.rate.bytes_per_second, *from, *to));
        for (from, to, known) in slowest.iter().take(LINKS_SHOWN) {
            let _ = writeln!(text, "  slowest: {from} → {to} {}", described(known));
        }
        let broken = known.iter().filter(|(_, _, known)| known.unreachable);
        for (from, to, _) in broken.take(LINKS_SHOWN) {
            let _ = writeln!(text, "  unreachable: {from} → {to}");
        }
        for pair in self.peer_to_peer_pairs() {
            let _ = writeln!(
                text,
                "  peer to peer: {} → {} {}",
                pair.from_device,
                pair.to_device,
                rate(pair.bytes_per_second)
            );
        }
        for group in self.devices.iter().filter(|device| device.is_group()) {
            let _ = writeln!(
                text,
                "  work as one: {}, {:.1} GiB, weights read at {}",
                group.name,
                group.usable_bytes as f64 / f64::from(1 << 30),
                rate(group.bandwidth.bytes_per_second)
            );
        }
        text
    }

    fn nodes(&self) -> BTreeSet<&str> {
        self.devices.iter().map(|device| device.node.as_str()).collect()
    }

    /// Also of a device that takes no layers.
    fn node_of(&self, device: &str) -> Option<&str> {
        let excluded = || self.excluded.iter().find(|excluded| excluded.device == device);
        let known = self.device(device).map(|device| device.node.as_str());
        known.or_else(|| excluded().map(|excluded| excluded.node.as_str()))
    }
}

fn is_measured(known: &KnownLink) -> bool {
    known.link.rate.origin == Origin::Measured && !known.unreachable
}

/// One link for a person: "112.4 MB/s, 180 µs (p99 420 µs), Ethernet".
fn described(known: &KnownLink) -> String {
    let mut text = format!(
        "{}, {} µs",
        rate(known.link.rate.bytes_per_second),
        known.link.latency_us
    );
    if let Some(p99_us) = known.latency_p99_us {
        let _ = write!(text, " (p99 {p99_us} µs)");
    }
    let _ = write!(text, ", {}", known.kind.as_str());
    if known.confidence == Confidence::Low {
        text.push_str(", low confidence");
    }
    text
}

fn rate(bytes_per_second: u64) -> String {
    let value = bytes_per_second as f64;
    if value >= 1e9 {
        format!("{:.1} GB/s", value / 1e9)
    } else {
        format!("{:.1} MB/s", value / 1e6)
    }
}

#[cfg(test)]
mod tests;
