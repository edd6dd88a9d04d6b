//! What this process has of the cards while the libraries are loaded. Contexts are made at a device's first use, because
//! each costs time and hundreds of mebibytes of the card.

use super::call::{Context, Kernel, Library, Module};
use super::devices::Unreached;
use super::fault::{Class, Code};
use super::nvml::call as nvml;
use super::nvml::parse::{Raw, believable_memory};
use super::product::Source;
use crate::driver::Block;
use crate::{Backend, BackendError, GpuDevice};
use std::collections::{BTreeMap, HashMap};

/// What there is while the libraries are loaded.
pub(super) struct Open {
    pub(super) cuda: Option<Library>,
    nvml: Option<nvml::Library>,
    slots: Vec<Slot>,
    /// Whether bytes go directly, by pair of indices; asked and proved once.
    pub(super) peers: BTreeMap<(u32, u32), bool>,
}

/// A device and what this process has of it.
pub(super) struct Slot {
    device: GpuDevice,
    ordinal: Result<i32, Unreached>,
    /// In NVML; of a slice, its own handle and its card's.
    handle: Option<(nvml::Handle, nvml::Handle)>,
    used: Option<Used>,
}

/// A device that was used.
struct Used {
    context: Context,
    /// By the name of their text, and by their own.
    modules: HashMap<&'static str, Module>,
    kernels: HashMap<&'static str, Kernel>,
    blocks: HashMap<Block, u64>,
}

impl Slot {
    /// A device that was not used yet. `handle` is its own in NVML and its card's, which differ for a slice.
    pub(super) fn new(
        device: GpuDevice,
        ordinal: Result<i32, Unreached>,
        handle: Option<(nvml::Handle, nvml::Handle)>,
    ) -> Self {
        Self {
            device,
            ordinal,
            handle,
            used: None,
        }
    }
}

impl Open {
    /// What was found, nothing of it used. `cuda` is there where any device is reached.
    pub(super) fn new(cuda: Option<Library>, nvml: Option<nvml::Library>, slots: Vec<Slot>) -> Self {
        Self {
            cuda,
            nvml,
            slots,
            peers: BTreeMap::new(),
        }
    }

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
            Err(Unreached::Lost(reason)) => {
                return Err(BackendError::Lost {
                    device: self.name(device),
                    reason: reason.clone(),
                });
            }
            Err(Unreached::Hidden(reason)) => {
                return Err(BackendError::Unavailable {
                    backend: Backend::Cuda,
                    reason: format!("{}: {reason}", self.name(device)),
                });
            }
            Err(Unreached::LeftAlone) => {
                return Err(BackendError::Unsupported {
                    what: "work on a card that was not asked for",
                    device: self.name(device),
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
                modules: HashMap::new(),
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

    /// A kernel on a device; its module is compiled at the first use of any of its kernels.
    pub(super) fn kernel(&mut self, device: u32, source: &Source) -> Result<Kernel, BackendError> {
        let context = self.context(device)?;
        let used = self.used_mut(device);
        let (module, kernel) = used.map_or((None, None), |used| {
            (
                used.modules.get(source.module).copied(),
                used.kernels.get(source.name).copied(),
            )
        });
        if let Some(kernel) = kernel {
            return Ok(kernel);
        }
        let library = self.library()?;
        let module = match module {
            Some(module) => module,
            None => library
                .load(context, source.ptx)
                .map_err(|code| self.fault("cuModuleLoadData", code, device))?,
        };
        let kernel = library.kernel(context, module, source.symbol);
        if let Some(used) = self.used_mut(device) {
            used.modules.insert(source.module, module);
        }
        let kernel = kernel.map_err(|code| self.fault("cuModuleGetFunction", code, device))?;
        if let Some(used) = self.used_mut(device) {
            used.kernels.insert(source.name, kernel);
        }
        Ok(kernel)
    }

    /// The device's compute capability as `major` · 10 + `minor`.
    pub(super) fn architecture(&self, device: u32) -> Option<u32> {
        let text = self.slots.get(device as usize)?.device.architecture.as_deref()?;
        text.strip_prefix("sm_")?.parse().ok()
    }

    /// Frees what is left of every device. The first failure is told; the rest is freed all the same.
    pub(super) fn let_all_go(&mut self) -> Result<(), BackendError> {
        let mut outcome = Ok(());
        for device in 0..self.slots.len() as u32 {
            outcome = outcome.and(self.let_go(device));
        }
        outcome
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
        for module in used.modules.values() {
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

    /// Whether there is anything to tell: a device that can be used, or one that is lost and must be told of.
    pub(super) fn is_worth_opening(&self) -> bool {
        let tells = |slot: &Slot| matches!(slot.ordinal, Ok(_) | Err(Unreached::Lost(_)));
        self.slots.iter().any(tells)
    }

    /// The devices, with what is free now.
    pub(super) fn devices(&mut self) -> Vec<GpuDevice> {
        self.refresh();
        self.slots.iter().map(|slot| slot.device.clone()).collect()
    }

    fn refresh(&mut self) {
        for index in 0..self.slots.len() as u32 {
            let Ok(slot) = self.slot(index) else { continue };
            if matches!(slot.ordinal, Err(Unreached::LeftAlone)) {
                continue;
            }
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

    /// What NVML reads of a device's card; nothing without NVML.
    pub(super) fn readings(&self, device: u32) -> Result<Option<Raw>, BackendError> {
        let (Some(library), Some((handle, card))) = (&self.nvml, self.slot(device)?.handle) else {
            return Ok(None);
        };
        let mut raw = library.readings(card).map_err(|code| BackendError::Lost {
            device: self.name(device),
            reason: code.text(),
        })?;
        // The power is of all the card's slices.
        if handle != card {
            raw.power_mw = None;
        }
        Ok(Some(raw))
    }
}
