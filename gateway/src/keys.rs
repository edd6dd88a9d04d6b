//! Who may ask: the bearer keys of a file, one a line, known here only by their SHA-256.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use tokio::io::AsyncReadExt;

/// How soon a changed file counts. Cheap: the file is read whole, as mounted files change by a swapped link.
const REREAD_INTERVAL: Duration = Duration::from_secs(2);
/// Bytes of the file: ten thousand keys.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

type KeyHash = [u8; 32];

/// Which key a request came with: its SHA-256, never the key itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId(KeyHash);

/// Bytes of a prefix scope: far beyond any two keys meeting by chance.
const SCOPE_BYTES: usize = 16;

impl KeyId {
    /// What marks kept prefixes as this key's: prefixes are shared among its requests alone, so that nobody learns from
    /// timing what others asked. Tells workers nothing of the key.
    #[must_use]
    pub fn prefix_scope(&self) -> Vec<u8> {
        let mut hash = Sha256::new();
        hash.update(b"shardwright.prefix-scope.v1\0");
        hash.update(self.0);
        hash.finalize()[..SCOPE_BYTES].to_vec()
    }
}

/// The keys accepted at this moment.
#[derive(Debug)]
pub struct ApiKeys {
    path: PathBuf,
    hashes: ArcSwap<Vec<KeyHash>>,
}

impl ApiKeys {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read or is too large. An empty one is no error: nobody may ask then.
    pub async fn load(path: &Path) -> io::Result<Self> {
        let hashes = read(path).await?;
        if hashes.is_empty() {
            tracing::warn!(path = %path.display(), "no API keys: every request will be refused");
        }
        Ok(Self {
            path: path.to_owned(),
            hashes: ArcSwap::from_pointee(hashes),
        })
    }

    /// Which of them `key` is, if any. Takes as long for a wrong key as for a right one.
    #[must_use]
    pub fn identify(&self, key: &str) -> Option<KeyId> {
        let offered: KeyHash = Sha256::digest(key.as_bytes()).into();
        let known = self.hashes.load();
        let found = known
            .iter()
            .fold(Choice::from(0), |found, hash| found | hash.ct_eq(&offered));
        bool::from(found).then_some(KeyId(offered))
    }

    /// Reads the file again whenever it has changed, for ever. A file that cannot be read changes nothing.
    pub async fn follow(&self) {
        let mut failing = false;
        loop {
            tokio::time::sleep(REREAD_INTERVAL).await;
            match read(&self.path).await {
                Ok(hashes) => {
                    failing = false;
                    if hashes != **self.hashes.load() {
                        tracing::info!(path = %self.path.display(), keys = hashes.len(), "API keys changed");
                        self.hashes.store(std::sync::Arc::new(hashes));
                    }
                }
                Err(error) => {
                    if !failing {
                        let path = self.path.display();
                        tracing::warn!(%path, %error, "API keys cannot be read; the last ones stay");
                    }
                    failing = true;
                }
            }
        }
    }
}

async fn read(path: &Path) -> io::Result<Vec<KeyHash>> {
    let mut text = String::new();
    let file = tokio::fs::File::open(path).await?;
    let bytes = file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).await?;
    if bytes as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("more than {MAX_FILE_BYTES} bytes")));
    }
    let keys = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(keys.map(|key| Sha256::digest(key.as_bytes()).into()).collect())
}

#[cfg(test)]
mod tests {
    use super::ApiKeys;

    #[tokio::test]
    async fn only_the_keys_of_the_file_are_accepted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        std::fs::write(&path, "# team a\nkey-one\n\n  key-two \n").unwrap();
        let keys = ApiKeys::load(&path).await.unwrap();
        let (one, two) = (keys.identify("key-one").unwrap(), keys.identify("key-two").unwrap());
        assert_ne!(one, two);
        assert_eq!(one.prefix_scope(), keys.identify("key-one").unwrap().prefix_scope());
        assert_ne!(one.prefix_scope(), two.prefix_scope());
        assert_eq!(one.prefix_scope().len(), 16);
        for wrong in ["", "key-on", "key-onee", "# team a", "key-one\n"] {
            assert!(keys.identify(wrong).is_none(), "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn an_empty_file_accepts_nobody_and_a_missing_one_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        assert!(ApiKeys::load(&path).await.is_err());
        std::fs::write(&path, "\n").unwrap();
        assert!(ApiKeys::load(&path).await.unwrap().identify("").is_none());
    }

    #[tokio::test]
    async fn a_changed_file_counts_without_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        std::fs::write(&path, "old\n").unwrap();
        let keys = ApiKeys::load(&path).await.unwrap();
        std::fs::write(&path, "new\n").unwrap();
        let changed = async {
            while keys.identify("new").is_none() {
                tokio::time::sleep(super::REREAD_INTERVAL).await;
            }
        };
        tokio::select! {
            () = keys.follow() => {}
            () = changed => {}
        }
        assert!(keys.identify("old").is_none());
    }
}
