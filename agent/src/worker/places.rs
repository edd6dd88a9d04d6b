//! Where a worker's things are on disk.

use crate::shard::Slot;
use std::path::{Path, PathBuf};

/// Where a slot's worker has its things, below the agent's state directory.
#[derive(Clone, Debug)]
pub struct Places {
    /// Configuration, process id and identity.
    pub directory: PathBuf,
    /// leaf.pem and the like.
    pub identity: PathBuf,
    /// Its control socket: short, because socket paths have at most 107 bytes.
    pub socket: PathBuf,
}

impl Places {
    /// The places of a slot.
    pub fn new(state_dir: &Path, slot: &Slot) -> Self {
        let key = slot.key();
        let directory = state_dir.join("workers").join(&key);
        Self {
            identity: directory.join("identity"),
            socket: state_dir.join("run").join(format!("{key}.sock")),
            directory,
        }
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.directory.join("config.json")
    }

    /// Removes all of it. What is missing is removed already.
    pub fn remove(&self) {
        let _ = std::fs::remove_dir_all(&self.directory);
        let _ = std::fs::remove_file(&self.socket);
        let _ = std::fs::remove_file(self.socket.with_extension("epoch"));
    }
}
