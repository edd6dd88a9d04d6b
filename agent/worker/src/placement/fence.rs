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
    #[error("accepted epoch: {0}; the file's folder needs room and belongs to the agent's user alone")]
    Store(#[from] store::StoreError),
    /// The file holds something else, or less. Guessing could let an old placement in.
    #[error(
        "accepted epoch: {} is damaged: it is no number with a line end; restore it, or remove it if no older placement can be around",
        path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

impl Fence {
    /// Reads what an earlier process accepted; a missing file means nothing.
    ///
    /// # Errors
    /// When the file is there but cannot be read, or is not as it was written.
    pub fn open(path: PathBuf) -> Result<Self, FenceError> {
        if !path.exists() {
            return Ok(Self { path, highest: 0 });
        }
        let text = store::read_text(&path, MAX_FILE_BYTES)?;
        // Without its line end it may have lost digits: what is left of them is a lower epoch.
        let number = text.strip_suffix('\n').and_then(|number| number.parse().ok());
        let highest = number.ok_or_else(|| FenceError::Malformed { path: path.clone() })?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_cut_anywhere_is_refused_with_what_to_do_and_the_whole_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.epoch");
        Fence::open(path.clone()).unwrap().accept(1705).unwrap();
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(whole, b"1705\n");
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let refused = Fence::open(path.clone()).unwrap_err().to_string();
            let says = |words: &str| refused.contains(words);
            assert!(
                says("w.epoch is damaged") && says("restore it, or remove it"),
                "{length} bytes: {refused}"
            );
        }
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(Fence::open(path).unwrap().highest(), 1705);
    }

    #[test]
    fn what_is_no_number_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.epoch");
        for text in [
            "\n",
            "17\n\n",
            "17\r\n",
            "17 \n",
            "-1\n",
            "18446744073709551616\n",
            "a\n",
        ] {
            std::fs::write(&path, text).unwrap();
            let opened = Fence::open(path.clone());
            assert!(
                matches!(opened, Err(FenceError::Malformed { .. })),
                "{text:?}: {opened:?}"
            );
        }
    }

    #[test]
    fn the_highest_epoch_outlives_a_restart_and_a_lower_one_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.epoch");
        let mut fence = Fence::open(path.clone()).unwrap();
        assert_eq!(fence.highest(), 0);
        for epoch in [7, u64::MAX, 3] {
            fence.accept(epoch).unwrap();
        }
        assert_eq!(fence.highest(), u64::MAX);
        assert_eq!(Fence::open(path).unwrap().highest(), u64::MAX);
    }
}
