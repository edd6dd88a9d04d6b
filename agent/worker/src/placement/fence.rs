//! The highest epoch ever accepted, kept over restarts: what an older operator says does not count any more.

use std::path::PathBuf;

use identity::store;
use thiserror::Error;

/// A u64 and a line end.
const MAX_FILE_BYTES: usize = 32;

/// See the module.
#[derive(Debug)]
pub struct Fence {
    path: PathBuf,
    highest: u64,
}

/// Why the fence cannot be read or kept.
#[derive(Debug, Error)]
pub enum FenceError {
    /// The file cannot be read or written.
    #[error("accepted epoch: {0}")]
    Store(#[from] store::StoreError),
    /// The file holds something else. Guessing could let an old placement in.
    #[error("accepted epoch: {} is not a number; remove the file if this worker's placements are to start anew", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

impl Fence {
    /// Reads what an earlier process accepted; a missing file means nothing.
    ///
    /// # Errors
    /// When the file is there but cannot be read, or is no number.
    pub fn open(path: PathBuf) -> Result<Self, FenceError> {
        if !path.exists() {
            return Ok(Self { path, highest: 0 });
        }
        let text = store::read_text(&path, MAX_FILE_BYTES)?;
        let highest = text
            .trim()
            .parse()
            .map_err(|_| FenceError::Malformed { path: path.clone() })?;
        Ok(Self { path, highest })
    }

    /// The highest epoch accepted; 0 before the first.
    pub fn highest(&self) -> u64 {
        self.highest
    }

    /// Records an epoch that is not lower, on disk before anyone acts on it.
    ///
    /// # Errors
    /// When it cannot be written; then the fence stays as it was.
    pub fn accept(&mut self, epoch: u64) -> Result<(), FenceError> {
        if epoch > self.highest {
            store::write_private(&self.path, format!("{epoch}\n").as_bytes())?;
            self.highest = epoch;
        }
        Ok(())
    }
}
