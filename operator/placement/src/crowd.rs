//! Clusters of more devices than the search looks at: which of them are promising, and what no plan on any of them can beat.
//!
//! **The bound.** A stage on device `d` holds at most `cap_d` bytes of layers and costs its launch, its cheapest way in, and
//! `rate_d` for each byte. Spread over the bytes, every byte on `d` costs at least `rate_d + (launch_d + way_d) / cap_d`, because
//! no stage holds more than `cap_d`. All bytes at the least of these prices, as far as each device holds, is therefore a lower
//! bound on any plan, but for the one stage that nothing leads to: the dearest way in is taken off again. What the last stage
//! computes on top costs at least the least of it. For the slowest part, the bytes a token reads divided by all bandwidths
//! together is one. Every division rounds down.

use std::collections::{BTreeMap, BTreeSet};

use topology::{Topology, prior};

use crate::{
    Objective, Problem,
    cost::us_to_ns,
    domain::{MAX_CANDIDATES, bare_candidate, eligible, index},
};

/// Prices are in this part of a nanosecond.
const FRACTION: u128 = 1 << 20;

/// Parts per million: the ratio of bytes read to bytes held, in whole numbers.
const PPM: u128 = 1_000_000;

/// What a device offers, as the bound sees it.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub device: usize,
    /// Of a byte, launch and way in included.
    price: u128,
    /// Bytes of layers at most.
    room_bytes: u64,
    way_ns: u64,
    output_ns: u64,
}

/// No plan costs less, under the objective: a bound without any search, for clusters of any size.
pub fn bound_ns(problem: &Problem) -> u64 {
    let eligible = eligible(problem);
    match problem.objective {
        Objective::Latency => latency_bound_ns(problem, &offers(problem, &eligible)),
        Objective::Throughput => slowest_bound_ns(problem, &eligible),
    }
}

/// Offers of these devices, the best first.
pub(crate) fn offers(problem: &Problem, eligible: &[usize]) -> Vec<Offer> {
    let ways_ns = ways_in(problem, eligible);
    let ratio_ppm = least_read_per_held_ppm(problem);
    let offer = |device: &usize| {
        let c = bare_candidate(problem, *device);
        let room_bytes = c.usable_bytes.saturating_sub(c.overhead_bytes);
        let way_ns = ways_ns.get(device).copied().unwrap_or(0);
        let fixed_ns = u128::from(c.launch_ns.saturating_add(way_ns));
        let read = ratio_ppm * (1_000_000_000 / PPM) * FRACTION / u128::from(c.bytes_per_second);
        Offer {
            device: *device,
            price: read + fixed_ns * FRACTION / u128::from(room_bytes.max(1)),
            room_bytes,
            way_ns,
            output_ns: c.output_ns,
        }
    };
    let mut offers: Vec<Offer> = eligible.iter().map(offer).collect();
    offers.retain(|offer| offer.room_bytes > 0);
    offers.sort_by_key(|offer| (offer.price, offer.device));
    offers
}

/// Most of the places for the best offers, some for the largest, with those first that a pin asks for, and those that hold layers
/// already: what moves least can only be found with these.
pub(crate) fn most_promising(problem: &Problem, eligible: &[usize]) -> Vec<usize> {
    let device = |d: &usize| &problem.topology.devices[*d];
    let pins = problem
        .constraints
        .pinned_layers
        .iter()
        .filter(|pin| pin.min_layers > 0);
    let pinned = pins.filter_map(|pin| {
        let matching = eligible.iter().filter(|d| pin.matches(device(d)));
        matching.max_by_key(|d| device(d).usable_bytes).copied()
    });
    let holding: BTreeSet<&str> = problem.held.iter().map(|held| held.device.as_str()).collect();
    let holders = eligible
        .iter()
        .filter(|d| holding.contains(device(d).name.as_str()))
        .copied();
    // Without a place for the first and the last stage the others are of no use.
    let may_see = |d: &&usize| problem.constraints.may_see_tokens(device(d));
    let of_tokens = if problem.constraints.token_node_selector.is_empty() {
        Vec::new()
    } else {
        let seeing: Vec<usize> = eligible.iter().filter(may_see).copied().collect();
        offers(problem, &seeing)
            .iter()
            .map(|offer| offer.device)
            .take(MAX_CANDIDATES / 4)
            .collect()
    };
    let mut largest = eligible.to_vec();
    largest.sort_by_key(|d| (std::cmp::Reverse(device(d).usable_bytes), *d));
    let best: Vec<usize> = offers(problem, eligible).iter().map(|offer| offer.device).collect();
    let (few, most) = (MAX_CANDIDATES / 4, MAX_CANDIDATES);
    let wanted = pinned
        .chain(holders)
        .chain(of_tokens)
        .chain(largest.into_iter().take(few))
        .chain(best.into_iter().take(most));
    let mut chosen = BTreeSet::new();
    for d in wanted {
        if chosen.len() < MAX_CANDIDATES {
            chosen.insert(d);
        }
    }
    chosen.into_iter().collect()
}

