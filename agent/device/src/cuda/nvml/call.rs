//! Calls into NVML, the management library. nvml-wrapper finds, starts and ends it; the functions are called by the
//! symbols that it holds, because its own faces end the program's knowledge where a driver is newer (unknown bits, unknown
//! enumerations) and trust a driver to end its strings.
#![allow(unsafe_code)]

use super::parse::{Raw, RawFacts, RawProcess};
use crate::cuda::fault::NvmlCode;
use crate::cuda::text;
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper_sys::bindings as sys;
use std::ffi::CString;
use std::os::raw::{c_char, c_uint};

/// More cards than any machine has; a driver that reports more is not believed.
const DEVICE_LIMIT: u32 = 64;
/// Slices of one card; seven is the most there is.
const SLICE_LIMIT: u32 = 16;
/// Processes of one card whose memory is told.
const PROCESS_LIMIT: u32 = 256;
/// Events that are fetched at once; a card that makes more has a reader again soon.
const EVENT_LIMIT: usize = 64;
/// For names and identities; the driver is told one byte less.
const TEXT_BYTES: usize = 256;
/// The driver's number for the temperature of the memory.
const FIELD_MEMORY_TEMPERATURE: c_uint = 82;
/// The only event asked for: `nvmlEventTypeXidCriticalError`.
const XID_EVENTS: u64 = 8;

/// Why NVML cannot be used.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub(in crate::cuda) enum OpenFault {
    /// No libnvidia-ml: a board without it, or no driver at all.
    #[error("no libnvidia-ml.so.1; install NVIDIA's driver, or give the container its utilities")]
    NoLibrary,
    /// It is here and does not start.
    #[error("nvmlInit_v2 failed: {}", .0.text())]
    Refused(NvmlCode),
    /// It is here and is not what it should be.
    #[error("libnvidia-ml.so.1 cannot be used: {0}")]
    Broken(String),
}

/// The library, started; ended when dropped.
pub(in crate::cuda) struct Library {
    nvml: Nvml,
}

/// A card or a slice of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cuda) struct Handle(sys::nvmlDevice_t);

// SAFETY: handles are tokens that NVML, whose functions any thread may call, looks up; they are never followed here.
unsafe impl Send for Handle {}

/// A queue of events within the library.
pub(in crate::cuda) struct Events(sys::nvmlEventSet_t);

// SAFETY: as for handles.
unsafe impl Send for Events {}

/// An Xid: which card it came from, and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Xid {
    pub(super) device: Handle,
    pub(super) number: u64,
}

/// Calls a function whose last parameter is where its answer goes.
macro_rules! ask {
    ($self:ident.$function:ident($($argument:expr),*), $empty:expr) => {{
        let mut value = $empty;
        match $self.nvml.lib().$function.as_ref() {
            // SAFETY: the type is that of the function in NVML's reference; handles came from this library, and the
            // answer's place outlives the call.
            Ok(function) => done(unsafe { function($($argument,)* &mut value) }).map(|()| value),
            Err(_) => Err(NvmlCode::FUNCTION_NOT_FOUND),
        }
    }};
}

fn done(code: c_uint) -> Result<(), NvmlCode> {
    if code == 0 { Ok(()) } else { Err(NvmlCode(code)) }
}

impl Library {
    /// Finds the library and starts it.
    pub(in crate::cuda) fn open() -> Result<Self, OpenFault> {
        match Nvml::init() {
            Ok(nvml) => Ok(Self { nvml }),
            Err(NvmlError::LibloadingError(_)) => Err(OpenFault::NoLibrary),
            Err(error @ (NvmlError::FailedToLoadSymbol(_) | NvmlError::Utf8Error(_))) => {
                Err(OpenFault::Broken(error.to_string()))
            }
            Err(error) => Err(OpenFault::Refused(NvmlCode(error.into()))),
        }
    }

    /// Of the kernel's driver, such as `550.54.15`.
    pub(in crate::cuda) fn driver_version(&self) -> Option<String> {
        let function = self.nvml.lib().nvmlSystemGetDriverVersion.as_ref().ok()?;
        // SAFETY: the buffer has at least as many bytes as the driver is told of.
        read_text(|buffer, bytes| unsafe { function(buffer, bytes) })
            .ok()
            .and_then(|bytes| text::clean(&bytes))
    }

