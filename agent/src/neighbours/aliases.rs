//! Other names of this node's cards: what plugins call `card0` or `nvidia0`, by the kernel's own files.

use super::identity::{Identity, pci};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

/// More entries than any node has cards.
const ENTRIES_MAX: usize = 1024;
/// NVIDIA's file has some twelve lines.
const FILE_BYTES_MAX: u64 = 16 << 10;

/// Names and what they stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aliases {
    /// `card0`, `renderD128` to a bus address.
    nodes: BTreeMap<String, String>,
    /// NVIDIA's minor number to the card.
    minors: BTreeMap<String, Identity>,
}

impl Aliases {
    /// Reads `/sys/class/drm` and `/proc/driver/nvidia/gpus` below `root`; what is not there has no names.
    pub fn read(root: &Path) -> Self {
        let mut aliases = Self::default();
        for entry in entries(&root.join("sys/class/drm")) {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            // Connectors stand beside the nodes: card0-HDMI-A-1.
            let node = name.strip_prefix("card").or_else(|| name.strip_prefix("renderD"));
            if !node.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())) {
                continue;
            }
            // A platform device, as partitions of a card are, has no address there.
            let target = fs::read_link(entry.path().join("device")).ok();
            if let Some(address) = target
                .as_deref()
                .and_then(Path::file_name)
                .and_then(|name| pci(name.to_str()?))
            {
                aliases.nodes.insert(name, address);
            }
        }
        for entry in entries(&root.join("proc/driver/nvidia/gpus")) {
            if let Some((minor, card)) = text(&entry.path().join("information")).as_deref().and_then(information) {
                aliases.minors.insert(minor, card);
            }
        }
        aliases
    }

    /// The bus address behind a device node.
    pub fn pci_of_node(&self, node: &str) -> Option<&str> {
        self.nodes.get(node).map(String::as_str)
    }

    /// The card with a minor number of NVIDIA's driver.
    pub fn nvidia_minor(&self, minor: &str) -> Option<&Identity> {
        self.minors.get(minor)
    }

    /// The bus address of NVIDIA's card with that UUID.
    pub fn pci_of(&self, uuid: &str) -> Option<&str> {
        let card = self.minors.values().find(|card| card.uuid.as_deref() == Some(uuid))?;
        card.pci.as_deref()
    }
}

fn entries(folder: &Path) -> impl Iterator<Item = fs::DirEntry> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .take(ENTRIES_MAX)
}

fn text(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    fs::File::open(path)
        .ok()?
        .take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Minor number and card out of `/proc/driver/nvidia/gpus/*/information`. A card that nobody has opened yet has no UUID there.
fn information(text: &str) -> Option<(String, Identity)> {
    let field = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
    };
    let minor: u32 = field("Device Minor")?.parse().ok()?;
    let card = Identity::of_attributes(field("GPU UUID"), None, field("Bus Location"));
    Some((minor.to_string(), card))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// As NVIDIA's kernel module 550 writes it; the card is idle and was never opened in the second.
    const OPENED: &str = "Model: \t\t NVIDIA A100-SXM4-40GB\nIRQ:   \t\t 191\nGPU UUID: \t GPU-8f2c1a90-0b1c-4a5e-9d52-0f6f6a3a9b11\nVideo BIOS: \t 92.00.45.00.03\nBus Type: \t PCIe\nDMA Size: \t 47 bits\nDMA Mask: \t 0x7fffffffffff\nBus Location: \t 0000:07:00.0\nDevice Minor: \t 3\n";
    const IDLE: &str =
        "GPU UUID: \t GPU-????????-????-????-????-????????????\nBus Location: \t 0000:0f:00.0\nDevice Minor: \t 1\n";

    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let drm = root.path().join("sys/class/drm");
        for (node, target) in [
            ("card0", "../../../0000:03:00.0"),
            ("renderD128", "../../../0000:03:00.0"),
            ("card0-HDMI-A-1", "../../card0"),
            ("card1", "../../../amdgpu_xcp_0"),
        ] {
            fs::create_dir_all(drm.join(node)).unwrap();
            symlink(target, drm.join(node).join("device")).unwrap();
        }
        for (address, text) in [("0000:07:00.0", OPENED), ("0000:0f:00.0", IDLE), ("junk", "no colon")] {
            let folder = root.path().join("proc/driver/nvidia/gpus").join(address);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("information"), text).unwrap();
        }
        root
    }

    #[test]
    fn device_nodes_and_minor_numbers_lead_to_bus_addresses() {
        let root = tree();
        let aliases = Aliases::read(root.path());
        assert_eq!(aliases.pci_of_node("card0"), Some("0000:03:00.0"));
        assert_eq!(aliases.pci_of_node("renderD128"), Some("0000:03:00.0"));
        assert_eq!(aliases.pci_of_node("card0-HDMI-A-1"), None, "a connector is no card");
        assert_eq!(aliases.pci_of_node("card1"), None, "a partition has no address there");
        let card = aliases.nvidia_minor("3").unwrap();
        assert_eq!(card.pci.as_deref(), Some("0000:07:00.0"));
        assert_eq!(aliases.pci_of(card.uuid.as_deref().unwrap()), Some("0000:07:00.0"));
        let idle = aliases.nvidia_minor("1").unwrap();
        assert_eq!(
            (idle.uuid.as_deref(), idle.pci.as_deref()),
            (None, Some("0000:0f:00.0"))
        );
    }

    #[test]
    fn a_node_without_such_files_has_no_names() {
        assert_eq!(Aliases::read(Path::new("/nonexistent")), Aliases::default());
    }
}
