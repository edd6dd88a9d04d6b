//! What the node remembers of its devices across restarts: a versioned file, written as a whole or not at all.
//!
//! ```text
//!  answers ──merge──▶ devices ──assign_ordinals──▶ names ──recall──▶ figures ──remember──▶ save
//! ```

mod entries;
mod file;

use crate::GpuDevice;
use crate::health::Health;
use entries::Entries;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// The devices that this node has and had, each with its number, its figures and its health.
#[derive(Debug)]
pub struct Registry {
    path: PathBuf,
    entries: Entries,
    dirty: AtomicBool,
}

impl Registry {
    /// Reads the file. Without one the registry is empty. A file that cannot be used, or is of a newer version, is moved
    /// aside to `<name>.corrupt-<unix seconds>` and the registry is empty; the text says what was wrong.
    pub fn open(path: &Path) -> (Self, Option<String>) {
        let (entries, complaint) = match file::read(path) {
            Ok(entries) => (entries, None),
            Err(fault) => (None, Some(file::set_aside(path, &fault))),
        };
        let registry = Self {
            path: path.to_owned(),
            entries: entries.unwrap_or_default(),
            dirty: AtomicBool::new(false),
        };
        (registry, complaint)
    }

    /// The devices in a registry's file, for those who read what another process writes: nothing is moved or written, and
    /// a file that cannot be used has none.
    pub fn peek(path: &Path) -> Vec<GpuDevice> {
        match file::read(path) {
            Ok(Some(entries)) => entries.devices().cloned().collect(),
            Ok(None) | Err(_) => Vec::new(),
        }
    }

    /// Gives each device the number of its name: the one that its identity had with its backend before, else the lowest
    /// that no device of the backend ever had, in the order of bus addresses. A device without an identity of its own
    /// gets its index where no other device had that number.
    pub fn assign_ordinals(&mut self, devices: &mut [GpuDevice]) {
        let changed = self.entries.assign_ordinals(devices);
        self.touched(changed);
    }

    /// A device told its own identity, and was known by another until now: what is remembered of it goes by the new one.
    pub fn rename(&mut self, from: &str, to: &str) {
        let changed = self.entries.rename(from, to);
        self.touched(changed);
    }

    /// All devices that are remembered, present or not, the ones seen last first.
    pub fn known(&self) -> Vec<GpuDevice> {
        self.entries.devices().cloned().collect()
    }

    /// Remembers the devices that there are now. Figures that a new answer lacks are kept while model, driver and power
    /// limit are as before; of devices that are not there any more the longest unseen are forgotten beyond 256. How much
    /// memory is free is no reason to write the file again.
    pub fn remember(&mut self, devices: &[GpuDevice]) {
        let changed = self.entries.remember(devices);
        self.touched(changed);
    }

    /// Gives devices the figures that are remembered of them, where they have none of their own and the remembered
    /// ones still hold.
    pub fn recall(&self, devices: &mut [GpuDevice]) {
        self.entries.recall(devices);
    }

    /// Of the device with that [`GpuDevice::identity`], as it was set last; nothing where none was.
    pub fn health(&self, identity: &str) -> Option<Health> {
        self.entries.health(identity).cloned()
    }

    /// Keeps it for a device that was remembered or numbered; of others there is nothing to keep. That only time passed
    /// is no reason to write the file again.
    pub fn set_health(&mut self, identity: &str, health: &Health) {
        let changed = self.entries.set_health(identity, health);
        self.touched(changed);
    }

    /// Writes the file if anything changed since it was read or written: all of it or nothing, and on disk when this
    /// returns.
    ///
    /// # Errors
    /// The file cannot be written; the old one is as it was, and the next call tries again.
    pub fn save(&self) -> io::Result<()> {
        if !self.dirty.load(Ordering::Acquire) {
            return Ok(());
        }
        file::write(&self.path, &self.entries)?;
        self.dirty.store(false, Ordering::Release);
        Ok(())
    }

    fn touched(&self, changed: bool) {
        self.dirty.fetch_or(changed, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests;
