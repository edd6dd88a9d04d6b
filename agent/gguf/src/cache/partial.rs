//! A piece that is being filled tensor by tensor, from anywhere and in any order, over several lives of the process.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::{COPY_BYTES, CacheError, failed, sync_directory};
use crate::index::Digest;
use crate::parse::Tensor;
use crate::piece::{Piece, Pieces};
use crate::slice::{file_bytes, places, source_header};

/// The suffix of a piece's file that is being filled.
pub const FILLING_SUFFIX: &str = ".filling";

/// A piece's file under a name of its own, with the places of its tensors. What an earlier life wrote is kept; nothing in it
/// is known to be right until its digest was taken.
#[derive(Debug)]
pub struct PartialPiece<'a> {
    file: File,
    path: PathBuf,
    complete: PathBuf,
    header: Vec<u8>,
    bytes: u64,
    resumed: bool,
    places: Vec<(&'a Tensor, u64)>,
}

impl<'a> PartialPiece<'a> {
    /// Opens or begins the file that is to become `complete`. One writer at a time.
    pub fn open(complete: &Path, pieces: &Pieces<'a>, piece: Piece) -> Result<Self, CacheError> {
        let header = source_header(pieces, piece)?;
        let path = filling_path(complete);
        let resumed = path.exists();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed("opening", &path))?;
        let bytes = file_bytes(pieces, piece);
        // Holes read as zeros and take no room.
        file.set_len(bytes).map_err(failed("writing", &path))?;
        Ok(Self {
            file,
            path,
            complete: complete.to_owned(),
            header,
            bytes,
            resumed,
            places: places(pieces, piece),
        })
    }

    /// Whether an earlier life wrote here.
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// The tensors in the order of their places here.
    pub fn tensors(&self) -> impl Iterator<Item = &'a Tensor> + '_ {
        self.places.iter().map(|&(tensor, _)| tensor)
    }

    /// SHA-256 of what lies at the place of the tensor with this number.
    pub fn digest(&mut self, number: usize) -> Result<Digest, CacheError> {
        let (tensor, place) = self.places[number];
        range_digest(&mut self.file, place, tensor.size_bytes).map_err(failed("reading", &self.path))
    }

    /// Writes bytes of a tensor, `offset` bytes behind its begin. Bytes beyond the tensor's end are a programmer's error and
    /// are refused as invalid input.
    pub fn write(&mut self, number: usize, offset: u64, bytes: &[u8]) -> Result<(), CacheError> {
        let (tensor, place) = self.places[number];
        let fits = offset
            .checked_add(bytes.len() as u64)
            .is_some_and(|end| end <= tensor.size_bytes);
        if !fits {
            return Err(failed("writing", &self.path)(io::ErrorKind::InvalidInput.into()));
        }
        self.file
            .seek(SeekFrom::Start(place + offset))
            .and_then(|_| self.file.write_all(bytes))
            .map_err(failed("writing", &self.path))
    }

    /// Gives the file its header and its name, once it is on disk. Only for a file all of whose tensors are verified. One
    /// that cannot be brought to the disk is removed.
    pub fn finish(mut self) -> Result<(), CacheError> {
        if let Err(error) = self.bring_to_disk() {
            // What the disk has lost the system shows as if it were there, and would call synchronised if it was asked again:
            // the next life must not find it.
            self.discard();
            return Err(error);
        }
        fs::rename(&self.path, &self.complete).map_err(failed("renaming", &self.path))?;
        sync_directory(&self.complete)
    }

    fn bring_to_disk(&mut self) -> Result<(), CacheError> {
        self.file
            .seek(SeekFrom::Start(0))
            .and_then(|_| self.file.write_all(&self.header))
            .and_then(|()| self.file.set_len(self.bytes))
            .map_err(failed("writing", &self.path))?;
        self.file.sync_all().map_err(failed("syncing", &self.path))
    }

    /// Removes what was written, as when the disk is full.
    pub fn discard(self) {
        // What cannot be removed is taken up by the next life, and verified there.
        let _ = fs::remove_file(&self.path);
    }
}

/// The name under which a piece is filled.
pub fn filling_path(complete: &Path) -> PathBuf {
    let mut name = complete.file_name().unwrap_or_default().to_os_string();
    name.push(FILLING_SUFFIX);
    complete.with_file_name(name)
}

/// SHA-256 of `length` bytes of a file from `start`.
pub fn range_digest(file: &mut File, start: u64, length: u64) -> io::Result<Digest> {
    file.seek(SeekFrom::Start(start))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; COPY_BYTES];
    let mut left = length;
    while left > 0 {
        let count = left.min(COPY_BYTES as u64) as usize;
        file.read_exact(&mut buffer[..count])?;
        hash.update(&buffer[..count]);
        left -= count as u64;
    }
    Ok(Digest(hash.finalize().into()))
}

#[cfg(test)]
mod tests;
