//! NVIDIA's cards as a [`Driver`]: CUDA does the work, NVML describes the cards where it is present. Contexts are made at
//! a device's first use, because each costs time and hundreds of mebibytes of the card.

use super::call::{Context, Facts, Kernel, Library, Module};
use super::devices::{Described, Joined, Surroundings, Unreached, join};
use super::fault::{Class, Code};
use super::nvml::call as nvml;
use super::nvml::parse::{RawFacts, believable_memory, celsius, megahertz, watts};
use crate::driver::{Block, Driver, Multiplied, Product, Span};
use crate::{Backend, BackendError, GpuDevice, MemoryInfo};
use std::collections::{BTreeMap, HashMap};

/// NVIDIA's libraries; loaded by [`Driver::open`], let go by [`Driver::close`] or when dropped.
#[derive(Default)]
pub struct CudaDriver {
    open: Option<Open>,
}

/// What there is while the libraries are loaded.
pub(super) struct Open {
    pub(super) cuda: Option<Library>,
    nvml: Option<nvml::Library>,
    slots: Vec<Slot>,
    /// Whether bytes go directly, by pair of indices; asked and proved once.
    pub(super) peers: BTreeMap<(u32, u32), bool>,
}

/// A device and what this process has of it.
struct Slot {
    device: GpuDevice,
    ordinal: Result<i32, Unreached>,
    /// In NVML; of a slice, its own handle and its card's.
    handle: Option<(nvml::Handle, nvml::Handle)>,
    used: Option<Used>,
}

/// A device that was used.
#[derive(Clone)]
pub(super) struct Used {
    pub(super) context: Context,
    kernels: HashMap<&'static str, (Module, Kernel)>,
    blocks: HashMap<Block, u64>,
}

impl CudaDriver {
    /// Not yet loaded.
    pub fn new() -> Self {
        Self::default()
    }

    fn open_mut(&mut self) -> Result<&mut Open, BackendError> {
        self.open
            .as_mut()
            .ok_or(BackendError::NotInitialised { backend: Backend::Cuda })
    }
}

impl Drop for CudaDriver {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = self.close();
    }
}

/// NVML's list, with the handles beside it.
type DescribedList = Vec<(Described, Option<(nvml::Handle, nvml::Handle)>)>;

fn describe(library: &nvml::Library) -> DescribedList {
    let mut list = Vec::new();
    for index in 0..library.count().unwrap_or(0) {
        let lost = |code: super::fault::NvmlCode, facts: RawFacts| Described {
            facts,
            card: None,
            lost: Some(code.text()),
        };
        let card = match library.handle(index) {
            Ok(card) => card,
            Err(code) => {
                list.push((lost(code, RawFacts::default()), None));
                continue;
            }
        };
        let facts = match library.answers(card).and_then(|()| library.facts(card)) {
            Ok(facts) => facts,
            Err(code) => {
                let remembered = library.remembered(card);
                list.push((lost(code, remembered), Some((card, card))));
                continue;
            }
        };
        let slices = library.slices(card);
        for slice in &slices {
            if let Ok(own) = library.facts(*slice) {
                let described = Described {
                    facts: own,
                    card: Some(facts.clone()),
                    lost: None,
                };
                list.push((described, Some((*slice, card))));
            }
        }
        // A divided card without slices has nothing to allocate from; CUDA does not show it.
        if slices.is_empty() {
            let described = Described {
                facts,
                card: None,
                lost: None,
            };
            list.push((described, Some((card, card))));
        }
    }
    list
}

