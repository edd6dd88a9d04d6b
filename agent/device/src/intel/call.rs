//! Calls into Level Zero, for what the kernel's files do not tell: the memory and the name of a card.
#![allow(unsafe_code)]

use crate::rocm::library::{self, symbols};
use crate::sysfs::printable;
use std::ffi::{c_int, c_void};

const LIBRARIES: [&str; 1] = ["libze_loader.so.1"];
/// Drivers of one machine, and devices of one driver.
const HANDLE_LIMIT: u32 = 64;
const MEMORY_LIMIT: u32 = 8;
const NAME_LIMIT: usize = 128;
/// `ZE_INIT_FLAG_GPU_ONLY`.
const GPU_ONLY: u32 = 1;
/// `ZE_DEVICE_TYPE_GPU`.
const GPU: u32 = 1;

/// `ze_device_properties_t`; `stype` 3.
#[repr(C)]
struct Properties {
    stype: u32,
    next: *mut c_void,
    kind: u32,
    vendor_id: u32,
    device_id: u32,
    flags: u32,
    subdevice_id: u32,
    core_clock_mhz: u32,
    max_allocation: u64,
    counts: [u32; 7],
    timer: u64,
    valid_bits: [u32; 2],
    uuid: [u8; 16],
    name: [u8; 256],
}

/// `ze_device_memory_properties_t`; `stype` 7.
#[repr(C)]
#[derive(Clone, Copy)]
struct MemoryProperties {
    stype: u32,
    next: *mut c_void,
    flags: u32,
    max_clock: u32,
    max_bus_width: u32,
    total_bytes: u64,
    name: [u8; 256],
}

/// `ze_pci_ext_properties_t`; `stype` 0x10008.
#[repr(C)]
struct PciProperties {
    stype: u32,
    next: *mut c_void,
    domain: u32,
    bus: u32,
    device: u32,
    function: u32,
    speed: [u64; 2],
}

// The sizes that the header of Level Zero 1.8 gives.
const _: () = assert!(size_of::<Properties>() == 368);
const _: () = assert!(size_of::<MemoryProperties>() == 296);
const _: () = assert!(size_of::<PciProperties>() == 48);

symbols!(Table {
    zeInit: fn(u32) -> c_int;
    zeDriverGet: fn(*mut u32, *mut *mut c_void) -> c_int;
    zeDeviceGet: fn(*mut c_void, *mut u32, *mut *mut c_void) -> c_int;
    zeDeviceGetProperties: fn(*mut c_void, *mut Properties) -> c_int;
    zeDeviceGetMemoryProperties: fn(*mut c_void, *mut u32, *mut MemoryProperties) -> c_int;
    zeDevicePciGetPropertiesExt: fn(*mut c_void, *mut PciProperties) -> c_int;
});

/// What Level Zero says of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) pci_address: String,
    pub(super) name: Option<String>,
    /// Of all its memories; 0 where it does not say.
    pub(super) memory_bytes: u64,
}

/// The GPUs of all of the loader's drivers.
pub(super) fn devices() -> Result<Vec<Facts>, String> {
    let (library, _) = library::open(&LIBRARIES)
        .map_err(|error| format!("no Level Zero loader: {error}; install libze1 and intel-level-zero-gpu"))?;
    let table =
        Table::load(library).map_err(|name| format!("the Level Zero loader has no {name}; install 1.8 or newer"))?;
    // SAFETY: a call without pointers.
    let code = unsafe { (table.zeInit)(GPU_ONLY) };
    if code != 0 {
        return Err(format!(
            "zeInit returned {code:#x}: no driver; install intel-level-zero-gpu"
        ));
    }
    let drivers = handles(|count, handles| {
        // SAFETY: `handles` is null or has room for `count` handles.
        unsafe { (table.zeDriverGet)(count, handles) }
    })?;
    let mut facts = Vec::new();
    for driver in drivers {
        let devices = handles(|count, handles| {
            // SAFETY: as above; the driver came from the loader.
            unsafe { (table.zeDeviceGet)(driver, count, handles) }
        })?;
        facts.extend(devices.into_iter().filter_map(|device| table.facts(device)));
    }
    Ok(facts)
}

/// Asks for a number, then for as many handles.
fn handles(call: impl Fn(*mut u32, *mut *mut c_void) -> c_int) -> Result<Vec<*mut c_void>, String> {
    let mut count = 0;
    let mut code = call(&mut count, std::ptr::null_mut());
    count = count.min(HANDLE_LIMIT);
    let mut handles = vec![std::ptr::null_mut(); count as usize];
    if code == 0 && count > 0 {
        code = call(&mut count, handles.as_mut_ptr());
    }
    if code != 0 {
        return Err(format!("the Level Zero loader lists nothing ({code:#x})"));
    }
    handles.retain(|handle| !handle.is_null());
    Ok(handles)
}

impl Table {
    fn facts(&self, device: *mut c_void) -> Option<Facts> {
        // SAFETY: all of its fields may be zero.
        let mut properties: Properties = unsafe { std::mem::zeroed() };
        properties.stype = 0x3;
        // SAFETY: the structure is of the size and type that the header gives it.
        let code = unsafe { (self.zeDeviceGetProperties)(device, &mut properties) };
        if code != 0 || properties.kind != GPU {
            return None;
        }
        // SAFETY: all of its fields may be zero.
        let mut pci: PciProperties = unsafe { std::mem::zeroed() };
        pci.stype = 0x10008;
        // SAFETY: as above.
        if unsafe { (self.zeDevicePciGetPropertiesExt)(device, &mut pci) } != 0 {
            return None;
        }
        let name = properties.name.split(|byte| *byte == 0).next().unwrap_or_default();
        Some(Facts {
            pci_address: format!(
                "{:04x}:{:02x}:{:02x}.{:x}",
                pci.domain, pci.bus, pci.device, pci.function
            ),
            name: printable(&String::from_utf8_lossy(name), NAME_LIMIT),
            memory_bytes: self.memory_bytes(device),
        })
    }

    fn memory_bytes(&self, device: *mut c_void) -> u64 {
        let mut count = 0;
        // SAFETY: with a null pointer the library only counts.
        let code = unsafe { (self.zeDeviceGetMemoryProperties)(device, &mut count, std::ptr::null_mut()) };
        count = count.min(MEMORY_LIMIT);
        if code != 0 || count == 0 {
            return 0;
        }
        // SAFETY: all of its fields may be zero.
        let mut empty: MemoryProperties = unsafe { std::mem::zeroed() };
        empty.stype = 0x7;
        let mut memories = vec![empty; count as usize];
        // SAFETY: there is room for `count` structures of the size and type that the header gives them.
        let code = unsafe { (self.zeDeviceGetMemoryProperties)(device, &mut count, memories.as_mut_ptr()) };
        let total = memories
            .iter()
            .fold(0u64, |sum, memory| sum.saturating_add(memory.total_bytes));
        if code == 0 { total } else { 0 }
    }
}