    /// How many cards there are, those that are lost among them.
    pub(in crate::cuda) fn count(&self) -> Result<u32, NvmlCode> {
        ask!(self.nvmlDeviceGetCount_v2(), 0).map(|count: c_uint| count.min(DEVICE_LIMIT))
    }

    /// The card at that place. The order may be another after the driver was loaded anew.
    pub(in crate::cuda) fn handle(&self, index: u32) -> Result<Handle, NvmlCode> {
        ask!(self.nvmlDeviceGetHandleByIndex_v2(index), std::ptr::null_mut()).map(Handle)
    }

    /// The card at a bus address; no other is looked at.
    pub(in crate::cuda) fn handle_at(&self, address: &str) -> Result<Handle, NvmlCode> {
        let address = CString::new(address).map_err(|_| NvmlCode::INVALID_ARGUMENT)?;
        ask!(
            self.nvmlDeviceGetHandleByPciBusId_v2(address.as_ptr()),
            std::ptr::null_mut()
        )
        .map(Handle)
    }

    /// The slices of a card; none where it is not divided.
    pub(in crate::cuda) fn slices(&self, card: Handle) -> Vec<Handle> {
        let Ok(current) = self.mig_mode(card) else {
            return Vec::new();
        };
        if current != 1 {
            return Vec::new();
        }
        let most = ask!(self.nvmlDeviceGetMaxMigDeviceCount(card.0), 0).unwrap_or(0);
        (0..most.min(SLICE_LIMIT))
            .filter_map(|index| {
                ask!(
                    self.nvmlDeviceGetMigDeviceHandleByIndex(card.0, index),
                    std::ptr::null_mut()
                )
                .ok()
            })
            .map(Handle)
            .collect()
    }

    fn mig_mode(&self, card: Handle) -> Result<c_uint, NvmlCode> {
        let mut current: c_uint = 0;
        // The mode after the next reset comes last and is of no use here.
        let _pending: c_uint = ask!(self.nvmlDeviceGetMigMode(card.0, &mut current), 0)?;
        Ok(current)
    }

    /// What does not change while the driver is loaded.
    pub(in crate::cuda) fn facts(&self, device: Handle) -> Result<RawFacts, NvmlCode> {
        let lib = self.nvml.lib();
        let name = self.device_text(device, lib.nvmlDeviceGetName.as_ref());
        if let Err(code) = &name
            && code.lost().is_some()
        {
            return Err(*code);
        }
        let uuid = self.device_text(device, lib.nvmlDeviceGetUUID.as_ref());
        let slice = ask!(self.nvmlDeviceGetGpuInstanceId(device.0), 0).ok();
        Ok(RawFacts {
            name: name.ok().and_then(|bytes| text::clean(&bytes)),
            uuid: uuid.ok().and_then(|bytes| text::identity(&bytes)),
            pci_address: self.pci_address(device),
            memory: self.memory(device),
            power_limit_mw: ask!(self.nvmlDeviceGetEnforcedPowerLimit(device.0), 0).ok(),
            clock_mhz: ask!(
                self.nvmlDeviceGetMaxClockInfo(device.0, sys::nvmlClockType_enum_NVML_CLOCK_SM),
                0
            )
            .ok(),
            slice,
        })
    }

    /// What the library still knows of a card that is lost.
    pub(in crate::cuda) fn remembered(&self, device: Handle) -> RawFacts {
        let lib = self.nvml.lib();
        let text = |function| self.device_text(device, function).ok();
        RawFacts {
            name: text(lib.nvmlDeviceGetName.as_ref()).and_then(|bytes| text::clean(&bytes)),
            uuid: text(lib.nvmlDeviceGetUUID.as_ref()).and_then(|bytes| text::identity(&bytes)),
            pci_address: self.pci_address(device),
            ..RawFacts::default()
        }
    }

