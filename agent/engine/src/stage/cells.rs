//! Which cells of the cache are taken, and by whom: new rows always go behind all others.
//!
//! Attention adds up a sequence's positions in the order of their cells, in 16-bit sums. llama.cpp
//! would put new rows into the cells that a departed sequence left free, below older positions of
//! the same sequence, and the next token's numbers would then depend on who was there before. So
//! what is removed is not freed but handed to a sequence that nobody reads, and new rows follow in
//! untouched cells; only what is behind all others anyway, as a draft that was rejected, is freed at
//! once. Now and then the cache is compacted: the retired cells are freed, and what
//! lives moves to the lowest free cells, each sequence keeping its order.
//!
//! Sequences may share the cells of a common prefix. A shared cell counts once, and is retired when
//! the last of its sequences lets go of it. Position p of a sequence is shared only with position p
//! of others, and what is shared is always a prefix.
//!
//! Where layers keep a state beside keys and values, sequences are removed as a whole and share nothing; their states go wherever
//! their cells go.

#[cfg(test)]
mod tests;

/// Retired cells tolerated beyond as many as are alive: attention walks over them, so they cost a
/// little, but each compaction copies all live sequences once.
const RETIRED_SLACK: u32 = 1024;

/// How many cells are taken and by what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cells {
    total: u32,
    /// For each sequence the cell of each of its positions.
    held: Vec<Vec<u32>>,
    /// For each taken cell the sequences that hold it; 0 is retired.
    holders: Vec<u16>,
    retired: u32,
    /// Whether some move failed, so that cells are no longer where the numbers above say.
    scattered: bool,
}

/// How a compaction is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// Piece after piece, each to the lowest cells that are free then.
    InPlace,
    /// All is taken out, and put back into the empty cache. For windowed caches, where whatever is
    /// beyond some sequence's window counts as free: pieces are short enough that nothing in one is
    /// beyond the window of its own end.
    Anew {
        /// Pieces end at the multiples of this.
        piece: u32,
    },
}

/// A run of positions that one set of sequences holds, and where its cells go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// The sequences, ascending; never empty.
    pub(super) sequences: Vec<u32>,
    pub(super) from: u32,
    pub(super) end: u32,
    /// Whether its cells are elsewhere than they should be.
    pub(super) moves: bool,
    /// Its cells afterwards, in order.
    cells: Vec<u32>,
}

impl Cells {
    pub(super) fn new(total: u32, sequences: u32) -> Self {
        Self {
            total,
            held: vec![Vec::new(); sequences as usize],
            holders: Vec::new(),
            retired: 0,
            scattered: false,
        }
    }

    fn taken(&self) -> u32 {
        self.holders.len() as u32
    }

    /// Cells that some sequence reads.
    pub(super) fn alive(&self) -> u32 {
        self.taken() - self.retired
    }

    /// Cells that new rows can have, after a compaction if need be.
    pub(super) fn free(&self) -> u32 {
        self.total.saturating_sub(self.alive())
    }

    /// Whether `rows` more fit only after a compaction.
    pub(super) fn needs_compaction(&self, rows: u32) -> bool {
        self.retired > 0 && self.taken() + rows > self.total
    }

    /// Whether the cache should be compacted before `rows` more are written.
    pub(super) fn wants_compaction(&self, rows: u32) -> bool {
        self.needs_compaction(rows) || self.retired > self.alive() + RETIRED_SLACK
    }

    /// Notes that one row was written for each of these sequences, in this order.
    pub(super) fn write(&mut self, sequences: impl Iterator<Item = u32>) {
        for sequence in sequences {
            let cell = self.taken();
            if let Some(held) = self.held.get_mut(sequence as usize) {
                held.push(cell);
                self.holders.push(1);
            }
        }
    }

    /// Frees the positions `from..` of `sequence` where nobody shares them and their cells are behind all others, so that the
    /// next rows can have these very cells again; whether that is so. Otherwise nothing changes.
    pub(super) fn free_last(&mut self, sequence: u32, from: u32) -> bool {
        let taken = self.taken();
        let Some(held) = self.held.get_mut(sequence as usize) else {
            return false;
        };
        let freed = held.get(from as usize..).unwrap_or_default();
        let first = taken.saturating_sub(freed.len() as u32);
        let alone = |cell: &u32| self.holders.get(*cell as usize) == Some(&1);
        if self.scattered || freed.is_empty() || !freed.iter().copied().eq(first..taken) || !freed.iter().all(alone) {
            return false;
        }
        held.truncate(from as usize);
        self.holders.truncate(first as usize);
        true
    }

