//! Vulkan's devices as devices like any other: blocks of one or more buffers, copies in pieces, products by a kernel.

use super::call::session::{Buffer, Place, Region, Session};
use super::call::{CallError, Loader};
use super::parse::{self, Heap};
use crate::driver::{Block, Driver, Multiplied, Product, Span};
use crate::promised::Promised;
use crate::{Backend, BackendError, GpuDevice, Kind, MemoryInfo, Pool, cpu};
use ash::vk;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod pieces;
mod product;
mod transfer;

use pieces::{Parts, Piece, overlap};
use transfer::{Host, through_staging};

/// Of main memory that the device reads and writes, for each device.
const STAGING_BYTES: u64 = 16 << 20;
/// Of one submission: a copy of this size takes less than a second on the slowest renderer.
const SUBMISSION_BYTES: u64 = 256 << 20;
/// Of a copy from one device to another, what is in main memory at a time.
const BRIDGE_BYTES: usize = 8 << 20;

/// All devices of the loader, each with a session from its first use on.
pub(super) struct Devices {
    root: PathBuf,
    loader: Option<Arc<Loader>>,
    devices: Vec<Known>,
    blocks: HashMap<Block, Parts<Buffer>>,
    /// Of devices that compute on the processors: their memory is taken page by page as it is written.
    promised: Promised,
    next: Block,
    staged: bool,
    /// Of one buffer, where less than what the device allows.
    part_bytes_max: u64,
}

/// One device.
struct Known {
    kind: Kind,
    pool: Pool,
    main_heap: u32,
    session: Option<Session>,
    staging: Option<Buffer>,
    own_bytes: u64,
}

impl Known {
    fn session(&mut self) -> Result<&mut Session, CallError> {
        self.session.as_mut().ok_or(NO_SESSION)
    }

    /// The session and its staging buffer, which is made at its first use.
    fn staging(&mut self) -> Result<(&mut Session, &Buffer), CallError> {
        let session = self.session.as_mut().ok_or(NO_SESSION)?;
        let staging = match self.staging.take() {
            Some(staging) => staging,
            None => session.buffer(STAGING_BYTES, Place::Staging)?,
        };
        Ok((session, self.staging.insert(staging)))
    }
}

const NO_SESSION: CallError = CallError::Failed {
    call: "vkCreateDevice",
    result: vk::Result::ERROR_INITIALIZATION_FAILED,
};

impl Devices {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            loader: None,
            devices: Vec::new(),
            blocks: HashMap::new(),
            promised: Promised::default(),
            next: 1,
            staged: false,
            part_bytes_max: u64::MAX,
        }
    }

    /// Reaches all memory through the staging buffer, as on a card, in buffers of at most that size.
    #[cfg(test)]
    pub(super) fn constrained(root: &Path, part_bytes_max: u64) -> Self {
        let mut devices = Self::new(root);
        devices.staged = true;
        devices.part_bytes_max = part_bytes_max;
        devices
    }

    fn loader(&self) -> Result<&Arc<Loader>, BackendError> {
        self.loader.as_ref().ok_or(BackendError::NotInitialised {
            backend: Backend::Vulkan,
        })
    }

    /// The device, with a session.
    fn device(&mut self, index: u32) -> Result<&mut Known, BackendError> {
        let loader = Arc::clone(self.loader()?);
        let count = self.devices.len();
        let known = self.devices.get_mut(index as usize).ok_or(BackendError::NoSuchDevice {
            backend: Backend::Vulkan,
            device: index,
            count,
        })?;
        if known.session.is_none() {
            let session = Session::open(loader, index, known.main_heap).map_err(|error| failed(index, error))?;
            known.session = Some(session);
        }
        Ok(known)
    }

    /// A block and its device.
    fn block(&mut self, span: Span) -> Result<(&mut Known, &Parts<Buffer>), BackendError> {
        let known = self.devices.get_mut(span.device as usize);
        let parts = self.blocks.get(&span.block);
        known.zip(parts).ok_or_else(|| BackendError::Failed {
            call: "finding a block",
            reason: "it was freed or never allocated".to_owned(),
        })
    }

    fn main_heap(&self, index: u32) -> Result<Heap, BackendError> {
        let heaps = self.loader()?.heaps_of(index).map_err(|error| failed(index, error))?;
        parse::main_heap(&heaps).copied().ok_or(BackendError::Unsupported {
            what: "memory",
            device: name(index),
        })
    }

    fn touch(&mut self, span: Span, bytes: u64) {
        self.promised.touch(span.block, span.offset, bytes);
    }

    fn transfer(&mut self, span: Span, bytes: u64, mut host: Host<'_>) -> Result<(), BackendError> {
        let staged = self.staged;
        let (known, parts) = self.block(span)?;
        let mut done = 0_usize;
        for Piece { part, offset, bytes } in parts.pieces(span.offset, bytes) {
            let end = done + bytes as usize;
            let outcome = if part.mappable() && !staged {
                let session = known.session().map_err(|error| failed(span.device, error))?;
                host.directly(session, part, offset, done..end)
            } else {
                known
                    .staging()
                    .and_then(|(session, staging)| host.staged(session, staging, part, offset, done..end))
            };
            outcome.map_err(|error| failed(span.device, error))?;
            done = end;
        }
        Ok(())
    }

    fn copy_within(&mut self, from: Span, to: Span, bytes: u64) -> Result<(), CallError> {
        let (Some(source), Some(target)) = (self.blocks.get(&from.block), self.blocks.get(&to.block)) else {
            return Err(NO_SESSION);
        };
        let known = self.devices.get_mut(from.device as usize).ok_or(NO_SESSION)?;
        if from.block == to.block && overlap(from.offset, to.offset, bytes) {
            let (session, staging) = known.staging()?;
            return through_staging(session, staging, source, (from.offset, to.offset), bytes);
        }
        let session = known.session()?;
        for [one, other] in source.pairs(from.offset, target, to.offset, bytes, SUBMISSION_BYTES) {
            session.copy(&[Region {
                from: (one.part, one.offset),
                to: (other.part, other.offset),
                bytes: one.bytes,
            }])?;
        }
        Ok(())
    }

    /// Through main memory, a bounded part at a time.
    pub(super) fn copy_between(&mut self, from: Span, to: Span, bytes: u64) -> Result<(), BackendError> {
        let mut bridge = vec![0; BRIDGE_BYTES.min(bytes as usize)];
        let mut done = 0;
        while done < bytes {
            let part = &mut bridge[..(bytes - done).min(BRIDGE_BYTES as u64) as usize];
            let at = |span: Span| Span {
                offset: span.offset + done,
                ..span
            };
            self.read(at(from), part)?;
            self.write(at(to), part)?;
            done += part.len() as u64;
        }
        Ok(())
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = self.close();
    }
}

