//! The state directory: it is there and takes files, or the gateway does not start.

use std::io;
use std::path::Path;

/// Written at the start and removed.
const TRIAL: &str = "trial";

/// Makes sure that files can be kept in `directory`, and makes it where it is missing. A disk that is full does not stop the
/// start: it may have room again by the time something is to be kept.
///
/// # Errors
/// It cannot be made or written: it is read-only, or somebody else's.
pub async fn prepare(directory: &Path) -> io::Result<()> {
    match try_out(directory).await {
        Ok(()) => Ok(()),
        Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            tracing::warn!(path = %directory.display(), %error, "nothing can be kept until there is room");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

async fn try_out(directory: &Path) -> io::Result<()> {
    tokio::fs::create_dir_all(directory).await?;
    let trial = directory.join(TRIAL);
    tokio::fs::write(&trial, b"").await?;
    // What stays is written over by the next start.
    let _ = tokio::fs::remove_file(&trial).await;
    Ok(())
}
