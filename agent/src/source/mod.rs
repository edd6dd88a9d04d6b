//! Where a model's bytes come from: one address, and every file behind it read by ranges.
//!
//! ```text
//!  uri ── address ──▶ Address ─┬─ file, pvc, image layout ──▶ local ──┐
//!                              ├─ https ──────────────────────────────┤
//!                              ├─ hf (revision pinned) ───────────────┼──▶ Source ─ file(name) ─▶ SourceFile ─ read ─▶ RangeReader
//!                              └─ oci (manifest, blobs) ──────────────┘        http: redirects, retries, versions
//! ```
//!
//! What is read is never believed here: whoever reads checks it against the model's weight index. A source that changes
//! between two reads, ignores ranges, ends early or stalls is an error that names it, without its credentials.

pub mod access;
pub mod address;
pub mod error;
mod hf;
pub mod http;
mod local;
mod oci;
mod range;
mod remote;

pub use access::Access;
pub use address::Address;
pub use error::SourceError;
pub use range::RangeReader;

use gguf::Digest;
use http::Client;
use lifecycle::backoff::Policy;
use local::LocalFile;
use remote::Remote;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What the node knows of sources.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Below it, claims are mounted by their names; without it there are no `pvc://` sources.
    pub pvc_root: Option<PathBuf>,
    /// Base address of the Hugging Face hub or a mirror of it.
    pub hf_endpoint: String,
    /// Proxy for https, unless a source names its own.
    pub https_proxy: Option<String>,
    /// Hosts reached without it, comma separated.
    pub no_proxy: Option<String>,
    /// How failures of a server are met.
    pub patience: Patience,
}

/// How failures of a server are met.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Without a byte for so long, a connection is given up.
    pub progress: Duration,
    /// Attempts in a row that brought nothing before it is an error.
    pub attempts: u32,
    /// Waits between them.
    pub backoff: Policy,
    /// A server may ask for a longer wait than ours, up to this.
    pub retry_after_max: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            progress: Duration::from_secs(30),
            attempts: 6,
            backoff: Policy {
                first: Duration::from_millis(500),
                cap: Duration::from_secs(20),
            },
            retry_after_max: Duration::from_secs(120),
        }
    }
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            pvc_root: None,
            hf_endpoint: "https://huggingface.co".to_owned(),
            https_proxy: None,
            no_proxy: None,
            patience: Patience::default(),
        }
    }
}

/// What a source is, as metrics name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file of this node, a mounted claim included.
    File,
    /// Any https server.
    Https,
    /// The Hugging Face hub.
    Hf,
    /// A registry.
    Oci,
    /// Another agent.
    Peer,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::File, Self::Https, Self::Hf, Self::Oci, Self::Peer];

    /// One lower-case word.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Https => "https",
            Self::Hf => "hf",
            Self::Oci => "oci",
            Self::Peer => "peer",
        }
    }
}

/// A source that was found. Its files are read by name.
pub struct Source {
    kind: Kind,
    first: String,
    shown: String,
    place: Place,
}

enum Place {
    Folder(PathBuf, Option<PathBuf>),
    Layout(local::Layout),
    Beside(Arc<Client>, reqwest::Url),
    Registry(oci::Image),
}

/// One file of a source, with the length and version it had when it was first asked for. Every read must find the same.
#[derive(Clone, Debug)]
pub struct SourceFile {
    content: Content,
    bytes: u64,
    expected: Option<Digest>,
}

#[derive(Clone, Debug)]
enum Content {
    Local(Arc<LocalFile>),
    Remote(Arc<Remote>),
}

