//! Files that hold secrets: never readable by others, never half written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Owner reads and writes, nobody else does anything.
const PRIVATE_MODE: u32 = 0o600;

/// A file that cannot be read or written.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The system refuses.
    #[error("cannot {action} {path}: {cause}", path = path.display())]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// More than any file of this kind has.
    #[error("{path} has more than {limit} bytes, the most that is read", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes read at most.
        limit: usize,
    },
}

/// Replaces a file as a whole: mode 0600, synchronised, then renamed into place. After a crash the old or the new content
/// is there.
///
/// # Errors
/// When the directory is missing or not writable, or the disk is full; the old content stays.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    replace(path, content).map_err(|cause| StoreError::Io {
        action: "write",
        path: path.to_owned(),
        cause,
    })
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let draft = directory.join(format!(".{name}.{}.draft", std::process::id()));
    // A draft left by a crash may have any content and mode; it is never opened.
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = write_draft(&draft, content).and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        // The first error is the one to tell; a draft that cannot be removed now is removed by the next write.
        let _ = fs::remove_file(&draft);
    }
    written?;
    File::open(directory)?.sync_all()
}

fn write_draft(draft: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(PRIVATE_MODE)
        .open(draft)?;
    file.write_all(content)?;
    file.sync_all()
}

/// A text file of at most `limit` bytes.
///
/// # Errors
/// When it cannot be read, is larger, or is not UTF-8.
pub fn read_text(path: &Path, limit: usize) -> Result<String, StoreError> {
    let io = |cause| StoreError::Io {
        action: "read",
        path: path.to_owned(),
        cause,
    };
    let mut text = String::new();
    let file = File::open(path).map_err(io)?;
    file.take(limit as u64 + 1).read_to_string(&mut text).map_err(io)?;
    if text.len() > limit {
        return Err(StoreError::TooLarge {
            path: path.to_owned(),
            limit,
        });
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
