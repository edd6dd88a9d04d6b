//! A shard's files: fetched piece by piece, verified against the model's index, linked and headed for loading.
//!
//! All functions block; each is safe to repeat after a crash. See [`crate::models`] for where the files are.

use super::observed::Fault;
use super::{Slice, Slot};
use crate::models::model::set_aside;
use crate::models::{Model, Models, Wanted, cache_fault, cancelled, io_fault};
use crate::source::shown;
use crds::conditions::reason;
use gguf::cache::{piece_path, range_digest};
use gguf::{Digest, Piece, Pieces, SliceFiles, SlicePlan};
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::sync::CancellationToken;

/// How far work has come, and the wish to end it early. Shared between the task and its observer.
#[derive(Debug, Default)]
pub struct Gauge {
    done_bytes: AtomicU64,
    total_bytes: AtomicU64,
    note: Mutex<String>,
    stop: CancellationToken,
}

impl Gauge {
    /// One that is called off by this token.
    pub fn stopped_by(stop: CancellationToken) -> Self {
        Self {
            stop,
            ..Self::default()
        }
    }

    /// Bytes done, and bytes in all.
    pub fn read(&self) -> (u64, u64) {
        (
            self.done_bytes.load(Ordering::Relaxed),
            self.total_bytes.load(Ordering::Relaxed),
        )
    }

    /// What is going on, for a person; often nothing.
    pub fn note(&self) -> String {
        self.note.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the work to end soon.
    pub fn cancel(&self) {
        self.stop.cancel();
    }

    /// Cancelled when the work shall end.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Work of so many bytes begins.
    pub fn begin(&self, total_bytes: u64) {
        self.done_bytes.store(0, Ordering::Relaxed);
        self.total_bytes.store(total_bytes, Ordering::Relaxed);
    }

    /// So many more are done.
    pub fn advance(&self, bytes: u64) {
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Says what is going on.
    pub fn tell(&self, note: String) {
        *self.note.lock().unwrap_or_else(PoisonError::into_inner) = note;
    }
}

/// Which files are meant.
#[derive(Clone)]
pub struct Weights {
    /// Where they are.
    pub models: Arc<Models>,
    /// What the placement asks for.
    pub slice: Slice,
    /// Whose links they are.
    pub slot: Slot,
    /// How to get them.
    pub wanted: Wanted,
}

/// What a worker needs to know of prepared files.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The split set.
    pub files: SliceFiles,
    /// Width of the residual stream.
    pub embedding_length: u32,
}

impl Weights {
    /// Brings the pieces that are not here yet.
    ///
    /// # Errors
    /// No source has them, they are not what the placement says, the disk is full, or the gauge was cancelled.
    pub fn fetch(&self, gauge: &Gauge) -> Result<(), Fault> {
        let model = self.models.know(&self.wanted, gauge)?;
        let pieces = model.pieces()?;
        let needs = self.plan(&pieces)?.needs();
        self.check_root(&model, &pieces)?;
        self.models.fetch(&self.wanted, &model, &pieces, &needs, gauge)
    }

    /// Recomputes the digest of every tensor as it lies on disk. A piece that proved wrong is moved aside, so that the next
    /// fetch brings it anew.
    ///
    /// # Errors
    /// `DigestMismatch`, or the files cannot be read, or the gauge was cancelled.
    pub fn verify(&self, gauge: &Gauge) -> Result<(), Fault> {
        let model = self.models.know(&self.wanted, gauge)?;
        let pieces = model.pieces()?;
        let needs = self.plan(&pieces)?.needs();
        self.check_root(&model, &pieces)?;
        gauge.begin(needs.iter().map(|piece| pieces.weight_bytes(*piece)).sum());
        let mut wrong = None;
        for piece in needs {
            if let Err(fault) = self.verify_piece(&model, &pieces, piece, gauge) {
                if fault.reason == cancelled().reason {
                    return Err(fault);
                }
                // All that is wrong is found at once, and fetched at once.
                wrong.get_or_insert(fault);
            }
        }
        wrong.map_or(Ok(()), Err)
    }

