//! The models of this node: their indexes, headers and pieces on disk, and how what is missing comes here.
//!
//! ```text
//!  <root>/<index sha256>/index.json, header-0.gguf …      what the model is: checked by digest, then trusted
//!                        /layer-00003.gguf …              pieces: under this name only once every tensor was verified
//!                        /layer-00003.gguf.filling        a piece on its way; what it holds is verified before it counts
//!                        /slices/<slot>/                  links to pieces, one folder per shard (see `gguf::cache`)
//!
//!  fetch: pieces ─┬─ another piece of the same model
//!                 ├─ peers   ── one tensor a call
//!                 └─ origin  ── neighbouring tensors in one range
//!  serve: pieces ──▶ other agents
//! ```
//!
//! Nothing is asked of anyone for what is here already, so a node with everything on its disk needs neither operator nor
//! source.

pub mod counters;
pub mod disk;
pub mod fetch;
mod filling;
pub mod model;
mod origin;
mod peers;
pub mod serve;

pub use counters::Counters;
pub use model::Model;

use crate::shard::observed::Fault;
use crate::source::{self, Access};
use crds::conditions::reason;
use gguf::Digest;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// Parsed headers kept: a header may take tens of megabytes.
const LOADED_MAX: usize = 4;
/// How often it is looked whether a wait was called off.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Links of shards live below this in a model's folder.
const SLICES: &str = "slices";

/// What the node allows its models.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Folder of all models.
    pub root: PathBuf,
    /// How sources are reached.
    pub sources: source::Setting,
    /// Bytes that models may take before unused ones go; `None`: the two used last are kept.
    pub cache_bytes: Option<u64>,
    /// Bytes of the disk that stay free.
    pub disk_reserve_bytes: u64,
}

/// What to fetch a model by.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Digest of its index.
    pub index: Digest,
    /// Where it comes from.
    pub uri: String,
    /// How that is reached.
    pub access: Access,
    /// host:port of agents that may hold pieces.
    pub peers: Vec<String>,
}

/// All models of the node. Its functions block unless they say otherwise, and must not be called on the runtime's own threads.
pub struct Models {
    setting: Setting,
    runtime: Handle,
    operator: watch::Receiver<Option<Channel>>,
    credentials: Option<identity::Credentials>,
    counters: Counters,
    loaded: Mutex<Vec<Arc<Model>>>,
    in_use: Mutex<HashSet<Digest>>,
    writing: Mutex<HashSet<PathBuf>>,
    written: Condvar,
    reserved: Mutex<u64>,
    preparing: Mutex<()>,
}

impl Models {
    /// Takes over the folder. Must be called on a runtime, while no worker of this node lives. Without credentials no peer is
    /// asked. A folder that cannot be used is told by whatever is fetched into it.
    pub fn open(
        setting: Setting,
        operator: watch::Receiver<Option<Channel>>,
        credentials: Option<identity::Credentials>,
        counters: Counters,
    ) -> Self {
        for entry in std::fs::read_dir(&setting.root).into_iter().flatten().flatten() {
            let folder = entry.path();
            if disk::is_evicted(&folder) {
                // An earlier life ended while it removed it; what stays is tried again by the next one.
                let _ = std::fs::remove_dir_all(&folder);
                continue;
            }
            // Of shards of an earlier life: while they stand their pieces count as used.
            let _ = std::fs::remove_dir_all(folder.join(SLICES));
            // What writers that were killed have left; pieces on their way are kept.
            let _ = gguf::cache::remove_partial_files(&folder);
        }
        let models = Self {
            setting,
            runtime: Handle::current(),
            operator,
            credentials,
            counters,
            loaded: Mutex::default(),
            in_use: Mutex::default(),
            writing: Mutex::default(),
            written: Condvar::new(),
            reserved: Mutex::default(),
            preparing: Mutex::default(),
        };
        models.measure();
        models
    }

    /// What was fetched since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What the node allows.
    pub fn setting(&self) -> &Setting {
        &self.setting
    }