/// Both libraries' lists; what is missing is a sentence.
fn gather() -> Result<Open, String> {
    let nvml = nvml::Library::open();
    let (cuda, reached, no_cuda): (Option<Library>, Vec<Facts>, Option<String>) = match Library::open() {
        Ok(library) => match library.devices() {
            Ok(reached) => (Some(library), reached, None),
            Err(code) => (
                None,
                Vec::new(),
                Some(format!("cuDeviceGetCount failed: {}", code.text())),
            ),
        },
        Err(fault) => (None, Vec::new(), Some(fault.to_string())),
    };
    let described = nvml.as_ref().map(describe).unwrap_or_default();
    let around = Surroundings {
        driver: version(nvml.as_ref().ok(), cuda.as_ref()),
        chosen: std::env::var_os("CUDA_VISIBLE_DEVICES").is_some(),
        no_cuda: no_cuda.clone(),
    };
    let (described, handles): (Vec<Described>, Vec<_>) = described.into_iter().unzip();
    let slots: Vec<Slot> = join(&reached, &described, &around)
        .into_iter()
        .map(
            |Joined {
                 device,
                 ordinal,
                 described,
             }| Slot {
                device,
                ordinal,
                handle: described.and_then(|place| handles[place]),
                used: None,
            },
        )
        .collect();
    if slots.is_empty() {
        let cuda = no_cuda.unwrap_or_else(|| "CUDA shows no device".to_owned());
        return Err(match &nvml {
            Err(fault) => format!("{cuda}; {fault}"),
            Ok(_) => cuda,
        });
    }
    Ok(Open {
        cuda,
        nvml: nvml.ok(),
        slots,
        peers: BTreeMap::new(),
    })
}

fn version(nvml: Option<&nvml::Library>, cuda: Option<&Library>) -> Option<String> {
    let described = nvml.and_then(nvml::Library::driver_version);
    let offered = cuda
        .and_then(Library::version)
        .map(|version| format!("CUDA {}.{}", version / 1000, version % 1000 / 10));
    match (described, offered) {
        (Some(driver), Some(cuda)) => Some(format!("{driver} ({cuda})")),
        (driver, cuda) => driver.or(cuda),
    }
}

impl Open {
    fn slot(&self, device: u32) -> Result<&Slot, BackendError> {
        self.slots.get(device as usize).ok_or(BackendError::NoSuchDevice {
            backend: Backend::Cuda,
            device,
            count: self.slots.len(),
        })
    }

    fn name(&self, device: u32) -> String {
        match self.slots.get(device as usize) {
            Some(slot) => slot.device.short_name(),
            None => format!("{}{device}", Backend::Cuda.name()),
        }
    }

    /// The library; every device that is reached is reached by it.
    pub(super) fn library(&self) -> Result<&Library, BackendError> {
        self.cuda
            .as_ref()
            .ok_or(BackendError::NotInitialised { backend: Backend::Cuda })
    }

    /// The device's context, made now if this is its first use.
    pub(super) fn context(&mut self, device: u32) -> Result<Context, BackendError> {
        let slot = self.slot(device)?;
        if let Some(used) = &slot.used {
            return Ok(used.context);
        }
        let ordinal = match &slot.ordinal {
            Ok(ordinal) => *ordinal,
            Err(Unreached::Lost(reason) | Unreached::Hidden(reason)) => {
                return Err(BackendError::Lost {
                    device: self.name(device),
                    reason: reason.clone(),
                });
            }
            Err(Unreached::OtherSlice) => {
                return Err(BackendError::Unsupported {
                    what: "work on a MIG slice beside the one that CUDA gives this process",
                    device: self.name(device),
                });
            }
        };
        let context = self
            .library()?
            .retain(ordinal)
            .map_err(|code| self.fault("cuDevicePrimaryCtxRetain", code, device))?;
        if let Some(slot) = self.slots.get_mut(device as usize) {
            slot.used = Some(Used {
                context,
                kernels: HashMap::new(),
                blocks: HashMap::new(),
            });
        }
        Ok(context)
    }

    /// What a failed call means. A card that is gone often shows as an unknown error only: NVML knows better.
    pub(super) fn fault(&self, call: &'static str, code: Code, device: u32) -> BackendError {
        let lost = |reason: String| BackendError::Lost {
            device: self.name(device),
            reason,
        };
        if code.class() == Class::Lost {
            return lost(format!("{call}: {}", code.text()));
        }
        let handle = self.slots.get(device as usize).and_then(|slot| slot.handle);
        if let (Some(nvml), Some((_, card))) = (&self.nvml, handle)
            && let Err(why) = nvml.answers(card)
            && why.lost().is_some()
        {
            return lost(format!("{call}: {}; {}", code.text(), why.text()));
        }
        BackendError::Failed {
            call,
            reason: code.text(),
        }
    }

