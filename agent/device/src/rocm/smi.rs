//! Calls into ROCm SMI, for what the kernel's files lack. Every function is optional: a node without the library loses
//! these readings only.
#![allow(unsafe_code)]

use super::library;
use super::parse::Errors;
use std::collections::HashMap;
use std::ffi::c_int;

/// AMD SMI carries ROCm SMI's functions within it.
const LIBRARIES: [&str; 8] = [
    "librocm_smi64.so.7",
    "librocm_smi64.so.6",
    "librocm_smi64.so.5",
    "librocm_smi64.so.1",
    "libamd_smi.so.26",
    "libamd_smi.so.25",
    "libamd_smi.so.24",
    "libamd_smi.so",
];
/// `RSMI_GPU_BLOCK_UMC`: the controller of the card's memory.
const MEMORY_CONTROLLER: u64 = 1;
const DEVICE_LIMIT: u32 = 256;

type Init = unsafe extern "C" fn(u64) -> c_int;
type Count = unsafe extern "C" fn(*mut u32) -> c_int;
type Address = unsafe extern "C" fn(u32, *mut u64) -> c_int;
type ErrorCount = unsafe extern "C" fn(u32, u64, *mut Counts) -> c_int;

/// `rsmi_error_count_t`.
#[repr(C)]
#[derive(Default)]
struct Counts {
    corrected: u64,
    uncorrected: u64,
}

/// The library, and where its devices are plugged in.
pub(super) struct Smi {
    errors: ErrorCount,
    devices: HashMap<String, u32>,
}

impl Smi {
    /// Nothing where the library is not here, too old or does not start.
    pub(super) fn open() -> Option<Self> {
        let (library, _) = library::open(&LIBRARIES).ok()?;
        let init: Init = library::symbol(library, "rsmi_init\0").ok()?;
        let count: Count = library::symbol(library, "rsmi_num_monitor_devices\0").ok()?;
        let address: Address = library::symbol(library, "rsmi_dev_pci_id_get\0").ok()?;
        let errors: ErrorCount = library::symbol(library, "rsmi_dev_ecc_count_get\0").ok()?;
        // SAFETY: a call without pointers.
        if unsafe { init(0) } != 0 {
            return None;
        }
        let mut number = 0;
        // SAFETY: the pointer is of a local that outlives the call.
        if unsafe { count(&mut number) } != 0 {
            return None;
        }
        let devices = (0..number.min(DEVICE_LIMIT))
            .filter_map(|index| {
                let mut packed = 0;
                // SAFETY: as above.
                let code = unsafe { address(index, &mut packed) };
                (code == 0).then(|| (unpacked(packed), index))
            })
            .collect();
        Some(Self { errors, devices })
    }

    /// Errors of the card's memory.
    pub(super) fn errors(&self, pci_address: &str) -> Option<Errors> {
        let index = self.devices.get(pci_address)?;
        let mut counts = Counts::default();
        // SAFETY: the structure is the library's, and outlives the call.
        let code = unsafe { (self.errors)(*index, MEMORY_CONTROLLER, &mut counts) };
        (code == 0).then_some(Errors {
            corrected: counts.corrected,
            uncorrected: counts.uncorrected,
        })
    }
}

/// Domain in the upper half; bits 28 to 31 count partitions of a card.
fn unpacked(packed: u64) -> String {
    format!(
        "{:04x}:{:02x}:{:02x}.{:x}",
        packed >> 32,
        packed >> 8 & 0xFF,
        packed >> 3 & 0x1F,
        packed & 7
    )
}
