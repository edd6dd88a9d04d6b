//! Which graphics cards and accelerators the kernel sees on the PCI bus: the first to know that one came or went, for
//! every backend, at the price of a directory's listing.

use device::Backend;
use std::collections::BTreeSet;
use std::path::Path;

/// Classes of PCI devices that compute: display controllers, and processing accelerators.
const CLASSES: [&str; 2] = ["0x03", "0x12"];
/// More functions than any machine has on its buses.
const FUNCTIONS_MAX: usize = 4096;

/// A card on the bus.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Card {
    /// `domain:bus:device.function`.
    pub address: String,
    /// As the kernel writes it: `0x10de`.
    pub vendor: String,
}

impl Card {
    /// Whether the backend should find it, if its driver is there.
    pub fn is_for(&self, backend: Backend) -> bool {
        match backend {
            Backend::Cuda => self.vendor == "0x10de",
            Backend::Rocm => self.vendor == "0x1002",
            Backend::Intel => self.vendor == "0x8086",
            Backend::Vulkan => ["0x10de", "0x1002", "0x8086"].contains(&self.vendor.as_str()),
            Backend::Cpu => false,
        }
    }
}

/// The cards below `root` ("/" but in tests); empty where there is no PCI bus.
pub fn cards(root: &Path) -> BTreeSet<Card> {
    let Ok(entries) = std::fs::read_dir(root.join("sys/bus/pci/devices")) else {
        return BTreeSet::new();
    };
    let card = |entry: std::fs::DirEntry| {
        let read = |name: &str| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        let class = read("class");
        CLASSES.iter().any(|prefix| class.starts_with(prefix)).then(|| Card {
            address: entry.file_name().to_string_lossy().into_owned(),
            vendor: read("vendor").trim().to_owned(),
        })
    };
    entries.take(FUNCTIONS_MAX).flatten().filter_map(card).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plug(root: &Path, address: &str, class: &str, vendor: &str) {
        let folder = root.join("sys/bus/pci/devices").join(address);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("class"), class).unwrap();
        std::fs::write(folder.join("vendor"), vendor).unwrap();
    }

    #[test]
    fn cards_and_accelerators_count_and_network_controllers_do_not() {
        let root = tempfile::tempdir().unwrap();
        plug(root.path(), "0000:01:00.0", "0x030200\n", "0x10de\n");
        plug(root.path(), "0000:02:00.0", "0x120000\n", "0x1002\n");
        plug(root.path(), "0000:03:00.0", "0x020000\n", "0x8086\n");
        let seen = cards(root.path());
        let for_backend = |backend| seen.iter().filter(|card| card.is_for(backend)).count();
        assert_eq!(seen.len(), 2);
        assert_eq!(Backend::ALL.map(for_backend), [0, 2, 1, 1, 0]);
    }

    #[test]
    fn a_machine_without_a_bus_has_no_cards_on_it() {
        assert!(cards(Path::new("/nonexistent")).is_empty());
    }
}
