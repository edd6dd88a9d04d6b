//! The directory in which the agent puts the worker's identity, again and again, and the identity in use.

use std::path::{Path, PathBuf};

use identity::{Credentials, Identity};

/// Where the worker's identity comes from.
#[derive(Clone, Debug)]
pub struct IdentityDir {
    directory: PathBuf,
    /// The one in use.
    pub credentials: Credentials,
}

impl IdentityDir {
    /// Takes the first one into use.
    ///
    /// # Errors
    /// There is none that can be used, in words.
    pub fn open(directory: &Path) -> Result<Self, String> {
        let identity = Identity::load(directory).map_err(|error| error.to_string())?;
        Ok(Self {
            directory: directory.to_owned(),
            credentials: Credentials::new(identity).map_err(|error| error.to_string())?,
        })
    }

    /// Takes what lies there now into use; whether that is another one.
    ///
    /// # Errors
    /// It cannot be used, in words; the one before stays in use.
    pub fn take(&self) -> Result<bool, String> {
        let identity =
            Identity::load(&self.directory).map_err(|error| format!("the identity cannot be read: {error}"))?;
        if identity == self.credentials.identity() {
            return Ok(false);
        }
        let replaced = self.credentials.replace(identity);
        replaced.map_err(|error| format!("the renewed leaf is refused: {error}"))?;
        tracing::info!("a renewed leaf is in use");
        Ok(true)
    }
}
