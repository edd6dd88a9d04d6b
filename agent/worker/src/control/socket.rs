//! The Unix socket: owner only, one worker per path.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};

/// Why the socket cannot be opened.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The system refuses.
    #[error("control socket {path}: {cause}")]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// Another worker answers there.
    #[error("control socket {path}: a worker answers there already")]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// Something else lies there, which is not ours to remove.
    #[error("control socket {path}: the path is taken by something that is no socket")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
}

/// Binds the socket with mode 0600. A socket that a dead process left is replaced.
///
/// # Errors
/// See [`ControlError`].
pub fn bind(path: &Path) -> Result<UnixListener, ControlError> {
    let failed = |cause| ControlError::Io {
        path: path.to_owned(),
        cause,
    };
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ControlError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(ControlError::InUse { path: path.to_owned() }),
            Err(_) => std::fs::remove_file(path).map_err(failed)?,
        },
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    let owner_only = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, owner_only).map_err(failed)?;
    Ok(listener)
}

/// Only processes of the same user, or root, may control a worker; the mode says so already, the kernel knows better.
pub(super) fn check_peer(stream: &UnixStream) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    let own = rustix::process::geteuid().as_raw();
    if peer != own && peer != 0 {
        let message = format!("user {peer} may not control a worker of user {own}");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    Ok(())
}
