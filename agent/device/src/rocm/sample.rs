//! Readings of AMD cards: a dozen small files per card, no library needed.

use super::card::{self, VENDOR};
use super::parse::{self, Errors, Node};
use super::smi::Smi;
use crate::sysfs::{Card, Folder};
use crate::telemetry::{ProcessMemory, Sample, Sampler, believable_celsius};
use crate::{Backend, Selection};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Processes of one machine that use the compute driver.
const PROCESS_LIMIT: usize = 1024;

/// Reads every card below a root. Cards come and go as their directories do.
pub struct RocmSampler {
    root: PathBuf,
    only: Selection,
    library: MemoryErrors,
}

/// ROCm's own library, which is loaded when a card has no count of its memory's errors in its files, and is not asked
/// again about a card for which it has none either: it waits for a lock that all of its users share.
enum MemoryErrors {
    Unasked,
    Nowhere,
    From { library: Smi, refused: HashSet<String> },
}

impl MemoryErrors {
    fn of(&mut self, pci_address: &str) -> Option<Errors> {
        if matches!(self, Self::Unasked) {
            *self = Smi::open().map_or(Self::Nowhere, |library| Self::From {
                library,
                refused: HashSet::new(),
            });
        }
        let Self::From { library, refused } = self else {
            return None;
        };
        if refused.contains(pci_address) {
            return None;
        }
        let errors = library.errors(pci_address);
        if errors.is_none() {
            refused.insert(pci_address.to_owned());
        }
        errors
    }
}

impl RocmSampler {
    /// A reader of the cards below `root`. ROCm's own library is asked for what the files lack, where it is there and
    /// the root is the machine's.
    pub fn new(root: &Path) -> Self {
        let machine = root == Path::new("/");
        Self {
            root: root.to_owned(),
            only: Selection::All,
            library: if machine {
                MemoryErrors::Unasked
            } else {
                MemoryErrors::Nowhere
            },
        }
    }

    /// A reader that asks ROCm's library whatever the root.
    pub fn with_library(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            only: Selection::All,
            library: MemoryErrors::Unasked,
        }
    }

    /// Leaves the other cards alone.
    pub fn only(mut self, only: &Selection) -> Self {
        self.only.clone_from(only);
        self
    }

    fn read(&mut self, card: &Card, node: Option<&Node>) -> Sample {
        let mut sample = Sample {
            device: card::identity(card),
            pci_address: Some(card.pci_address.clone()),
            ..Sample::default()
        };
        let memory = card::memory(card, node.and_then(|node| node.architecture.as_deref()));
        if memory.total_bytes == 0 {
            sample.lost = Some("amdgpu tells nothing of its memory; the kernel's log says why".to_owned());
            return sample;
        }
        sample.memory_total_bytes = Some(memory.total_bytes);
        sample.memory_used_bytes = Some(memory.total_bytes - memory.free_bytes);
        sample.processes = node.map(|node| processes(&self.root, node.gpu_id)).unwrap_or_default();
        if card.asleep() {
            return sample;
        }
        sample.utilisation_ratio = ratio(&card.device, "gpu_busy_percent");
        sample.memory_utilisation_ratio = ratio(&card.device, "mem_busy_percent");
        sample.pcie_replays = card.device.number("pcie_replay_count");
        sample.throttled_by = card
            .device
            .bytes("gpu_metrics")
            .and_then(|table| parse::throttles(&table));
        let errors = card
            .device
            .folder("ras")
            .lines("umc_err_count")
            .and_then(|text| parse::errors(&text))
            .or_else(|| self.library.of(&card.pci_address));
        sample.ecc_corrected = errors.map(|errors| errors.corrected);
        sample.ecc_uncorrected = errors.map(|errors| errors.uncorrected);
        sensors(card, &mut sample);
        sample
    }
}

impl Sampler for RocmSampler {
    fn backend(&self) -> Backend {
        Backend::Rocm
    }

    fn sample(&mut self) -> Result<Vec<Sample>, String> {
        let nodes = card::nodes(&self.root);
        let mut cards = card::driven(&self.root);
        cards.retain(|card| self.only.picks(&card.pci_address));
        Ok(cards
            .iter()
            .map(|card| self.read(card, nodes.iter().find(|node| node.pci_address == card.pci_address)))
            .collect())
    }
}

