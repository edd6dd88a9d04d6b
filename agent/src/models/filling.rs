//! One piece, filled tensor by tensor until every one is what the index says.

use super::origin::{Origin, Run, runs};
use super::peers::{Answer, Peers};
use super::{Model, Models, cache_fault};
use crate::shard::observed::Fault;
use crate::shard::weights::Gauge;
use crds::conditions::reason;
use gguf::cache::{PartialPiece, is_piece_complete, piece_path};
use gguf::{Digest, Piece, Pieces, Tensor};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use tokio_util::sync::CancellationToken;

/// Copies go through a buffer of this size.
const COPY_BYTES: usize = 1 << 20;

/// What filling a piece needs.
pub(super) struct Filler<'a> {
    pub models: &'a Models,
    pub model: &'a Model,
    pub pieces: &'a Pieces<'a>,
    pub folder: &'a Path,
    pub origin: &'a Origin<'a>,
    pub peers: &'a Peers<'a>,
    pub gauge: &'a Gauge,
    pub stop: &'a CancellationToken,
}

/// A piece on its way.
struct Filling<'a, 'b> {
    filler: &'b Filler<'a>,
    partial: PartialPiece<'a>,
    tensors: Vec<&'a Tensor>,
    digests: Vec<Digest>,
    missing: Vec<usize>,
    /// What an earlier life wrote cannot be read.
    unreadable: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Peers,
    Origin,
}

impl<'a> Filler<'a> {
    /// Makes sure that the piece is here.
    pub fn fill(&self, piece: Piece) -> Result<(), Fault> {
        let path = piece_path(self.folder, piece);
        let _turn = self.models.turn(&path, self.stop)?;
        if is_piece_complete(self.folder, self.pieces, piece) {
            // Another shard has fetched it meanwhile.
            self.gauge.advance(self.pieces.weight_bytes(piece));
            return Ok(());
        }
        let partial = PartialPiece::open(&path, self.pieces, piece).map_err(cache_fault)?;
        let tensors: Vec<&Tensor> = partial.tensors().collect();
        let digests: Result<Vec<Digest>, Fault> = tensors.iter().map(|tensor| self.model.digest_of(tensor)).collect();
        let mut filling = Filling {
            filler: self,
            partial,
            missing: (0..tensors.len()).collect(),
            tensors,
            digests: digests?,
            unreadable: false,
        };
        match filling.complete(piece) {
            Ok(()) => filling.partial.finish().map_err(cache_fault),
            Err(fault) => {
                if fault.reason == reason::DISK_FULL || filling.unreadable {
                    filling.partial.discard();
                }
                Err(fault)
            }
        }
    }
}

impl Filling<'_, '_> {
    fn complete(&mut self, piece: Piece) -> Result<(), Fault> {
        if self.partial.is_resumed() {
            self.keep_what_is_right()?;
        }
        self.take_twin(piece)?;
        let near = self.filler.origin.is_near();
        let ways = if near {
            [Way::Origin, Way::Peers]
        } else {
            [Way::Peers, Way::Origin]
        };
        let mut fault = None;
        for way in ways {
            match way {
                Way::Peers => self.ask_peers()?,
                Way::Origin => fault = self.read_origin().err(),
            }
        }
        if fault.is_none() {
            // What came is wrong: once more, for it may have been damaged on its way.
            fault = self.read_origin().err();
        }
        match (self.missing.first(), fault) {
            (None, _) => Ok(()),
            (Some(_), Some(fault)) => Err(fault),
            (Some(&number), None) => Err(Fault::new(
                reason::DIGEST_MISMATCH,
                format!(
                    "tensor {} of {} is not what the weight index says (SHA-256 {}); the source has changed since it was \
                     inspected or is damaged: restore it, or apply the model anew",
                    self.tensors[number].name,
                    self.filler.origin.shown(),
                    self.digests[number]
                ),
            )),
        }
    }

    /// What an earlier life has written counts as far as it is right.
    fn keep_what_is_right(&mut self) -> Result<(), Fault> {
        for number in std::mem::take(&mut self.missing) {
            if self.filler.stop.is_cancelled() {
                return Err(super::cancelled());
            }
            let found = self.partial.digest(number).map_err(|error| {
                self.unreadable = true;
                cache_fault(error)
            })?;
            if found == self.digests[number] {
                self.filler.gauge.advance(self.tensors[number].size_bytes);
            } else {
                self.missing.push(number);
            }
        }
        Ok(())
    }