    /// Notes that `sequence` holds its positions `from..` no more.
    pub(super) fn truncate(&mut self, sequence: u32, from: u32) {
        let Some(held) = self.held.get_mut(sequence as usize) else {
            return;
        };
        for cell in held.drain((from as usize).min(held.len())..) {
            let holders = &mut self.holders[cell as usize];
            *holders -= 1;
            self.retired += u32::from(*holders == 0);
        }
    }

    /// Notes that the empty sequence `to` shares the first `end` positions of `from`.
    pub(super) fn share(&mut self, from: u32, to: u32, end: u32) {
        let Some(prefix) = self.held.get(from as usize).and_then(|held| held.get(..end as usize)) else {
            return;
        };
        let prefix = prefix.to_vec();
        for cell in &prefix {
            self.holders[*cell as usize] += 1;
        }
        if let Some(held) = self.held.get_mut(to as usize) {
            *held = prefix;
        }
    }

    /// What lives, in the order in which it is to be moved: each sequence's pieces by position, so
    /// that none is ever put below an earlier one of the same sequence.
    pub(super) fn plan(&self, packing: Packing) -> Vec<Piece> {
        let mut occupied: Vec<bool> = self.holders.iter().map(|holders| *holders > 0).collect();
        let mut visited = vec![false; occupied.len()];
        let mut next_anew = 0;
        let mut pieces = Vec::new();
        for sequence in 0..self.held.len() as u32 {
            let mut from = 0;
            while let Some(mut piece) = self.piece_at(sequence, from, packing) {
                from = piece.end;
                let old = &self.held[sequence as usize][piece.from as usize..piece.end as usize];
                if old.iter().all(|cell| visited[*cell as usize]) {
                    continue;
                }
                for cell in old {
                    visited[*cell as usize] = true;
                    occupied[*cell as usize] = false;
                }
                piece.cells = match packing {
                    Packing::Anew { .. } => (next_anew..next_anew + old.len() as u32).collect(),
                    Packing::InPlace => lowest_free(&occupied, old.len()),
                };
                next_anew += old.len() as u32;
                for cell in &piece.cells {
                    occupied[*cell as usize] = true;
                }
                piece.moves = self.scattered || packing != Packing::InPlace || piece.cells != old;
                pieces.push(piece);
            }
        }
        pieces
    }

    /// The longest piece of `sequence` that begins at position `from`; `None` at its end.
    fn piece_at(&self, sequence: u32, from: u32, packing: Packing) -> Option<Piece> {
        let held = &self.held[sequence as usize];
        let sequences = self.sharers(sequence, *held.get(from as usize)?, from);
        let limit = match packing {
            Packing::InPlace => held.len() as u32,
            Packing::Anew { piece } => (from / piece.max(1) + 1)
                .saturating_mul(piece.max(1))
                .min(held.len() as u32),
        };
        let same = |position: &u32| {
            let cell = held[*position as usize];
            // Sharers only ever drop out along a sequence, so equal numbers are equal sets.
            usize::from(self.holders[cell as usize]) == sequences.len()
        };
        let end = (from + 1..limit).find(|position| !same(position)).unwrap_or(limit);
        Some(Piece {
            sequences,
            from,
            end,
            moves: false,
            cells: Vec::new(),
        })
    }

    fn sharers(&self, sequence: u32, cell: u32, position: u32) -> Vec<u32> {
        if self.holders[cell as usize] == 1 {
            return vec![sequence];
        }
        (0u32..)
            .zip(&self.held)
            .filter(|(_, held)| held.get(position as usize) == Some(&cell))
            .map(|(sharer, _)| sharer)
            .collect()
    }

    /// Notes that no retired cell is left and `pieces` are where they were planned to go;
    /// `complete` is whether every one of them could be moved.
    pub(super) fn compacted(&mut self, pieces: &[Piece], complete: bool) {
        self.scattered |= !complete;
        self.holders = vec![0; self.alive() as usize];
        self.retired = 0;
        let mut next = 0u32;
        for piece in pieces {
            let positions = piece.from as usize..piece.end as usize;
            let dense: Vec<u32> = (next..next + positions.len() as u32).collect();
            next += positions.len() as u32;
            // Scattered cells need numbers of their own all the same.
            let cells = if self.scattered { &dense } else { &piece.cells };
            for cell in cells {
                self.holders[*cell as usize] = piece.sequences.len() as u16;
            }
            for sequence in &piece.sequences {
                self.held[*sequence as usize][positions.clone()].copy_from_slice(cells);
            }
        }
    }

    /// Notes that all cells are free.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.total, self.held.len() as u32);
    }
}

fn lowest_free(occupied: &[bool], count: usize) -> Vec<u32> {
    (0u32..)
        .zip(occupied)
        .filter(|(_, occupied)| !**occupied)
        .map(|(cell, _)| cell)
        .take(count)
        .collect()
}
