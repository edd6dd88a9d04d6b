//! Piece and slice files in a directory: written whole or not at all, and re-headed in place.
//!
//! A piece's file appears under its name only when it is complete and on disk: a [`PartialPiece`] is filled tensor by tensor,
//! over several lives of the process; [`write_piece`] copies all of it from a file at hand. [`link_slice`] makes slices that
//! live side by side from a folder of pieces, and copies weights only where their headers differ. **A piece's file has one
//! header**: [`prepare_slice`] rewrites it in place, so its caller lets the worker load before it prepares another slice from
//! the same directory.

mod link;
mod partial;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use thiserror::Error;

use crate::parse::Gguf;
use crate::piece::{Piece, Pieces, pieces};
use crate::slice::{SliceError, SlicePlan, file_bytes, places, source_header};
use crate::source::TensorSource;

pub use link::link_slice;
pub use partial::{FILLING_SUFFIX, PartialPiece, filling_path, range_digest};

/// Copies go through a buffer of this size: few system calls, little memory.
pub(crate) const COPY_BYTES: usize = 1 << 20;

/// The suffix of files that are not complete yet.
const PARTIAL_SUFFIX: &str = ".partial";

/// Why files could not be written or prepared.
#[derive(Debug, Error)]
pub enum CacheError {
    /// The model or the range does not allow it.
    #[error(transparent)]
    Slice(#[from] SliceError),
    /// A file operation failed.
    #[error("{action} {} failed: {source}", path.display())]
    Io {
        /// What was being done, in words.
        action: &'static str,
        /// The file or directory concerned.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The source is shorter than its header said.
    #[error("the source ended inside tensor `{tensor}`; it has changed since its header was read, read it again")]
    SourceChanged {
        /// The tensor being copied.
        tensor: String,
    },
    /// A piece's file is missing or has the wrong length.
    #[error("the {piece} file {} is not complete; write the piece again", path.display())]
    PieceMissing {
        /// The piece.
        piece: Piece,
        /// Where its file should be.
        path: PathBuf,
    },
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CacheError {
    let path = path.to_owned();
    move |source| CacheError::Io { action, path, source }
}

/// The files of a slice, ready to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceFiles {
    /// The first file of the split set.
    pub header: PathBuf,
    /// The others, in order.
    pub parts: Vec<PathBuf>,
    /// For a head that looks embedding rows up itself: the file with `token_embd.weight`. `None` for the other stages,
    /// and for models that run whole by architecture: those are fed tokens.
    pub embedding: Option<PathBuf>,
}

impl SliceFiles {
    /// All files of the split set in order.
    pub fn splits(&self) -> Vec<PathBuf> {
        std::iter::once(&self.header).chain(&self.parts).cloned().collect()
    }
}

/// Where a piece lies in a cache directory.
pub fn piece_path(directory: &Path, piece: Piece) -> PathBuf {
    directory.join(piece.file_name())
}

/// Whether a piece's file is complete. Its weights are judged by [`crate::index`], not here.
pub fn is_piece_complete(directory: &Path, pieces: &Pieces<'_>, piece: Piece) -> bool {
    fs::metadata(piece_path(directory, piece))
        .is_ok_and(|found| found.is_file() && found.len() == file_bytes(pieces, piece))
}

/// Copies a piece's weights from the source model into a file of its own at `path`.
///
/// The file appears complete and synced, or not at all; memory is bounded by the copy buffer.
pub fn write_piece(
    source: &mut impl TensorSource,
    pieces: &Pieces<'_>,
    piece: Piece,
    path: &Path,
) -> Result<(), CacheError> {
    let header = source_header(pieces, piece)?;
    write_atomically(path, |file| {
        file.write_all(&header).map_err(failed("writing", path))?;
        let mut buffer = vec![0; COPY_BYTES];
        for (tensor, place) in places(pieces, piece) {
            file.seek(SeekFrom::Start(place)).map_err(failed("writing", path))?;
            let mut done = 0;
            while done < tensor.size_bytes {
                let count = (tensor.size_bytes - done).min(COPY_BYTES as u64) as usize;
                source
                    .read(tensor.file, tensor.offset_bytes + done, &mut buffer[..count])
                    .map_err(|error| match error.kind() {
                        io::ErrorKind::UnexpectedEof => CacheError::SourceChanged {
                            tensor: tensor.name.clone(),
                        },
                        _ => failed("reading the source of", path)(error),
                    })?;
                file.write_all(&buffer[..count]).map_err(failed("writing", path))?;
                done += count as u64;
            }
        }
        // Covers the padding behind the last tensor.
        file.set_len(file_bytes(pieces, piece)).map_err(failed("writing", path))
    })
}

/// Makes the files of layers `[first, end)` ready in `directory`: writes the slice's first file and the headers of its
/// parts. Weights are not touched; all pieces that the slice needs must be there (see [`SlicePlan::needs`]).
pub fn prepare_slice(directory: &Path, gguf: &Gguf, first: u32, end: u32) -> Result<SliceFiles, CacheError> {
    let pieces = pieces(gguf).map_err(SliceError::from)?;
    let plan = SlicePlan::new(&pieces, first, end)?;
    require_pieces(directory, &pieces, &plan)?;
    let mut parts = Vec::new();
    for (number, part) in (1u16..).zip(plan.parts()) {
        let path = piece_path(directory, part);
        replace_header(&path, &plan.part_header(part, number)?)?;
        parts.push(path);
    }
    let header = write_first_file(directory, &plan)?;
    let looks_up = plan.is_head() && pieces.architecture().embeds_outside();
    let embedding = looks_up.then(|| piece_path(directory, Piece::Embedding));
    Ok(SliceFiles {
        header,
        parts,
        embedding,
    })
}

/// Refuses a slice of which a piece is not whole in `directory`.
fn require_pieces(directory: &Path, pieces: &Pieces<'_>, plan: &SlicePlan<'_>) -> Result<(), CacheError> {
    let missing = plan
        .needs()
        .into_iter()
        .find(|piece| !is_piece_complete(directory, pieces, *piece));
    missing.map_or(Ok(()), |piece| {
        Err(CacheError::PieceMissing {
            piece,
            path: piece_path(directory, piece),
        })
    })
}

/// Writes the first file of a split set, which has metadata alone.
fn write_first_file(directory: &Path, plan: &SlicePlan<'_>) -> Result<PathBuf, CacheError> {
    let header = directory.join(plan.file_name());
    let content = plan.first_file();
    write_atomically(&header, |file| {
        file.write_all(&content).map_err(failed("writing", &header))
    })?;
    Ok(header)
}

/// Writes a header of unchanged length over the present one. A header torn by a crash is mended by the next call, for
/// it is made from the source's table and not from the file.
fn replace_header(path: &Path, header: &[u8]) -> Result<(), CacheError> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(failed("opening", path))?;
    let mut present = vec![0; header.len()];
    file.read_exact(&mut present).map_err(failed("reading", path))?;
    if present == header {
        return Ok(());
    }
    file.seek(SeekFrom::Start(0)).map_err(failed("writing", path))?;
    file.write_all(header).map_err(failed("writing", path))?;
    file.sync_data().map_err(failed("syncing", path))
}

/// Removes what writers that were killed have left in `directory`, and tells how many files that were.
/// To be called while no writer is at work there.
pub fn remove_partial_files(directory: &Path) -> Result<usize, CacheError> {
    let mut removed = 0;
    for entry in fs::read_dir(directory).map_err(failed("listing", directory))? {
        let path = entry.map_err(failed("listing", directory))?.path();
        if path.to_string_lossy().ends_with(PARTIAL_SUFFIX) {
            fs::remove_file(&path).map_err(failed("removing", &path))?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Writes a file under a name of its own and renames it when it is complete and on disk.
fn write_atomically(path: &Path, write: impl FnOnce(&mut File) -> Result<(), CacheError>) -> Result<(), CacheError> {
    // Two writers of one piece must not meet in one file; the last rename wins, and both wrote the same.
    static WRITERS: AtomicU64 = AtomicU64::new(0);
    let number = WRITERS.fetch_add(1, Ordering::Relaxed);
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}-{number}{PARTIAL_SUFFIX}", std::process::id()));
    let partial = path.with_file_name(name);
    let written = File::create(&partial)
        .map_err(failed("creating", &partial))
        .and_then(|mut file| {
            write(&mut file)?;
            file.sync_all().map_err(failed("syncing", &partial))?;
            fs::rename(&partial, path).map_err(failed("renaming", &partial))
        });
    if written.is_err() {
        // The first error is the one to report; what remains is removed at the next start.
        let _ = fs::remove_file(&partial);
        return written;
    }
    sync_directory(path)
}

/// Makes a rename to `path` outlast a loss of power.
fn sync_directory(path: &Path) -> Result<(), CacheError> {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(failed("syncing", directory))
}

#[cfg(test)]
mod tests;
