//! How fast a device runs steps of a model, as a worker measured there with made-up layers. What a copy says of memory is what
//! counts where nobody measured that.

use crds::StepRates;
use serde::{Deserialize, Serialize};

use crate::{Device, Origin, Rate, Topology, prior};

/// A step takes `step_ns`, `layer_ns` for each layer, its weights' bytes at the rate of their format, `row_ps` for each row of
/// these, and attention that grows with the context.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Steps {
    pub step_ns: u64,
    pub layer_ns: u64,
    /// A row is as long as the model is wide. Picoseconds.
    #[serde(default)]
    pub row_ps: u64,
    /// At least one.
    pub reading: Vec<Reading>,
    /// Of one row, 4 × width for each position and layer. Without it, the cache is read as fast as weights.
    #[serde(default)]
    pub attention_flops_per_second: Option<u64>,
    /// A step under `Strict` in percent of any other.
    #[serde(default)]
    pub strict_percent: Option<u32>,
    /// Of each layer for the model that this counts for: reading the cache at the rate of weights.
    #[serde(default)]
    pub cache_ns: u64,
    /// And what attention takes beyond that.
    #[serde(default)]
    pub attention_ns: u64,
    /// Arithmetic of steps of many rows; absent where it was not measured.
    #[serde(default)]
    pub flops_per_second: Option<u64>,
}

/// A device that takes longer for nothing was measured wrongly: a second.
const MOST_NS: u64 = 1_000_000_000;

/// What of a model steps depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepShape {
    /// Of a weight, on average.
    pub bits: u32,
    /// Of the residual stream.
    pub width: u32,
    /// Positions that a token attends to in a layer, on average over those that have attention and those that have none.
    pub positions: u32,
    /// Bytes of keys and values that it reads in a layer, on the same average.
    pub cache_bytes: u64,
    /// Numbers must not depend on what else is computed.
    pub strict: bool,
    /// How many devices may work as one on its layers: each of these numbers of them. Empty: none.
    pub group_sizes: Vec<u32>,
}

impl StepShape {
    /// Whether the device can compute its layers. Several add up in another order than one does, so that a strict model takes no
    /// group.
    fn suits(&self, device: &Device) -> bool {
        let is_possible = |size: &u32| usize::try_from(*size) == Ok(device.size());
        !device.is_group() || (!self.strict && self.group_sizes.iter().any(is_possible))
    }
}

/// No strict step is believed to take more than ten times as long.
const STRICT_MOST_PERCENT: u32 = 1000;

/// How fast weights of about so many bits are read and multiplied with one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reading {
    pub bits: u32,
    pub bytes_per_second: u64,
}

impl Steps {
    /// Of which nothing else was measured.
    #[must_use]
    pub const fn plain(step_ns: u64, layer_ns: u64, reading: Vec<Reading>) -> Self {
        Self {
            step_ns,
            layer_ns,
            row_ps: 0,
            reading,
            attention_flops_per_second: None,
            strict_percent: None,
            cache_ns: 0,
            attention_ns: 0,
            flops_per_second: None,
        }
    }

    /// Reads what an agent reported; `None` where it makes no sense.
    pub fn from_state(rates: &StepRates) -> Option<Self> {
        let whole = |value: i64| u64::try_from(value).ok();
        let reading = rates.reading.iter().map(|reading| {
            Some(Reading {
                bits: u32::try_from(reading.bits).ok()?,
                bytes_per_second: whole(reading.bytes_per_second)
                    .filter(|rate| *rate >= prior::LEAST_DEVICE_BYTES_PER_SECOND)?,
            })
        });
        let reading: Vec<Reading> = reading.collect::<Option<_>>()?;
        Some(Self {
            step_ns: whole(rates.step_ns).filter(|ns| *ns <= MOST_NS)?,
            layer_ns: whole(rates.layer_ns).filter(|ns| *ns <= MOST_NS)?,
            row_ps: rates.row_ps.and_then(whole).unwrap_or(0).min(MOST_NS),
            reading,
            attention_flops_per_second: rates
                .attention_flops_per_second
                .and_then(whole)
                .filter(|rate| *rate > 0),
            strict_percent: rates
                .strict_percent
                .and_then(|percent| u32::try_from(percent).ok())
                .map(|percent| percent.clamp(100, STRICT_MOST_PERCENT)),
            cache_ns: 0,
            attention_ns: 0,
            flops_per_second: rates.prefill_flops_per_second.and_then(whole).filter(|rate| *rate > 0),
        })
        .filter(|steps| !steps.reading.is_empty())
    }

    /// The rate of the format whose bits are nearest.
    fn rate(&self, bits: u32) -> Option<u64> {
        let nearest = self
            .reading
            .iter()
            .min_by_key(|reading| (reading.bits.abs_diff(bits), reading.bits));
        nearest.map(|reading| reading.bytes_per_second)
    }

    /// Bytes per second of weights of a model, its rows' beginnings and ends included.
    fn rate_for(&self, shape: &StepShape) -> Option<u64> {
        let rate = u128::from(self.rate(shape.bits)?.max(1));
        let row_bytes = (u128::from(shape.width) * u128::from(shape.bits) / 8).max(1);
        let row_ps = row_bytes * PS_PER_S / rate + u128::from(self.row_ps);
        u64::try_from(row_bytes * PS_PER_S / row_ps.max(1)).ok()
    }

