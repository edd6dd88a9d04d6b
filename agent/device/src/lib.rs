//! What is a GPU, on this node: probing, verification, measurement, telemetry.
//!
//! ```text
//!            child process, one per backend                                 this process
//!  the machine ──call──▶ raw answers ──parse──▶ verify, measure ──▶ Answer ══JSON══▶ merge ──▶ Vec<GpuDevice>
//!               (unsafe, tiny)        (pure)                                          (pure)
//! ```
//!
//! A missing driver is an answer ([`Answer::note`]), never an error of the node. A driver that hangs or crashes takes
//! down the child process it was asked in, and costs a note as well ([`child::probe::ask`]). Where one card of several does
//! so, each is asked in a child of its own ([`child::parts::ask`]), and the others are none the worse.
//! A device may hold layers only when [`Verification::Verified`].
//!
//! A vendor's library is a [`driver::Driver`], which blocks; [`queued::Queued`] makes it a [`GpuBackend`], which does not.

mod backend;
pub mod child;
pub mod compatibility;
pub mod cpu;
pub mod cuda;
pub mod driver;
pub mod factory;
#[cfg(test)]
mod fake;
mod gpu;
pub mod half;
pub mod health;
mod held;
pub mod intel;
pub mod kmsg;
pub mod measure;
pub mod merge;
mod name;
mod pci;
mod probe;
mod promised;
pub mod queued;
pub mod registry;
pub mod rocm;
mod selection;
mod sysfs;
pub mod telemetry;
mod text;
pub mod verify;
pub mod vulkan;
pub mod xid;

pub use backend::{BackendError, GpuBackend, MemoryHandle, MemoryInfo};
pub use gpu::{
    Figure, GpuDevice, Kind, Measured, PeerCopy, Pool, Prior, Reach, SupportLevel, Unverified, Verification,
};
pub use name::{Backend, Platform, UnknownBackend};
pub use pci::PciAddress;
pub use probe::{ProbeRequest, probe};
pub use selection::{NoSelection, Selection, UNPLUGGED};

use serde::{Deserialize, Serialize};

/// What one backend answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Who answered.
    pub backend: Backend,
    /// May be empty.
    pub devices: Vec<GpuDevice>,
    /// Why there is nothing, or less than expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Answer {
    /// No devices, and why.
    pub fn nothing(backend: Backend, note: impl Into<String>) -> Self {
        Self {
            backend,
            devices: Vec::new(),
            note: Some(note.into()),
        }
    }
}

/// The bytes that a verification copies: long enough to cross pages and caches, short enough for any device.
pub const VERIFICATION_BYTES: usize = 1 << 20;

/// The content of a verification copy: differs in every position that a stuck address line could confuse.
pub fn verification_pattern() -> Vec<u8> {
    (0..VERIFICATION_BYTES as u32)
        .map(|i| (i.wrapping_mul(0x9E37_79B1) >> 24) as u8)
        .collect()
}