fn name(index: u32) -> String {
    format!("{}{index}", Backend::Vulkan.name())
}

/// What a failed call means to who asked for it.
fn failed(index: u32, error: CallError) -> BackendError {
    match error {
        CallError::Failed {
            result: vk::Result::ERROR_DEVICE_LOST,
            call,
        } => BackendError::Lost {
            device: name(index),
            reason: format!("{call} says so"),
        },
        CallError::Failed {
            result: vk::Result::TIMEOUT,
            ..
        } => BackendError::Lost {
            device: name(index),
            reason: "it did not finish within 10 s".to_owned(),
        },
        CallError::Failed { call, result } => BackendError::Failed {
            call,
            reason: result.to_string(),
        },
        other => BackendError::Unavailable {
            backend: Backend::Vulkan,
            reason: other.to_string(),
        },
    }
}

impl Driver for Devices {
    fn backend(&self) -> Backend {
        Backend::Vulkan
    }

    fn open(&mut self) -> Result<(), BackendError> {
        let unavailable = |error: CallError| BackendError::Unavailable {
            backend: Backend::Vulkan,
            reason: error.to_string(),
        };
        let loader = Loader::open().map_err(unavailable)?;
        let facts = loader.physical_devices().map_err(unavailable)?;
        if facts.is_empty() {
            return Err(BackendError::Unavailable {
                backend: Backend::Vulkan,
                reason: "the Vulkan loader is here, but no driver offers a device; install the card's Vulkan driver"
                    .to_owned(),
            });
        }
        self.devices = facts
            .iter()
            .map(|facts| {
                let device = parse::device(facts);
                Known {
                    kind: device.kind,
                    pool: device.pool,
                    main_heap: parse::main_heap_index(&facts.heaps).unwrap_or(0) as u32,
                    session: None,
                    staging: None,
                    own_bytes: 0,
                }
            })
            .collect();
        self.loader = Some(Arc::new(loader));
        Ok(())
    }

    fn close(&mut self) -> Result<(), BackendError> {
        let blocks: Vec<Block> = self.blocks.keys().copied().collect();
        for block in blocks {
            // Closed in any case; what a lost device does not free goes with it.
            let _ = self.free(0, block);
        }
        for mut known in self.devices.drain(..) {
            if let (Some(session), Some(staging)) = (&known.session, known.staging.take()) {
                session.destroy(staging);
            }
        }
        self.promised.clear();
        self.loader = None;
        Ok(())
    }

