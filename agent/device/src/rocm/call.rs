//! Calls into HIP: devices, memory, copies, kernels. Every function here is safe: allocations know their size, and
//! numbers of devices are checked by the library.
//!
//! Only functions whose arguments have been the same since ROCm 5 are used; the structure of properties, which changed
//! with ROCm 6, is asked for under the name that fixes its layout.
#![allow(unsafe_code)]

use super::library::{self, symbols};
use super::rtc::Code;
use crate::sysfs::{bus_address, printable};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

/// Newest first. A card that a newer runtime has dropped is described by sysfs all the same.
const LIBRARIES: [&str; 3] = ["libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5"];
/// The versions of those, whose compiler goes with them.
const MAJORS: [u32; 3] = [7, 6, 5];
/// More devices than any machine has; a driver that reports more is not believed.
pub(super) const DEVICE_LIMIT: usize = 256;
const NAME_LIMIT: usize = 128;

/// `hipDeviceAttribute_t`, the same from ROCm 5.2 to 7.
#[derive(Clone, Copy, Debug)]
pub(super) enum Attribute {
    /// Highest clock in kHz.
    Clock = 5,
    /// Uses the host's memory.
    Integrated = 16,
    /// Compute units.
    Units = 63,
}

/// `hipDeviceProp_tR0600`, of which only the architecture's name is read.
const PROPERTIES_BYTES: usize = 1472;
const ARCHITECTURE_AT: usize = 1160;
const ARCHITECTURE_BYTES: usize = 256;

const TO_DEVICE: c_int = 1;
const FROM_DEVICE: c_int = 2;
const WITHIN_DEVICE: c_int = 3;
const PEER_ALREADY_ENABLED: c_int = 704;
const INVALID_VALUE: c_int = 1;

symbols!(Table {
    hipInit: fn(c_uint) -> c_int;
    hipGetDeviceCount: fn(*mut c_int) -> c_int;
    hipDeviceGetName: fn(*mut c_char, c_int, c_int) -> c_int;
    hipDeviceTotalMem: fn(*mut usize, c_int) -> c_int;
    hipDeviceGetPCIBusId: fn(*mut c_char, c_int, c_int) -> c_int;
    hipDeviceGetAttribute: fn(*mut c_int, c_int, c_int) -> c_int;
    hipSetDevice: fn(c_int) -> c_int;
    hipMemGetInfo: fn(*mut usize, *mut usize) -> c_int;
    hipMalloc: fn(*mut *mut c_void, usize) -> c_int;
    hipFree: fn(*mut c_void) -> c_int;
    hipMemcpy: fn(*mut c_void, *const c_void, usize, c_int) -> c_int;
    hipMemcpyPeer: fn(*mut c_void, c_int, *const c_void, c_int, usize) -> c_int;
    hipDeviceCanAccessPeer: fn(*mut c_int, c_int, c_int) -> c_int;
    hipDeviceEnablePeerAccess: fn(c_int, c_uint) -> c_int;
    hipDeviceSynchronize: fn() -> c_int;
    hipModuleLoadData: fn(*mut *mut c_void, *const c_void) -> c_int;
    hipModuleGetFunction: fn(*mut *mut c_void, *mut c_void, *const c_char) -> c_int;
    hipModuleUnload: fn(*mut c_void) -> c_int;
    hipModuleLaunchKernel: fn(
        *mut c_void, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, *mut c_void, *mut *mut c_void,
        *mut *mut c_void,
    ) -> c_int;
});

type ErrorString = unsafe extern "C" fn(c_int) -> *const c_char;
type Properties = unsafe extern "C" fn(*mut c_void, c_int) -> c_int;
type Uuid = unsafe extern "C" fn(*mut c_void, c_int) -> c_int;

/// What a call returned instead of success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The function.
    pub(super) call: &'static str,
    /// `hipError_t`.
    pub(super) code: i32,
}

