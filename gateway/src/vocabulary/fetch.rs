//! A vocabulary file by its digest: from the state directory, else from the operator.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gguf::vocabulary::MAX_VOCABULARY_BYTES;
use proto::control::v1::VocabularyRequest;
use proto::control::v1::routes_client::RoutesClient;
use sha2::{Digest as _, Sha256};

use super::hex;
use crate::routes::Digest;
use crate::routes::disk;
use crate::routes::watch::Control;

/// Bytes of one piece on the wire: the protocol has 1 MiB, and some for its framing.
const MAX_PIECE_BYTES: usize = (1 << 20) + 1024;
/// Longest wait for one piece.
const PIECE_LIMIT: Duration = Duration::from_secs(30);

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("the operator is not connected")]
    NotConnected,
    #[error("the operator: {0}")]
    Operator(String),
    #[error("the vocabulary has more than {MAX_VOCABULARY_BYTES} bytes")]
    TooLarge,
    #[error("the operator's bytes have digest {actual}, not {expected}")]
    WrongDigest { expected: String, actual: String },
    #[error("{}: {error}; this gateway needs room there and the right to write", path.display())]
    File { path: PathBuf, error: io::Error },
}

/// Path of the file, its digest just checked.
pub(super) async fn fetch(digest: &Digest, directory: &Path, control: &Control) -> Result<PathBuf, FetchError> {
    let path = directory.join(format!("{}.gguf", hex(digest)));
    let failed = |error: io::Error| FetchError::File {
        path: path.clone(),
        error,
    };
    if is_cached(&path, digest).await.map_err(failed)? {
        return Ok(path);
    }
    let bytes = download(digest, control).await?;
    check(&bytes, digest)?;
    tokio::fs::create_dir_all(directory).await.map_err(failed)?;
    disk::replace(&path, &bytes).await.map_err(failed)?;
    Ok(path)
}

/// Whether the file is there and whole; a file that is not is as good as none.
async fn is_cached(path: &Path, digest: &Digest) -> io::Result<bool> {
    match tokio::fs::metadata(path).await {
        Ok(metadata) if metadata.len() > MAX_VOCABULARY_BYTES as u64 => Ok(false),
        Ok(_) => Ok(check(&tokio::fs::read(path).await?, digest).is_ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

async fn download(digest: &Digest, control: &Control) -> Result<Vec<u8>, FetchError> {
    let channel = control.channel.load_full().ok_or(FetchError::NotConnected)?;
    let mut client = RoutesClient::new((*channel).clone()).max_decoding_message_size(MAX_PIECE_BYTES);
    let refused = |status: tonic::Status| FetchError::Operator(format!("{:?}: {}", status.code(), status.message()));
    let late = |_| FetchError::Operator(format!("no answer within {} s", PIECE_LIMIT.as_secs()));
    let request = VocabularyRequest {
        sha256: digest.to_vec(),
    };
    let opened = tokio::time::timeout(PIECE_LIMIT, client.vocabulary(request))
        .await
        .map_err(late)?;
    let mut pieces = opened.map_err(refused)?.into_inner();
    let mut bytes = Vec::new();
    while let Some(piece) = tokio::time::timeout(PIECE_LIMIT, pieces.message())
        .await
        .map_err(late)?
        .map_err(refused)?
    {
        if bytes.len() + piece.data.len() > MAX_VOCABULARY_BYTES {
            return Err(FetchError::TooLarge);
        }
        bytes.extend_from_slice(&piece.data);
    }
    Ok(bytes)
}

fn check(bytes: &[u8], digest: &Digest) -> Result<(), FetchError> {
    let actual: Digest = Sha256::digest(bytes).into();
    if actual == *digest {
        return Ok(());
    }
    Err(FetchError::WrongDigest {
        expected: hex(digest),
        actual: hex(&actual),
    })
}

#[cfg(test)]
mod tests;