    /// Where a card is plugged in; asked even of lost ones, whose address the library may remember.
    pub(in crate::cuda) fn pci_address(&self, device: Handle) -> Option<String> {
        // SAFETY: the structure is plain numbers, of which zero is one.
        let empty: sys::nvmlPciInfo_t = unsafe { std::mem::zeroed() };
        let info = ask!(self.nvmlDeviceGetPciInfo_v3(device.0), empty).ok()?;
        let bytes: Vec<u8> = info.busId.iter().map(|c| *c as u8).collect();
        text::pci_address(&bytes)
    }

    /// Total and free bytes. Drivers before 510 have no second version of the question, some boards have neither.
    pub(in crate::cuda) fn memory(&self, device: Handle) -> Option<(u64, u64)> {
        // The version that the structure starts with: its size, and 2 in the highest byte.
        let version = std::mem::size_of::<sys::nvmlMemory_v2_t>() as c_uint | 2 << 24;
        let second = sys::nvmlMemory_v2_t {
            version,
            total: 0,
            reserved: 0,
            free: 0,
            used: 0,
        };
        if let Ok(memory) = ask!(self.nvmlDeviceGetMemoryInfo_v2(device.0), second) {
            return Some((memory.total, memory.free));
        }
        let first = sys::nvmlMemory_t {
            total: 0,
            free: 0,
            used: 0,
        };
        let memory = ask!(self.nvmlDeviceGetMemoryInfo(device.0), first).ok()?;
        Some((memory.total, memory.free))
    }

    /// Whether the card answers at all.
    ///
    /// # Errors
    /// The code of its refusal.
    pub(in crate::cuda) fn answers(&self, device: Handle) -> Result<(), NvmlCode> {
        match ask!(self.nvmlDeviceGetTemperature(device.0, 0), 0) {
            Err(code) if code.lost().is_some() || code == NvmlCode::VERSION_MISMATCH => Err(code),
            _ => Ok(()),
        }
    }

    /// Everything that changes. Of a slice most is not to be had: ask its card.
    ///
    /// # Errors
    /// The card is lost, or the library was replaced under the program.
    pub(in crate::cuda) fn readings(&self, device: Handle) -> Result<Raw, NvmlCode> {
        self.answers(device)?;
        let utilisation = ask!(
            self.nvmlDeviceGetUtilizationRates(device.0),
            sys::nvmlUtilization_t { gpu: 0, memory: 0 }
        );
        Ok(Raw {
            memory: self.memory(device),
            utilisation: utilisation.ok().map(|rates| (rates.gpu, rates.memory)),
            temperature: ask!(self.nvmlDeviceGetTemperature(device.0, 0), 0).ok(),
            memory_temperature: self.memory_temperature(device),
            power_mw: ask!(self.nvmlDeviceGetPowerUsage(device.0), 0).ok(),
            power_limit_mw: ask!(self.nvmlDeviceGetEnforcedPowerLimit(device.0), 0).ok(),
            energy_mj: ask!(self.nvmlDeviceGetTotalEnergyConsumption(device.0), 0).ok(),
            clock_mhz: ask!(
                self.nvmlDeviceGetClockInfo(device.0, sys::nvmlClockType_enum_NVML_CLOCK_SM),
                0
            )
            .ok(),
            memory_clock_mhz: ask!(
                self.nvmlDeviceGetClockInfo(device.0, sys::nvmlClockType_enum_NVML_CLOCK_MEM),
                0
            )
            .ok(),
            throttle: ask!(self.nvmlDeviceGetCurrentClocksThrottleReasons(device.0), 0).ok(),
            ecc_corrected: ask!(self.nvmlDeviceGetTotalEccErrors(device.0, 0, 0), 0).ok(),
            ecc_uncorrected: ask!(self.nvmlDeviceGetTotalEccErrors(device.0, 1, 0), 0).ok(),
            pcie_replays: ask!(self.nvmlDeviceGetPcieReplayCounter(device.0), 0).ok(),
            processes: self.processes(device),
        })
    }

    fn memory_temperature(&self, device: Handle) -> Option<u32> {
        // SAFETY: the structure is plain numbers, of which zero is one.
        let mut field: sys::nvmlFieldValue_t = unsafe { std::mem::zeroed() };
        field.fieldId = FIELD_MEMORY_TEMPERATURE;
        let field = ask!(self.nvmlDeviceGetFieldValues(device.0, 1), field).ok()?;
        let single = field.valueType == sys::nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT;
        if field.nvmlReturn != 0 || !single {
            return None;
        }
        // SAFETY: the field's type says which member of the union is set, and every bit pattern is a number.
        Some(unsafe { field.value.uiVal })
    }

