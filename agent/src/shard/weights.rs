//! A shard's files: fetched from the source piece by piece, verified against the placement, prepared for loading.
//!
//! `<models>/<sha256 of the source>/<copy>/` holds one file per piece (see [`gguf::cache`]). All functions block; each is
//! safe to repeat after a crash.

use super::Slice;
use super::observed::Fault;
use gguf::cache::{CacheError, is_piece_complete, piece_path, remove_partial_files, write_piece};
use gguf::index::{CachedWeights, IndexError, stage_root};
use gguf::parse::ParseError;
use gguf::piece::PieceError;
use gguf::{Digest, Gguf, Piece, Pieces, SliceFiles, SlicePlan};
use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Models whose files are kept although nothing here uses them: the next placement is likely to want one of them back.
const UNUSED_MODELS_KEPT: usize = 4;

/// How far work has come, and the wish to end it early. Shared between the task and its observer.
#[derive(Debug, Default)]
pub struct Gauge {
    done_bytes: AtomicU64,
    total_bytes: AtomicU64,
    cancelled: AtomicBool,
}

impl Gauge {
    /// Bytes done, and bytes in all.
    pub fn read(&self) -> (u64, u64) {
        (
            self.done_bytes.load(Ordering::Relaxed),
            self.total_bytes.load(Ordering::Relaxed),
        )
    }

    /// Asks the work to end at the next piece.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    fn begin(&self, total_bytes: u64) {
        self.done_bytes.store(0, Ordering::Relaxed);
        self.total_bytes.store(total_bytes, Ordering::Relaxed);
    }

    fn advance(&self, bytes: u64) -> Result<(), Fault> {
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(Fault::new(
                "Cancelled",
                "the placement does not want the shard any more",
            ));
        }
        Ok(())
    }
}

/// Which files are meant.
#[derive(Clone, Debug)]
pub struct Weights {
    /// What the placement asks for.
    pub slice: Slice,
    /// Where the source is.
    pub uri: String,
    /// Where the pieces are.
    pub directory: PathBuf,
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
    /// The files of one copy below the directory of all models.
    pub fn new(models: &Path, slice: &Slice, uri: &str, copy: u32) -> Self {
        let directory = models.join(Digest(slice.sha256).to_string()).join(copy.to_string());
        Self {
            slice: slice.clone(),
            uri: uri.to_owned(),
            directory,
        }
    }

    /// Copies the pieces that are not here yet.
    ///
    /// # Errors
    /// The source cannot be read or is another model, the disk is full, or the gauge was cancelled.
    pub fn fetch(&self, gauge: &Gauge) -> Result<(), Fault> {
        let (mut source, gguf) = open_source(&self.uri)?;
        let pieces = gguf::pieces(&gguf).map_err(|error| piece_fault(&error))?;
        let needs = self.plan(&pieces)?.needs();
        std::fs::create_dir_all(&self.directory).map_err(|error| io_fault("creating", &self.directory, &error))?;
        // Left by a fetch that was killed. A copy belongs to one shard, so nobody else writes here.
        remove_partial_files(&self.directory).map_err(cache_fault)?;
        gauge.begin(needs.iter().map(|piece| pieces.weight_bytes(*piece)).sum());
        for piece in needs {
            if !is_piece_complete(&self.directory, &pieces, piece) {
                write_piece(&mut source, &pieces, piece, &piece_path(&self.directory, piece)).map_err(cache_fault)?;
            }
            gauge.advance(pieces.weight_bytes(piece))?;
        }
        Ok(())
    }

    /// Recomputes the digests of the pieces as they lie on disk and compares the stage's root with the placement's. Files
    /// that proved wrong are removed, so that the next fetch brings them anew.
    ///
    /// # Errors
    /// `DigestMismatch`, or the files cannot be read, or the gauge was cancelled.
    pub fn verify(&self, gauge: &Gauge) -> Result<(), Fault> {
        let (_, gguf) = open_source(&self.uri)?;
        let pieces = gguf::pieces(&gguf).map_err(|error| piece_fault(&error))?;
        let needs = self.plan(&pieces)?.needs();
        gauge.begin(needs.iter().map(|piece| pieces.weight_bytes(*piece)).sum());
        let cached = CachedWeights::new(&self.directory, &pieces).map_err(|error| index_fault(&error))?;
        let mut leaves = Vec::new();
        for piece in needs.iter().copied() {
            if piece != Piece::Shared {
                leaves.push(cached.digest(piece).map_err(|error| index_fault(&error))?);
            }
            gauge.advance(pieces.weight_bytes(piece))?;
        }
        let found = stage_root(leaves);
        let expected = Digest(self.slice.weight_root);
        if found == expected {
            return Ok(());
        }
        for piece in needs {
            // What cannot be removed is overwritten or found wrong again.
            let _ = std::fs::remove_file(piece_path(&self.directory, piece));
        }
        Err(Fault::new(
            "DigestMismatch",
            format!(
                "layers {} to {} of {} have the weight root {found}, the placement says {expected}; the source has changed \
                 since it was inspected or was damaged on the way: restore it, or apply the model anew",
                self.slice.first_layer, self.slice.end_layer, self.uri
            ),
        ))
    }