fn sensors(card: &Card, sample: &mut Sample) {
    let hwmon = card.hwmon();
    let celsius = hwmon.as_ref().map(temperatures).unwrap_or_default();
    match hottest(&celsius.processor) {
        Ok(celsius) => sample.temperature_celsius = celsius,
        Err(fault) => sample.sensor_fault = Some(fault),
    }
    sample.memory_temperature_celsius = celsius.memory.and_then(|celsius| believable_celsius(celsius).ok());
    let watts = |name: &str| {
        hwmon
            .as_ref()?
            .number(name)
            .map(|microwatts| (microwatts as f64 / 1e6) as f32)
    };
    // Cards since RDNA3 say what they draw now, older ones an average.
    sample.power_watts = watts("power1_average").or_else(|| watts("power1_input"));
    sample.power_limit_watts = watts("power1_cap").filter(|watts| *watts > 0.0);
    let hertz = |name: &str| {
        let mhz = u32::try_from(hwmon.as_ref()?.number(name)? / 1_000_000).ok()?;
        (1..100_000).contains(&mhz).then_some(mhz)
    };
    let level = |name: &str| parse::present_clock_mhz(&card.device.lines(name)?);
    sample.clock_mhz = level("pp_dpm_sclk").or_else(|| hertz("freq1_input"));
    sample.memory_clock_mhz = level("pp_dpm_mclk").or_else(|| hertz("freq2_input"));
}

/// What the sensors say, believed or not.
#[derive(Default)]
struct Temperatures {
    /// Edge and junction.
    processor: Vec<f32>,
    memory: Option<f32>,
}

fn temperatures(hwmon: &Folder) -> Temperatures {
    let mut temperatures = Temperatures::default();
    for number in 1..=3 {
        let Some(millidegrees) = hwmon.signed(&format!("temp{number}_input")) else {
            continue;
        };
        let celsius = millidegrees as f32 / 1000.0;
        let label = hwmon.text(&format!("temp{number}_label"));
        match label.as_deref().unwrap_or(if number == 3 { "mem" } else { "edge" }) {
            "mem" => temperatures.memory = Some(celsius),
            _ => temperatures.processor.push(celsius),
        }
    }
    temperatures
}

/// The highest that is believed; nothing where there is no sensor.
fn hottest(celsius: &[f32]) -> Result<Option<f32>, String> {
    let mut hottest: Option<f32> = None;
    let mut fault = None;
    for value in celsius {
        match believable_celsius(*value) {
            Ok(value) => hottest = Some(hottest.map_or(value, |known| known.max(value))),
            Err(reason) => fault = Some(reason),
        }
    }
    match (hottest, fault) {
        (None, Some(fault)) => Err(fault),
        (hottest, _) => Ok(hottest),
    }
}

fn ratio(device: &Folder, name: &str) -> Option<f32> {
    let percent = device.number(name).filter(|percent| *percent <= 100)?;
    Some(percent as f32 / 100.0)
}

/// Who has memory of the card by the compute driver; what Vulkan uses is not counted here.
fn processes(root: &Path, gpu_id: u64) -> Vec<ProcessMemory> {
    if gpu_id == 0 {
        return Vec::new();
    }
    let file = format!("vram_{gpu_id}");
    Folder::new(root.join("sys/class/kfd/kfd/proc"))
        .numbered("")
        .into_iter()
        .take(PROCESS_LIMIT)
        .filter_map(|(pid, folder)| {
            let memory_bytes = folder.number(&file).filter(|bytes| *bytes > 0)?;
            Some(ProcessMemory {
                pid,
                memory_bytes: Some(memory_bytes),
            })
        })
        .collect()
}

/// Readings of one card for the driver, which has no reader of its own.
pub(super) fn of_card(root: &Path, pci_address: &str) -> Option<Sample> {
    let card = crate::sysfs::card_at(root, VENDOR, pci_address)?;
    let mut sample = Sample::default();
    if !card.asleep() {
        sensors(&card, &mut sample);
    }
    Some(sample)
}
