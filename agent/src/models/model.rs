//! What a model is: its index and its headers, both checked by digest, wherever they came from.

use super::origin::Origin;
use super::peers::Peers;
use super::{Models, Wanted, io_fault, locked};
use crate::shard::observed::Fault;
use crds::conditions::reason;
use gguf::index::WeightIndex;
use gguf::piece::PieceError;
use gguf::{Digest, Gguf, Piece, Pieces};
use proto::control::v1::ModelIndexRequest;
use proto::control::v1::agent_control_client::AgentControlClient;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Name of the index in a model's folder.
pub const INDEX_FILE: &str = "index.json";
/// The suffix of a file that proved wrong.
pub(super) const CORRUPT_SUFFIX: &str = ".corrupt";
/// The operator serves indexes from memory.
const INDEX_LIMIT: Duration = Duration::from_secs(30);

/// An index, and the headers that belong to it.
#[derive(Debug)]
pub struct Model {
    /// Where every tensor lies and what it must be.
    pub index: WeightIndex,
    /// The headers of all files, joined.
    pub gguf: Gguf,
}

impl Model {
    /// The model's pieces.
    ///
    /// # Errors
    /// It is none that this version runs.
    pub fn pieces(&self) -> Result<Pieces<'_>, Fault> {
        gguf::pieces(&self.gguf).map_err(|error| piece_fault(&error))
    }

    /// The digest a tensor must have.
    pub fn digest_of(&self, tensor: &gguf::Tensor) -> Result<Digest, Fault> {
        let entry = self.index.entry(tensor);
        entry
            .map(|entry| entry.sha256)
            .map_err(|error| Fault::new(reason::DIGEST_MISMATCH, error.to_string()))
    }

    /// The pieces that hold the tensor: two where embedding and output are tied.
    pub fn piece_of(pieces: &Pieces<'_>, tensor: &str) -> Vec<Piece> {
        let holds = |piece: &Piece| pieces.tensors(*piece).iter().any(|held| held.name == tensor);
        pieces.all().into_iter().filter(holds).collect()
    }
}

/// The fault of a model that is no model this version runs.
pub fn piece_fault(error: &PieceError) -> Fault {
    let reason = match error {
        PieceError::Architecture(_) => reason::UNSUPPORTED_ARCHITECTURE,
        _ => reason::UNREADABLE,
    };
    Fault::new(reason, error.to_string())
}

/// Name of the header of file `number`, on disk and between agents.
pub fn header_name(number: usize) -> String {
    format!("header-{number}.gguf")
}

impl Models {
    /// The model, if index and headers are on this node's disk.
    pub fn held(&self, index: &Digest) -> Option<Arc<Model>> {
        if let Some(model) = self.loaded(index) {
            return Some(model);
        }
        let index = self.held_index(index)?;
        let headers: Option<Vec<Vec<u8>>> = (0..index.files().len())
            .map(|number| self.held_header(&index, number))
            .collect();
        self.join(index, &headers?).ok()
    }

    /// The model: from disk, or its index from the operator or the source and its headers from peers or the source.
    ///
    /// # Errors
    /// Nobody has them, or what they have is not what the digest says.
    pub(super) fn model(
        &self,
        wanted: &Wanted,
        origin: &Origin<'_>,
        peers: &Peers<'_>,
        stop: &CancellationToken,
    ) -> Result<Arc<Model>, Fault> {
        if let Some(model) = self.loaded(&wanted.index) {
            return Ok(model);
        }
        let _turn = self.turn(&self.folder(&wanted.index).join(INDEX_FILE), stop)?;
        let index = match self.held_index(&wanted.index) {
            Some(index) => index,
            None => self.index(wanted, origin, stop)?,
        };
        let mut headers = Vec::new();
        for number in 0..index.files().len() {
            let header = match self.held_header(&index, number) {
                Some(header) => header,
                None => self.header(&index, number, origin, peers, stop)?,
            };
            headers.push(header);
        }
        self.join(index, &headers)
    }

