//! Moving what lives together, so that the cells of what was removed can be written again.

use super::cells::{Packing, Piece};
use super::{Stage, signed};
use crate::error::EngineError;
use crate::ffi::context::SavedCells;

impl Stage {
    /// Compacts the cache where `rows` more call for it.
    ///
    /// # Errors
    /// `KvFull` where the rows do not fit; `Broken` where a sequence was lost on the way.
    pub(super) fn make_room(&mut self, rows: u32) -> Result<(), EngineError> {
        let Some(cells) = &self.cells else {
            return Ok(());
        };
        let full = |cause: &str| EngineError::KvFull {
            rows,
            free: cells.free(),
            cause: cause.to_owned(),
        };
        if rows > cells.free() {
            return Err(full("all others are held by live sequences and kept prefixes"));
        }
        if !cells.wants_compaction(rows) {
            return Ok(());
        }
        let done = self.compact()?;
        let Some(cells) = &self.cells else { return Ok(()) };
        if !done && cells.needs_compaction(rows) {
            return Err(EngineError::KvFull {
                rows,
                free: 0,
                cause: "no memory on the host to move the cache together".to_owned(),
            });
        }
        Ok(())
    }

    /// Frees what was removed, and moves the living together; `false` where there was no memory to
    /// do it and nothing was done.
    pub(super) fn compact(&mut self) -> Result<bool, EngineError> {
        let Some(cells) = &self.cells else { return Ok(true) };
        let pieces = cells.plan(self.packing);
        let complete = match self.packing {
            Packing::InPlace => {
                if !self.context.remove_from(signed(self.retired_sequence), 0) {
                    self.broken = Some("removed positions could not be freed".to_owned());
                }
                self.move_in_place(&pieces)
            }
            Packing::Anew { .. } => match self.take_out(&pieces) {
                Some(saved) => {
                    self.context.clear();
                    self.put_back(&pieces, &saved);
                    true
                }
                None => return Ok(false),
            },
        };
        if let Some(cells) = &mut self.cells {
            cells.compacted(&pieces, complete);
        }
        self.usable().map(|()| true)
    }

    /// Moves one piece after the other; `false` where some had to stay where they are.
    fn move_in_place(&mut self, pieces: &[Piece]) -> bool {
        let mut complete = true;
        for piece in pieces.iter().filter(|piece| piece.moves) {
            let Some(saved) = self.save(piece) else {
                tracing::warn!(
                    sequences = ?piece.sequences,
                    "no memory to move cells together: numbers may differ in the last bits"
                );
                complete = false;
                continue;
            };
            for sequence in &piece.sequences {
                let (from, end) = (signed(piece.from), signed(piece.end));
                if !self.context.remove(signed(*sequence), from, end) {
                    self.broken = Some(format!("sequence {sequence} could not be moved"));
                }
            }
            self.restore(piece, &saved);
        }
        complete
    }

    fn take_out(&mut self, pieces: &[Piece]) -> Option<Vec<SavedCells>> {
        pieces.iter().map(|piece| self.save(piece)).collect()
    }

    fn put_back(&mut self, pieces: &[Piece], saved: &[SavedCells]) {
        for (piece, saved) in pieces.iter().zip(saved) {
            self.restore(piece, saved);
        }
    }

    /// Copies a piece to the host, by way of the sequence for what is retired, which is empty but
    /// for windowed caches: those keep theirs apart.
    fn save(&mut self, piece: &Piece) -> Option<SavedCells> {
        let sequence = signed(*piece.sequences.first()?);
        let (from, end) = (signed(piece.from), signed(piece.end));
        self.context.save(sequence, from, end, signed(self.scratch_sequence))
    }

    /// Puts a piece into the lowest free cells for all of its sequences.
    fn restore(&mut self, piece: &Piece, saved: &SavedCells) {
        let sequences: Vec<i32> = piece.sequences.iter().map(|sequence| signed(*sequence)).collect();
        if let Err(cause) = self.context.restore(saved, signed(self.scratch_sequence), &sequences) {
            self.broken = Some(format!(
                "positions {}..{} of sequences {:?} were lost: {cause}",
                piece.from, piece.end, piece.sequences
            ));
        }
    }
}