    /// Memory on a device; what was asked for and what is free where there is not enough.
    pub(super) fn allocate(&mut self, device: u32, bytes: u64) -> Result<Block, BackendError> {
        let context = self.context(device)?;
        let outcome = self.library()?.allocate(context, bytes);
        let block = match outcome {
            Ok(block) => block,
            Err(code) if code.class() == Class::OutOfMemory => {
                let free = self.library()?.memory(context).map(|(free, _)| free);
                return Err(BackendError::OutOfMemory {
                    device: self.name(device),
                    wanted_bytes: bytes,
                    free_bytes: free.map_err(|code| self.fault("cuMemGetInfo", code, device))?,
                });
            }
            Err(code) => return Err(self.fault("cuMemAlloc", code, device)),
        };
        if let Some(used) = self.used_mut(device) {
            used.blocks.insert(block, bytes);
        }
        Ok(block)
    }

    /// Gives memory back.
    pub(super) fn free(&mut self, device: u32, block: Block) -> Result<(), BackendError> {
        let context = self.context(device)?;
        if let Some(used) = self.used_mut(device) {
            used.blocks.remove(&block);
        }
        self.library()?
            .free(context, block)
            .map_err(|code| self.fault("cuMemFree", code, device))
    }

    fn used_mut(&mut self, device: u32) -> Option<&mut Used> {
        self.slots.get_mut(device as usize).and_then(|slot| slot.used.as_mut())
    }

    /// A kernel on a device, compiled at its first use.
    pub(super) fn kernel(&mut self, device: u32, source: &super::product::Source) -> Result<Kernel, BackendError> {
        let context = self.context(device)?;
        let known = self
            .used_mut(device)
            .and_then(|used| used.kernels.get(source.name).copied());
        if let Some((_, kernel)) = known {
            return Ok(kernel);
        }
        let module = self
            .library()?
            .load(context, source.ptx)
            .map_err(|code| self.fault("cuModuleLoadData", code, device))?;
        let kernel = self
            .library()?
            .kernel(context, module, source.symbol)
            .map_err(|code| self.fault("cuModuleGetFunction", code, device))?;
        if let Some(used) = self.used_mut(device) {
            used.kernels.insert(source.name, (module, kernel));
        }
        Ok(kernel)
    }

    /// The device's compute capability as `major` · 10 + `minor`.
    pub(super) fn architecture(&self, device: u32) -> Option<u32> {
        let text = self.slots.get(device as usize)?.device.architecture.as_deref()?;
        text.strip_prefix("sm_")?.parse().ok()
    }

    /// Frees what is left of a device.
    fn let_go(&mut self, device: u32) -> Result<(), BackendError> {
        let Some(used) = self.slots.get_mut(device as usize).and_then(|slot| slot.used.take()) else {
            return Ok(());
        };
        let library = self.library()?;
        let mut outcome = Ok(());
        for block in used.blocks.keys() {
            let freed = library.free(used.context, *block);
            outcome = outcome.and(freed.map_err(|code| self.fault("cuMemFree", code, device)));
        }
        for (module, _) in used.kernels.values() {
            let unloaded = library.unload(used.context, *module);
            outcome = outcome.and(unloaded.map_err(|code| self.fault("cuModuleUnload", code, device)));
        }
        let released = library.release(used.context);
        outcome.and(released.map_err(|code| self.fault("cuDevicePrimaryCtxRelease", code, device)))
    }

    /// Free bytes as NVML has them, without a context.
    fn free_bytes(&self, slot: &Slot) -> Option<u64> {
        let (handle, _) = slot.handle?;
        let memory = self.nvml.as_ref()?.memory(handle);
        believable_memory(memory).map(|(_, free)| free)
    }

    fn refresh(&mut self) {
        for index in 0..self.slots.len() as u32 {
            let Ok(slot) = self.slot(index) else { continue };
            let mut free = self.free_bytes(slot);
            // Boards without NVML, or whose NVML knows no memory, are asked through a context.
            if free.is_none()
                && slot.ordinal.is_ok()
                && let Ok(context) = self.context(index)
            {
                free = self
                    .library()
                    .ok()
                    .and_then(|library| library.memory(context).ok())
                    .map(|(free, _)| free);
            }
            if let (Some(free), Some(slot)) = (free, self.slots.get_mut(index as usize)) {
                slot.device.memory_free_bytes = free.min(slot.device.memory_total_bytes);
            }
        }
    }

