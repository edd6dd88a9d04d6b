//! Where tensors' bytes come from: files, or whatever else can give a range of bytes.

use std::io::{self, Read, Seek, SeekFrom};

/// Gives ranges of bytes of a model's files.
pub trait TensorSource {
    /// Fills `buffer` with the bytes of file number `file` from `offset_bytes` on. `UnexpectedEof` where the file is
    /// shorter.
    fn read(&mut self, file: u16, offset_bytes: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// One file: a model that is not split.
impl<S: Read + Seek> TensorSource for S {
    fn read(&mut self, file: u16, offset_bytes: u64, buffer: &mut [u8]) -> io::Result<()> {
        if file != 0 {
            return Err(no_such_file(file, 1));
        }
        self.seek(SeekFrom::Start(offset_bytes))?;
        self.read_exact(buffer)
    }
}

/// The files of a split set, in order.
#[derive(Debug)]
pub struct SourceFiles<S>(pub Vec<S>);

impl<S: Read + Seek> TensorSource for SourceFiles<S> {
    fn read(&mut self, file: u16, offset_bytes: u64, buffer: &mut [u8]) -> io::Result<()> {
        let count = self.0.len();
        let source = self
            .0
            .get_mut(usize::from(file))
            .ok_or_else(|| no_such_file(file, count))?;
        source.seek(SeekFrom::Start(offset_bytes))?;
        source.read_exact(buffer)
    }
}

fn no_such_file(file: u16, count: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("file {file} of the model was asked for, the source has {count}"),
    )
}
