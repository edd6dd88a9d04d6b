//! Makes an index from a model's bytes as they stream by, once and in order.

use std::io::{self, Read, Seek, SeekFrom};

use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::Digest;
use super::weights::{IndexedFile, IndexedTensor, Table, VERSION, WeightIndex, WeightIndexError};
use crate::cache::COPY_BYTES;
use crate::parse::Gguf;

/// Why no index could be made.
#[derive(Debug, Error)]
pub enum BuildError {
    /// Another number of names or sources than files.
    #[error("{found} files were given for a model of {expected}")]
    FileCount {
        /// Given.
        found: usize,
        /// Per the header.
        expected: usize,
    },
    /// A source could not be read.
    #[error("reading {file} failed: {source}")]
    Io {
        /// The file's name.
        file: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A source ended early.
    #[error("{file} ended after {found} of {expected} bytes; it has changed since its header was read, read it again")]
    Short {
        /// The file's name.
        file: String,
        /// Bytes read.
        found: u64,
        /// Bytes it had when its header was read.
        expected: u64,
    },
    /// More bytes than all files have.
    #[error("{file} is longer than when its header was read; it has changed, read it again")]
    Long {
        /// The last file's name.
        file: String,
    },
    /// What was read is no acceptable index, as with a file whose name cannot be one.
    #[error(transparent)]
    Index(#[from] WeightIndexError),
}

/// Takes the bytes of all files of a model in order. Memory is that of the index.
#[derive(Debug)]
pub struct IndexBuilder {
    files: Vec<IndexedFile>,
    /// In the order of places; the digests of those before `next` are final.
    tensors: Vec<IndexedTensor>,
    next: usize,
    file: usize,
    position: u64,
    whole: Sha256,
    /// Of the region that is being read: a header or a tensor.
    region: Sha256,
}

/// What the next byte belongs to, and where that ends in its file.
enum Region {
    Header(u64),
    Tensor(u64),
    Padding(u64),
}

impl Region {
    fn end(&self) -> u64 {
        match self {
            Self::Header(end) | Self::Tensor(end) | Self::Padding(end) => *end,
        }
    }
}

impl IndexBuilder {
    /// Begins with the headers of all files and their names, without folders.
    pub fn new(gguf: &Gguf, names: &[String]) -> Result<Self, BuildError> {
        if names.len() != gguf.files.len() {
            return Err(BuildError::FileCount {
                found: names.len(),
                expected: gguf.files.len(),
            });
        }
        let unknown = Digest([0; 32]);
        let files = gguf.files.iter().zip(names).map(|(file, name)| IndexedFile {
            name: name.clone(),
            bytes: file.bytes,
            header_bytes: file.data_offset_bytes.min(file.bytes),
            header_sha256: unknown,
        });
        let mut tensors: Vec<IndexedTensor> = gguf
            .tensors
            .iter()
            .map(|tensor| IndexedTensor {
                name: tensor.name.clone(),
                file: tensor.file,
                offset_bytes: tensor.offset_bytes,
                size_bytes: tensor.size_bytes,
                sha256: unknown,
            })
            .collect();
        tensors.sort_by_key(|tensor| (tensor.file, tensor.offset_bytes));
        Ok(Self {
            files: files.collect(),
            tensors,
            next: 0,
            file: 0,
            position: 0,
            whole: Sha256::new(),
            region: Sha256::new(),
        })
    }

    /// Takes the next bytes. Where one file ends the next begins at once.
    pub fn update(&mut self, mut bytes: &[u8]) -> Result<(), BuildError> {
        self.whole.update(bytes);
        while !bytes.is_empty() {
            let Some(file) = self.files.get(self.file) else {
                return Err(BuildError::Long {
                    file: self.files.last().map(|file| file.name.clone()).unwrap_or_default(),
                });
            };
            let region = self.region_of(file);
            let left = region.end() - self.position;
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            let (now, rest) = bytes.split_at(count);
            if !matches!(region, Region::Padding(_)) {
                self.region.update(now);
            }
            self.position += count as u64;
            bytes = rest;
            if self.position == region.end() {
                self.close(&region);
            }
        }
        Ok(())
    }

    /// The index, once all bytes were taken.
    pub fn finish(self) -> Result<WeightIndex, BuildError> {
        if let Some(file) = self.files.get(self.file) {
            return Err(BuildError::Short {
                file: file.name.clone(),
                found: self.position,
                expected: file.bytes,
            });
        }
        Ok(WeightIndex::seal(Table {
            version: VERSION,
            sha256: Digest(self.whole.finalize().into()),
            files: self.files,
            tensors: self.tensors,
        })?)
    }

    fn region_of(&self, file: &IndexedFile) -> Region {
        let tensor = self
            .tensors
            .get(self.next)
            .filter(|tensor| usize::from(tensor.file) == self.file);
        match tensor {
            _ if self.position < file.header_bytes => Region::Header(file.header_bytes),
            Some(tensor) if self.position < tensor.offset_bytes => Region::Padding(tensor.offset_bytes),
            Some(tensor) => Region::Tensor(tensor.offset_bytes + tensor.size_bytes),
            None => Region::Padding(file.bytes),
        }
    }

    fn close(&mut self, region: &Region) {
        match region {
            Region::Header(_) => {
                self.files[self.file].header_sha256 = Digest(self.region.finalize_reset().into());
            }
            Region::Tensor(_) => {
                self.tensors[self.next].sha256 = Digest(self.region.finalize_reset().into());
                self.next += 1;
            }
            Region::Padding(_) => {}
        }
        if self.position == self.files[self.file].bytes {
            self.file += 1;
            self.position = 0;
        }
    }
}

/// Makes the index of a model by reading each of its files once, from the start. `names` are the files' names without
/// folders.
pub fn build(sources: &mut [impl Read + Seek], gguf: &Gguf, names: &[String]) -> Result<WeightIndex, BuildError> {
    let mut builder = IndexBuilder::new(gguf, names)?;
    if sources.len() != names.len() {
        return Err(BuildError::FileCount {
            found: sources.len(),
            expected: names.len(),
        });
    }
    let mut buffer = vec![0; COPY_BYTES];
    for (number, (source, name)) in sources.iter_mut().zip(names).enumerate() {
        let failed = |source| BuildError::Io {
            file: name.clone(),
            source,
        };
        source.seek(SeekFrom::Start(0)).map_err(failed)?;
        loop {
            match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => builder.update(&buffer[..count])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        builder.end_of(number)?;
    }
    builder.finish()
}

impl IndexBuilder {
    /// Fails unless file `number` and no more was taken: a file that grew would else shift those after it.
    pub fn end_of(&self, number: usize) -> Result<(), BuildError> {
        let Some(file) = self.files.get(number) else {
            return Ok(());
        };
        match (self.file.cmp(&number), self.position) {
            (std::cmp::Ordering::Less | std::cmp::Ordering::Equal, found) => Err(BuildError::Short {
                file: file.name.clone(),
                found,
                expected: file.bytes,
            }),
            (std::cmp::Ordering::Greater, 0) if self.file == number + 1 => Ok(()),
            _ => Err(BuildError::Long {
                file: file.name.clone(),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
