//! Where a stage computes, and the choice of devices by which ggml's Vulkan backend starts.

use super::{CPU, VULKAN};
use crate::error::EngineError;
use crate::ffi::backend;

/// The environment variable by which ggml's Vulkan backend chooses its devices: raw enumeration
/// indices, separated by commas. Software renderers are skipped unless named in it.
pub const VULKAN_DEVICES_VARIABLE: &str = "GGML_VK_VISIBLE_DEVICES";

/// Devices that work as one, at most.
pub const GROUP_MEMBERS_MAX: u32 = gguf::group::MEMBERS_MAX;

/// Where a stage computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// The processor, with so many compute threads.
    Cpu {
        /// Compute threads, at least 1; the thread that steps is one of them.
        threads: u32,
    },
    /// One accelerator.
    Gpu {
        /// Backend name in lower case: `vulkan`, `cuda`, …
        backend: String,
        /// Index in the backend's own enumeration; for `vulkan` the loader's raw index.
        index: u32,
    },
    /// Accelerators that work as one: each has an equal part of every layer, and they add up what they have after each half of one.
    Group {
        /// Backend name in lower case, of all of them.
        backend: String,
        /// Indices as of [`Device::Gpu`], two to [`GROUP_MEMBERS_MAX`]. What is listed twice must be there twice.
        indices: Vec<u32>,
    },
}

impl Device {
    /// The backend's name in lower case.
    pub fn backend(&self) -> &str {
        self.accelerators().0
    }

    /// How many devices it is.
    pub fn members(&self) -> u32 {
        // Far fewer: more than a few are refused.
        u32::try_from(self.accelerators().1.len()).unwrap_or(u32::MAX).max(1)
    }

    /// The backend, and the index of each accelerator; none for the processor.
    pub(super) fn accelerators(&self) -> (&str, &[u32]) {
        match self {
            Self::Cpu { .. } => (CPU, &[]),
            Self::Gpu { backend, index } => (backend, std::slice::from_ref(index)),
            Self::Group { backend, indices } => (backend, indices),
        }
    }
}

/// Chooses the accelerators that this process will see, by setting [`VULKAN_DEVICES_VARIABLE`].
///
/// To be called first thing in `main`, before any thread is started (an async runtime too): the
/// environment cannot be changed safely later. Where the variable already has the right value, or
/// `device` needs none, this does nothing and may be called at any time.
///
/// # Errors
/// [`EngineError::DeviceNotSelected`] where other threads run already.
pub fn select_device(device: &Device) -> Result<(), EngineError> {
    let (backend, indices) = device.accelerators();
    if backend != VULKAN || visible_vulkan_devices().as_deref() == Some(indices) {
        return Ok(());
    }
    if backend::set_environment(VULKAN_DEVICES_VARIABLE, &listed(indices)) {
        return Ok(());
    }
    Err(not_selected(indices))
}

/// As the variable has them.
fn listed(indices: &[u32]) -> String {
    let indices: Vec<String> = indices.iter().map(u32::to_string).collect();
    indices.join(",")
}

pub(super) fn not_selected(indices: &[u32]) -> EngineError {
    EngineError::DeviceNotSelected {
        wanted: listed(indices),
        selected: std::env::var(VULKAN_DEVICES_VARIABLE).unwrap_or_default(),
        variable: VULKAN_DEVICES_VARIABLE,
    }
}

/// Whether these accelerators need not be chosen by the environment, or are, each as often as it is listed.
pub(super) fn is_selected(backend: &str, indices: &[u32]) -> bool {
    if backend != VULKAN {
        return true;
    }
    let mut visible = visible_vulkan_devices().unwrap_or_default();
    indices.iter().all(|index| {
        let place = visible.iter().position(|seen| seen == index);
        place.map(|place| visible.swap_remove(place)).is_some()
    })
}

/// The raw indices that the environment names, in order; `None` where it names none.
pub(super) fn visible_vulkan_devices() -> Option<Vec<u32>> {
    let value = std::env::var(VULKAN_DEVICES_VARIABLE).ok()?;
    value
        .split([',', ' '])
        .filter(|index| !index.is_empty())
        .map(|index| index.parse().ok())
        .collect()
}