    /// Writes the headers of this cut. No worker may be about to load from this copy.
    ///
    /// # Errors
    /// A piece is missing, or files cannot be written.
    pub fn prepare(&self) -> Result<Prepared, Fault> {
        let (_, gguf) = open_source(&self.uri)?;
        let pieces = gguf::pieces(&gguf).map_err(|error| piece_fault(&error))?;
        let embedding_length = pieces.embedding_length();
        let mut files = gguf::prepare_slice(&self.directory, &gguf, self.slice.first_layer, self.slice.end_layer)
            .map_err(cache_fault)?;
        if self.slice.is_head() && files.embedding.is_none() {
            files.embedding = Some(piece_path(&self.directory, Piece::Embedding));
        }
        Ok(Prepared {
            files,
            embedding_length,
        })
    }

    fn plan<'a>(&self, pieces: &'a Pieces<'a>) -> Result<SlicePlan<'a>, Fault> {
        if pieces.layer_count() != self.slice.total_layers {
            return Err(Fault::new(
                "SourceChanged",
                format!(
                    "{} has {} layers, the placement says {}; restore the file that was inspected, or apply the model anew",
                    self.uri,
                    pieces.layer_count(),
                    self.slice.total_layers
                ),
            ));
        }
        SlicePlan::new(pieces, self.slice.first_layer, self.slice.end_layer)
            .map_err(|error| Fault::new("BadSlice", error.to_string()))
    }
}

/// The path of a `file://` source.
///
/// # Errors
/// Another scheme, or no absolute path.
pub fn source_path(uri: &str) -> Result<PathBuf, Fault> {
    let path = uri
        .strip_prefix("file://")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    path.ok_or_else(|| {
        Fault::new(
            "Unreadable",
            format!("source {uri:?} is not supported; use file:///absolute/path/on/the/node.gguf"),
        )
    })
}

/// Opens a source and reads its header.
///
/// # Errors
/// With the reasons of an inspection: `SourceNotFound`, `Truncated`, `NotGGUF`, `Unreadable`.
pub fn open_source(uri: &str) -> Result<(File, Gguf), Fault> {
    let path = source_path(uri)?;
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Fault::new("SourceNotFound", format!("{} is not on this node", path.display())),
        _ => io_fault("opening", &path, &error),
    };
    // Opening a pipe or a device may block for ever.
    let found = std::fs::metadata(&path).map_err(failed)?;
    if !found.is_file() {
        return Err(Fault::new(
            "Unreadable",
            format!("{} is not a regular file", path.display()),
        ));
    }
    let mut file = File::open(&path).map_err(failed)?;
    let gguf = Gguf::parse(&mut file, found.len(), gguf::Limits::default()).map_err(|error| {
        let reason = match error {
            ParseError::Io(_) => "Unreadable",
            ParseError::Truncated { .. } => "Truncated",
            _ => "NotGGUF",
        };
        Fault::new(reason, format!("{}: {error}", path.display()))
    })?;
    Ok((file, gguf))
}

/// The fault of a model that is no model this version runs.
pub fn piece_fault(error: &PieceError) -> Fault {
    let reason = match error {
        PieceError::Architecture(_) => "UnsupportedArchitecture",
        _ => "Unreadable",
    };
    Fault::new(reason, error.to_string())
}

fn cache_fault(error: CacheError) -> Fault {
    match error {
        CacheError::Io { action, path, source } => io_fault(action, &path, &source),
        CacheError::SourceChanged { .. } => Fault::new("Truncated", error.to_string()),
        CacheError::Slice(_) | CacheError::PieceMissing { .. } => Fault::new("BadSlice", error.to_string()),
    }
}

fn index_fault(error: &IndexError) -> Fault {
    let reason = match error {
        IndexError::Mismatch { .. } => "DigestMismatch",
        IndexError::Io { .. } | IndexError::Slice(_) => "Unreadable",
    };
    Fault::new(reason, error.to_string())
}

fn io_fault(action: &str, path: &Path, error: &std::io::Error) -> Fault {
    let reason = if error.kind() == std::io::ErrorKind::StorageFull {
        "DiskFull"
    } else {
        "Unreadable"
    };
    Fault::new(reason, format!("{action} {} failed: {error}", path.display()))
}

/// Removes the files of models that nothing uses, but for the few used last.
///
/// # Errors
/// The directory cannot be read; what could not be removed is tried again the next time.
pub fn prune(models: &Path, in_use: &HashSet<[u8; 32]>) -> std::io::Result<()> {
    let names: HashSet<String> = in_use.iter().map(|sha256| Digest(*sha256).to_string()).collect();
    let mut unused = Vec::new();
    for entry in std::fs::read_dir(models)? {
        let entry = entry?;
        if !names.contains(entry.file_name().to_string_lossy().as_ref()) {
            unused.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    unused.sort();
    let surplus = unused.len().saturating_sub(UNUSED_MODELS_KEPT);
    for (_, path) in unused.into_iter().take(surplus) {
        std::fs::remove_dir_all(path)?;
    }
    Ok(())
}
