//! How much a folder holds on disk, and another one that holds the same.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::{Result, file};

/// The bytes of all files below a folder; one with several names counts once.
pub fn bytes(folder: &Path) -> Result<u64> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(file(&folder))? {
            let path = entry.map_err(file(&folder))?.path();
            let metadata = std::fs::symlink_metadata(&path).map_err(file(&path))?;
            if metadata.is_dir() {
                folders.push(path);
            } else {
                files.insert((metadata.dev(), metadata.ino()), metadata.len());
            }
        }
    }
    Ok(files.into_values().sum())
}

/// Copies all folders and files below a folder; `to` is made anew.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).map_err(file(to))?;
    for entry in std::fs::read_dir(from).map_err(file(from))? {
        let path = entry.map_err(file(from))?.path();
        let Some(name) = path.file_name() else { continue };
        let copied = to.join(name);
        if path.is_dir() {
            copy(&path, &copied)?;
        } else {
            std::fs::copy(&path, &copied).map_err(file(&path))?;
        }
    }
    Ok(())
}
