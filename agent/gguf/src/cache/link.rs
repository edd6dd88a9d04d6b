//! Slices that share their weights with others: a folder of links beside the folder of pieces.
//!
//! A piece's file in the pool has one header. A slice takes it by a hard link and gives it the header it needs, unless
//! another slice holds a link as well and needs another header: then, and only then, the slice gets a copy of its own. The
//! number of links is the only record of who uses a file, so a crash leaves nothing to repair but folders to remove.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{
    COPY_BYTES, CacheError, SliceFiles, failed, piece_path, replace_header, require_pieces, write_atomically,
    write_first_file,
};
use crate::parse::Gguf;
use crate::piece::{Piece, pieces};
use crate::slice::{SliceError, SlicePlan};

/// The pool's own link and the one of the slice that is being made.
const LINKS_OF_ONE_SLICE: u64 = 2;

/// Makes the files of layers `[first, end)` ready in `directory`, which is emptied first, from the pieces in `pool` on the
/// same file system. Weights are not touched; they are copied only where another folder holds a link to a piece and needs
/// it under other names.
///
/// One call at a time for one pool; no worker may be about to load from `directory`.
pub fn link_slice(pool: &Path, directory: &Path, gguf: &Gguf, first: u32, end: u32) -> Result<SliceFiles, CacheError> {
    let pieces = pieces(gguf).map_err(SliceError::from)?;
    let plan = SlicePlan::new(&pieces, first, end)?;
    require_pieces(pool, &pieces, &plan)?;
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("emptying", directory)(error)),
        _ => {}
    }
    fs::create_dir_all(directory).map_err(failed("creating", directory))?;
    let mut parts = Vec::new();
    for (number, part) in (1u16..).zip(plan.parts()) {
        let path = piece_path(directory, part);
        place(&piece_path(pool, part), &path, &plan.part_header(part, number)?)?;
        parts.push(path);
    }
    let header = write_first_file(directory, &plan)?;
    // The embedding's tensor has its own name under every header.
    let embedding = plan.is_head().then(|| piece_path(directory, Piece::Embedding));
    if let Some(path) = embedding.as_ref().filter(|path| !parts.contains(path)) {
        let held = piece_path(pool, Piece::Embedding);
        if fs::hard_link(&held, path).is_err() {
            copy(&held, path, None)?;
        }
    }
    let looks_up = pieces.architecture().embeds_outside();
    Ok(SliceFiles {
        header,
        parts,
        embedding: embedding.filter(|_| looks_up),
    })
}

fn place(held: &Path, path: &Path, header: &[u8]) -> Result<(), CacheError> {
    let mut present = vec![0; header.len()];
    File::open(held)
        .and_then(|mut file| file.read_exact(&mut present))
        .map_err(failed("reading", held))?;
    // File systems without hard links, or with too many to one file, make a copy necessary.
    if fs::hard_link(held, path).is_err() {
        return copy(held, path, Some(header));
    }
    if present == header {
        return Ok(());
    }
    let links = fs::metadata(path).map_err(failed("reading", path))?.nlink();
    if links <= LINKS_OF_ONE_SLICE {
        return replace_header(path, header);
    }
    fs::remove_file(path).map_err(failed("removing", path))?;
    copy(held, path, Some(header))
}

fn copy(held: &Path, path: &Path, header: Option<&[u8]>) -> Result<(), CacheError> {
    let mut source = File::open(held).map_err(failed("opening", held))?;
    write_atomically(path, |file| {
        if let Some(header) = header {
            file.write_all(header).map_err(failed("writing", path))?;
            source
                .seek(SeekFrom::Start(header.len() as u64))
                .map_err(failed("reading", held))?;
        }
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => file.write_all(&buffer[..count]).map_err(failed("writing", path))?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("reading", held)(error)),
            }
        }
    })
}

#[cfg(test)]
mod tests;