    /// Links the pieces and writes the headers of this cut. No worker of this slot may live.
    ///
    /// # Errors
    /// A piece is missing, or files cannot be written.
    pub fn prepare(&self) -> Result<Prepared, Fault> {
        let model = self.models.know(&self.wanted, &Gauge::default())?;
        let embedding_length = model.pieces()?.embedding_length();
        let key = self.slot.key();
        let linked = self
            .models
            .link(&model, &key, self.slice.first_layer, self.slice.end_layer);
        let mut files = linked.map_err(cache_fault)?;
        if self.slice.is_head() && files.embedding.is_none() {
            let folder = self.models.slice_folder(&self.wanted.index, &key);
            files.embedding = Some(piece_path(&folder, Piece::Embedding));
        }
        Ok(Prepared {
            files,
            embedding_length,
        })
    }

    /// Folder of the model's pieces.
    pub fn folder(&self) -> PathBuf {
        self.models.folder(&self.wanted.index)
    }

    fn verify_piece(&self, model: &Model, pieces: &Pieces<'_>, piece: Piece, gauge: &Gauge) -> Result<(), Fault> {
        let path = piece_path(&self.folder(), piece);
        let mut file = File::open(&path).map_err(|error| io_fault("opening", &path, &error))?;
        for (tensor, place) in gguf::slice::places(pieces, piece) {
            if gauge.stop().is_cancelled() {
                return Err(cancelled());
            }
            let found = range_digest(&mut file, place, tensor.size_bytes);
            let expected = model.digest_of(tensor)?;
            match found {
                Ok(found) if found == expected => gauge.advance(tensor.size_bytes),
                Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
                    // A place of the disk that cannot be read will not be able to later: the piece goes elsewhere.
                    set_aside(&path);
                    return Err(io_fault("reading", &path, &error));
                }
                _ => {
                    set_aside(&path);
                    return Err(Fault::new(
                        reason::DIGEST_MISMATCH,
                        format!(
                            "tensor {} in {} was damaged on this node's disk; its piece is fetched anew",
                            tensor.name,
                            path.display()
                        ),
                    ));
                }
            }
        }
        Ok(())
    }

    /// The index, whose digest is in the signed placement, must be the one that the stage's root was made from.
    fn check_root(&self, model: &Model, pieces: &Pieces<'_>) -> Result<(), Fault> {
        let mismatch = |found: String| {
            Fault::new(
                reason::DIGEST_MISMATCH,
                format!(
                    "layers {} to {} of {} have the weight root {found}, the placement says {}; the source has changed since \
                     it was inspected: restore it, or apply the model anew",
                    self.slice.first_layer,
                    self.slice.end_layer,
                    shown(&self.wanted.uri),
                    Digest(self.slice.weight_root)
                ),
            )
        };
        let digests = model
            .index
            .piece_digests(pieces)
            .map_err(|error| Fault::new(reason::DIGEST_MISMATCH, error.to_string()))?;
        match digests.stage_root(self.slice.first_layer, self.slice.end_layer) {
            Some(root) if root.0 == self.slice.weight_root => Ok(()),
            Some(root) => Err(mismatch(root.to_string())),
            None => Err(mismatch("of other layers".to_owned())),
        }
    }

    fn plan<'a>(&self, pieces: &'a Pieces<'a>) -> Result<SlicePlan<'a>, Fault> {
        if pieces.layer_count() != self.slice.total_layers {
            return Err(Fault::new(
                reason::SOURCE_CHANGED,
                format!(
                    "{} has {} layers, the placement says {}; restore the file that was inspected, or apply the model anew",
                    shown(&self.wanted.uri),
                    pieces.layer_count(),
                    self.slice.total_layers
                ),
            ));
        }
        SlicePlan::new(pieces, self.slice.first_layer, self.slice.end_layer)
            .map_err(|error| Fault::new("BadSlice", error.to_string()))
    }
}
