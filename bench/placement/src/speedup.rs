//! What it brings to use unlike devices each by its own measure: the optimum beside simpler uses of the same hardware.

use std::collections::{BTreeMap, BTreeSet};

use placement::{
    Constraints, Layer, Model, Objective, Problem,
    core::{self, Answer, Budget},
};
use topology::{Device, Kind, Link, Origin, Pool, Rate, Topology};

use crate::{instance::Instance, rules};

const LAYER_BYTES: u64 = 1 << 30;
/// The instances' links are times only; at this rate the one byte that crosses takes none.
const LINK_BYTES_PER_SECOND: u64 = 1_000_000_000_000;
/// Questions about a part of the devices are small.
const PART: Budget = Budget {
    steps: 4_000_000,
    seed: 1,
};

/// Latencies of one instance; `None` where that use of the hardware holds too few layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uses {
    pub one_kind_us: Option<u64>,
    pub even_us: Option<u64>,
    pub by_memory_us: Option<u64>,
}

impl Uses {
    /// The best of the three that holds the model.
    pub fn best_us(&self) -> Option<u64> {
        [self.one_kind_us, self.even_us, self.by_memory_us]
            .into_iter()
            .flatten()
            .min()
    }
}

pub fn uses(instance: &Instance) -> Uses {
    let all: Vec<usize> = (0..instance.devices()).collect();
    let cost_us = |assignment: Option<Vec<(usize, usize)>>| instance.latency_us(&assignment?);
    Uses {
        one_kind_us: one_kind_us(instance),
        even_us: cost_us(rules::split(instance, &all, |_| 1.0)),
        by_memory_us: cost_us(rules::by_memory(instance)),
    }
}

/// The best plan with devices of one kind only. Devices of the same room are taken for one kind: heat gives cards of one kind
/// different speeds.
fn one_kind_us(instance: &Instance) -> Option<u64> {
    let mut kinds: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (device, capacity) in instance.capacity.iter().enumerate() {
        kinds.entry(*capacity).or_default().push(device);
    }
    let best = |devices: &Vec<usize>| {
        let room: usize = devices.iter().map(|device| instance.capacity[*device]).sum();
        if room < instance.layers {
            return None;
        }
        let solved = core::solve(&instance.problem_of(devices), core::Objective::LATENCY, PART).ok()?;
        // Without a proof the bound is what the kind might reach.
        match solved.answer {
            Answer::Optimal(route) => Some(route.cost_ns),
            other => Some(other.bound_ns()),
        }
    };
    kinds.values().filter_map(best).min()
}

/// The instance as a cluster with a model, as far as such a one can say it: each device a node, each layer a gibibyte.
pub fn as_cluster(instance: &Instance) -> Problem {
    let rate = |bytes_per_second: u64| Rate {
        bytes_per_second,
        origin: Origin::Measured,
    };
    let device = |index: usize| Device {
        name: format!("d{index:02}"),
        node: format!("n{index:02}"),
        node_labels: Default::default(),
        vendor: String::new(),
        model: String::new(),
        backend: "cuda".to_owned(),
        kind: Kind::Discrete,
        pool: index,
        usable_bytes: u64::try_from(instance.capacity[index]).unwrap_or(0) * LAYER_BYTES,
        fixed_bytes: 0,
        bandwidth: rate(LAYER_BYTES * 1_000_000 / instance.layer_us[index].max(1)),
        launch_us: 0,
        steps: None,
        // Of its speed an instance says one thing.
        flops_per_second: Some(LAYER_BYTES * 1_000_000 / instance.layer_us[index].max(1)),
        thermal_headroom_percent: None,
        taints: Vec::new(),
        members: Vec::new(),
    };
    let devices: Vec<Device> = (0..instance.devices()).map(device).collect();
    let pool = |device: &Device| Pool {
        name: device.name.clone(),
        usable_bytes: device.usable_bytes,
        held_bytes: 0,
        bandwidth: device.bandwidth,
    };
    let mut links = BTreeMap::new();
    for (from, row) in instance.way_us.iter().enumerate() {
        for (to, latency_us) in row.iter().enumerate().filter(|(to, _)| *to != from) {
            let link = Link {
                latency_us: *latency_us,
                rate: rate(LINK_BYTES_PER_SECOND),
            };
            links.insert((format!("n{from:02}"), format!("n{to:02}")), link);
        }
    }
    let layer = Layer {
        weight_bytes: LAYER_BYTES,
        active_bytes: LAYER_BYTES,
        kv_bytes: 0,
        kv_read_bytes: 0,
    };
    Problem {
        model: Model {
            name: instance.name.clone(),
            layers: vec![layer; instance.layers],
            embedding_bytes: 0,
            output_bytes: 0,
            activation_bytes: 1,
            compute_buffer_bytes: 0,
            output_buffer_bytes: 0,
            cuts: (1..instance.layers)
                .filter_map(|cut| u32::try_from(cut).ok())
                .collect::<BTreeSet<u32>>(),
        },
        topology: Topology {
            pools: devices.iter().map(pool).collect(),
            links: links.into_iter().collect(),
            devices,
            ..Topology::default()
        },
        constraints: Constraints::default(),
        objective: Objective::Latency,
        held: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::uses;
    use crate::instance::tests::two_cards;

    #[test]
    fn one_kind_may_be_too_small_where_all_together_hold_the_model() {
        let mut instance = two_cards();
        instance.capacity = vec![3, 2];
        let uses = uses(&instance);
        assert_eq!(uses.one_kind_us, None);
        assert_eq!(uses.even_us, instance.latency_us(&[(0, 2), (1, 2)]));
    }

    #[test]
    fn two_cards_of_one_kind_are_used_as_well_as_they_can_be() {
        let instance = two_cards();
        assert_eq!(uses(&instance).one_kind_us, instance.latency_us(&[(0, 3), (1, 1)]));
    }
}
