//! Room on the disk: what is free, what is promised, and which unused models go first.

use super::{Models, locked};
use crate::shard::observed::Fault;
use gguf::Digest;
use std::collections::HashSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The reason of a disk without room.
pub const DISK_FULL: &str = "DiskFull";
/// Models that are kept although nothing here uses them, where no budget is set: the next placement is likely to want one
/// of them back.
const UNUSED_KEPT: usize = 2;
/// Models of which there is no more than index and headers, as inspections leave them; a few megabytes each.
const INSPECTED_KEPT: usize = 16;
/// Unit of `st_blocks`.
const BLOCK_BYTES: u64 = 512;

/// Bytes promised to a fetch; given back as they are written, and when it ends.
pub struct Reservation<'a> {
    models: &'a Models,
    bytes: u64,
}

impl Reservation<'_> {
    /// So much of it lies on the disk now.
    pub fn written(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        *locked(&self.models.reserved) -= bytes;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        *locked(&self.models.reserved) -= self.bytes;
    }
}

impl Models {
    /// Promises room for `bytes`, removing unused models if that helps.
    ///
    /// # Errors
    /// `DiskFull`, with both numbers; nothing was written then.
    pub fn reserve(&self, bytes: u64) -> Result<Reservation<'_>, Fault> {
        loop {
            let mut reserved = locked(&self.reserved);
            let root = &self.setting().root;
            std::fs::create_dir_all(root).map_err(|error| super::io_fault("creating", root, &error))?;
            let free = free_bytes(root).map_err(|error| super::io_fault("asking for room in", root, &error))?;
            let usable = free
                .saturating_sub(self.setting().disk_reserve_bytes)
                .saturating_sub(*reserved);
            if bytes == 0 || bytes <= usable {
                *reserved += bytes;
                return Ok(Reservation { models: self, bytes });
            }
            drop(reserved);
            if !self.evict_oldest() {
                return Err(Fault::new(
                    DISK_FULL,
                    format!(
                        "need {}, {} free in {} (of {}, less {} kept free and what other shards are fetching); make room, or \
                         choose another --state-dir",
                        gib(bytes),
                        gib(usable),
                        root.display(),
                        gib(free),
                        gib(self.setting().disk_reserve_bytes)
                    ),
                ));
            }
        }
    }

    /// Removes unused models, the ones not used for longest first, until what is left is within the budget.
    pub fn prune(&self) {
        match self.setting().cache_bytes {
            Some(budget) => while self.measure() > budget && self.evict_oldest() {},
            None => {
                let (held, inspected): (Vec<PathBuf>, Vec<PathBuf>) =
                    self.unused().into_iter().partition(|path| holds_pieces(path));
                for (models, kept) in [(held, UNUSED_KEPT), (inspected, INSPECTED_KEPT)] {
                    let surplus = models.len().saturating_sub(kept);
                    models.iter().take(surplus).for_each(|path| {
                        evict(path);
                    });
                }
            }
        }
        self.measure();
    }

    /// Notes that a model is being used now.
    pub(super) fn touch(&self, index: &Digest) {
        let path = self.folder(index).join(super::model::INDEX_FILE);
        // Only the order of removal depends on it.
        let _ = std::fs::File::options()
            .append(true)
            .open(path)
            .and_then(|file| file.set_modified(SystemTime::now()));
    }

    /// Sums up what the models take, each file once however many links it has.
    pub(super) fn measure(&self) -> u64 {
        let mut seen = HashSet::new();
        let bytes = size_of(&self.setting().root, &mut seen);
        self.counters().cached(bytes);
        bytes
    }

    /// Those not used for longest first.
    fn unused(&self) -> Vec<PathBuf> {
        let names: HashSet<String> = locked(&self.in_use).iter().map(Digest::to_string).collect();
        let entries = std::fs::read_dir(&self.setting().root).into_iter().flatten().flatten();
        let mut unused: Vec<(SystemTime, PathBuf)> = entries
            .filter(|entry| !names.contains(entry.file_name().to_string_lossy().as_ref()))
            .map(|entry| {
                let path = entry.path();
                let used = std::fs::metadata(path.join(super::model::INDEX_FILE)).or_else(|_| entry.metadata());
                (
                    used.and_then(|found| found.modified())
                        .unwrap_or(SystemTime::UNIX_EPOCH),
                    path,
                )
            })
            .collect();
        unused.sort();
        unused.into_iter().map(|(_, path)| path).collect()
    }

    /// Whether there was one to remove, and it is gone.
    fn evict_oldest(&self) -> bool {
        self.unused().first().is_some_and(|path| evict(path))
    }
}

fn evict(path: &Path) -> bool {
    tracing::info!(path = %path.display(), "removing a model that nothing here uses");
    let removed = match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => std::fs::remove_file(path),
        removed => removed,
    };
    if let Err(error) = &removed {
        tracing::warn!(path = %path.display(), %error, "an unused model cannot be removed");
    }
    removed.is_ok()
}

/// Whether any weights of the model are here, complete or not.
fn holds_pieces(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .any(|name| {
            let piece = name.ends_with(".gguf") || name.ends_with(gguf::cache::FILLING_SUFFIX);
            piece && !name.starts_with("header-")
        })
}

fn free_bytes(path: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(path)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

fn size_of(folder: &Path, seen: &mut HashSet<(u64, u64)>) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => size_of(&entry.path(), seen),
            Ok(found) if seen.insert((found.dev(), found.ino())) => found.blocks() * BLOCK_BYTES,
            _ => 0,
        })
        .sum()
}

/// For people.
fn gib(bytes: u64) -> String {
    const GIB: f64 = (1_u64 << 30) as f64;
    const MIB: f64 = (1_u64 << 20) as f64;
    let bytes = bytes as f64;
    if bytes >= GIB / 10.0 {
        format!("{:.1} GiB", bytes / GIB)
    } else {
        format!("{:.1} MiB", bytes / MIB)
    }
}
