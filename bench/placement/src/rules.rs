//! The rules by which others place layers, each as a pure function: what they choose, not their code.
//!
//! None of them looks at more than one or two of: room, speed, links. What that loses is measured against the optimum.

use crate::{
    instance::{Assignment, Instance},
    speedup,
};

/// A rule and the name of who uses it.
pub type Rule = (&'static str, fn(&Instance) -> Option<Assignment>);

pub const RULES: &[Rule] = &[
    ("exo: fewest nodes, split by memory", exo),
    ("llama.cpp, gpustack: all, split by memory", by_memory),
    ("Parallax: largest first, water-filling by speed", parallax),
    ("weighted score, filled greedily", weighted_score),
];

/// exo takes the smallest cycle of nodes whose memory suffices, of those the one with the most memory, in its order, and gives
/// each node layers in proportion to its memory.
pub fn exo(instance: &Instance) -> Option<Assignment> {
    let mut chosen = largest_first(instance, fewest(instance)?);
    chosen.sort_unstable();
    split(instance, &chosen, |device| instance.capacity[device] as f64)
}

/// Every device, in order, in proportion to its memory: llama.cpp's default split, and what builds on it.
pub fn by_memory(instance: &Instance) -> Option<Assignment> {
    let all: Vec<usize> = (0..instance.devices()).collect();
    split(instance, &all, |device| instance.capacity[device] as f64)
}

/// Parallax fills the fewest stages with the devices that hold most, largest first, then levels the layers by speed.
pub fn parallax(instance: &Instance) -> Option<Assignment> {
    let chosen = largest_first(instance, fewest(instance)?);
    split(instance, &chosen, |device| 1.0 / instance.layer_us[device] as f64)
}

/// Devices by their weighted score, each filled before the next is taken.
pub fn weighted_score(instance: &Instance) -> Option<Assignment> {
    let problem = speedup::as_cluster(instance);
    let mut order: Vec<(u32, usize)> = placement::scores(&problem)
        .iter()
        .enumerate()
        .map(|(device, score)| (score.total_hundredths, device))
        .collect();
    order.sort_by_key(|(total, device)| (std::cmp::Reverse(*total), *device));
    let mut left = instance.layers;
    let mut assignment = Assignment::new();
    for (_, device) in order {
        let layers = instance.capacity[device].min(left);
        if layers > 0 {
            assignment.push((device, layers));
            left -= layers;
        }
    }
    (left == 0).then_some(assignment)
}

/// How many of the largest devices it takes to hold all layers.
fn fewest(instance: &Instance) -> Option<usize> {
    let mut room = 0;
    let holds = |(index, device): (usize, usize)| {
        room += instance.capacity[device];
        (room >= instance.layers).then_some(index + 1)
    };
    let largest = largest_first(instance, instance.devices());
    largest.into_iter().enumerate().find_map(holds)
}

fn largest_first(instance: &Instance, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..instance.devices()).collect();
    order.sort_by_key(|device| (std::cmp::Reverse(instance.capacity[*device]), *device));
    order.truncate(count);
    order
}

/// Layers in proportion to a weight, as far as there is room: what does not fit is split among the others in the same way, and
/// what rounding leaves goes to the largest remainders. Devices without layers drop out.
pub fn split(instance: &Instance, devices: &[usize], weight: impl Fn(usize) -> f64) -> Option<Assignment> {
    let room: usize = devices.iter().map(|device| instance.capacity[*device]).sum();
    if room < instance.layers {
        return None;
    }
    let share = level(instance, devices, &weight);
    let mut layers: Vec<usize> = share.iter().map(|share| share.floor() as usize).collect();
    let mut by_remainder: Vec<usize> = (0..devices.len()).collect();
    by_remainder.sort_by(|a, b| share[*b].fract().total_cmp(&share[*a].fract()).then(a.cmp(b)));
    let mut left = instance.layers.saturating_sub(layers.iter().sum());
    while left > 0 {
        for index in &by_remainder {
            if left > 0 && layers[*index] < instance.capacity[devices[*index]] {
                layers[*index] += 1;
                left -= 1;
            }
        }
    }
    let pairs = devices.iter().copied().zip(layers);
    Some(pairs.filter(|(_, layers)| *layers > 0).collect())
}

/// Water-filling: shares in proportion to the weights, none above its device's room.
fn level(instance: &Instance, devices: &[usize], weight: &impl Fn(usize) -> f64) -> Vec<f64> {
    let mut share = vec![0.0; devices.len()];
    let mut full = vec![false; devices.len()];
    loop {
        let free = || (0..devices.len()).filter(|index| !full[*index]);
        let given: f64 = (0..devices.len()).filter(|i| full[*i]).map(|i| share[i]).sum();
        let total: f64 = free().map(|index| weight(devices[index])).sum();
        let rest = instance.layers as f64 - given;
        let mut over = Vec::new();
        for index in free() {
            let room = instance.capacity[devices[index]] as f64;
            share[index] = rest * weight(devices[index]) / total;
            if share[index] > room {
                share[index] = room;
                over.push(index);
            }
        }
        if over.is_empty() {
            return share;
        }
        over.into_iter().for_each(|index| full[index] = true);
    }
}

#[cfg(test)]
mod tests {
    use super::{RULES, by_memory, exo, parallax, split};
    use crate::instance::tests::two_cards;

    #[test]
    fn every_rule_gives_a_plan_where_there_is_room() {
        let instance = two_cards();
        for (name, rule) in RULES {
            let assignment = rule(&instance).expect("room");
            assert!(instance.latency_us(&assignment).is_some(), "{name}: {assignment:?}");
        }
    }

    #[test]
    fn no_rule_gives_a_plan_without_room() {
        let mut instance = two_cards();
        instance.layers = 7;
        for (name, rule) in RULES {
            assert_eq!(rule(&instance), None, "{name}");
        }
    }

    #[test]
    fn memory_splits_evenly_and_speed_splits_by_three_to_one() {
        let instance = two_cards();
        assert_eq!(exo(&instance), Some(vec![(0, 2), (1, 2)]));
        assert_eq!(by_memory(&instance), Some(vec![(0, 2), (1, 2)]));
        assert_eq!(parallax(&instance), Some(vec![(0, 3), (1, 1)]));
    }

    #[test]
    fn what_does_not_fit_goes_to_the_others() {
        let mut instance = two_cards();
        instance.capacity = vec![1, 6];
        let assignment = split(&instance, &[0, 1], |device| if device == 0 { 9.0 } else { 1.0 });
        assert_eq!(assignment, Some(vec![(0, 1), (1, 3)]));
    }
}
