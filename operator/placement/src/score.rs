//! How good each device is for a model, as five parts and their weighted sum.
//!
//! | part | weight | 100 means |
//! |---|---|---|
//! | compute | 40 | the most matrix products a second of all devices, as measured |
//! | memory fit | 30 | the whole model fits beside what a worker takes |
//! | network position | 15 | the least mean time for one token's way to the devices of other nodes and back |
//! | thermal headroom | 10 | cool |
//! | bandwidth | 5 | the fastest memory of all devices |
//!
//! Compute and bandwidth are in proportion to the best of all devices, network position in inverse proportion to the least mean
//! time, memory fit is the share of the model that fits. The total is their weighted mean.
//!
//! A part that nobody measured is [`None`] and stays so for whoever looks. In the total it counts as the lowest known one of any
//! device does: unknown is not zero, and not better than known. A part that is unknown of all devices is left out of all totals.
//!
//! The score explains and orders. It is not the objective: latency and throughput are, and a plan by score alone costs more.

use topology::{Device, Origin};

use crate::{
    Problem,
    cost::{transfer_ns, us_to_ns},
};

/// Of compute, memory fit, network position, thermal headroom and bandwidth.
pub const WEIGHTS: [u32; 5] = [40, 30, 15, 10, 5];

/// One device's score.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Score {
    pub device: String,
    /// From 0 to 100 each; absent where nothing was measured.
    pub compute: Option<u8>,
    pub memory_fit: Option<u8>,
    pub network_position: Option<u8>,
    pub thermal_headroom: Option<u8>,
    pub bandwidth: Option<u8>,
    /// The weighted mean, in hundredths: from 0 to 10 000.
    pub total_hundredths: u32,
}

impl Score {
    /// The parts in the order of [`WEIGHTS`].
    pub fn parts(&self) -> [Option<u8>; 5] {
        [
            self.compute,
            self.memory_fit,
            self.network_position,
            self.thermal_headroom,
            self.bandwidth,
        ]
    }
}

/// Scores every single device of the topology, in its order. Constraints do not count: a score says what a device is, not whether it may
/// be used.
pub fn scores(problem: &Problem) -> Vec<Score> {
    let devices: Vec<&Device> = problem.topology.single_devices().collect();
    let compute = in_proportion(devices.iter().map(|device| device.flops_per_second));
    let bandwidth = in_proportion(devices.iter().map(|device| {
        let rate = device.bandwidth;
        (rate.origin != Origin::Assumed).then_some(rate.bytes_per_second)
    }));
    let network = network_positions(problem, &devices);
    let mut scores: Vec<Score> = devices
        .iter()
        .enumerate()
        .map(|(index, device)| Score {
            device: device.name.clone(),
            compute: compute[index],
            memory_fit: Some(memory_fit(problem, device)),
            network_position: network[index],
            thermal_headroom: device.thermal_headroom_percent.map(|percent| percent.min(100)),
            bandwidth: bandwidth[index],
            total_hundredths: 0,
        })
        .collect();
    let totals = totals(&scores);
    for (score, total) in scores.iter_mut().zip(totals) {
        score.total_hundredths = total;
    }
    scores
}

fn totals(scores: &[Score]) -> Vec<u32> {
    let lowest_known: [Option<u8>; 5] =
        std::array::from_fn(|part| scores.iter().filter_map(|score| score.parts()[part]).min());
    let total = |score: &Score| {
        let (mut sum, mut weights) = (0, 0);
        for ((part, lowest), weight) in score.parts().into_iter().zip(lowest_known).zip(WEIGHTS) {
            if let Some(value) = part.or(lowest) {
                sum += weight * u32::from(value) * 100;
                weights += weight;
            }
        }
        sum / weights.max(1)
    };
    scores.iter().map(total).collect()
}

/// Each value as a percentage of the largest.
fn in_proportion(values: impl Iterator<Item = Option<u64>>) -> Vec<Option<u8>> {
    let values: Vec<Option<u64>> = values.collect();
    let largest = values.iter().flatten().copied().max().unwrap_or(0);
    values.iter().map(|value| Some(percent((*value)?, largest))).collect()
}

/// Never above 100; of nothing, nothing.
fn percent(part: u64, whole: u64) -> u8 {
    let percent = (u128::from(part) * 100).checked_div(u128::from(whole)).unwrap_or(0);
    u8::try_from(percent.min(100)).unwrap_or(100)
}

fn memory_fit(problem: &Problem, device: &Device) -> u8 {
    let (model, topology) = (&problem.model, &problem.topology);
    let pool_bytes = topology.pools.get(device.pool).map_or(0, |pool| pool.usable_bytes);
    let free_bytes = device
        .usable_bytes
        .min(pool_bytes)
        .saturating_sub(device.fixed_bytes.saturating_add(model.compute_buffer_bytes));
    let layer_bytes = model.layers.iter().fold(0_u64, |sum, layer| {
        sum.saturating_add(layer.weight_bytes).saturating_add(layer.kv_bytes)
    });
    let ends_bytes = model.output_bytes.saturating_add(model.output_buffer_bytes);
    percent(free_bytes, layer_bytes.saturating_add(ends_bytes).max(1))
}

/// By the mean time of one token's way to the devices of other nodes and back. Unknown where none of a device's links was measured;
/// where there is no other node, nothing has to cross.
fn network_positions(problem: &Problem, devices: &[&Device]) -> Vec<Option<u8>> {
    let topology = &problem.topology;
    let mean_ns = |from: &&Device| {
        let node = &from.node;
        let (mut sum_ns, mut count, mut measured) = (0_u128, 0_u128, false);
        for other in devices.iter().filter(|other| other.node != *node) {
            let (there, back) = (topology.link(node, &other.node), topology.link(&other.node, node));
            let carry_ns = transfer_ns(problem.model.activation_bytes, there.rate.bytes_per_second);
            let way_ns = us_to_ns(there.latency_us) + us_to_ns(back.latency_us) + carry_ns;
            sum_ns += u128::from(way_ns);
            count += 1;
            measured |= there.rate.origin == Origin::Measured;
        }
        match count {
            0 => Some(0),
            _ => measured.then(|| u64::try_from(sum_ns / count).unwrap_or(u64::MAX)),
        }
    };
    let means_ns: Vec<Option<u64>> = devices.iter().map(mean_ns).collect();
    let least_ns = means_ns.iter().flatten().copied().min().unwrap_or(0);
    // One more on both sides: a way without any time is as good as can be, not undefined.
    let position = |mean_ns: u64| percent(least_ns.saturating_add(1), mean_ns.saturating_add(1));
    means_ns.iter().map(|mean_ns| mean_ns.map(position)).collect()
}

#[cfg(test)]
mod tests;