    /// Of one layer, a row's attention; nothing where nobody measured it.
    fn attention_ns(&self, shape: &StepShape) -> u64 {
        let flops = 4 * u128::from(shape.width) * u128::from(shape.positions);
        self.attention_flops_per_second
            .map_or(0, |rate| bounded_ns(flops, rate))
    }
}

const PS_PER_S: u128 = 1_000_000_000_000;

/// What so much takes at so much per second.
fn bounded_ns(amount: u128, per_second: u64) -> u64 {
    let ns = amount.saturating_mul(1_000_000_000) / u128::from(per_second.max(1));
    u64::try_from(ns).unwrap_or(MOST_NS).min(MOST_NS)
}

impl Device {
    /// What each layer takes for one row, beside reading its weights and its cache.
    pub fn layer_ns(&self) -> u64 {
        let steps = self.steps.as_ref();
        steps.map_or(0, |steps| steps.layer_ns.saturating_add(steps.attention_ns))
    }

    /// The same without attention.
    pub fn bare_layer_ns(&self) -> u64 {
        self.steps.as_ref().map_or(0, |steps| steps.layer_ns)
    }

    /// Of each layer's time, what grows with the context; see [`Topology::for_model`]. Zero where nobody measured steps.
    pub fn context_ns(&self) -> u64 {
        let steps = self.steps.as_ref();
        steps.map_or(0, |steps| steps.cache_ns.saturating_add(steps.attention_ns))
    }

    /// Every predicted time of it becomes so many percent of what it would have been: its computing was measured to be that slow.
    pub fn slow_down(&mut self, percent: u64) {
        let percent = u128::from(percent.max(1));
        let part = |rate: u64| u64::try_from(u128::from(rate) * 100 / percent).unwrap_or(rate).max(1);
        let times = |amount: u64| u64::try_from((u128::from(amount) * percent).div_ceil(100)).unwrap_or(u64::MAX);
        self.bandwidth.bytes_per_second = part(self.bandwidth.bytes_per_second);
        self.launch_us = times(self.launch_us);
        if let Some(steps) = &mut self.steps {
            steps.layer_ns = times(steps.layer_ns);
            steps.cache_ns = times(steps.cache_ns);
            steps.attention_ns = times(steps.attention_ns);
        }
    }
}

impl Topology {
    /// The graph as it counts for a model: devices whose steps were measured take what these say, and groups that its layers cannot
    /// be divided among are gone.
    #[must_use]
    pub fn for_model(mut self, shape: &StepShape) -> Self {
        self.devices.retain(|device| shape.suits(device));
        for device in &mut self.devices {
            device.count_for(shape);
        }
        self
    }
}

