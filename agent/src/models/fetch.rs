//! Bringing here what a slice needs, over a few connections, and no byte more.

use super::disk::disk_bytes;
use super::filling::Filler;
use super::origin::Origin;
use super::peers::Peers;
use super::{Model, Models, Wanted, io_fault};
use crate::shard::observed::Fault;
use crate::shard::weights::Gauge;
use crds::conditions::reason;
use gguf::cache::{filling_path, is_piece_complete, piece_path};
use gguf::{Piece, Pieces};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Pieces fetched beside each other: enough to fill a line that one connection does not, few enough for any server.
pub const CONNECTIONS: usize = 3;

impl Models {
    /// Index and headers of the model; from disk if they are there.
    ///
    /// # Errors
    /// Nobody has them, or what they have is another model.
    pub fn know(&self, wanted: &Wanted, gauge: &Gauge) -> Result<Arc<Model>, Fault> {
        let model = match self.held(&wanted.index) {
            Some(model) => model,
            None => {
                let (origin, peers) = (Origin::new(self, wanted), Peers::new(self, wanted));
                self.model(wanted, &origin, &peers, gauge.stop())?
            }
        };
        self.touch(&wanted.index);
        Ok(model)
    }

    /// Brings the pieces that are not here.
    ///
    /// # Errors
    /// The disk is full, no source has them, what came is not what the index says, or the gauge was cancelled. Pieces that were
    /// completed stay.
    pub fn fetch(
        &self,
        wanted: &Wanted,
        model: &Model,
        pieces: &Pieces<'_>,
        needs: &[Piece],
        gauge: &Gauge,
    ) -> Result<(), Fault> {
        let folder = self.folder(&wanted.index);
        std::fs::create_dir_all(&folder).map_err(|error| io_fault("creating", &folder, &error))?;
        gauge.begin(needs.iter().map(|piece| pieces.weight_bytes(*piece)).sum());
        let (here, missing): (Vec<Piece>, Vec<Piece>) = needs
            .iter()
            .partition(|piece| is_piece_complete(&folder, pieces, **piece));
        here.iter().for_each(|piece| gauge.advance(pieces.weight_bytes(*piece)));
        if missing.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        let rooms: BTreeMap<Piece, u64> = missing
            .iter()
            .map(|piece| (*piece, room(&folder, pieces, *piece)))
            .collect();
        let reservation = match self.reserve(rooms.values().sum()) {
            Ok(reservation) => Mutex::new(reservation),
            Err(fault) => {
                self.discard_fillings(&folder, rooms.keys());
                return Err(fault);
            }
        };
        let (origin, peers) = (Origin::new(self, wanted), Peers::new(self, wanted));
        let beside = match peers.left() {
            0 => String::new(),
            left => format!(" and {left} peers"),
        };
        let (count, all, from) = (missing.len(), needs.len(), origin.shown());
        gauge.tell(format!("fetching {count} of {all} pieces from {from}{beside}"));
        let filler = Filler {
            models: self,
            model,
            pieces,
            folder: &folder,
            origin: &origin,
            peers: &peers,
            gauge,
            stop: &gauge.stop().child_token(),
        };
        // The output of a tied model is the embedding once more: then it is found here.
        let twin = |piece: &Piece| *piece == Piece::Output && pieces.tied() && needs.contains(&Piece::Embedding);
        let (last, first): (Vec<Piece>, Vec<Piece>) = missing.into_iter().partition(twin);
        let outcome = [first, last].iter().try_for_each(|batch| {
            fill_all(&filler, batch, |piece| {
                super::locked(&reservation).written(rooms.get(&piece).copied().unwrap_or_default());
            })
        });
        let outcome = outcome.map_err(|fault| {
            if fault.reason != reason::DISK_FULL {
                return fault;
            }
            self.discard_fillings(&folder, rooms.keys());
            let missing = rooms
                .keys()
                .filter(|piece| !is_piece_complete(&folder, pieces, **piece));
            self.filled_up(missing.map(|piece| room(&folder, pieces, *piece)).sum(), &fault)
        });
        self.prune();
        outcome?;
        self.counters().fetched(began.elapsed().as_secs_f64());
        Ok(())
    }

    /// Where the disk is full, pieces that are not complete help nobody. Those that another shard is filling are left to it.
    fn discard_fillings<'a>(&self, folder: &Path, pieces: impl Iterator<Item = &'a Piece>) {
        for piece in pieces {
            let path = piece_path(folder, *piece);
            if let Some(_turn) = self.turn_at_once(&path) {
                // Mostly there is none.
                let _ = std::fs::remove_file(filling_path(&path));
            }
        }
    }
}

/// Bytes that a piece still needs on the disk: what an earlier life wrote of it lies there already.
fn room(folder: &Path, pieces: &Pieces<'_>, piece: Piece) -> u64 {
    let held = std::fs::metadata(filling_path(&piece_path(folder, piece))).map_or(0, |found| disk_bytes(&found));
    gguf::slice::file_bytes(pieces, piece).saturating_sub(held)
}

/// Fills the pieces of a batch; the first fault ends the others.
fn fill_all(filler: &Filler<'_>, batch: &[Piece], done: impl Fn(Piece) + Sync) -> Result<(), Fault> {
    let next = AtomicUsize::new(0);
    let first_fault: Mutex<Option<Fault>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..CONNECTIONS.min(batch.len()) {
            scope.spawn(|| {
                while let Some(&piece) = batch.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match filler.fill(piece) {
                        Ok(()) => done(piece),
                        Err(fault) => {
                            // Those that are ended by it say "cancelled" after it.
                            super::locked(&first_fault).get_or_insert(fault);
                            filler.stop.cancel();
                            return;
                        }
                    }
                }
            });
        }
    });
    match first_fault
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
    {
        Some(fault) => Err(fault),
        None => Ok(()),
    }
}
