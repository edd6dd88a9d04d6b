//! Readings of Intel's cards: a few small files per card. Load is not among them: the drivers show it to profilers only.

use super::card::{self, Frequency};
use super::parse;
use crate::sysfs::{Card, Folder};
use crate::telemetry::{Sample, Sampler, Throttle, believable_celsius};
use crate::{Backend, GpuDevice, Kind, Selection};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Reads every card below a root. Cards come and go as their directories do.
pub struct IntelSampler {
    root: PathBuf,
    only: Selection,
    /// Energy at the last reading, by bus address: power is its rise.
    energy: HashMap<String, (Instant, u64)>,
}

impl IntelSampler {
    /// A reader of the cards below `root`.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            only: Selection::All,
            energy: HashMap::new(),
        }
    }

    /// Leaves the other cards alone.
    pub fn only(mut self, only: &Selection) -> Self {
        self.only.clone_from(only);
        self
    }

    fn read(&mut self, card: &Card, now: Instant) -> Sample {
        let device = GpuDevice {
            pci_address: Some(card.pci_address.clone()),
            ..GpuDevice::new(Backend::Intel, 0, Kind::Discrete)
        };
        let mut sample = Sample {
            device: device.identity(),
            pci_address: device.pci_address,
            ..Sample::default()
        };
        if card::integrated(card) {
            let memory = crate::cpu::memory(&self.root).ok();
            sample.memory_total_bytes = memory.map(|memory| memory.total_bytes);
            sample.memory_used_bytes = memory.map(|memory| memory.total_bytes.saturating_sub(memory.free_bytes));
        } else if let Some(memory) = card::memory(card) {
            sample.memory_total_bytes = Some(memory.total_bytes);
            sample.memory_used_bytes = memory.free_bytes.map(|free| memory.total_bytes - free);
        }
        if card.asleep() {
            return sample;
        }
        let frequencies = card::frequencies(card);
        sample.clock_mhz = frequencies.iter().find_map(Frequency::present_mhz);
        sample.throttled_by = throttles(&frequencies);
        if let Some(hwmon) = card.hwmon() {
            temperatures(&hwmon, &mut sample);
            sample.power_limit_watts =
                card::power_limit_microwatts(&hwmon).map(|microwatts| (microwatts as f64 / 1e6) as f32);
            self.power(card, &hwmon, now, &mut sample);
        }
        sample
    }

    /// The card's counter, else the package's: the first counts nothing on cards without its sensor.
    fn power(&mut self, card: &Card, hwmon: &Folder, now: Instant, sample: &mut Sample) {
        let counter = ["energy1_input", "energy2_input"]
            .into_iter()
            .find_map(|name| hwmon.number(name).filter(|microjoules| *microjoules > 0));
        let Some(microjoules) = counter else { return };
        sample.energy_joules = Some(microjoules as f64 / 1e6);
        let before = self.energy.insert(card.pci_address.clone(), (now, microjoules));
        sample.power_watts =
            before.and_then(|(then, before)| parse::watts(before, microjoules, now.saturating_duration_since(then)));
    }
}

impl Sampler for IntelSampler {
    fn backend(&self) -> Backend {
        Backend::Intel
    }

    fn sample(&mut self) -> Result<Vec<Sample>, String> {
        let mut cards = card::driven(&self.root);
        cards.retain(|card| self.only.picks(&card.pci_address));
        self.energy
            .retain(|address, _| cards.iter().any(|card| card.pci_address == *address));
        Ok(cards.iter().map(|card| self.read(card, Instant::now())).collect())
    }
}

/// Of all engines together; nothing where no driver's file says whether there is a reason.
fn throttles(frequencies: &[Frequency]) -> Option<Vec<Throttle>> {
    let mut said = false;
    let mut reasons = Vec::new();
    for frequency in frequencies {
        for (name, set) in frequency.throttle.flags(frequency.prefix) {
            said = true;
            if set && name != "status" {
                reasons.push(parse::throttle(&name));
            }
        }
    }
    reasons.sort_unstable();
    reasons.dedup();
    said.then_some(reasons)
}

fn temperatures(hwmon: &Folder, sample: &mut Sample) {
    for number in 1..=3 {
        let Some(millidegrees) = hwmon.signed(&format!("temp{number}_input")) else {
            continue;
        };
        let believed = believable_celsius(millidegrees as f32 / 1000.0);
        match (hwmon.text(&format!("temp{number}_label")).as_deref(), believed) {
            (Some("vram"), believed) => sample.memory_temperature_celsius = believed.ok(),
            (_, Ok(celsius)) => {
                sample.temperature_celsius =
                    Some(sample.temperature_celsius.map_or(celsius, |known| known.max(celsius)));
            }
            (_, Err(fault)) => sample.sensor_fault = Some(fault),
        }
    }
    if sample.temperature_celsius.is_some() {
        sample.sensor_fault = None;
    }
}