    fn devices(&mut self) -> Result<Vec<GpuDevice>, BackendError> {
        let facts = self.loader()?.physical_devices().map_err(|error| failed(0, error))?;
        let mut devices: Vec<GpuDevice> = facts.iter().map(parse::device).collect();
        devices.truncate(self.devices.len());
        for device in &mut devices {
            device.memory_free_bytes = self.memory(device.index).map_or(0, |memory| memory.free_bytes);
            device.memory_usable_bytes = device.memory_free_bytes;
        }
        Ok(devices)
    }

    fn allocate(&mut self, device: u32, bytes: u64) -> Result<Block, BackendError> {
        let refused = |free_bytes| BackendError::OutOfMemory {
            device: name(device),
            wanted_bytes: bytes,
            free_bytes,
        };
        let free_bytes = self.memory(device)?.free_bytes;
        if bytes > free_bytes {
            return Err(refused(free_bytes));
        }
        let part_bytes_max = self.part_bytes_max;
        let known = self.device(device)?;
        let kind = known.kind;
        let session = known.session().map_err(|error| failed(device, error))?;
        let part_bytes_max = part_bytes_max.min(session.limits().allocation_bytes);
        let made = Parts::new(bytes, part_bytes_max, |part_bytes| {
            session.buffer(part_bytes, Place::Device)
        });
        let parts = made.map_err(|(made, error)| {
            made.into_iter().for_each(|buffer| session.destroy(buffer));
            match error {
                CallError::Failed {
                    result: vk::Result::ERROR_OUT_OF_DEVICE_MEMORY | vk::Result::ERROR_OUT_OF_HOST_MEMORY,
                    ..
                } => refused(free_bytes),
                other => failed(device, other),
            }
        })?;
        known.own_bytes += parts.iter().map(Buffer::allocated_bytes).sum::<u64>();
        let block = self.next;
        self.next += 1;
        if kind == Kind::Software {
            self.promised.enter(block, bytes);
        }
        self.blocks.insert(block, parts.on(device));
        Ok(block)
    }

    fn free(&mut self, _device: u32, block: Block) -> Result<(), BackendError> {
        self.promised.strike(block);
        let Some(parts) = self.blocks.remove(&block) else {
            return Err(BackendError::Failed {
                call: "finding a block",
                reason: "it was freed or never allocated".to_owned(),
            });
        };
        if let Some(known) = self.devices.get_mut(parts.device as usize) {
            for buffer in parts {
                known.own_bytes = known.own_bytes.saturating_sub(buffer.allocated_bytes());
                if let Some(session) = &known.session {
                    session.destroy(buffer);
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, to: Span, bytes: &[u8]) -> Result<(), BackendError> {
        self.touch(to, bytes.len() as u64);
        self.transfer(to, bytes.len() as u64, Host::Write(bytes))
    }

    fn read(&mut self, from: Span, bytes: &mut [u8]) -> Result<(), BackendError> {
        self.transfer(from, bytes.len() as u64, Host::Read(bytes))
    }

    fn copy(&mut self, from: Span, to: Span, bytes: u64) -> Result<(), BackendError> {
        self.touch(to, bytes);
        if from.device == to.device {
            self.copy_within(from, to, bytes)
                .map_err(|error| failed(from.device, error))
        } else {
            self.copy_between(from, to, bytes)
        }
    }

    fn synchronize(&mut self, device: u32) -> Result<(), BackendError> {
        // Every submission is waited for; another one tells whether the device still answers.
        self.launch(device)
    }

    fn launch(&mut self, device: u32) -> Result<(), BackendError> {
        let session = self.device(device)?.session();
        session.and_then(Session::launch).map_err(|error| failed(device, error))
    }

    fn multiply(&mut self, device: u32, product: &Product<'_>) -> Result<Multiplied, BackendError> {
        self.product(device, product)
    }

    fn memory(&mut self, device: u32) -> Result<MemoryInfo, BackendError> {
        let heap = self.main_heap(device)?;
        let Some(known) = self.devices.get(device as usize) else {
            return Err(failed(device, NO_SESSION));
        };
        let mut free_bytes = parse::free_bytes(&heap, known.own_bytes);
        if known.pool == Pool::Host {
            // The heap's size is what the driver would take of main memory, not what is left there.
            let promised_bytes = self.promised.untouched_bytes();
            let host = cpu::memory(&self.root).ok();
            let left = host.map(|host| host.free_bytes.saturating_sub(promised_bytes));
            free_bytes = free_bytes.min(left.unwrap_or(free_bytes));
        }
        Ok(MemoryInfo {
            total_bytes: heap.size_bytes,
            free_bytes,
        })
    }

    fn temperature(&mut self, _device: u32) -> Result<Option<f32>, BackendError> {
        Ok(None)
    }

    fn power(&mut self, _device: u32) -> Result<Option<f32>, BackendError> {
        Ok(None)
    }

    fn clock(&mut self, _device: u32) -> Result<Option<u32>, BackendError> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