impl Source {
    /// Finds a source.
    ///
    /// # Errors
    /// The address makes no sense, nobody answers there, or access is denied.
    pub async fn open(setting: &Setting, uri: &str, access: &Access) -> Result<Self, SourceError> {
        let address = Address::parse(uri)?;
        let first = address.file_name();
        let shown = address.to_string();
        let (kind, first, place) = match address {
            Address::File(path) => local(path, None).await?,
            Address::Pvc { claim, path } => {
                let (inside, path) = local::in_claim(setting, &claim, &path).await?;
                local(path, Some(inside)).await?
            }
            Address::Https(url) => {
                let client = Client::new(setting, access, &url)?;
                (Kind::Https, first, Place::Beside(Arc::new(client), url))
            }
            Address::Hf(hub) => {
                let (client, url) = hf::resolve(setting, access, &hub).await?;
                (Kind::Hf, first, Place::Beside(Arc::new(client), url))
            }
            Address::Oci(reference) => {
                let image = oci::Image::open(setting, access, &reference).await?;
                (Kind::Oci, image.first().to_owned(), Place::Registry(image))
            }
        };
        Ok(Self {
            kind,
            first,
            shown,
            place,
        })
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Name of the model's first file, without a folder.
    pub fn first(&self) -> &str {
        &self.first
    }

    /// The address, as it may be shown to anyone.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// A file of this name beside the first one.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub async fn file(&self, name: &str) -> Result<SourceFile, SourceError> {
        if !address::is_file_name(name) {
            return Err(SourceError::bad(&self.shown, format!("{name:?} is no file name")));
        }
        match &self.place {
            Place::Folder(folder, inside) => {
                let file = LocalFile::open(folder.join(name), inside.clone()).await?;
                Ok(SourceFile::local(file, None))
            }
            Place::Layout(layout) => {
                let (file, expected) = layout.file(name).await?;
                Ok(SourceFile::local(file, expected))
            }
            Place::Beside(client, url) => {
                let url = address::beside(url, name);
                Ok(SourceFile::remote(Remote::open(Arc::clone(client), url).await?, None))
            }
            Place::Registry(image) => {
                let (remote, expected) = image.blob(name).await?;
                Ok(SourceFile::remote(remote, expected))
            }
        }
    }

    /// The whole of a small file.
    ///
    /// # Errors
    /// It cannot be read, or is longer than `limit_bytes`.
    pub async fn read_small(&self, name: &str, limit_bytes: u64) -> Result<Vec<u8>, SourceError> {
        let file = self.file(name).await?;
        if file.bytes() > limit_bytes {
            let what = format!(
                "{name} has {} bytes, more than the {limit_bytes} accepted",
                file.bytes()
            );
            return Err(SourceError::bad(&self.shown, what));
        }
        file.read_all(0, file.bytes()).await
    }
}

/// An address, as it may be shown to anyone: without user names, queries and fragments, which carry secrets.
pub fn shown(uri: &str) -> String {
    Address::parse(uri).map_or_else(|_| "the source".to_owned(), |address| address.to_string())
}

async fn local(path: PathBuf, inside: Option<PathBuf>) -> Result<(Kind, String, Place), SourceError> {
    let (first, place) = match local::Layout::open(&path, inside.clone()).await? {
        Some(layout) => (layout.first().to_owned(), Place::Layout(layout)),
        None => {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            (name, Place::Folder(path.parent().unwrap_or(&path).to_owned(), inside))
        }
    };
    Ok((Kind::File, first, place))
}

impl SourceFile {
    fn local(file: LocalFile, expected: Option<Digest>) -> Self {
        let bytes = file.bytes();
        Self {
            content: Content::Local(Arc::new(file)),
            bytes,
            expected,
        }
    }

    fn remote(remote: Remote, expected: Option<Digest>) -> Self {
        let bytes = remote.bytes();
        Self {
            content: Content::Remote(Arc::new(remote)),
            bytes,
            expected,
        }
    }

    /// Length in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// SHA-256 of the whole as the source's manifest says; whoever reads the whole checks it. `None` where no manifest is.
    pub fn expected(&self) -> Option<Digest> {
        self.expected
    }

    /// What tells this content from a later one under the same name; `None` where the source does not say.
    pub fn version(&self) -> Option<String> {
        match &self.content {
            Content::Local(file) => file.version(),
            Content::Remote(remote) => remote.version(),
        }
    }

    /// The bytes `[offset, offset + length)`, as they come.
    pub fn read(&self, offset: u64, length: u64) -> RangeReader {
        let end = offset.saturating_add(length);
        match &self.content {
            Content::Local(file) => RangeReader::local(Arc::clone(file), offset, end),
            Content::Remote(remote) => RangeReader::remote(Arc::clone(remote), offset, end),
        }
    }

    /// The same, in one piece.
    ///
    /// # Errors
    /// As for [`RangeReader::chunk`].
    pub async fn read_all(&self, offset: u64, length: u64) -> Result<Vec<u8>, SourceError> {
        let mut reader = self.read(offset, length);
        let mut bytes = Vec::new();
        while let Some(chunk) = reader.chunk().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}
