//! The kernel's own view of graphics cards: small text files below `/sys/class/drm`, the same for every vendor.
//!
//! ```text
//!  <root>/sys/class/drm/card1/                    frequencies of an i915
//!                       card1/device/             PCI ids, memory, load; uevent names address and driver
//!                       card1/device/hwmon/hwmon4 temperature, power, energy
//! ```
//!
//! Everything is read below a root, so that a recorded tree can stand in for a machine. A file that is absent, unreadable
//! or not a number is absent: drivers leave files out, and refuse them to containers, without any pattern.

mod text;

pub(crate) use text::{bus_address, printable};

use std::path::{Path, PathBuf};

/// Files of the kernel are at most a page, but for the directory of a card's registers, which nobody reads here.
const FILE_LIMIT_BYTES: u64 = 16 << 10;
/// More cards than any machine has, partitions and virtual functions counted.
const CARD_LIMIT: usize = 256;
/// Entries looked at in one directory.
const ENTRY_LIMIT: usize = 4096;
const NAME_LIMIT: usize = 128;

/// A directory of such files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn exists(&self) -> bool {
        self.0.is_dir()
    }

    pub(crate) fn folder(&self, name: &str) -> Folder {
        Folder(self.0.join(name))
    }

    /// The file's bytes, as many as belong into such a file.
    pub(crate) fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        use std::io::Read;
        let mut bytes = Vec::new();
        std::fs::File::open(self.0.join(name))
            .ok()?
            .take(FILE_LIMIT_BYTES)
            .read_to_end(&mut bytes)
            .ok()?;
        Some(bytes)
    }

    /// The file's lines, as they are.
    pub(crate) fn lines(&self, name: &str) -> Option<String> {
        Some(String::from_utf8_lossy(&self.bytes(name)?).into_owned())
    }

    /// The file's one line, fit to be shown; nothing where it is empty.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        printable(&self.lines(name)?, NAME_LIMIT)
    }

    /// The file's number, decimal or with 0x.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        text::number(&self.lines(name)?)
    }

    /// The file's number, which may be below zero.
    pub(crate) fn signed(&self, name: &str) -> Option<i64> {
        self.lines(name)?.trim().parse().ok()
    }

    /// Files that begin with `prefix` and hold 0 or 1: the rest of the name, and whether it is 1.
    pub(crate) fn flags(&self, prefix: &str) -> Vec<(String, bool)> {
        let Ok(entries) = std::fs::read_dir(&self.0) else {
            return Vec::new();
        };
        entries
            .flatten()
            .take(ENTRY_LIMIT)
            .filter_map(|entry| {
                let name = entry.file_name();
                let name = name.to_str()?;
                let value = self.number(name.starts_with(prefix).then_some(name)?)?;
                Some((name.strip_prefix(prefix)?.to_owned(), value == 1))
            })
            .collect()
    }

    /// Names of the entries that begin with `prefix` and go on with digits only, in the order of their numbers.
    pub(crate) fn numbered(&self, prefix: &str) -> Vec<(u32, Folder)> {
        let Ok(entries) = std::fs::read_dir(&self.0) else {
            return Vec::new();
        };
        let mut found: Vec<(u32, Folder)> = entries
            .flatten()
            .take(ENTRY_LIMIT)
            .filter_map(|entry| {
                let name = entry.file_name();
                let digits = name.to_str()?.strip_prefix(prefix)?;
                let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
                Some((plain.then(|| digits.parse().ok())??, Folder(entry.path())))
            })
            .collect();
        found.sort_by_key(|(number, _)| *number);
        found
    }
}

/// A card that a driver of the kernel has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Card {
    /// `/sys/class/drm/card<n>`.
    pub(crate) folder: Folder,
    /// Of the card as a PCI device.
    pub(crate) device: Folder,
    /// `domain:bus:device.function` in lower case.
    pub(crate) pci_address: String,
    /// Of the kind of card.
    pub(crate) device_id: u32,
    /// Some makers tell their models apart by it alone.
    pub(crate) revision: u32,
    /// `amdgpu`, `xe`, `i915`.
    pub(crate) driver: Option<String>,
}

impl Card {
    /// Its sensors.
    pub(crate) fn hwmon(&self) -> Option<Folder> {
        self.device
            .folder("hwmon")
            .numbered("hwmon")
            .into_iter()
            .next()
            .map(|(_, folder)| folder)
    }

    /// Whether the kernel has switched it off to save power. Asking its sensors would switch it on again.
    pub(crate) fn asleep(&self) -> bool {
        self.device.folder("power").text("runtime_status").as_deref() == Some("suspended")
    }
}

/// The cards of one vendor, in the order of their bus addresses. Display outputs (`card0-DP-1`), render nodes and parts
/// of cards without bus address of their own are not cards.
pub(crate) fn cards(root: &Path, vendor: u32) -> Vec<Card> {
    let mut cards: Vec<Card> = Folder::new(root.join("sys/class/drm"))
        .numbered("card")
        .into_iter()
        .filter_map(|(_, folder)| card(folder, vendor))
        .take(CARD_LIMIT)
        .collect();
    cards.sort_by(|a, b| a.pci_address.cmp(&b.pci_address));
    cards
}

/// The card at a bus address.
pub(crate) fn card_at(root: &Path, vendor: u32, pci_address: &str) -> Option<Card> {
    cards(root, vendor)
        .into_iter()
        .find(|card| card.pci_address == pci_address)
}

fn card(folder: Folder, vendor: u32) -> Option<Card> {
    let device = folder.folder("device");
    if device.number("vendor")? != u64::from(vendor) {
        return None;
    }
    let event = device.lines("uevent").unwrap_or_default();
    let named = |key: &str| text::value_of(&event, key).and_then(|value| printable(value, NAME_LIMIT));
    let pci_address = match named("PCI_SLOT_NAME") {
        Some(address) => bus_address(&address)?,
        // A tree without uevent still has the link's target.
        None => bus_address(device.path().canonicalize().ok()?.file_name()?.to_str()?)?,
    };
    Some(Card {
        device_id: device.number("device")? as u32,
        revision: device.number("revision").unwrap_or(0) as u32,
        driver: named("DRIVER"),
        pci_address,
        folder,
        device,
    })
}

#[cfg(test)]
mod tests;
