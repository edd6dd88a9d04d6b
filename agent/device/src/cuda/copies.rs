//! Bytes into, out of and between devices. Between two devices they go directly where both say that they can, and where
//! a copy has proved it: behind some bridges the answer is yes and the bytes are wrong. Else they go through main memory
//! in pieces, so that no copy needs more of it than one piece.

use super::open::Open;
use crate::BackendError;
use crate::driver::Span;

/// A piece of a copy through main memory: large enough that the bus's latency does not count.
const PIECE_BYTES: u64 = 8 << 20;
/// A copy that proves that two devices reach each other.
const PROOF_BYTES: usize = 64 << 10;

impl Open {
    pub(super) fn write(&mut self, to: Span, bytes: &[u8]) -> Result<(), BackendError> {
        let context = self.context(to.device)?;
        self.library()?
            .write(context, to.block + to.offset, bytes)
            .map_err(|code| self.fault("cuMemcpyHtoD", code, to.device))
    }

    pub(super) fn read(&mut self, from: Span, bytes: &mut [u8]) -> Result<(), BackendError> {
        let context = self.context(from.device)?;
        self.library()?
            .read(context, from.block + from.offset, bytes)
            .map_err(|code| self.fault("cuMemcpyDtoH", code, from.device))
    }

    pub(super) fn copy(&mut self, from: Span, to: Span, bytes: u64) -> Result<(), BackendError> {
        if from.device != to.device {
            if self.direct(from.device, to.device)? {
                return self.copy_directly(from, to, bytes);
            }
            return self.copy_by_pieces(from, to, bytes);
        }
        let overlap = from.block == to.block && from.offset.abs_diff(to.offset) < bytes;
        if overlap {
            return self.copy_by_pieces(from, to, bytes);
        }
        let context = self.context(from.device)?;
        self.library()?
            .copy(context, from.block + from.offset, to.block + to.offset, bytes)
            .map_err(|code| self.fault("cuMemcpyDtoD", code, from.device))
    }

    fn copy_directly(&mut self, from: Span, to: Span, bytes: u64) -> Result<(), BackendError> {
        let source = (self.context(from.device)?, from.block + from.offset);
        let target = (self.context(to.device)?, to.block + to.offset);
        self.library()?
            .copy_between(source, target, bytes)
            .map_err(|code| self.fault("cuMemcpyPeer", code, from.device))
    }

    /// Piece by piece through main memory; in the order in which no piece overwrites one that is still to be read.
    fn copy_by_pieces(&mut self, from: Span, to: Span, bytes: u64) -> Result<(), BackendError> {
        let mut piece = vec![0u8; bytes.min(PIECE_BYTES) as usize];
        let backwards = from.device == to.device && from.block == to.block && to.offset > from.offset;
        for step in 0..bytes.div_ceil(PIECE_BYTES) {
            let number = if backwards {
                bytes.div_ceil(PIECE_BYTES) - 1 - step
            } else {
                step
            };
            let start = number * PIECE_BYTES;
            let part = &mut piece[..(bytes - start).min(PIECE_BYTES) as usize];
            let at = |span: Span| Span {
                offset: span.offset + start,
                ..span
            };
            self.read(at(from), part)?;
            self.write(at(to), part)?;
        }
        Ok(())
    }

    /// Whether bytes go from one device to the other directly. Asked and proved at the first use of a pair; that there
    /// is no memory left to prove it is no answer, and is asked again.
    pub(super) fn direct(&mut self, from: u32, to: u32) -> Result<bool, BackendError> {
        if let Some(known) = self.peers.get(&(from, to)) {
            return Ok(*known);
        }
        let (source, target) = (self.context(from)?, self.context(to)?);
        let library = self.library()?;
        // Either side may move the bytes, and each needs leave of its own.
        let agreed = library.can_access(source, target)
            && library.enable_access(source, target).is_ok()
            && (!library.can_access(target, source) || library.enable_access(target, source).is_ok());
        let direct = match agreed {
            false => false,
            true => match self.proves(from, to) {
                Err(BackendError::OutOfMemory { .. }) => return Ok(false),
                proved => proved?,
            },
        };
        self.peers.insert((from, to), direct);
        Ok(direct)
    }

    fn proves(&mut self, from: u32, to: u32) -> Result<bool, BackendError> {
        let sent: Vec<u8> = (0..PROOF_BYTES as u32)
            .map(|i| (i.wrapping_mul(0x9E37_79B1) >> 24) as u8)
            .collect();
        let source = self.allocate(from, PROOF_BYTES as u64)?;
        let target = match self.allocate(to, PROOF_BYTES as u64) {
            Ok(target) => target,
            Err(error) => {
                self.free(from, source)?;
                return Err(error);
            }
        };
        let span = |device, block| Span {
            device,
            block,
            offset: 0,
        };
        let mut came = vec![0u8; PROOF_BYTES];
        // What is there before must not be what is sent.
        let outcome = self
            .write(span(to, target), &came)
            .and_then(|()| self.write(span(from, source), &sent))
            .and_then(|()| self.copy_directly(span(from, source), span(to, target), PROOF_BYTES as u64))
            .and_then(|()| self.read(span(to, target), &mut came));
        let freed = self.free(from, source).and(self.free(to, target));
        match outcome {
            Ok(()) => freed.map(|()| came == sent),
            // The pair does not work; each device may.
            Err(BackendError::Failed { .. }) => freed.map(|()| false),
            Err(error) => Err(error),
        }
    }
}
