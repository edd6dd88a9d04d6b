//! Memory that the kernel has promised and not yet given: pages are taken when they are first written, so what it calls
//! free still holds all that was allocated and not touched. Pure.

use std::collections::HashMap;

/// Writes are remembered in pieces of this size; a block is untouched to within one piece per write.
const PIECE_BYTES: u64 = 64 << 10;

/// Blocks of main memory, and which of their pieces were written.
#[derive(Debug, Default)]
pub(crate) struct Promised {
    blocks: HashMap<u64, Pieces>,
    untouched_bytes: u64,
}

#[derive(Debug)]
struct Pieces {
    size_bytes: u64,
    written: Vec<u64>,
}

impl Pieces {
    fn bytes_of(&self, piece: u64) -> u64 {
        PIECE_BYTES.min(self.size_bytes - piece * PIECE_BYTES)
    }

    fn untouched_bytes(&self) -> u64 {
        (0..self.size_bytes.div_ceil(PIECE_BYTES))
            .filter(|piece| !self.is_written(*piece))
            .map(|piece| self.bytes_of(piece))
            .sum()
    }

    fn is_written(&self, piece: u64) -> bool {
        self.written[(piece / 64) as usize] >> (piece % 64) & 1 == 1
    }
}

impl Promised {
    /// What was allocated and never written.
    pub(crate) fn untouched_bytes(&self) -> u64 {
        self.untouched_bytes
    }

    /// A new block, not zero bytes long.
    pub(crate) fn enter(&mut self, block: u64, size_bytes: u64) {
        let words = size_bytes.div_ceil(PIECE_BYTES).div_ceil(64);
        self.blocks.insert(
            block,
            Pieces {
                size_bytes,
                written: vec![0; words as usize],
            },
        );
        self.untouched_bytes += size_bytes;
    }

    /// A span of the block is written; it lies within the block and is not empty.
    pub(crate) fn touch(&mut self, block: u64, offset: u64, bytes: u64) {
        let Some(pieces) = self.blocks.get_mut(&block) else {
            return;
        };
        let end = offset.saturating_add(bytes).min(pieces.size_bytes);
        for piece in offset / PIECE_BYTES..end.div_ceil(PIECE_BYTES) {
            if !pieces.is_written(piece) {
                pieces.written[(piece / 64) as usize] |= 1 << (piece % 64);
                self.untouched_bytes -= pieces.bytes_of(piece);
            }
        }
    }

    /// The block is gone.
    pub(crate) fn strike(&mut self, block: u64) {
        if let Some(pieces) = self.blocks.remove(&block) {
            self.untouched_bytes -= pieces.untouched_bytes();
        }
    }

    /// All are gone.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests;
