//! Room on the disk: what is free, what is promised, and which unused models go first.

use super::{Models, locked};
use crate::shard::observed::Fault;
use crds::conditions::reason;
use gguf::Digest;
use std::collections::HashSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// What the reader of a fault for want of room can do.
pub(super) const REMEDY: &str = "make room, or choose another --state-dir";
/// Models that are kept although nothing here uses them, where no budget is set: the next placement is likely to want one
/// of them back.
const UNUSED_KEPT: usize = 2;
/// Models of which there is no more than index and headers, as inspections leave them; a few megabytes each.
const INSPECTED_KEPT: usize = 16;
/// Begins the name of a model's folder once it is being removed.
const EVICTED_PREFIX: &str = ".evicted-";
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
    /// Promises room for `bytes`, removing what is not needed if that is enough.
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
            if !self.make_room(bytes - usable) {
                return Err(Fault::new(
                    reason::DISK_FULL,
                    format!(
                        "need {}, {} free in {} (of {}, less {} kept free and what other shards are fetching); {REMEDY}",
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

    /// What a fetch says under which the disk filled up although room was promised: what is missing now, and of which write it
    /// was heard.
    pub(super) fn filled_up(&self, missing_bytes: u64, heard: &Fault) -> Fault {
        let root = &self.setting().root;
        // It is the disk that does not answer, of which is said here that it is full.
        let free = free_bytes(root).unwrap_or(0);
        let message = format!(
            "need {}, {} free in {}: {}",
            gib(missing_bytes),
            gib(free),
            root.display(),
            heard.message
        );
        Fault::new(reason::DISK_FULL, message)
    }

    /// Removes unused models, the ones not used for longest first, until what is left is within the budget.
    pub fn prune(&self) {
        match self.setting().cache_bytes {
            Some(budget) => {
                let surplus = self.measure().saturating_sub(budget);
                self.evict_until(surplus, self.unused());
            }
            None => {
                let (held, inspected): (Vec<PathBuf>, Vec<PathBuf>) =
                    self.unused().into_iter().partition(|path| holds_pieces(path));
                for (models, kept) in [(held, UNUSED_KEPT), (inspected, INSPECTED_KEPT)] {
                    let surplus = models.len().saturating_sub(kept);
                    models.iter().take(surplus).for_each(|path| {
                        self.evict(path);
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
        let in_use = locked(&self.in_use).clone();
        let entries = std::fs::read_dir(&self.setting().root).into_iter().flatten().flatten();
        let mut unused: Vec<(SystemTime, PathBuf)> = entries
            .filter(|entry| digest_of(&entry.path()).is_some_and(|index| !in_use.contains(&index)))
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

    /// Removes what is not needed until `bytes` more are free, or nothing where all of it would not do. Whether anything is
    /// gone.
    fn make_room(&self, bytes: u64) -> bool {
        let (unused, corrupt) = (self.unused(), self.corrupt());
        let mut seen = HashSet::new();
        let models: u64 = unused.iter().map(|folder| size_of(folder, &mut seen)).sum();
        let files = corrupt.iter().filter_map(|path| std::fs::metadata(path).ok());
        let files: u64 = files
            .filter(|found| seen.insert((found.dev(), found.ino())))
            .map(|found| disk_bytes(&found))
            .sum();
        if models.saturating_add(files) < bytes {
            return false;
        }
        let mut freed = 0;
        for path in corrupt {
            let held = std::fs::metadata(&path).map_or(0, |found| disk_bytes(&found));
            // What cannot be removed frees nothing.
            if std::fs::remove_file(&path).is_ok() {
                freed += held;
            }
        }
        let evicted = self.evict_until(bytes.saturating_sub(freed), unused);
        freed > 0 || evicted
    }

    /// Evicts models in their order until so many bytes were freed. Whether any is gone; one that cannot be removed does not
    /// keep the others.
    fn evict_until(&self, bytes: u64, models: Vec<PathBuf>) -> bool {
        let (mut freed, mut any) = (0, false);
        for path in models {
            if freed >= bytes {
                break;
            }
            let held = size_of(&path, &mut HashSet::new());
            if self.evict(&path) {
                freed += held;
                any = true;
            }
        }
        any
    }

    /// Whether the model was still unused, and is gone.
    fn evict(&self, path: &Path) -> bool {
        static EVICTED: AtomicU64 = AtomicU64::new(0);
        let Some(index) = digest_of(path) else { return false };
        let number = EVICTED.fetch_add(1, Ordering::Relaxed);
        let aside = path.with_file_name(format!("{EVICTED_PREFIX}{number}-{index}"));
        let moved = {
            // Held while the folder gets its other name: a shard that begins to use the model finds all of it or nothing.
            let in_use = locked(&self.in_use);
            if in_use.contains(&index) {
                return false;
            }
            std::fs::rename(path, &aside)
        };
        tracing::info!(path = %path.display(), "removing a model that nothing here uses");
        let removed = moved.and_then(|()| std::fs::remove_dir_all(&aside));
        if let Err(error) = &removed {
            tracing::warn!(path = %path.display(), %error, "an unused model cannot be removed");
        }
        removed.is_ok()
    }

    /// Files of all models that proved wrong.
    fn corrupt(&self) -> Vec<PathBuf> {
        let models = std::fs::read_dir(&self.setting().root).into_iter().flatten().flatten();
        let files = models.flat_map(|model| std::fs::read_dir(model.path()).into_iter().flatten().flatten());
        files
            .map(|file| file.path())
            .filter(|path| path.to_string_lossy().ends_with(super::model::CORRUPT_SUFFIX))
            .collect()
    }
}

/// The model whose folder it is.
fn digest_of(folder: &Path) -> Option<Digest> {
    folder.file_name()?.to_str()?.parse().ok()
}

/// Whether it is the folder of a model that was being removed.
pub(super) fn is_evicted(folder: &Path) -> bool {
    let name = folder.file_name().unwrap_or_default();
    name.to_string_lossy().starts_with(EVICTED_PREFIX)
}

/// What a file takes, holes left out.
pub(super) fn disk_bytes(found: &std::fs::Metadata) -> u64 {
    found.blocks() * BLOCK_BYTES
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
            Ok(found) if seen.insert((found.dev(), found.ino())) => disk_bytes(&found),
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
