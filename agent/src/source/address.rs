//! Addresses of sources, read and checked. Pure.

use super::error::SourceError;
use reqwest::Url;
use std::fmt;
use std::path::{Component, Path, PathBuf};

/// Addresses and references have a few hundred bytes.
const URI_BYTES_MAX: usize = 4096;
/// Longest file name: what file systems accept.
const FILE_NAME_BYTES_MAX: usize = 255;

/// Where a model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A file of this node, or the folder of an OCI image layout.
    File(PathBuf),
    /// The same in a mounted claim.
    Pvc {
        /// Name of the PersistentVolumeClaim.
        claim: String,
        /// Below its root.
        path: PathBuf,
    },
    /// Any server.
    Https(Url),
    /// The Hugging Face hub.
    Hf(Hub),
    /// A registry.
    Oci(Reference),
}

/// A file of a repository on the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hub {
    /// `org/repo`.
    pub repository: String,
    /// Path in the repository.
    pub file: String,
    /// Branch, tag or commit.
    pub revision: String,
}

/// An image in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// `host[:port]`.
    pub registry: String,
    /// `a/b/c`.
    pub repository: String,
    /// A tag, or `sha256:…`.
    pub version: String,
}

impl Address {
    /// Reads an address.
    ///
    /// # Errors
    /// Another scheme, a path that leads elsewhere, user names or passwords in it, or a format that is not GGUF.
    pub fn parse(uri: &str) -> Result<Self, SourceError> {
        let shown = show_text(uri);
        let bad = |what: &str| SourceError::bad(&shown, what);
        if uri.len() > URI_BYTES_MAX || uri.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(bad("it is too long for an address, or has spaces in it"));
        }
        if is_safetensors(uri) {
            return Err(SourceError::Safetensors { source_name: shown });
        }
        let Some((scheme, rest)) = uri.split_once("://") else {
            return Err(bad("it has no scheme; use file://, pvc://, https://, hf:// or oci://"));
        };
        match scheme {
            "file" => {
                let path = PathBuf::from(rest);
                if !path.is_absolute() {
                    return Err(bad("use file:///absolute/path/on/the/node.gguf"));
                }
                Ok(Self::File(path))
            }
            "pvc" => claim(rest).ok_or_else(|| bad("use pvc://claim/path/to/model.gguf, without `..`")),
            "https" => https(uri).ok_or_else(|| {
                bad("use https://host/path/model.gguf, without user name and password: those belong into a Secret")
            }),
            "hf" => {
                hub(rest).ok_or_else(|| bad("use hf://org/repository/file.gguf, with @revision at its end if need be"))
            }
            "oci" => reference(rest).ok_or_else(|| bad("use oci://registry/repository:tag or …@sha256:digest")),
            "http" => Err(bad("plain http is not read; use https://")),
            _ => Err(bad(
                "its scheme is not known; use file://, pvc://, https://, hf:// or oci://",
            )),
        }
    }

    /// Name of the file, without folders.
    pub fn file_name(&self) -> String {
        let last = |text: &str| text.rsplit('/').next().unwrap_or_default().to_owned();
        match self {
            Self::File(path) | Self::Pvc { path, .. } => {
                path.file_name().unwrap_or_default().to_string_lossy().into_owned()
            }
            Self::Https(url) => last(url.path()),
            Self::Hf(hub) => last(&hub.file),
            Self::Oci(reference) => last(&reference.repository),
        }
    }
}

/// The address without what may be secret.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Pvc { claim, path } => write!(f, "pvc://{claim}/{}", path.display()),
            Self::Https(url) => f.write_str(&show(url)),
            Self::Hf(Hub {
                repository,
                file,
                revision,
            }) => write!(f, "hf://{repository}/{file}@{revision}"),
            Self::Oci(Reference {
                registry,
                repository,
                version,
            }) => {
                let mark = if version.starts_with("sha256:") { '@' } else { ':' };
                write!(f, "oci://{registry}/{repository}{mark}{version}")
            }
        }
    }
}

/// A URL without user name, password, query and fragment: presigned addresses carry their secret in the query.
pub fn show(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{host}{port}{}", url.scheme(), url.path())
}

/// As [`show`], of what may be no URL at all.
fn show_text(uri: &str) -> String {
    match Url::parse(uri) {
        Ok(url) if url.has_host() => show(&url),
        _ => uri
            .split(['?', '#'])
            .next()
            .unwrap_or_default()
            .chars()
            .take(200)
            .collect(),
    }
}

fn is_safetensors(uri: &str) -> bool {
    let path = uri.split(['?', '#']).next().unwrap_or_default();
    let path = path.split('@').next().unwrap_or_default().to_ascii_lowercase();
    path.ends_with(".safetensors") || path.ends_with(".safetensors.index.json")
}

/// Whether a name is one file's, in whatever folder it is looked for.
pub fn is_file_name(name: &str) -> bool {
    let plain = |c: char| !c.is_control() && !['/', '\\', '?', '#'].contains(&c);
    !name.is_empty() && name.len() <= FILE_NAME_BYTES_MAX && !name.starts_with('.') && name.chars().all(plain)
}

/// The address of a file in the same folder; what follows the path stays.
pub fn beside(url: &Url, name: &str) -> Url {
    let mut beside = url.clone();
    if let Ok(mut segments) = beside.path_segments_mut() {
        segments.pop().push(name);
    }
    beside
}

fn claim(rest: &str) -> Option<Address> {
    let (claim, path) = rest.split_once('/')?;
    let path = Path::new(path);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    let named = is_file_name(claim) && path.file_name().is_some();
    (plain && named).then(|| Address::Pvc {
        claim: claim.to_owned(),
        path: path.to_owned(),
    })
}

fn https(uri: &str) -> Option<Address> {
    let url = Url::parse(uri).ok()?;
    let sound = url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.path_segments()?.next_back().is_some_and(|name| !name.is_empty());
    sound.then_some(Address::Https(url))
}

fn hub(rest: &str) -> Option<Address> {
    let (path, revision) = match rest.rsplit_once('@') {
        Some((path, revision)) => (path, revision),
        None => (rest, "main"),
    };
    let mut parts = path.splitn(3, '/');
    let (org, repository, file) = (parts.next()?, parts.next()?, parts.next()?);
    let words = [org, repository]
        .into_iter()
        .chain(file.split('/'))
        .chain(revision.split('/'));
    let sound = words.clone().all(is_file_name);
    sound.then(|| {
        Address::Hf(Hub {
            repository: format!("{org}/{repository}"),
            file: file.to_owned(),
            revision: revision.to_owned(),
        })
    })
}

fn reference(rest: &str) -> Option<Address> {
    let (registry, path) = rest.split_once('/')?;
    let (repository, version) = if let Some((repository, digest)) = path.split_once('@') {
        let hex = digest.strip_prefix("sha256:")?;
        let sound = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        // A tag beside a digest says nothing more.
        (repository.split(':').next()?, sound.then(|| digest.to_owned())?)
    } else if let Some((repository, tag)) = path.rsplit_once(':') {
        (repository, tag.to_owned())
    } else {
        (path, "latest".to_owned())
    };
    let word =
        |text: &str| is_file_name(text) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    let host = Url::parse(&format!("https://{registry}/")).ok()?;
    let plain = host.username().is_empty() && host.password().is_none() && !registry.is_empty();
    let named = repository.split('/').all(word) && (version.starts_with("sha256:") || word(&version));
    (plain && named).then(|| {
        Address::Oci(Reference {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            version,
        })
    })
}

#[cfg(test)]
mod tests;
