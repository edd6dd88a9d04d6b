//! The processors' readings, one sample for all of them.

use super::sensors::Sensors;
use super::{memory, read};
use crate::telemetry::{Sample, Sampler, Throttle};
use crate::{Backend, GpuDevice, Kind};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Reads the machine below a root.
pub(super) struct Processors {
    root: PathBuf,
    sensors: Sensors,
    times: Option<Times>,
    slowed_by_heat: Option<u64>,
}

impl Processors {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            sensors: Sensors::new(root),
            times: None,
            slowed_by_heat: None,
        }
    }

    pub(super) fn sample_at(&mut self, now: Instant) -> Sample {
        let mut sample = Sample {
            device: GpuDevice::new(Backend::Cpu, 0, Kind::Cpu).identity(),
            clock_mhz: self.sensors.clock_mhz(),
            power_limit_watts: self.sensors.power_limit_watts().map(|watts| watts as f32),
            ..Sample::default()
        };
        match memory(&self.root) {
            Ok(memory) => {
                sample.memory_total_bytes = Some(memory.total_bytes);
                sample.memory_used_bytes = Some(memory.total_bytes.saturating_sub(memory.free_bytes));
            }
            Err(reason) => sample.lost = Some(reason),
        }
        match self.sensors.celsius() {
            Some(Ok(celsius)) => sample.temperature_celsius = Some(celsius),
            Some(Err(fault)) => sample.sensor_fault = Some(fault),
            None => {}
        }
        let power = self.sensors.power(now);
        sample.power_watts = power.watts;
        sample.energy_joules = power.joules;
        let times = read(&self.root, "proc/stat").as_deref().and_then(Times::read);
        sample.utilisation_ratio = self
            .times
            .zip(times)
            .and_then(|(before, now)| Times::utilisation(before, now));
        self.times = times;
        let slowed = self.sensors.slowed_by_heat();
        sample.throttled_by = slowed.map(|now| {
            let more = self.slowed_by_heat.is_some_and(|before| now > before);
            if more { vec![Throttle::Thermal] } else { Vec::new() }
        });
        self.slowed_by_heat = slowed;
        sample
    }
}

impl Sampler for Processors {
    fn backend(&self) -> Backend {
        Backend::Cpu
    }

    fn sample(&mut self) -> Result<Vec<Sample>, String> {
        Ok(vec![self.sample_at(Instant::now())])
    }
}

/// Ticks of all processors since the machine was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    busy: u64,
    all: u64,
}

impl Times {
    /// The first line of /proc/stat: user nice system idle iowait irq softirq steal; guests are counted as users.
    pub(super) fn read(text: &str) -> Option<Self> {
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> = line
            .split_whitespace()
            .take(8)
            .map(|number| number.parse().ok())
            .collect::<Option<_>>()?;
        let idle = ticks.get(3)?.saturating_add(*ticks.get(4)?);
        let all = ticks.iter().fold(0_u64, |sum, tick| sum.saturating_add(*tick));
        Some(Self {
            busy: all.saturating_sub(idle),
            all,
        })
    }

    /// Share of the time between that was not idle; nothing where no time went by.
    pub(super) fn utilisation(before: Self, now: Self) -> Option<f32> {
        let all = now.all.checked_sub(before.all).filter(|all| *all > 0)?;
        let busy = now.busy.saturating_sub(before.busy);
        Some((busy as f32 / all as f32).min(1.0))
    }
}