    /// Embedding and output hold the same tensor where weights are tied: what is here as one need not come as the other.
    fn take_twin(&mut self, piece: Piece) -> Result<(), Fault> {
        let twin = match piece {
            Piece::Embedding => Piece::Output,
            Piece::Output => Piece::Embedding,
            _ => return Ok(()),
        };
        let Filler { pieces, folder, .. } = *self.filler;
        if !is_piece_complete(folder, pieces, twin) {
            return Ok(());
        }
        let Ok(file) = File::open(piece_path(folder, twin)) else {
            return Ok(());
        };
        let places = gguf::slice::places(pieces, twin);
        for number in std::mem::take(&mut self.missing) {
            let name = &self.tensors[number].name;
            let found = places.iter().find(|(held, _)| held.name == *name);
            let right = match found {
                Some(&(_, place)) => self.copy(&file, place, number)?,
                None => false,
            };
            if !right {
                self.missing.push(number);
            }
        }
        Ok(())
    }

    fn copy(&mut self, file: &File, place: u64, number: usize) -> Result<bool, Fault> {
        let size = self.tensors[number].size_bytes;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; COPY_BYTES];
        let mut done = 0;
        while done < size {
            let count = (size - done).min(COPY_BYTES as u64) as usize;
            if file.read_exact_at(&mut buffer[..count], place + done).is_err() {
                return Ok(false);
            }
            hash.update(&buffer[..count]);
            self.partial
                .write(number, done, &buffer[..count])
                .map_err(cache_fault)?;
            done += count as u64;
        }
        let right = Digest(hash.finalize().into()) == self.digests[number];
        if right {
            self.filler.gauge.advance(size);
        }
        Ok(right)
    }

    fn ask_peers(&mut self) -> Result<(), Fault> {
        let Filler { peers, gauge, stop, .. } = *self.filler;
        for number in std::mem::take(&mut self.missing) {
            if peers.left() == 0 {
                self.missing.push(number);
                continue;
            }
            let tensor = self.tensors[number];
            let expected = self.digests[number];
            let hash = std::cell::RefCell::new(Sha256::new());
            let partial = &mut self.partial;
            let take = |offset: u64, bytes: &[u8]| {
                if offset == 0 {
                    hash.replace(Sha256::new());
                }
                hash.borrow_mut().update(bytes);
                partial.write(number, offset, bytes).map_err(cache_fault)
            };
            let check = || Digest(hash.take().finalize().into()) == expected;
            // Spread over the peers, so that not all begin with the same one.
            let first = usize::from(expected.0[0]);
            let answer = peers.tensor(first, &tensor.name, tensor.size_bytes, stop, take, check)?;
            if answer == Answer::Right {
                gauge.advance(tensor.size_bytes);
            } else {
                self.missing.push(number);
            }
        }
        Ok(())
    }

    fn read_origin(&mut self) -> Result<(), Fault> {
        let mut bad = Vec::new();
        let mut left = runs(&self.tensors, &self.missing).into_iter();
        let mut outcome = Ok(());
        for run in left.by_ref() {
            outcome = self.run(&run, &mut bad);
            if outcome.is_err() {
                break;
            }
        }
        bad.extend(left.flat_map(|run| run.tensors));
        self.missing = bad;
        outcome
    }

    /// Reads a run; tensors that came wrong, or not at all, are put into `bad`.
    fn run(&mut self, run: &Run, bad: &mut Vec<usize>) -> Result<(), Fault> {
        let Filler {
            models,
            origin,
            gauge,
            stop,
            model,
            ..
        } = *self.filler;
        let mut waiting = run.tensors.iter().copied().peekable();
        let mut hash = Sha256::new();
        let mut position = run.begin;
        let outcome = (|| {
            let file = origin.file(&model.index, run.file, stop)?;
            let mut reader = file.read(run.begin, run.end - run.begin);
            while let Some(chunk) = models.wait(stop, reader.chunk())? {
                models.counters().received(origin.kind(), chunk.len() as u64);
                let mut rest = chunk.as_ref();
                while let Some(&number) = waiting.peek().filter(|_| !rest.is_empty()) {
                    let tensor = self.tensors[number];
                    if position < tensor.offset_bytes {
                        let gap = (tensor.offset_bytes - position).min(rest.len() as u64);
                        rest = &rest[gap as usize..];
                        position += gap;
                        continue;
                    }
                    let end = tensor.offset_bytes + tensor.size_bytes;
                    let (now, after) = rest.split_at(((end - position) as usize).min(rest.len()));
                    hash.update(now);
                    self.partial
                        .write(number, position - tensor.offset_bytes, now)
                        .map_err(cache_fault)?;
                    position += now.len() as u64;
                    rest = after;
                    if position == end {
                        waiting.next();
                        if Digest(hash.finalize_reset().into()) == self.digests[number] {
                            gauge.advance(tensor.size_bytes);
                        } else {
                            bad.push(number);
                        }
                    }
                }
            }
            Ok(())
        })();
        bad.extend(waiting);
        outcome
    }
}
