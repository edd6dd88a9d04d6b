//! The last route table on disk, so that a gateway that starts during an outage of the operator knows its models.

use std::io;
use std::path::{Path, PathBuf};

use prost::Message;
use proto::control::v1::RouteTable;

/// Bytes of a table on disk or on the wire: a thousand models with the largest envelopes need no more.
pub const MAX_TABLE_BYTES: usize = 80 * 1024 * 1024;

/// Where it lies.
#[must_use]
pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("routes.bin")
}

/// The table stored last; `None` when there is none.
///
/// # Errors
/// When the file cannot be read or is no table.
pub async fn load(state_dir: &Path) -> io::Result<Option<RouteTable>> {
    let path = path(state_dir);
    match tokio::fs::metadata(&path).await {
        Ok(metadata) if metadata.len() > MAX_TABLE_BYTES as u64 => {
            return Err(io::Error::other(format!(
                "{} has more than {MAX_TABLE_BYTES} bytes",
                path.display()
            )));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    let bytes = tokio::fs::read(&path).await?;
    RouteTable::decode(bytes.as_slice()).map(Some).map_err(io::Error::other)
}

/// Replaces the stored table; a crash leaves the old one or the new one.
///
/// # Errors
/// Of the file system.
pub async fn store(state_dir: &Path, table: &RouteTable) -> io::Result<()> {
    replace(&path(state_dir), &table.encode_to_vec()).await
}

/// Writes `content` beside `path`, then renames it there; both are on disk when this returns.
pub(crate) async fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let written = match write_new(&partial, content).await {
        Ok(()) => tokio::fs::rename(&partial, path).await,
        Err(error) => Err(error),
    };
    if written.is_err() {
        // The first error is the one to tell. On a full disk what was begun would keep its room.
        let _ = tokio::fs::remove_file(&partial).await;
    }
    written?;
    // Else the new name may be lost with the power.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    tokio::fs::File::open(folder).await?.sync_all().await
}

async fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let file = tokio::fs::File::create(path).await?;
    let mut writer = tokio::io::BufWriter::new(file);
    tokio::io::AsyncWriteExt::write_all(&mut writer, content).await?;
    tokio::io::AsyncWriteExt::flush(&mut writer).await?;
    writer.into_inner().sync_all().await
}