/// Memory of a device. Given back by [`Hip::free`] only.
#[derive(Debug)]
pub(super) struct Allocation {
    address: usize,
    bytes: u64,
    device: u32,
}

impl Allocation {
    pub(super) fn device(&self) -> u32 {
        self.device
    }

    /// The address of `bytes` bytes at `offset`, all of them within the allocation.
    fn span(&self, offset: u64, bytes: u64) -> Option<*mut c_void> {
        let end = offset.checked_add(bytes)?;
        (end <= self.bytes).then(|| (self.address + offset as usize) as *mut c_void)
    }
}

/// Kernels in the memory of one device.
#[derive(Debug)]
pub(super) struct Module {
    handle: usize,
    device: u32,
}

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub(super) enum Argument<'a> {
    Memory(&'a Allocation),
    Number(i32),
}

/// The library.
pub(super) struct Hip {
    /// Version of the library's interface.
    pub(super) major: u32,
    table: Table,
    error_string: Option<ErrorString>,
    properties: Option<Properties>,
    uuid: Option<Uuid>,
}

fn done(call: &'static str, code: c_int) -> Result<(), Refusal> {
    match code {
        0 => Ok(()),
        code => Err(Refusal { call, code }),
    }
}

/// Calls a function of the table, and names it in a refusal.
macro_rules! call {
    ($hip:expr, $name:ident($($argument:expr),*)) => {
        // SAFETY: the function has the type that HIP's header gives it; each pointer is of a local of this function or
        // of memory that is checked beside the call, and outlives the call, which is complete when it returns.
        done(stringify!($name), unsafe { ($hip.table.$name)($($argument),*) })
    };
}

impl Hip {
    /// Loads the library.
    pub(super) fn open() -> Result<Self, String> {
        let (library, position) = library::open(&LIBRARIES).map_err(|error| {
            format!(
                "no HIP runtime (libamdhip64.so.7, .6 or .5): {error}; install ROCm's hip-runtime-amd, or use the card \
                 by Vulkan"
            )
        })?;
        let table = Table::load(library)
            .map_err(|name| format!("the HIP runtime has no {name}; install ROCm 5 or newer, whole"))?;
        Ok(Self {
            major: MAJORS[position],
            table,
            error_string: library::symbol(library, "hipGetErrorString\0").ok(),
            properties: library::symbol(library, "hipGetDevicePropertiesR0600\0").ok(),
            uuid: library::symbol(library, "hipDeviceGetUuid\0").ok(),
        })
    }

    /// Starts the library and counts devices.
    pub(super) fn count(&self) -> Result<u32, Refusal> {
        call!(self, hipInit(0))?;
        let mut count = 0;
        call!(self, hipGetDeviceCount(&mut count))?;
        Ok(u32::try_from(count).unwrap_or(0).min(DEVICE_LIMIT as u32))
    }

