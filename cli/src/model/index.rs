//! `model index`: makes the weight index and tells what to write into the InferenceModel.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use gguf::Digest;
use gguf::index::INDEX_SUFFIX;
use serde::Serialize;

use super::place::Place;
use super::{hash, index_path, json, open, remote};
use crate::args::{IndexArgs, Output};
use crate::failure::Failure;
use crate::progress::size;

/// What was made.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Made {
    /// Where the index was written; `-` for standard output.
    index: String,
    uri: String,
    sha256: Digest,
    index_sha256: Digest,
    files: usize,
    tensors: usize,
    bytes: u64,
}

/// Makes the index.
pub fn run(args: &IndexArgs, output: Output) -> Result<String, Failure> {
    let (index, uri, default) = match Place::parse(&args.model, &args.access.hf_endpoint)? {
        Place::Local(path) => {
            let set = open(&path)?;
            let index = hash(&set, &set.names)?;
            (index, file_uri(&path)?, index_path(&path))
        }
        Place::Remote { url, uri } => {
            let index = remote::index(&url, &args.access)?;
            let name = format!("{}{INDEX_SUFFIX}", index.files()[0].name);
            (index, uri, PathBuf::from(name))
        }
    };
    let path = args.to.clone().unwrap_or(default);
    let to_stdout = path == Path::new("-");
    if !to_stdout {
        write(&path, &index.to_bytes())?;
    }
    let made = Made {
        index: path.display().to_string(),
        uri,
        sha256: index.sha256(),
        index_sha256: index.digest(),
        files: index.files().len(),
        tensors: index.tensors().len(),
        bytes: index.total_bytes(),
    };
    if to_stdout {
        eprint!("{}", describe(&made));
        return String::from_utf8(index.to_bytes())
            .map_err(|error| Failure::Unwritable(format!("the index is no text: {error}")));
    }
    match output {
        Output::Text => Ok(describe(&made)),
        Output::Json => json(&made),
    }
}

fn describe(made: &Made) -> String {
    let files = match made.files {
        1 => "1 file".to_owned(),
        count => format!("{count} files"),
    };
    format!(
        "weight index of {} tensors in {files}, {}: {}\nSHA-256 of the index: {}\n\n\
         spec:\n  source:\n    uri: {}\n    sha256: {}\n    indexSha256: {}\n",
        made.tensors,
        size(made.bytes),
        made.index,
        made.index_sha256,
        quoted(&made.uri),
        made.sha256,
        made.index_sha256
    )
}

/// Text as YAML takes it: JSON's quotes where a plain word would not do.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/:._-+@%".contains(c);
    if text.chars().all(plain) {
        text.to_owned()
    } else {
        serde_json::Value::from(text).to_string()
    }
}

fn file_uri(path: &Path) -> Result<String, Failure> {
    let path =
        std::path::absolute(path).map_err(|error| Failure::Io(format!("the current folder is unknown: {error}")))?;
    Ok(format!("file://{}", path.display()))
}

/// Writes a file whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |error| {
        Failure::Unwritable(format!(
            "writing {} failed: {error}; give another place with -o",
            path.display()
        ))
    };
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.partial", std::process::id()));
    let partial = path.with_file_name(name);
    let written = File::create(&partial).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    });
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&partial);
    }
    written.map_err(failed)
}