    /// Folder of a model.
    pub fn folder(&self, index: &Digest) -> PathBuf {
        self.setting.root.join(index.to_string())
    }

    /// Folder of one shard's links.
    pub fn slice_folder(&self, index: &Digest, slot: &str) -> PathBuf {
        self.folder(index).join(SLICES).join(slot)
    }

    /// Says which models shards of this node are made of; the others may be removed when room is needed.
    pub fn keep(&self, in_use: HashSet<Digest>) {
        *locked(&self.in_use) = in_use;
    }

    /// The links of a slot are not needed any more, whatever model they are of.
    pub fn release(&self, slot: &str) {
        let Ok(entries) = std::fs::read_dir(&self.setting.root) else {
            return;
        };
        for entry in entries.flatten() {
            // What is not there need not be removed; what cannot be removed is when the slot is prepared again.
            let _ = std::fs::remove_dir_all(entry.path().join(SLICES).join(slot));
        }
    }

    /// Makes a slice's files of a model whose pieces are here. One at a time: links are counted.
    ///
    /// # Errors
    /// A piece is missing, or files cannot be written.
    pub fn link(
        &self,
        model: &Model,
        slot: &str,
        first: u32,
        end: u32,
    ) -> Result<gguf::SliceFiles, gguf::cache::CacheError> {
        let _turn = locked(&self.preparing);
        let folder = self.folder(&model.index.digest());
        gguf::cache::link_slice(&folder, &folder.join(SLICES).join(slot), &model.gguf, first, end)
    }

    /// Waits for something on the runtime, or until it is called off.
    pub(crate) fn wait<T, E>(
        &self,
        stop: &CancellationToken,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Fault>
    where
        Fault: From<E>,
    {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = stop.cancelled() => Err(cancelled()),
                outcome = work => Ok(outcome?),
            }
        })
    }

    /// Keeps others from writing the file, unless one of them writes it now.
    fn turn_at_once(&self, path: &Path) -> Option<Turn<'_>> {
        locked(&self.writing).insert(path.to_owned()).then(|| Turn {
            models: self,
            path: path.to_owned(),
        })
    }

    /// Waits until nobody else writes the file, and keeps others out.
    fn turn(&self, path: &Path, stop: &CancellationToken) -> Result<Turn<'_>, Fault> {
        let mut writing = locked(&self.writing);
        while writing.contains(path) {
            if stop.is_cancelled() {
                return Err(cancelled());
            }
            let waited = self.written.wait_timeout(writing, LOOK_EVERY);
            writing = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        writing.insert(path.to_owned());
        Ok(Turn {
            models: self,
            path: path.to_owned(),
        })
    }
}

/// The right to write a file.
struct Turn<'a> {
    models: &'a Models,
    path: PathBuf,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        locked(&self.models.writing).remove(&self.path);
        self.models.written.notify_all();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The fault of work that nobody wants any more.
pub fn cancelled() -> Fault {
    Fault::new("Cancelled", "the placement does not want the shard any more")
}

/// The fault of a file of this node.
pub fn io_fault(action: &str, path: &Path, error: &std::io::Error) -> Fault {
    use std::io::ErrorKind;
    let failed = format!("{action} {} failed: {error}", path.display());
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Fault::new(reason::DISK_FULL, format!("{failed}; {}", disk::REMEDY))
        }
        _ => Fault::new(reason::UNREADABLE, failed),
    }
}

/// The fault of a file in the cache.
pub fn cache_fault(error: gguf::cache::CacheError) -> Fault {
    use gguf::cache::CacheError;
    match error {
        CacheError::Io { action, path, source } => io_fault(action, &path, &source),
        CacheError::SourceChanged { .. } => Fault::new(reason::TRUNCATED, error.to_string()),
        CacheError::Slice(_) | CacheError::PieceMissing { .. } => Fault::new("BadSlice", error.to_string()),
    }
}
