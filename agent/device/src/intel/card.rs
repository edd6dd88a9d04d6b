//! An Intel card as i915's or xe's files show it.

use super::cards::{self, Model};
use super::parse;
use crate::sysfs::{Card, Folder};
use crate::{Backend, GpuDevice, Kind, Pool};
use std::path::Path;

/// PCI's number of Intel.
pub(super) const VENDOR: u32 = 0x8086;
/// Where a processor has its own GPU, on every machine since there are such.
const INTEGRATED_ADDRESS: &str = "0000:00:02.0";

/// The cards that a graphics driver of the kernel has taken.
pub(super) fn driven(root: &Path) -> Vec<Card> {
    let mut found = crate::sysfs::cards(root, VENDOR);
    found.retain(|card| matches!(card.driver.as_deref(), None | Some("i915" | "xe")));
    found
}

pub(super) fn integrated(card: &Card) -> bool {
    match cards::known(card.device_id) {
        Some(model) => model.memory_gib.is_empty(),
        None => card.pci_address == INTEGRATED_ADDRESS,
    }
}

/// A discrete card's memory: total, and free where the driver counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) total_bytes: u64,
    pub(super) free_bytes: Option<u64>,
}

/// From the driver's files, which only some versions have, else by the model.
pub(super) fn memory(card: &Card) -> Option<Memory> {
    let read = |folder: &Folder, name: &str| folder.number(name).filter(|bytes| *bytes > 0);
    if let Some(total_bytes) = read(&card.folder, "lmem_total_bytes") {
        let free_bytes = card.folder.number("lmem_avail_bytes");
        return Some(Memory {
            total_bytes,
            free_bytes: free_bytes.map(|free| free.min(total_bytes)),
        });
    }
    let tiles: u64 = card
        .device
        .numbered("tile")
        .iter()
        .filter_map(|(_, tile)| read(tile, "physical_vram_size_bytes"))
        .fold(0, u64::saturating_add);
    // A virtual function has a part of its card's memory, which only its driver knows.
    let by_model = || {
        if card.device.folder("physfn").exists() {
            return None;
        }
        let window = card
            .device
            .lines("resource")
            .and_then(|text| parse::window_bytes(&text));
        cards::known(card.device_id)?.memory_bytes(window)
    };
    let total_bytes = Some(tiles).filter(|bytes| *bytes > 0).or_else(by_model)?;
    Some(Memory {
        total_bytes,
        free_bytes: None,
    })
}

/// The frequency folders of the card's engines, the main one first.
pub(super) fn frequencies(card: &Card) -> Vec<Frequency> {
    let mut found = Vec::new();
    for (_, tile) in card.device.numbered("tile") {
        for (_, engine) in tile.numbered("gt") {
            let folder = engine.folder("freq0");
            found.push(Frequency {
                throttle: folder.folder("throttle"),
                folder,
                present: ["act_freq", "cur_freq"],
                highest: ["rp0_freq", "max_freq"],
                prefix: "reason_",
            });
        }
    }
    for (_, engine) in card.folder.folder("gt").numbered("gt") {
        found.push(Frequency {
            throttle: engine.clone(),
            folder: engine,
            present: ["rps_act_freq_mhz", "rps_cur_freq_mhz"],
            highest: ["rps_RP0_freq_mhz", "rps_max_freq_mhz"],
            prefix: "throttle_reason_",
        });
    }
    if found.is_empty() {
        // Kernels before 5.18 have the files beside the card's.
        found.push(Frequency {
            throttle: card.folder.clone(),
            folder: card.folder.clone(),
            present: ["gt_act_freq_mhz", "gt_cur_freq_mhz"],
            highest: ["gt_RP0_freq_mhz", "gt_max_freq_mhz"],
            prefix: "throttle_reason_",
        });
    }
    found
}

/// Where and under which names a driver shows frequencies.
pub(super) struct Frequency {
    folder: Folder,
    /// Files of reasons for a lower frequency.
    pub(super) throttle: Folder,
    present: [&'static str; 2],
    highest: [&'static str; 2],
    /// Of the names of those files.
    pub(super) prefix: &'static str,
}

impl Frequency {
    /// What the engine runs at, else what was asked of it. An engine that sleeps has no frequency.
    pub(super) fn present_mhz(&self) -> Option<u32> {
        self.first(self.present)
    }

    pub(super) fn highest_mhz(&self) -> Option<u32> {
        self.first(self.highest)
    }

    fn first(&self, names: [&str; 2]) -> Option<u32> {
        names.into_iter().find_map(|name| {
            let mhz = u32::try_from(self.folder.number(name)?).ok()?;
            (1..100_000).contains(&mhz).then_some(mhz)
        })
    }
}

/// The card as a device. Integrated ones have what main memory has: `host` is total and free.
pub(super) fn device(root: &Path, card: &Card, host: Option<(u64, u64)>, index: u32) -> GpuDevice {
    let model = cards::known(card.device_id);
    let shares = integrated(card);
    let (kind, pool) = if shares {
        (Kind::Integrated, Pool::Host)
    } else {
        (Kind::Discrete, Pool::Own)
    };
    let (total, free) = if shares {
        host.unwrap_or_default()
    } else {
        let memory = memory(card).unwrap_or_default();
        (memory.total_bytes, memory.free_bytes.unwrap_or(memory.total_bytes))
    };
    GpuDevice {
        vendor: "intel".to_owned(),
        model: model.map_or_else(
            || format!("Intel GPU 8086:{:04x}", card.device_id),
            |model| model.name.to_owned(),
        ),
        architecture: model.map(|model| model.architecture.to_owned()),
        driver: driver(root, card),
        pci_address: Some(card.pci_address.clone()),
        clock_mhz: frequencies(card).iter().find_map(Frequency::highest_mhz),
        power_limit_watts: card
            .hwmon()
            .and_then(|hwmon| power_limit_microwatts(&hwmon))
            .and_then(|microwatts| u32::try_from(microwatts / 1_000_000).ok())
            .filter(|watts| *watts > 0),
        pool,
        memory_total_bytes: total,
        memory_free_bytes: free,
        memory_usable_bytes: free,
        prior: model.and_then(Model::prior),
        ..GpuDevice::new(Backend::Intel, index, kind)
    }
}

/// The limit of the card, else of the package; 0 is a limit that was switched off.
pub(super) fn power_limit_microwatts(hwmon: &Folder) -> Option<u64> {
    ["power1_max", "power2_max"]
        .into_iter()
        .find_map(|name| hwmon.number(name).filter(|microwatts| *microwatts > 0))
}

fn driver(root: &Path, card: &Card) -> Option<String> {
    let kernel = Folder::new(root.join("proc/sys/kernel")).text("osrelease");
    match (&card.driver, kernel) {
        (Some(driver), Some(kernel)) => Some(format!("{driver} of Linux {kernel}")),
        (driver, _) => driver.clone(),
    }
}
