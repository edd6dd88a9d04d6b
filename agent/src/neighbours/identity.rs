//! From the names that plugins and drivers give devices to what they stand for, and whether that is a device of ours. Pure.
//!
//! | who | name | source |
//! |---|---|---|
//! | NVIDIA device plugin | `GPU-<uuid>`, `MIG-<uuid>`, `MIG-GPU-<uuid>/<gi>/<ci>`, each with `::<replica>` | NVIDIA/k8s-device-plugin, internal/rm |
//! | GKE device plugin | `nvidia<minor>`, `nvidia<minor>/gi<n>`, each with `/vgpu<n>` | GoogleCloudPlatform/container-engine-accelerators |
//! | AMD device plugin | `<pci address>`, `amdgpu_xcp_<n>`, each with `-slice-<n>` | ROCm/k8s-device-plugin, internal/pkg/plugin |
//! | Intel device plugin | `card<n>-<share>` | intel/intel-device-plugins-for-kubernetes, cmd/gpu_plugin |
//! | DRA drivers | attributes `uuid`, `parentUUID`, `resource.kubernetes.io/pciBusID` | the drivers' deviceinfo.go |

use super::aliases::Aliases;
use super::vendor::Vendor;
use device::{GpuDevice, PciAddress};

/// A longer name is nobody's.
const NAME_BYTES_MAX: usize = 256;

/// What tells a device from others; what is not known is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Of the whole card: hexadecimal, in lower case, without a prefix.
    pub uuid: Option<String>,
    /// Of a slice of a card, in the same form.
    pub slice: Option<String>,
    /// Of the card: `domain:bus:device.function` in lower case, with four digits of domain.
    pub pci: Option<String>,
}

/// Whether two identities are of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// They share memory or processors.
    Same,
    Different,
    /// Nothing that both have can be compared.
    CannotTell,
}

impl Identity {
    /// Of a device that a backend found.
    pub fn of_device(device: &GpuDevice) -> Self {
        let (uuid, slice) = device.uuid.as_deref().map(uuids).unwrap_or_default();
        Self {
            uuid,
            slice,
            pci: device.pci_address.as_deref().and_then(pci),
        }
    }

    /// Of a device as its vendor's plugin names it; nothing where the name says nothing.
    pub fn of_plugin(vendor: Vendor, name: &str, aliases: &Aliases) -> Option<Self> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return None;
        }
        let known = match vendor {
            Vendor::Nvidia => nvidia(name, aliases),
            Vendor::Amd => drm(name.rsplit_once("-slice-").map_or(name, |(whole, _)| whole), aliases),
            Vendor::Intel => drm(name.split_once('-').map_or(name, |(card, _)| card), aliases),
        };
        (known != Self::default()).then_some(known)
    }

    /// Of a device by the attributes that its DRA driver publishes.
    pub fn of_attributes(uuid: Option<&str>, parent: Option<&str>, bus: Option<&str>) -> Self {
        let (own, slice) = uuid.map(uuids).unwrap_or_default();
        Self {
            uuid: own.or_else(|| parent.and_then(|parent| uuids(parent).0)),
            slice,
            pci: bus.and_then(pci),
        }
    }

    /// Compares. A slice and the card it was cut from are one device here: they draw from the same memory.
    pub fn matches(&self, other: &Self) -> Match {
        if let (Some(a), Some(b)) = (&self.slice, &other.slice) {
            return if a == b { Match::Same } else { Match::Different };
        }
        let pairs = [(&self.uuid, &other.uuid), (&self.pci, &other.pci)];
        let mut outcome = Match::CannotTell;
        for pair in pairs {
            match pair {
                (Some(a), Some(b)) if a == b => return Match::Same,
                (Some(_), Some(_)) => outcome = Match::Different,
                _ => {}
            }
        }
        outcome
    }
}

fn nvidia(name: &str, aliases: &Aliases) -> Identity {
    let name = name.split_once("::").map_or(name, |(whole, _replica)| whole);
    if let Some(rest) = name.strip_prefix("nvidia") {
        let minor = rest.split('/').next().unwrap_or_default();
        return aliases.nvidia_minor(minor).cloned().unwrap_or_default();
    }
    let (uuid, slice) = uuids(name);
    let pci = uuid.as_ref().and_then(|uuid| aliases.pci_of(uuid));
    Identity {
        pci: pci.map(str::to_owned),
        uuid,
        slice,
    }
}

fn drm(name: &str, aliases: &Aliases) -> Identity {
    Identity {
        pci: pci(name).or_else(|| aliases.pci_of_node(name).map(str::to_owned)),
        ..Identity::default()
    }
}

/// The UUIDs of the card and of the slice that a name holds.
fn uuids(name: &str) -> (Option<String>, Option<String>) {
    let Some(slice) = name.strip_prefix("MIG-") else {
        return (hexadecimal(name.strip_prefix("GPU-").unwrap_or(name)), None);
    };
    match slice.strip_prefix("GPU-") {
        // Drivers before R470: the card, the GPU instance, the compute instance.
        Some(old) => {
            let card = old.split('/').next().and_then(hexadecimal);
            let named = card.is_some().then(|| old.to_ascii_lowercase());
            (card, named)
        }
        None => (None, hexadecimal(slice)),
    }
}

/// Hexadecimal digits and hyphens, of a length that tells devices apart.
fn hexadecimal(text: &str) -> Option<String> {
    let sound = (8..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    sound.then(|| text.to_ascii_lowercase())
}

/// A bus address in one form, whatever the length of its domain.
pub fn pci(text: &str) -> Option<String> {
    let address = PciAddress::parse(text)?;
    let whole = address.domain.is_some() && address.function.is_some();
    whole.then(|| address.to_string())
}

#[cfg(test)]
mod tests;
