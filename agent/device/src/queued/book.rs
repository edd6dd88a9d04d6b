//! Which memory is whose: every rule about handles, for all backends. Pure but for the ids.

use crate::driver::{Block, Span};
use crate::{Backend, BackendError, MemoryHandle};
use std::collections::HashMap;
use uuid::Uuid;

/// What was allocated and not given back.
pub(super) struct Book {
    backend: Backend,
    entries: HashMap<Uuid, Entry>,
}

struct Entry {
    device: u32,
    size_bytes: u64,
    block: Option<Block>,
}

impl Book {
    pub(super) fn new(backend: Backend) -> Self {
        Self {
            backend,
            entries: HashMap::new(),
        }
    }

    /// A handle for new memory; zero bytes have no block.
    pub(super) fn enter(&mut self, id: Uuid, device: u32, size_bytes: u64, block: Option<Block>) -> MemoryHandle {
        self.entries.insert(
            id,
            Entry {
                device,
                size_bytes,
                block,
            },
        );
        MemoryHandle {
            id,
            backend: self.backend,
            device,
            size_bytes,
        }
    }

    /// Ends a handle that nobody has; what has to be freed, if it was ever entered.
    pub(super) fn strike_abandoned(&mut self, id: Uuid) -> Option<(u32, Block)> {
        let entry = self.entries.remove(&id)?;
        Some((entry.device, entry.block?))
    }

    /// Ends a handle; what it stood for is the caller's to free.
    pub(super) fn strike(&mut self, handle: &MemoryHandle) -> Result<Option<Block>, BackendError> {
        self.entry(handle)?;
        Ok(self.entries.remove(&handle.id).and_then(|entry| entry.block))
    }

    /// Part of a handle's memory; nothing where it has no bytes.
    pub(super) fn span(&self, handle: &MemoryHandle, offset: u64, bytes: u64) -> Result<Option<Span>, BackendError> {
        let entry = self.entry(handle)?;
        if offset.checked_add(bytes).is_none_or(|end| end > entry.size_bytes) {
            return Err(BackendError::OutOfBounds {
                offset,
                bytes,
                size_bytes: entry.size_bytes,
            });
        }
        Ok(entry.block.filter(|_| bytes > 0).map(|block| Span {
            device: entry.device,
            block,
            offset,
        }))
    }

    /// Ends all handles; gives what has to be freed.
    pub(super) fn empty(&mut self) -> Vec<(u32, Block)> {
        self.entries
            .drain()
            .filter_map(|(_, entry)| entry.block.map(|block| (entry.device, block)))
            .collect()
    }

    fn entry(&self, handle: &MemoryHandle) -> Result<&Entry, BackendError> {
        let bad = |what| BackendError::BadHandle {
            handle: handle.id,
            what,
        };
        if handle.backend != self.backend {
            return Err(bad("is of another backend"));
        }
        let entry = self
            .entries
            .get(&handle.id)
            .ok_or(bad("was given back already, or is another holder's"))?;
        if entry.device != handle.device {
            return Err(bad("is of another device"));
        }
        Ok(entry)
    }
}
