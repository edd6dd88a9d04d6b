//! Files of this node: plain ones, those of mounted claims, and the blobs of an OCI image layout.

use super::error::SourceError;
use super::{Setting, oci};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// The file that marks a folder as an OCI image layout.
const LAYOUT_MARK: &str = "oci-layout";
const LEADS_OUT: &str = "it is a link that leads out of the claim";
/// An index or manifest has some kilobytes.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// An open file. Replacing its name leaves it as it was; writing to it is noticed by whoever checks what was read.
#[derive(Debug)]
pub(super) struct LocalFile {
    file: Arc<File>,
    path: PathBuf,
    bytes: u64,
    modified: Option<SystemTime>,
}

impl LocalFile {
    /// Opens a file; where a folder is given, only if it lies inside of it once all links were followed.
    pub async fn open(path: PathBuf, inside: Option<PathBuf>) -> Result<Self, SourceError> {
        blocking(move || {
            let path = confined(path, inside.as_deref())?;
            let failed = |cause: io::Error| failed("opening", &path, cause);
            // Opening a pipe or a device may block for ever.
            let found = std::fs::metadata(&path).map_err(failed)?;
            if !found.is_file() {
                return Err(SourceError::bad(&path.to_string_lossy(), "it is not a regular file"));
            }
            let file = File::open(&path).map_err(failed)?;
            let opened = file.metadata().map_err(failed)?;
            Ok(Self {
                file: Arc::new(file),
                bytes: opened.len(),
                modified: opened.modified().ok(),
                path,
            })
        })
        .await
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn version(&self) -> Option<String> {
        let since = self.modified?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(format!("{}.{}", since.as_secs(), since.subsec_nanos()))
    }

    /// At most `length` bytes from `offset`.
    pub async fn read(self: Arc<Self>, offset: u64, length: usize) -> Result<Vec<u8>, SourceError> {
        blocking(move || {
            let mut bytes = vec![0; length];
            match self.file.read_exact_at(&mut bytes, offset) {
                Ok(()) => Ok(bytes),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(SourceError::Truncated {
                    source_name: self.path.display().to_string(),
                    at: self.file.metadata().map_or(offset, |found| found.len()),
                    expected: self.bytes,
                }),
                Err(cause) => Err(failed("reading", &self.path, cause)),
            }
        })
        .await
    }
}

/// The folder of a claim, without links in it, and the path of the claim's file below it, whose own links are kept: the other
/// files of a model are found beside a link, not beside what it leads to. Whoever opens one of them checks that it is inside.
pub(super) async fn in_claim(setting: &Setting, claim: &str, path: &Path) -> Result<(PathBuf, PathBuf), SourceError> {
    let name = format!("pvc://{claim}/{}", path.display());
    let Some(root) = setting.pvc_root.clone() else {
        return Err(SourceError::NotFound {
            source_name: name,
            note: ": this agent has no --pvc-root with mounted claims".to_owned(),
        });
    };
    let (claim, path) = (claim.to_owned(), path.to_owned());
    blocking(move || {
        let missing = |cause: io::Error| match cause.kind() {
            io::ErrorKind::NotFound => SourceError::NotFound {
                source_name: name.clone(),
                note: format!(" (looked for in {})", root.join(&claim).display()),
            },
            _ => SourceError::Io {
                action: "finding",
                source_name: name.clone(),
                cause,
            },
        };
        let inside = root.join(&claim).canonicalize().map_err(missing)?;
        let path = inside.join(&path);
        if path.canonicalize().map_err(missing)?.starts_with(&inside) {
            Ok((inside, path))
        } else {
            Err(SourceError::bad(&name, LEADS_OUT))
        }
    })
    .await
}

/// The path with its links followed, if it must lie inside a folder and does; else the path as it is.
fn confined(path: PathBuf, inside: Option<&Path>) -> Result<PathBuf, SourceError> {
    let Some(inside) = inside else { return Ok(path) };
    let found = path.canonicalize().map_err(|cause| failed("finding", &path, cause))?;
    if found.starts_with(inside) {
        Ok(found)
    } else {
        Err(SourceError::bad(&path.to_string_lossy(), LEADS_OUT))
    }
}

/// An OCI image layout in a folder.
#[derive(Debug)]
pub(super) struct Layout {
    folder: PathBuf,
    inside: Option<PathBuf>,
    files: oci::Files,
}

impl Layout {
    /// `None` when the path is no such folder. Where another folder is given, nothing outside of it is read.
    pub async fn open(path: &Path, inside: Option<PathBuf>) -> Result<Option<Self>, SourceError> {
        let folder = path.to_owned();
        blocking(move || {
            if !folder.join(LAYOUT_MARK).is_file() {
                return Ok(None);
            }
            let name = folder.display().to_string();
            let blob = |digest: &str| blob_path(&folder, digest, &name);
            let mut document = read_small(folder.join("index.json"), inside.as_deref())?;
            for _ in 0..oci::DEPTH_MAX {
                let digest = match oci::Document::parse(&document, &name)? {
                    oci::Document::Elsewhere(digest) => digest,
                    oci::Document::Files(files) => return Ok(Some(Self { folder, inside, files })),
                };
                document = read_small(blob(&digest)?, inside.as_deref())?;
                oci::check_document(&document, &digest, &name)?;
            }
            Err(SourceError::malformed(&name, oci::TOO_DEEP))
        })
        .await
    }

    pub fn first(&self) -> &str {
        self.files.first()
    }

    /// The file of this name, and the digest it must have.
    pub async fn file(&self, name: &str) -> Result<(LocalFile, Option<gguf::Digest>), SourceError> {
        let shown = self.folder.display().to_string();
        let (digest, _) = self.files.find(name).ok_or_else(|| SourceError::NotFound {
            source_name: format!("{name} in {shown}"),
            note: String::new(),
        })?;
        let path = blob_path(&self.folder, digest, &shown)?;
        let file = LocalFile::open(path, self.inside.clone()).await?;
        Ok((file, self.files.expected(name)))
    }
}

fn blob_path(folder: &Path, digest: &str, shown: &str) -> Result<PathBuf, SourceError> {
    let hex = oci::sha256_hex(digest).ok_or_else(|| SourceError::malformed(shown, "a blob that has no SHA-256"))?;
    Ok(folder.join("blobs").join("sha256").join(hex))
}

fn read_small(path: PathBuf, inside: Option<&Path>) -> Result<Vec<u8>, SourceError> {
    let path = confined(path, inside)?;
    let path = path.as_path();
    let found = std::fs::metadata(path).map_err(|cause| failed("reading", path, cause))?;
    let length = found.len();
    if !found.is_file() {
        return Err(SourceError::bad(&path.to_string_lossy(), "it is not a regular file"));
    }
    if length > MANIFEST_BYTES_MAX {
        let what = format!("it has {length} bytes, more than a manifest may have");
        return Err(SourceError::bad(&path.to_string_lossy(), what));
    }
    std::fs::read(path).map_err(|cause| failed("reading", path, cause))
}

fn failed(action: &'static str, path: &Path, cause: io::Error) -> SourceError {
    let source_name = path.display().to_string();
    match cause.kind() {
        io::ErrorKind::NotFound => SourceError::NotFound {
            source_name,
            note: " on this node".to_owned(),
        },
        _ => SourceError::Io {
            action,
            source_name,
            cause,
        },
    }
}

/// Disks and network file systems may take their time.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SourceError> + Send + 'static,
) -> Result<T, SourceError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(SourceError::Io {
            action: "reading",
            source_name: "a file".to_owned(),
            cause: io::Error::other(error),
        }),
    }
}