fn latency_bound_ns(problem: &Problem, offers: &[Offer]) -> u64 {
    let layers = problem.model.layers.iter();
    let held = |layer: &crate::Layer| u128::from(layer.weight_bytes) + u128::from(layer.kv_bytes);
    let mut left: u128 = layers.map(held).sum();
    let mut total: u128 = 0;
    for offer in offers {
        let here = left.min(u128::from(offer.room_bytes));
        total += here * offer.price;
        left -= here;
    }
    let dearest_ns = offers.iter().map(|offer| offer.way_ns).max().unwrap_or(0);
    let output_ns = offers.iter().map(|offer| offer.output_ns).min().unwrap_or(0);
    let sum_ns = u64::try_from(total / FRACTION).unwrap_or(u64::MAX);
    sum_ns.saturating_sub(dearest_ns).saturating_add(output_ns)
}

fn slowest_bound_ns(problem: &Problem, eligible: &[usize]) -> u64 {
    let mut rates: Vec<u64> = eligible
        .iter()
        .map(|d| problem.topology.devices[*d].bandwidth.bytes_per_second)
        .collect();
    rates.sort_unstable_by(|a, b| b.cmp(a));
    let stages = problem.constraints.max_devices.map_or(MAX_CANDIDATES, index);
    let together: u128 = rates
        .iter()
        .take(stages.min(MAX_CANDIDATES))
        .map(|rate| u128::from(*rate))
        .sum();
    let model = &problem.model;
    let read = |layer: &crate::Layer| u128::from(layer.active_bytes) + u128::from(layer.kv_read_bytes);
    let read_bytes = model.layers.iter().map(read).sum::<u128>() + u128::from(model.output_bytes);
    u64::try_from(read_bytes * 1_000_000_000 / together.max(1)).unwrap_or(u64::MAX)
}

/// Of all layers, the fewest bytes read per byte held.
fn least_read_per_held_ppm(problem: &Problem) -> u128 {
    let ratio = |layer: &crate::Layer| {
        let held = u128::from(layer.weight_bytes) + u128::from(layer.kv_bytes);
        let read = u128::from(layer.active_bytes) + u128::from(layer.kv_read_bytes);
        (held > 0).then(|| read * PPM / held)
    };
    problem.model.layers.iter().filter_map(ratio).min().unwrap_or(0)
}

/// The cheapest way to each device from any other, latency there and back.
fn ways_in(problem: &Problem, eligible: &[usize]) -> BTreeMap<usize, u64> {
    let topology = &problem.topology;
    let node_of = |d: usize| topology.devices[d].node.as_str();
    let mut on_node: BTreeMap<&str, usize> = BTreeMap::new();
    for d in eligible {
        *on_node.entry(node_of(*d)).or_default() += 1;
    }
    let from_elsewhere = from_other_nodes(topology, &on_node);
    let way_ns = |d: &usize| {
        let node = node_of(*d);
        let elsewhere_us = from_elsewhere.get(node).copied();
        let same_us = (on_node[node] > 1).then(|| topology.link(node, node).latency_us.saturating_mul(2));
        let least_us = elsewhere_us.into_iter().chain(same_us).min().unwrap_or(0);
        (*d, us_to_ns(least_us))
    };
    eligible.iter().map(way_ns).collect()
}

/// Per node: the least latency from and back to any other of these nodes.
fn from_other_nodes<'t>(topology: &'t Topology, nodes: &BTreeMap<&'t str, usize>) -> BTreeMap<&'t str, u64> {
    let assumed_us = prior::UNKNOWN.latency_us;
    let mut least_us: BTreeMap<&str, u64> = BTreeMap::new();
    let mut least_back_us: BTreeMap<&str, u64> = BTreeMap::new();
    let mut known: BTreeMap<&str, usize> = BTreeMap::new();
    for (from, to, link) in topology.links.iter() {
        if from == to || !nodes.contains_key(from) || !nodes.contains_key(to) {
            continue;
        }
        let latency_us = link.link.latency_us;
        let way_us = latency_us.saturating_add(topology.link(to, from).latency_us);
        let entry = least_us.entry(to).or_insert(u64::MAX);
        *entry = (*entry).min(way_us);
        let entry = least_back_us.entry(from).or_insert(assumed_us);
        *entry = (*entry).min(latency_us);
        *known.entry(to).or_default() += 1;
    }
    // Where nothing is known of a link, what is assumed stands for it.
    for node in nodes.keys() {
        let all_known = known.get(node).is_some_and(|known| known + 1 >= nodes.len());
        if !all_known && nodes.len() > 1 {
            let back_us = least_back_us.get(node).copied().unwrap_or(assumed_us);
            let entry = least_us.entry(node).or_insert(u64::MAX);
            *entry = (*entry).min(assumed_us.saturating_add(back_us));
        }
    }
    least_us
}