    fn card(&self, device: u32) -> Result<Option<(&nvml::Library, nvml::Handle)>, BackendError> {
        let slot = self.slot(device)?;
        Ok(self.nvml.as_ref().zip(slot.handle.map(|(_, card)| card)))
    }

    fn readings(&self, device: u32) -> Result<Option<super::nvml::parse::Raw>, BackendError> {
        let Some((library, card)) = self.card(device)? else {
            return Ok(None);
        };
        library.readings(card).map(Some).map_err(|code| BackendError::Lost {
            device: self.name(device),
            reason: code.text(),
        })
    }
}

impl Driver for CudaDriver {
    fn backend(&self) -> Backend {
        Backend::Cuda
    }

    fn open(&mut self) -> Result<(), BackendError> {
        if self.open.is_none() {
            let open = gather().map_err(|reason| BackendError::Unavailable {
                backend: Backend::Cuda,
                reason,
            })?;
            self.open = Some(open);
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), BackendError> {
        let Some(mut open) = self.open.take() else {
            return Ok(());
        };
        let mut outcome = Ok(());
        for device in 0..open.slots.len() as u32 {
            outcome = outcome.and(open.let_go(device));
        }
        outcome
    }

    fn devices(&mut self) -> Result<Vec<GpuDevice>, BackendError> {
        let open = self.open_mut()?;
        open.refresh();
        Ok(open.slots.iter().map(|slot| slot.device.clone()).collect())
    }

    fn allocate(&mut self, device: u32, bytes: u64) -> Result<Block, BackendError> {
        self.open_mut()?.allocate(device, bytes)
    }

    fn free(&mut self, device: u32, block: Block) -> Result<(), BackendError> {
        self.open_mut()?.free(device, block)
    }

    fn write(&mut self, to: Span, bytes: &[u8]) -> Result<(), BackendError> {
        self.open_mut()?.write(to, bytes)
    }

    fn read(&mut self, from: Span, bytes: &mut [u8]) -> Result<(), BackendError> {
        self.open_mut()?.read(from, bytes)
    }

    fn copy(&mut self, from: Span, to: Span, bytes: u64) -> Result<(), BackendError> {
        self.open_mut()?.copy(from, to, bytes)
    }

    fn copies_directly(&mut self, from: u32, to: u32) -> bool {
        from == to || self.open_mut().and_then(|open| open.direct(from, to)).unwrap_or(false)
    }

    fn synchronize(&mut self, device: u32) -> Result<(), BackendError> {
        let open = self.open_mut()?;
        let context = open.context(device)?;
        open.library()?
            .synchronize(context)
            .map_err(|code| open.fault("cuCtxSynchronize", code, device))
    }

    fn launch(&mut self, device: u32) -> Result<(), BackendError> {
        self.open_mut()?.launch(device)
    }

    fn multiply(&mut self, device: u32, product: &Product<'_>) -> Result<Multiplied, BackendError> {
        self.open_mut()?.multiply(device, product)
    }

    fn memory(&mut self, device: u32) -> Result<MemoryInfo, BackendError> {
        let open = self.open_mut()?;
        let context = open.context(device)?;
        let (free_bytes, total_bytes) = open
            .library()?
            .memory(context)
            .map_err(|code| open.fault("cuMemGetInfo", code, device))?;
        Ok(MemoryInfo {
            total_bytes,
            free_bytes,
        })
    }

    fn temperature(&mut self, device: u32) -> Result<Option<f32>, BackendError> {
        let readings = self.open_mut()?.readings(device)?;
        Ok(readings
            .and_then(|raw| raw.temperature)
            .and_then(|value| celsius(value).ok()))
    }

    fn power(&mut self, device: u32) -> Result<Option<f32>, BackendError> {
        Ok(watts(self.open_mut()?.readings(device)?.and_then(|raw| raw.power_mw)))
    }

    fn clock(&mut self, device: u32) -> Result<Option<u32>, BackendError> {
        Ok(megahertz(
            self.open_mut()?.readings(device)?.and_then(|raw| raw.clock_mhz),
        ))
    }
}
