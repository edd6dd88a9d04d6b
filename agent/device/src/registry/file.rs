//! The registry's file.

use super::entries::Entries;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const VERSION: u32 = 1;
/// Some hundreds of devices of a few kibibytes each.
const FILE_LIMIT_BYTES: u64 = 8 << 20;

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    #[serde(flatten)]
    entries: &'a Entries,
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Nothing where there is no file; a sentence where there is none that can be used.
pub(super) fn read(path: &Path) -> Result<Option<Entries>, String> {
    let mut bytes = Vec::new();
    let outcome = File::open(path).and_then(|file| file.take(FILE_LIMIT_BYTES + 1).read_to_end(&mut bytes));
    match outcome {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("it cannot be read: {error}")),
    }
    if bytes.len() as u64 > FILE_LIMIT_BYTES {
        return Err(format!("it is longer than {FILE_LIMIT_BYTES} bytes"));
    }
    let not_a_registry = |error: serde_json::Error| format!("it is not a registry: {error}");
    let Versioned { version } = serde_json::from_slice(&bytes).map_err(not_a_registry)?;
    if version != VERSION {
        return Err(format!("it is of version {version}, and this build reads {VERSION}"));
    }
    let entries: Entries = serde_json::from_slice(&bytes).map_err(not_a_registry)?;
    if !entries.consistent() {
        return Err("two devices of it have one name".to_owned());
    }
    Ok(Some(entries))
}

/// Moves the file out of the way, and says so together with its fault.
pub(super) fn set_aside(path: &Path, fault: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now.map_or(0, |since| since.as_secs());
    let aside = with_suffix(path, &format!(".corrupt-{seconds}"));
    let outcome = match fs::rename(path, &aside) {
        Ok(()) => format!("it was moved aside to {}", aside.display()),
        Err(error) => format!("it could not be moved aside to {}: {error}", aside.display()),
    };
    format!(
        "the device registry {} starts empty: {fault}; {outcome}. Devices may get other numbers in their names",
        path.display()
    )
}

/// Writes beside the file, makes sure that it is on disk, and puts it in the file's place.
pub(super) fn write(path: &Path, entries: &Entries) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(&Written {
        version: VERSION,
        entries,
    })?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder)?;
    let temporary = with_suffix(path, ".new");
    let written = write_new(&temporary, &text).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The first error is the one to tell. On a full disk what was begun would keep its room.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    // Else the new name may be lost with the power.
    File::open(folder)?.sync_all()
}

fn write_new(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text)?;
    file.sync_all()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