    /// Keeps what an inspection has read, so that a placement on this node need not ask for it again.
    ///
    /// # Errors
    /// It cannot be written, or it was called off.
    pub fn keep_model(
        &self,
        index: WeightIndex,
        headers: &[Vec<u8>],
        stop: &CancellationToken,
    ) -> Result<Arc<Model>, Fault> {
        let folder = self.folder(&index.digest());
        {
            let _turn = self.turn(&folder.join(INDEX_FILE), stop)?;
            create(&folder)?;
            for (number, header) in headers.iter().enumerate() {
                write(&folder.join(header_name(number)), header)?;
            }
            write(&folder.join(INDEX_FILE), &index.to_bytes())?;
        }
        let model = self.join(index, headers)?;
        self.prune();
        Ok(model)
    }

    fn loaded(&self, index: &Digest) -> Option<Arc<Model>> {
        let mut loaded = locked(&self.loaded);
        let place = loaded.iter().position(|model| model.index.digest() == *index)?;
        let model = loaded.remove(place);
        // Removed from the disk meanwhile: then its files are needed again, for the next life of this agent.
        if !self.folder(index).join(INDEX_FILE).is_file() {
            return None;
        }
        loaded.push(Arc::clone(&model));
        Some(model)
    }

    fn join(&self, index: WeightIndex, headers: &[Vec<u8>]) -> Result<Arc<Model>, Fault> {
        let gguf = index
            .read_headers(headers)
            .map_err(|error| Fault::new(reason::SOURCE_CHANGED, error.to_string()))?;
        let model = Arc::new(Model { index, gguf });
        let mut loaded = locked(&self.loaded);
        if loaded.len() >= super::LOADED_MAX {
            loaded.remove(0);
        }
        loaded.push(Arc::clone(&model));
        Ok(model)
    }

    fn held_index(&self, digest: &Digest) -> Option<WeightIndex> {
        let path = self.folder(digest).join(INDEX_FILE);
        let bytes = read(&path, gguf::index::MAX_INDEX_BYTES as u64)?;
        let index = WeightIndex::parse(&bytes)
            .ok()
            .filter(|index| index.digest() == *digest);
        if index.is_none() {
            set_aside(&path);
        }
        index
    }

    fn held_header(&self, index: &WeightIndex, number: usize) -> Option<Vec<u8>> {
        let path = self.folder(&index.digest()).join(header_name(number));
        let bytes = read(&path, index.files().get(number)?.header_bytes)?;
        if index.check_header(number as u16, &bytes).is_ok() {
            return Some(bytes);
        }
        set_aside(&path);
        None
    }

    /// From the operator; where it cannot be had there, from beside the source.
    fn index(&self, wanted: &Wanted, origin: &Origin<'_>, stop: &CancellationToken) -> Result<WeightIndex, Fault> {
        let told = match self.wait(stop, self.ask_operator(&wanted.index)) {
            Ok(bytes) => check_index(&bytes, &wanted.index, "the operator"),
            Err(fault) => Err(fault),
        };
        let index = match told {
            Ok(index) => index,
            Err(fault) if fault.reason == "Cancelled" => return Err(fault),
            Err(fault) => {
                let beside = origin
                    .index_beside(stop)
                    .and_then(|bytes| check_index(&bytes, &wanted.index, "the file beside the source"));
                beside.map_err(|other| {
                    let message = format!("{}; and beside the source: {}", fault.message, other.message);
                    Fault::new(reason::NO_INDEX, message)
                })?
            }
        };
        let folder = self.folder(&wanted.index);
        create(&folder)?;
        write(&folder.join(INDEX_FILE), &index.to_bytes())?;
        Ok(index)
    }

