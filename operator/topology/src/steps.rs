//! How fast a device runs steps of a model, as a worker measured there with made-up layers. What a copy says of memory is what
//! counts where nobody measured that.

use crds::StepRates;
use serde::{Deserialize, Serialize};

use crate::{Device, Origin, Rate, Topology, prior};

/// A step takes `step_ns`, `layer_ns` for each layer, and its weights' bytes at the rate of their format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Steps {
    pub step_ns: u64,
    pub layer_ns: u64,
    /// At least one.
    pub reading: Vec<Reading>,
    /// Arithmetic of steps of many rows; absent where it was not measured.
    #[serde(default)]
    pub flops_per_second: Option<u64>,
}

/// A device that takes longer for nothing was measured wrongly: a second.
const MOST_NS: u64 = 1_000_000_000;

/// How fast weights of about so many bits are read and multiplied with one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reading {
    pub bits: u32,
    pub bytes_per_second: u64,
}

impl Steps {
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
            reading,
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
}

impl Device {
    /// What each layer takes beside reading its weights.
    pub fn layer_ns(&self) -> u64 {
        self.steps.as_ref().map_or(0, |steps| steps.layer_ns)
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
        }
    }
}

impl Topology {
    /// The graph as it counts for a model whose weights have about so many bits: devices whose steps were measured are as fast as
    /// these were.
    #[must_use]
    pub fn for_weights_of(mut self, bits: u32) -> Self {
        for device in &mut self.devices {
            let Some(steps) = &device.steps else { continue };
            let Some(bytes_per_second) = steps.rate(bits) else {
                continue;
            };
            let throttled = device.thermal_headroom_percent == Some(0);
            let percent = if throttled { prior::THROTTLED_PERCENT } else { 100 };
            device.bandwidth = Rate {
                bytes_per_second: crate::build::hundredths(bytes_per_second, percent),
                origin: Origin::Measured,
            };
            device.launch_us = steps.step_ns.div_ceil(1000);
            device.flops_per_second = steps.flops_per_second.or(device.flops_per_second);
        }
        self
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
        Steps {
            step_ns: 50_001,
            layer_ns: 20_000,
            reading: vec![reading(5, 10), reading(8, 20), reading(16, 30)],
            flops_per_second: None,
        }
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
        };
        Topology {
            devices: vec![device],
            ..Topology::default()
        }
    }

    #[test]
    fn the_nearest_format_counts_and_arithmetic_stays_where_steps_do_not_tell_of_it() {
        for (bits, gigabytes) in [(4, 10), (6, 10), (7, 20), (9, 20), (14, 30), (32, 30)] {
            let device = topology().for_weights_of(bits).devices.remove(0);
            assert_eq!(
                device.bandwidth.bytes_per_second,
                gigabytes * 1_000_000_000,
                "{bits} bits"
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
        assert_eq!(plain.clone().for_weights_of(4), plain);
    }

    #[test]
    fn all_parts_of_a_prediction_are_corrected() {
        let mut device = topology().for_weights_of(4).devices.remove(0);
        device.slow_down(130);
        assert_eq!(device.bandwidth.bytes_per_second, 7_692_307_692);
        assert_eq!((device.launch_us, device.layer_ns()), (67, 26_000));
        let mut faster = topology().for_weights_of(4).devices.remove(0);
        faster.slow_down(50);
        assert_eq!(faster.bandwidth.bytes_per_second, 20_000_000_000);
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