    fn processes(&self, device: Handle) -> Vec<RawProcess> {
        let Ok(function) = self.nvml.lib().nvmlDeviceGetComputeRunningProcesses_v3.as_ref() else {
            return Vec::new();
        };
        // SAFETY: the structure is plain numbers, of which zero is one.
        let empty: sys::nvmlProcessInfo_t = unsafe { std::mem::zeroed() };
        let mut list = vec![empty; PROCESS_LIMIT as usize];
        let mut count: c_uint = PROCESS_LIMIT;
        // SAFETY: the list has as many places as the driver is told of.
        let code = unsafe { function(device.0, &mut count, list.as_mut_ptr()) };
        // A list that is too short is not filled; whoever has more processes has other worries.
        if code != 0 {
            return Vec::new();
        }
        list.truncate(count.min(PROCESS_LIMIT) as usize);
        list.iter()
            .map(|process| RawProcess {
                pid: process.pid,
                memory_bytes: process.usedGpuMemory,
            })
            .collect()
    }

    fn device_text<E>(
        &self,
        device: Handle,
        function: Result<&unsafe extern "C" fn(sys::nvmlDevice_t, *mut c_char, c_uint) -> c_uint, E>,
    ) -> Result<Vec<u8>, NvmlCode> {
        let function = function.map_err(|_| NvmlCode::FUNCTION_NOT_FOUND)?;
        // SAFETY: the buffer has at least as many bytes as the driver is told of; the handle is this library's.
        read_text(|buffer, bytes| unsafe { function(device.0, buffer, bytes) })
    }

    /// A queue for the Xids of these cards; none where no card can tell them.
    pub(super) fn watch(&self, cards: impl Iterator<Item = Handle>) -> Option<Events> {
        let set = ask!(self.nvmlEventSetCreate(), std::ptr::null_mut()).ok()?;
        let events = Events(set);
        let register = self.nvml.lib().nvmlDeviceRegisterEvents.as_ref();
        let mut registered = 0;
        for card in cards {
            if let Ok(register) = register {
                // SAFETY: the handle and the set are this library's.
                registered += u32::from(unsafe { register(card.0, XID_EVENTS, events.0) } == 0);
            }
        }
        if registered == 0 {
            self.unwatch(events);
            return None;
        }
        Some(events)
    }

    /// Lets a queue go.
    pub(super) fn unwatch(&self, Events(set): Events) {
        if let Ok(function) = self.nvml.lib().nvmlEventSetFree.as_ref() {
            // SAFETY: the set was made by this library and is not used again. A refusal has no reader.
            let _ = unsafe { function(set) };
        }
    }

    /// What has come since the last call, without waiting.
    pub(super) fn take(&self, events: &Events) -> Vec<Xid> {
        let mut taken = Vec::new();
        while taken.len() < EVENT_LIMIT {
            let Ok(wait) = self.nvml.lib().nvmlEventSetWait_v2.as_ref() else {
                break;
            };
            // SAFETY: the structure is plain numbers and a pointer, of which zero is one.
            let mut data: sys::nvmlEventData_t = unsafe { std::mem::zeroed() };
            // SAFETY: the set is this library's, and `data` outlives the call. No time to wait: it returns at once.
            if unsafe { wait(events.0, &mut data, 0) } != 0 {
                break;
            }
            if data.eventType == XID_EVENTS {
                taken.push(Xid {
                    device: Handle(data.device),
                    number: data.eventData,
                });
            }
        }
        taken
    }
}

/// Has a buffer filled that stays zero at its end, whatever the driver writes into the part that it is told of.
fn read_text(fill: impl Fn(*mut c_char, c_uint) -> c_uint) -> Result<Vec<u8>, NvmlCode> {
    let mut buffer = vec![0u8; TEXT_BYTES];
    let code = NvmlCode(fill(buffer.as_mut_ptr().cast(), TEXT_BYTES as c_uint - 1));
    match code.0 {
        0 => Ok(buffer),
        _ => Err(code),
    }
}