    async fn ask_operator(&self, index: &Digest) -> Result<Vec<u8>, Fault> {
        let failed = |cause: &str| {
            Fault::new(
                reason::NO_INDEX,
                format!("the operator gives no weight index {index}: {cause}"),
            )
        };
        let channel = self
            .operator
            .borrow()
            .clone()
            .ok_or_else(|| failed("it is not connected"))?;
        let ask = async {
            let request = ModelIndexRequest {
                sha256: index.0.to_vec(),
            };
            let mut pieces = AgentControlClient::new(channel)
                .model_index(request)
                .await?
                .into_inner();
            let mut bytes = Vec::new();
            while let Some(piece) = pieces.message().await? {
                if bytes.len() + piece.data.len() > gguf::index::MAX_INDEX_BYTES {
                    return Err(tonic::Status::out_of_range("it is longer than an index may be"));
                }
                bytes.extend_from_slice(&piece.data);
            }
            Ok(bytes)
        };
        match tokio::time::timeout(INDEX_LIMIT, ask).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(status)) => Err(failed(status.message())),
            Err(_) => Err(failed("it does not answer")),
        }
    }

    fn header(
        &self,
        index: &WeightIndex,
        number: usize,
        origin: &Origin<'_>,
        peers: &Peers<'_>,
        stop: &CancellationToken,
    ) -> Result<Vec<u8>, Fault> {
        let file = &index.files()[number];
        let sound = |bytes: &Vec<u8>| index.check_header(number as u16, bytes).is_ok();
        let from_peers = || {
            peers
                .header(&index.digest(), number, file.header_bytes, stop)
                .filter(sound)
        };
        let told = if origin.is_near() { None } else { from_peers() };
        let bytes = match told {
            Some(bytes) => bytes,
            None => match origin.header(index, number as u16, stop) {
                Ok(bytes) => bytes,
                Err(fault) => from_peers().ok_or(fault)?,
            },
        };
        index
            .check_header(number as u16, &bytes)
            .map_err(|error| Fault::new(reason::DIGEST_MISMATCH, error.to_string()))?;
        write(&self.folder(&index.digest()).join(header_name(number)), &bytes)?;
        Ok(bytes)
    }
}

/// Reads an index and makes sure that it is the one that was asked for.
///
/// # Errors
/// It is none, or another one.
pub fn check_index(bytes: &[u8], wanted: &Digest, whose: &str) -> Result<WeightIndex, Fault> {
    let index = WeightIndex::parse(bytes).map_err(|error| Fault::new(reason::NO_INDEX, format!("{whose}: {error}")))?;
    if index.digest() == *wanted {
        return Ok(index);
    }
    Err(Fault::new(
        reason::DIGEST_MISMATCH,
        format!(
            "the weight index of {whose} has SHA-256 {}, {wanted} is wanted",
            index.digest()
        ),
    ))
}

fn read(path: &Path, limit_bytes: u64) -> Option<Vec<u8>> {
    let found = std::fs::metadata(path).ok()?;
    if found.len() > limit_bytes {
        set_aside(path);
        return None;
    }
    std::fs::read(path).ok()
}

fn create(folder: &Path) -> Result<(), Fault> {
    std::fs::create_dir_all(folder).map_err(|error| io_fault("creating", folder, &error))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Fault> {
    identity::store::write_private(path, bytes).map_err(|error| match error {
        identity::store::StoreError::Io { cause, .. } => io_fault("writing", path, &cause),
        error => Fault::new(reason::UNREADABLE, error.to_string()),
    })
}

/// Moves a file that proved wrong out of the way; one such file is kept, for whoever wants to know.
pub fn set_aside(path: &Path) {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(CORRUPT_SUFFIX);
    let aside: PathBuf = path.with_file_name(name);
    tracing::warn!(path = %path.display(), "a file of the cache is not what it should be; it is fetched anew");
    if std::fs::rename(path, &aside).is_err() {
        // Then at least nobody may take it for sound.
        let _ = std::fs::remove_file(path);
    }
}