    /// What the library says of a code.
    pub(super) fn words(&self, code: i32) -> String {
        let text = self.error_string.and_then(|function| {
            // SAFETY: the library returns null or a string constant of its own.
            let text = unsafe { function(code) };
            // SAFETY: as above; constants live as long as the library, which stays loaded.
            (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
        });
        match text.and_then(|text| printable(&text, NAME_LIMIT)) {
            Some(text) => format!("{text} ({code})"),
            None => format!("error {code}"),
        }
    }

    pub(super) fn name(&self, device: u32) -> Option<String> {
        let mut text = [0u8; 256];
        // One byte less than there is, so that the text ends in any case.
        call!(self, hipDeviceGetName(text.as_mut_ptr().cast(), 255, device as c_int)).ok()?;
        terminated(&text)
    }

    pub(super) fn pci_address(&self, device: u32) -> Option<String> {
        let mut text = [0u8; 64];
        call!(
            self,
            hipDeviceGetPCIBusId(text.as_mut_ptr().cast(), 63, device as c_int)
        )
        .ok()?;
        bus_address(&terminated(&text)?)
    }

    /// Sixteen characters, which are the card's unique id in hexadecimal.
    pub(super) fn uuid(&self, device: u32) -> Option<String> {
        let mut bytes = [0u8; 16];
        // SAFETY: `hipUUID` is sixteen bytes, and the library writes no more.
        let code = unsafe { self.uuid?(bytes.as_mut_ptr().cast(), device as c_int) };
        let plain = code == 0 && bytes.iter().all(u8::is_ascii_hexdigit) && bytes.iter().any(|byte| *byte != b'0');
        plain.then(|| format!("GPU-{}", String::from_utf8_lossy(&bytes).to_ascii_lowercase()))
    }

    pub(super) fn total_bytes(&self, device: u32) -> Option<u64> {
        let mut bytes = 0usize;
        call!(self, hipDeviceTotalMem(&mut bytes, device as c_int)).ok()?;
        Some(bytes as u64)
    }

    /// Nothing where it is not above zero.
    pub(super) fn attribute(&self, device: u32, attribute: Attribute) -> Option<u32> {
        let mut value = 0;
        call!(
            self,
            hipDeviceGetAttribute(&mut value, attribute as c_int, device as c_int)
        )
        .ok()?;
        u32::try_from(value).ok().filter(|value| *value > 0)
    }

    /// `gfx90a:sramecc+:xnack-`; nothing before ROCm 6.
    pub(super) fn architecture(&self, device: u32) -> Option<String> {
        // Four times what the structure has, should a version append to it; aligned for its largest member.
        let mut properties = [0u64; PROPERTIES_BYTES / 2];
        // SAFETY: the function of this name writes the structure of this size.
        let code = unsafe { self.properties?(properties.as_mut_ptr().cast(), device as c_int) };
        if code != 0 {
            return None;
        }
        let bytes: Vec<u8> = properties.iter().flat_map(|word| word.to_ne_bytes()).collect();
        terminated(bytes.get(ARCHITECTURE_AT..ARCHITECTURE_AT + ARCHITECTURE_BYTES)?)
    }

    fn select(&self, device: u32) -> Result<(), Refusal> {
        call!(self, hipSetDevice(device as c_int))
    }

    /// Free and total.
    pub(super) fn memory(&self, device: u32) -> Result<(u64, u64), Refusal> {
        self.select(device)?;
        let (mut free, mut total) = (0usize, 0usize);
        call!(self, hipMemGetInfo(&mut free, &mut total))?;
        Ok((free as u64, total as u64))
    }

    pub(super) fn allocate(&self, device: u32, bytes: u64) -> Result<Allocation, Refusal> {
        self.select(device)?;
        let mut address = std::ptr::null_mut();
        call!(self, hipMalloc(&mut address, bytes as usize))?;
        if address.is_null() {
            return Err(Refusal {
                call: "hipMalloc",
                code: INVALID_VALUE,
            });
        }
        Ok(Allocation {
            address: address as usize,
            bytes,
            device,
        })
    }

    #[allow(clippy::needless_pass_by_value, reason = "an allocation that was given back is gone")]
    pub(super) fn free(&self, allocation: Allocation) -> Result<(), Refusal> {
        self.select(allocation.device)?;
        call!(self, hipFree(allocation.address as *mut c_void))
    }

    pub(super) fn write(&self, to: &Allocation, offset: u64, bytes: &[u8]) -> Result<(), Refusal> {
        let target = within(to.span(offset, bytes.len() as u64), "hipMemcpy")?;
        self.select(to.device)?;
        call!(self, hipMemcpy(target, bytes.as_ptr().cast(), bytes.len(), TO_DEVICE))?;
        self.synchronize(to.device)
    }

    pub(super) fn read(&self, from: &Allocation, offset: u64, bytes: &mut [u8]) -> Result<(), Refusal> {
        let source = within(from.span(offset, bytes.len() as u64), "hipMemcpy")?;
        self.select(from.device)?;
        call!(
            self,
            hipMemcpy(bytes.as_mut_ptr().cast(), source, bytes.len(), FROM_DEVICE)
        )
    }

    /// Within a device, or directly to another. Spans of one allocation must not overlap.
    pub(super) fn copy(&self, from: (&Allocation, u64), to: (&Allocation, u64), bytes: u64) -> Result<(), Refusal> {
        let source = within(from.0.span(from.1, bytes), "hipMemcpy")?;
        let target = within(to.0.span(to.1, bytes), "hipMemcpy")?;
        let (source_device, target_device) = (from.0.device, to.0.device);
        self.select(source_device)?;
        if source_device == target_device {
            call!(self, hipMemcpy(target, source, bytes as usize, WITHIN_DEVICE))?;
        } else {
            call!(
                self,
                hipMemcpyPeer(
                    target,
                    target_device as c_int,
                    source,
                    source_device as c_int,
                    bytes as usize
                )
            )?;
            self.synchronize(target_device)?;
        }
        // A copy between devices' memories may return before its end.
        self.synchronize(source_device)
    }

    /// Whether `device` reaches the memory of `peer`, and is allowed to from now on.
    pub(super) fn reaches(&self, device: u32, peer: u32) -> Result<bool, Refusal> {
        let mut can = 0;
        call!(self, hipDeviceCanAccessPeer(&mut can, device as c_int, peer as c_int))?;
        if can != 1 {
            return Ok(false);
        }
        self.select(device)?;
        match call!(self, hipDeviceEnablePeerAccess(peer as c_int, 0)) {
            Err(refusal) if refusal.code != PEER_ALREADY_ENABLED => Err(refusal),
            _ => Ok(true),
        }
    }

    pub(super) fn synchronize(&self, device: u32) -> Result<(), Refusal> {
        self.select(device)?;
        call!(self, hipDeviceSynchronize())
    }

    pub(super) fn load(&self, device: u32, code: &Code) -> Result<Module, Refusal> {
        self.select(device)?;
        let mut handle = std::ptr::null_mut();
        call!(self, hipModuleLoadData(&mut handle, code.bytes().as_ptr().cast()))?;
        Ok(Module {
            handle: handle as usize,
            device,
        })
    }

    pub(super) fn unload(&self, module: &Module) -> Result<(), Refusal> {
        self.select(module.device)?;
        call!(self, hipModuleUnload(module.handle as *mut c_void))
    }

    /// Submits a kernel of this crate's own source, in blocks of 16 by 16. The caller gives the arguments that the source
    /// names.
    pub(super) fn launch(
        &self,
        module: &Module,
        kernel: &CStr,
        grid: [u32; 2],
        arguments: &[Argument<'_>],
    ) -> Result<(), Refusal> {
        self.select(module.device)?;
        let mut function = std::ptr::null_mut();
        call!(
            self,
            hipModuleGetFunction(&mut function, module.handle as *mut c_void, kernel.as_ptr())
        )?;
        let mut values: Vec<u64> = arguments
            .iter()
            .map(|argument| match argument {
                Argument::Memory(allocation) => allocation.address as u64,
                // Only the first four bytes are read, which are the number's on machines that amdgpu runs on.
                Argument::Number(number) => u64::from(*number as u32),
            })
            .collect();
        let mut pointers: Vec<*mut c_void> = values
            .iter_mut()
            .map(|value| std::ptr::from_mut(value).cast())
            .collect();
        call!(
            self,
            hipModuleLaunchKernel(
                function,
                grid[0],
                grid[1],
                1,
                16,
                16,
                1,
                0,
                std::ptr::null_mut(),
                pointers.as_mut_ptr(),
                std::ptr::null_mut()
            )
        )
    }
}

fn within(address: Option<*mut c_void>, call: &'static str) -> Result<*mut c_void, Refusal> {
    address.ok_or(Refusal {
        call,
        code: INVALID_VALUE,
    })
}

fn terminated(bytes: &[u8]) -> Option<String> {
    let text = bytes.split(|byte| *byte == 0).next()?;
    printable(&String::from_utf8_lossy(text), NAME_LIMIT)
}
