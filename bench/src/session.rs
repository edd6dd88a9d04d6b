//! What all measurements of one run share.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::error::{Result, trying};
use crate::realm::Realm;

/// One run.
#[derive(Debug)]
pub struct Session {
    /// Who everyone is.
    pub realm: Realm,
    /// How often everything is measured, in turns.
    pub rounds: usize,
    /// The last layer of the first of two stages, instead of a measured balance.
    pub cut: Option<u32>,
    /// At most so much more than the links' delay, differently for each piece of data.
    pub jitter_us: u64,
    started: Instant,
    // Last: removed when all else is gone.
    directory: tempfile::TempDir,
}

impl Session {
    /// Fresh identities and an empty directory.
    ///
    /// # Errors
    /// When the system gives neither.
    pub fn new(rounds: usize, cut: Option<u32>, jitter_us: u64) -> Result<Self> {
        Ok(Self {
            realm: Realm::generate()?,
            rounds: rounds.max(1),
            cut,
            jitter_us,
            started: Instant::now(),
            directory: tempfile::tempdir().map_err(trying("a temporary directory"))?,
        })
    }

    /// A directory of this name below the run's own.
    ///
    /// # Errors
    /// The file system's.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let directory = self.directory.path().join(name);
        std::fs::create_dir_all(&directory).map_err(trying(directory.display().to_string()))?;
        Ok(directory)
    }

    /// Where everything of the run is.
    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    /// A line of progress, with the time since the start.
    pub fn say(&self, line: &str) {
        println!("[{:4} s] {line}", self.started.elapsed().as_secs());
    }
}
