//! Removes vocabulary files that no route names any more.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use super::hex;
use crate::routes::Digest;

/// Leaves in `directory` only the files of these vocabularies, and tells how many files went.
///
/// # Errors
/// When the directory cannot be read. What cannot be removed is tried again the next time.
pub(super) async fn prune(directory: &Path, wanted: &[Digest]) -> io::Result<usize> {
    let stems: HashSet<String> = wanted.iter().map(hex).collect();
    let mut entries = match tokio::fs::read_dir(directory).await {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut removed = 0;
    while let Some(entry) = entries.next_entry().await? {
        let path = entry.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        // Files of a wanted one include those that are being written.
        if stems.contains(stem) || !is_ours(&path) {
            continue;
        }
        match tokio::fs::remove_file(&path).await {
            Ok(()) => removed += 1,
            Err(error) => tracing::warn!(path = %path.display(), %error, "a vocabulary that nobody needs stays"),
        }
    }
    Ok(removed)
}

/// A vocabulary or the part of one, by its name.
fn is_ours(path: &Path) -> bool {
    let named = |part: Option<&std::ffi::OsStr>| part.and_then(|part| part.to_str()).unwrap_or_default().to_owned();
    let (stem, extension) = (named(path.file_stem()), named(path.extension()));
    stem.len() == 64
        && stem.bytes().all(|byte| byte.is_ascii_hexdigit())
        && ["gguf", "partial"].contains(&extension.as_str())
}

#[cfg(test)]
mod tests {
    use super::{hex, prune};

    #[tokio::test]
    async fn only_what_routes_name_and_what_is_not_ours_stays() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let (kept, old) = ([1; 32], [2; 32]);
        for name in [
            format!("{}.gguf", hex(&kept)),
            format!("{}.partial", hex(&kept)),
            format!("{}.gguf", hex(&old)),
            format!("{}.partial", hex(&old)),
            "notes.gguf".to_owned(),
        ] {
            std::fs::write(at(&name), b"x").unwrap();
        }
        assert_eq!(prune(directory.path(), &[kept]).await.unwrap(), 2);
        let left = std::fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(left, 3);
        assert!(at("notes.gguf").exists() && at(&format!("{}.gguf", hex(&kept))).exists());
        assert_eq!(prune(&at("nowhere"), &[]).await.unwrap(), 0);
    }
}