impl Device {
    fn count_for(&mut self, shape: &StepShape) {
        let throttled = self.thermal_headroom_percent == Some(0);
        let Some(steps) = &mut self.steps else { return };
        let Some(rate) = steps.rate_for(shape) else { return };
        let slower = match steps.strict_percent {
            Some(percent) if shape.strict => u64::from(percent),
            _ => 100,
        };
        let percent = if throttled { prior::THROTTLED_PERCENT } else { 100 };
        let rate = crate::build::hundredths(rate, percent) * 100 / slower.max(1);
        let longer = |ns: u64| ns.saturating_mul(slower) / 100;
        steps.layer_ns = longer(steps.layer_ns);
        steps.cache_ns = bounded_ns(u128::from(shape.cache_bytes), rate);
        steps.attention_ns = steps.attention_ns(shape).saturating_sub(steps.cache_ns);
        self.bandwidth = Rate {
            bytes_per_second: rate.max(1),
            origin: Origin::Measured,
        };
        self.launch_us = longer(steps.step_ns).div_ceil(1000);
        self.flops_per_second = steps.flops_per_second.or(self.flops_per_second);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn steps() -> Steps {
        let reading = |bits, gigabytes: u64| Reading {
            bits,
            bytes_per_second: gigabytes * 1_000_000_000,
        };
        let reading = vec![reading(5, 10), reading(8, 20), reading(16, 30)];
        Steps::plain(50_001, 20_000, reading)
    }

    fn shape(bits: u32) -> StepShape {
        StepShape {
            bits,
            width: 1000,
            positions: 500,
            cache_bytes: 0,
            strict: false,
            group_sizes: Vec::new(),
        }
    }

    /// The device as it counts for a model of this shape.
    fn counted(change: impl FnOnce(&mut Steps), shape: &StepShape) -> Device {
        let mut topology = topology();
        change(topology.devices[0].steps.as_mut().expect("steps"));
        topology.for_model(shape).devices.remove(0)
    }

    fn topology() -> Topology {
        let device = Device {
            name: "d".into(),
            node: "n".into(),
            node_labels: Default::default(),
            vendor: String::new(),
            model: String::new(),
            backend: "cpu".into(),
            kind: crate::Kind::Cpu,
            pool: 0,
            usable_bytes: 1,
            fixed_bytes: 0,
            bandwidth: Rate {
                bytes_per_second: 77,
                origin: Origin::Assumed,
            },
            launch_us: 5,
            steps: Some(steps()),
            flops_per_second: Some(9),
            thermal_headroom_percent: None,
            taints: Vec::new(),
            members: Vec::new(),
        };
        Topology {
            devices: vec![device],
            ..Topology::default()
        }
    }

    #[test]
    fn the_nearest_format_counts_and_arithmetic_stays_where_steps_do_not_tell_of_it() {
        for (bits, gigabytes) in [(4, 10), (6, 10), (7, 20), (9, 20), (14, 30), (32, 30)] {
            let device = topology().for_model(&shape(bits)).devices.remove(0);
            // A row's time is rounded to picoseconds.
            let found = device.bandwidth.bytes_per_second;
            assert!(
                found.abs_diff(gigabytes * 1_000_000_000) < 1_000_000,
                "{bits} bits: {found}"
            );
            assert_eq!((device.launch_us, device.layer_ns()), (51, 20_000));
            assert_eq!(device.bandwidth.origin, Origin::Measured);
            assert_eq!(device.flops_per_second, Some(9));
        }
    }

    #[test]
    fn a_device_without_measured_steps_is_as_it_was() {
        let mut plain = topology();
        plain.devices[0].steps = None;
        assert_eq!(plain.clone().for_model(&shape(4)), plain);
    }

    #[test]
    fn all_parts_of_a_prediction_are_corrected() {
        let mut device = topology().for_model(&shape(4)).devices.remove(0);
        device.slow_down(130);
        assert_eq!(device.bandwidth.bytes_per_second, 7_692_307_692);
        assert_eq!((device.launch_us, device.layer_ns()), (67, 26_000));
        let mut faster = topology().for_model(&shape(4)).devices.remove(0);
        faster.slow_down(50);
        assert_eq!(faster.bandwidth.bytes_per_second, 20_000_000_000);
    }

    #[test]
    fn short_rows_cost_more_than_long_ones() {
        // 1,000 weights of 8 bits take 50 ns at 20 GB/s, and 50 ns more.
        let device = counted(|steps| steps.row_ps = 50_000, &shape(8));
        assert_eq!(device.bandwidth.bytes_per_second, 10_000_000_000);
        let wide = StepShape {
            width: 4000,
            ..shape(8)
        };
        let device = counted(|steps| steps.row_ps = 50_000, &wide);
        assert_eq!(device.bandwidth.bytes_per_second, 16_000_000_000);
    }

    #[test]
    fn attention_takes_what_was_measured_and_without_that_what_its_cache_does() {
        // 4 × 1,000 × 500 operations.
        let device = counted(
            |steps| steps.attention_flops_per_second = Some(20_000_000_000),
            &shape(8),
        );
        assert_eq!((device.layer_ns(), device.context_ns()), (120_000, 100_000));
        let cached = StepShape {
            cache_bytes: 400_000,
            ..shape(8)
        };
        // The cache's own 20 us are counted with the weights.
        let device = counted(|steps| steps.attention_flops_per_second = Some(20_000_000_000), &cached);
        assert_eq!((device.layer_ns(), device.context_ns()), (100_000, 100_000));
        assert_eq!(device.bare_layer_ns(), 20_000);
        let device = counted(|_| {}, &cached);
        assert_eq!((device.layer_ns(), device.context_ns()), (20_000, 20_000));
    }

    #[test]
    fn a_strict_model_is_slower_by_what_was_measured() {
        let strict = StepShape {
            strict: true,
            ..shape(8)
        };
        let device = counted(|steps| steps.strict_percent = Some(200), &strict);
        assert_eq!(device.bandwidth.bytes_per_second, 10_000_000_000);
        assert_eq!((device.launch_us, device.layer_ns()), (101, 40_000));
        let device = counted(|steps| steps.strict_percent = Some(200), &shape(8));
        assert_eq!(device.bandwidth.bytes_per_second, 20_000_000_000);
        let device = counted(|_| {}, &strict);
        assert_eq!(device.bandwidth.bytes_per_second, 20_000_000_000);
    }

    #[test]
    fn what_makes_no_sense_is_no_measurement() {
        let sound: StepRates = serde_json::from_value(json!({
            "stepNs": 1, "layerNs": 2, "reading": [{ "bits": 5, "bytesPerSecond": 1_000_000_000 }],
            "prefillFlopsPerSecond": 7, "measuredAt": "2026-01-01T00:00:00Z", "samples": 3,
        }))
        .expect("rates");
        let read = Steps::from_state(&sound).expect("sound");
        assert_eq!((read.step_ns, read.layer_ns, read.flops_per_second), (1, 2, Some(7)));
        let none = StepRates {
            reading: Vec::new(),
            ..sound.clone()
        };
        let mut slow = sound.clone();
        slow.reading[0].bytes_per_second = 5;
        let negative = StepRates { layer_ns: -1, ..sound };
        for unsound in [none, slow, negative] {
            assert_eq!(Steps::from_state(&unsound), None);
        }
    }
}
