//! Which cells of the cache are taken: new rows always go behind all others.
//!
//! Attention adds up a sequence's positions in the order of their cells, in 16-bit sums. llama.cpp
//! would put new rows into the cells that a departed sequence left free, below older positions of
//! the same sequence, and the next token's numbers would then depend on who was there before. So
//! what is removed is not freed but handed to a sequence that nobody reads, and new rows follow in
//! untouched cells. Now and then the cache is compacted: the retired cells are freed, and each
//! sequence in turn moves to the lowest free cells, keeping its order.

/// Retired cells tolerated beyond as many as are alive: attention walks over them, so they cost a
/// little, but each compaction copies all live sequences once.
const RETIRED_SLACK: u32 = 1024;

/// How many cells are taken and by what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cells {
    total: u32,
    /// Cells below the first untouched one.
    taken: u32,
    /// Those of them that nobody reads.
    retired: u32,
}

impl Cells {
    pub(super) fn new(total: u32) -> Self {
        Self {
            total,
            taken: 0,
            retired: 0,
        }
    }

    /// Whether the cache should be compacted before `rows` more are written.
    pub(super) fn wants_compaction(&self, rows: u32) -> bool {
        let alive = self.taken - self.retired;
        self.retired > 0 && (self.taken + rows > self.total || self.retired > alive + RETIRED_SLACK)
    }

    /// Notes that `rows` were written.
    pub(super) fn write(&mut self, rows: u32) {
        self.taken += rows;
    }

    /// Notes that `rows` are not read any more.
    pub(super) fn retire(&mut self, rows: u32) {
        self.retired = (self.retired + rows).min(self.taken);
    }

    /// Notes that no retired cell is left.
    pub(super) fn compact(&mut self) {
        self.taken -= self.retired;
        self.retired = 0;
    }

    /// Notes that all cells are free.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compaction_is_wanted_when_room_is_short_or_too_much_is_retired() {
        let mut cells = Cells::new(4096);
        cells.write(4000);
        assert!(!cells.wants_compaction(200), "nothing could be gained");
        cells.retire(500);
        assert!(!cells.wants_compaction(96));
        assert!(cells.wants_compaction(97));
        cells.compact();
        assert!(!cells.wants_compaction(97));
        cells.retire(2300);
        assert!(cells.wants_compaction(1), "2300 retired beside 1200 alive");
        cells.clear();
        assert_eq!(cells, Cells::new(4096));
    }
}
