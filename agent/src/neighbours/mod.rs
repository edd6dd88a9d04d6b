//! Good neighbours: which of this node's devices other pods hold, so that no layer is put where it is in somebody's way.
//!
//! ```text
//!  kubelet: PodResources ─▶ kubelet ─▶ Listing ─┐
//!  /sys, /proc           ─▶ aliases ─────────────┼▶ interpret ─▶ policy ─▶ watch ─▶ one Claim for each device
//!  API server: Node, ResourceSlices, reservation pods ─▶ inventory ┘       (pure both)
//! ```
//!
//! Everything here is read; nothing is ever published. Two modes: with `reserve` a device that a device plugin or a DRA driver
//! gives out is used only while a pod of ours was given it; with `share`, which somebody has to ask for, every device
//! that no other pod was given is used.

pub mod aliases;
pub mod identity;
pub mod interpret;
pub mod inventory;
pub mod kubelet;
pub mod policy;
pub mod strangers;
pub mod vendor;
pub mod watch;

#[cfg(test)]
mod fixture;

use device::GpuDevice;
use device::telemetry::ProcessMemory;
use std::collections::BTreeMap;
use std::path::PathBuf;

pub use interpret::Own;
pub use watch::watch;

/// Where every kubelet has its socket, unless its root folder was moved.
pub const DEFAULT_SOCKET: &str = "/var/lib/kubelet/pod-resources/kubelet.sock";

/// How devices that the cluster gives out are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Sharing {
    /// Only while a pod of ours was given them.
    #[default]
    Reserve,
    /// All that no other pod was given, though the cluster may give them out at any time.
    Share,
}

impl Sharing {
    /// As it stands in flags and in the chart.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reserve => "reserve",
            Self::Share => crds::names::SHARED,
        }
    }
}

/// Flags, to be flattened into the agent's.
#[derive(Clone, Debug, clap::Args)]
pub struct Flags {
    /// Devices that a device plugin or DRA driver gives out: reserve (use those that our own pods were given) or share (use
    /// all that no other pod was given).
    #[arg(long, value_enum, default_value = "reserve")]
    pub device_sharing: Sharing,
    /// The kubelet's socket that tells which pods hold which devices.
    #[arg(long, env = "POD_RESOURCES_SOCKET", default_value = DEFAULT_SOCKET)]
    pub pod_resources_socket: PathBuf,
}

/// Who asks, where and how.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The Node.
    pub node: String,
    /// This pod.
    pub pod: String,
    /// Namespace of the installation.
    pub namespace: String,
    /// The kubelet's socket.
    pub socket: PathBuf,
    /// What to do with devices that the cluster gives out.
    pub sharing: Sharing,
    /// "/" but in tests.
    pub root: PathBuf,
    /// Folder of the workers, with notes of their processes: those of an earlier life are not our children, and ours.
    pub workers: PathBuf,
}

/// A device, and who uses its memory where the driver tells.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// What it is.
    pub device: GpuDevice,
    /// Of its last readings; empty without any.
    pub processes: Vec<ProcessMemory>,
}

/// Whose a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nobody but us may use it.
    Ours,
    /// The cluster gives it out, it was given to nobody else, and the node's owner wants it used.
    Shared,
    /// Somebody else was given it.
    Foreign {
        /// `namespace/pod`, or a sentence where no pod can be named.
        by: String,
    },
    /// The cluster gives it out, and it was not given to us.
    Unclaimed {
        /// For a person: why, and what would change it.
        reason: String,
    },
}

impl Claim {
    /// Whether layers may be put, or stay, on the device.
    pub fn allows_layers(&self) -> bool {
        matches!(self, Self::Ours | Self::Shared)
    }
}

/// Everything that is known of the neighbours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    /// By [`GpuDevice::identity`]; one for each device that was seen.
    pub claims: BTreeMap<String, Claim>,
    /// Weaker signs by the same name: memory that processes use which are not ours.
    pub strangers: BTreeMap<String, String>,
    /// What could not be read, for a person.
    pub notes: Vec<String>,
}

/// The label by which a device's object says that it is used beside other pods.
pub fn sharing_label(claim: &Claim) -> Option<(&'static str, &'static str)> {
    (*claim == Claim::Shared).then_some((crds::names::SHARING_LABEL, crds::names::SHARED))
}

/// Text from outside: bounded, and without control characters.
fn clean(text: &str) -> String {
    /// Longer than `namespace/pod` can be.
    const CHARACTERS_MAX: usize = 320;
    let characters = text.chars().take(CHARACTERS_MAX);
    characters
        .map(|character| if character.is_control() { '?' } else { character })
        .collect()
}
