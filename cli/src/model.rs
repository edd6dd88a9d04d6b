//! What can be done with a GGUF model.

pub mod index;
pub mod place;
pub mod remote;
pub mod show;
pub mod verify;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use gguf::index::INDEX_SUFFIX;
use gguf::{FileSet, IndexBuilder, WeightIndex};
use serde::Serialize;

use crate::failure::{Failure, reading};
use crate::progress::Progress;

/// Read at a time: few system calls, little memory.
const READ_BYTES: usize = 1 << 20;

/// Opens a model on disk by its first or only file.
fn open(path: &Path) -> Result<FileSet, Failure> {
    let found = std::fs::metadata(path).map_err(|error| reading(&path.display().to_string(), &error))?;
    if found.is_dir() {
        let remedy = if contains_safetensors(path) {
            "it holds safetensors: convert it with llama.cpp, `python convert_hf_to_gguf.py <folder> --outfile model.gguf`, \
             and give model.gguf"
        } else {
            "give the first or only .gguf file in it"
        };
        return Err(Failure::MissingInput(format!(
            "{} is a folder; {remedy}",
            path.display()
        )));
    }
    if !found.is_file() {
        // Opening a pipe or a device may block for ever.
        let what = format!("{} is not a regular file; give a .gguf file", path.display());
        return Err(Failure::MissingInput(what));
    }
    Ok(FileSet::open(path)?)
}

fn contains_safetensors(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names = entries.map(|entry| entry.file_name());
    names.any(|name| name.to_string_lossy().ends_with(".safetensors"))
}

/// Where the index of a model on disk lies.
fn index_path(model: &Path) -> PathBuf {
    let mut name = model.file_name().unwrap_or_default().to_os_string();
    name.push(INDEX_SUFFIX);
    model.with_file_name(name)
}

/// Reads all of a model on disk and makes its index, under these names of files.
fn hash(set: &FileSet, names: &[String]) -> Result<WeightIndex, Failure> {
    let mut builder = IndexBuilder::new(&set.gguf, names)?;
    let mut progress = Progress::new("reading the model", set.gguf.total_bytes());
    let mut buffer = vec![0; READ_BYTES];
    for (number, path) in set.paths.iter().enumerate() {
        let failed = |error| reading(&path.display().to_string(), &error);
        let mut file = File::open(path).map_err(failed)?;
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    builder.update(&buffer[..count])?;
                    progress.advance(count as u64);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        builder.end_of(number)?;
    }
    Ok(builder.finish()?)
}

fn json(result: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(result)
        .map_err(|error| Failure::Unwritable(format!("the result is no JSON: {error}")))?;
    Ok(text + "\n")
}
