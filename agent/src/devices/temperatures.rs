//! A device's last good temperatures: each stands for one that a reading is without, as where a sensor talks nonsense or cannot be read,
//! until it is too old to be believed. Pure.

use device::health::SENSOR_GRACE_MS;
use device::telemetry::Sample;

/// Of one device.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Temperatures {
    processor: Option<Good>,
    memory: Option<Good>,
}

/// What a sensor said when it was last believed.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Good {
    celsius: f32,
    at_ms: u64,
}

impl Good {
    fn at(self, now_ms: u64) -> Option<f32> {
        (now_ms.saturating_sub(self.at_ms) < SENSOR_GRACE_MS).then_some(self.celsius)
    }
}

impl Temperatures {
    /// Takes over what is good in a reading of this moment.
    pub(super) fn keep(&mut self, sample: &Sample, now_ms: u64) {
        let good = |celsius: f32| Good { celsius, at_ms: now_ms };
        self.processor = sample.temperature_celsius.map(good).or(self.processor);
        self.memory = sample.memory_temperature_celsius.map(good).or(self.memory);
    }

    /// A reading as it is shown at `now_ms`. A device that cannot be read at all has no temperature.
    pub(super) fn filled(&self, sample: &Sample, now_ms: u64) -> Sample {
        let mut sample = sample.clone();
        if sample.lost.is_none() {
            let last = |good: Option<Good>| good.and_then(|good| good.at(now_ms));
            sample.temperature_celsius = sample.temperature_celsius.or_else(|| last(self.processor));
            sample.memory_temperature_celsius = sample.memory_temperature_celsius.or_else(|| last(self.memory));
        }
        sample
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What processor and memory say, where it can be believed.
    fn said(processor: Option<f32>, memory: Option<f32>) -> Sample {
        Sample {
            temperature_celsius: processor,
            memory_temperature_celsius: memory,
            sensor_fault: processor.is_none().then(|| "the sensor says -40 °C".to_owned()),
            ..Sample::default()
        }
    }

    fn shown(temperatures: &Temperatures, sample: &Sample, now_ms: u64) -> (Option<f32>, Option<f32>) {
        let shown = temperatures.filled(sample, now_ms);
        assert_eq!(
            shown.sensor_fault, sample.sensor_fault,
            "the fault is told all the same"
        );
        (shown.temperature_celsius, shown.memory_temperature_celsius)
    }

    #[test]
    fn a_good_temperature_stands_for_a_bad_one_for_ten_seconds_and_no_longer() {
        let mut temperatures = Temperatures::default();
        let bad = said(None, None);
        assert_eq!(shown(&temperatures, &bad, 1_000), (None, None), "there was none before");
        temperatures.keep(&said(Some(71.0), Some(80.0)), 1_000);
        temperatures.keep(&bad, 5_000);
        assert_eq!(shown(&temperatures, &bad, 10_999), (Some(71.0), Some(80.0)));
        assert_eq!(shown(&temperatures, &bad, 11_000), (None, None));
    }

    #[test]
    fn each_sensor_has_a_last_value_of_its_own_and_what_a_reading_says_is_shown() {
        let mut temperatures = Temperatures::default();
        temperatures.keep(&said(Some(71.0), Some(80.0)), 0);
        let half = said(Some(72.0), None);
        temperatures.keep(&half, 9_000);
        assert_eq!(shown(&temperatures, &half, 9_999), (Some(72.0), Some(80.0)));
        assert_eq!(shown(&temperatures, &said(None, None), 10_000), (Some(72.0), None));
        assert_eq!(
            shown(&temperatures, &said(Some(90.0), None), 10_000),
            (Some(90.0), None)
        );
    }

    #[test]
    fn a_device_that_is_lost_has_no_temperature() {
        let mut temperatures = Temperatures::default();
        temperatures.keep(&said(Some(71.0), Some(80.0)), 0);
        let lost = Sample {
            lost: Some("GPU is lost".to_owned()),
            ..Sample::default()
        };
        assert_eq!(shown(&temperatures, &lost, 1), (None, None));
    }
}
