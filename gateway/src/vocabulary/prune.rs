//! Removes vocabulary files that no route names any more.

use std::io;
use std::path::Path;

use crate::routes::Digest;

/// Offers every vocabulary file in `directory`, whole or begun, to `remove`, which decides and says whether it removed it;
/// tells how many files went.
///
/// # Errors
/// When the directory cannot be read. What cannot be removed is tried again the next time.
pub(super) fn prune(directory: &Path, remove: impl Fn(&Digest, &Path) -> io::Result<bool>) -> io::Result<usize> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut removed = 0;
    for entry in entries {
        let path = entry?.path();
        let Some(digest) = vocabulary(&path) else { continue };
        match remove(&digest, &path) {
            Ok(true) => removed += 1,
            Ok(false) => {}
            Err(error) => tracing::warn!(path = %path.display(), %error, "a vocabulary that nobody needs stays"),
        }
    }
    Ok(removed)
}

/// Of which vocabulary a file is the whole or a part, by its name; `None` where it is none of ours.
fn vocabulary(path: &Path) -> Option<Digest> {
    let extension = path.extension()?.to_str()?;
    let digest: gguf::Digest = path.file_stem()?.to_str()?.parse().ok()?;
    ["gguf", "partial"].contains(&extension).then_some(digest.0)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::RwLock;

    use super::{Digest, prune};
    use crate::vocabulary::{Held, hex};

    #[test]
    fn only_what_routes_name_and_what_is_not_ours_stays() {
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
        let held = Held {
            wanted: [kept].into(),
            ..Held::default()
        };
        let remove = |digest: &Digest, path: &Path| held.remove_unless_wanted(digest, path);
        assert_eq!(prune(directory.path(), remove).unwrap(), 2);
        let left = std::fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(left, 3);
        assert!(at("notes.gguf").exists() && at(&format!("{}.gguf", hex(&kept))).exists());
        assert_eq!(prune(&at("nowhere"), remove).unwrap(), 0);
    }

    #[test]
    fn what_a_newer_table_names_stays_though_the_look_began_before() {
        let directory = tempfile::tempdir().unwrap();
        let digests = [[1; 32], [2; 32], [3; 32]];
        for digest in &digests {
            std::fs::write(directory.path().join(format!("{}.partial", hex(digest))), b"x").unwrap();
        }
        let held = RwLock::new(Held::default());
        let removed = prune(directory.path(), |digest, path| {
            let removed = held.read().unwrap().remove_unless_wanted(digest, path);
            held.write().unwrap().wanted = digests.into();
            removed
        });
        assert_eq!(removed.unwrap(), 1, "from then on all are wanted");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}
