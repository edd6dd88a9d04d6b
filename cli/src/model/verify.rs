//! `model verify`: checks every tensor on disk against the index.

use std::path::Path;

use gguf::index::MAX_INDEX_BYTES;
use gguf::{Digest, WeightIndex};
use serde::Serialize;

use super::{hash, index_path, json, open};
use crate::args::{Output, VerifyArgs};
use crate::failure::{Failure, reading};
use crate::progress::size;

/// Bad tensors named in a message; the count tells of the rest.
const NAMED_MAX: usize = 20;

/// What was found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Verified {
    sha256: Digest,
    index_sha256: Digest,
    tensors: usize,
    bytes: u64,
}

/// Checks a model.
pub fn run(args: &VerifyArgs, output: Output) -> Result<String, Failure> {
    let path = args.index.clone().unwrap_or_else(|| index_path(&args.model));
    let expected = read_index(&path)?;
    if let Some(digest) = args.index_sha256.filter(|digest| *digest != expected.digest()) {
        let found = expected.digest();
        let what = format!(
            "{} has SHA-256 {found}, not {digest}: it is another index",
            path.display()
        );
        return Err(Failure::BadData(what));
    }
    let set = open(&args.model)?;
    // A file's name is no part of its weights; a model may be kept under another one.
    let named: Vec<String> = expected.files().iter().map(|file| file.name.clone()).collect();
    let names = if named.len() == set.names.len() {
        named
    } else {
        set.names.clone()
    };
    compare(&expected, &hash(&set, &names)?)?;
    let verified = Verified {
        sha256: expected.sha256(),
        index_sha256: expected.digest(),
        tensors: expected.tensors().len(),
        bytes: expected.total_bytes(),
    };
    match output {
        Output::Text => Ok(format!(
            "all {} tensors are right ({}), and so is every byte between them\n",
            verified.tensors,
            size(verified.bytes)
        )),
        Output::Json => json(&verified),
    }
}

fn read_index(path: &Path) -> Result<WeightIndex, Failure> {
    let name = path.display().to_string();
    let found = std::fs::metadata(path).map_err(|error| {
        let failure = reading(&name, &error);
        match failure {
            Failure::MissingInput(what) => Failure::MissingInput(format!(
                "{what}; make the index with `model index`, or give it with --index"
            )),
            other => other,
        }
    })?;
    if !found.is_file() || found.len() > MAX_INDEX_BYTES as u64 {
        return Err(Failure::BadData(format!(
            "{name} is no weight index: no file of at most 16 MiB"
        )));
    }
    let bytes = std::fs::read(path).map_err(|error| reading(&name, &error))?;
    WeightIndex::parse(&bytes).map_err(|error| Failure::BadData(format!("{name}: {error}")))
}

fn compare(expected: &WeightIndex, found: &WeightIndex) -> Result<(), Failure> {
    if expected == found {
        return Ok(());
    }
    let mut wrong: Vec<String> = Vec::new();
    if expected.files().len() != found.files().len() {
        wrong.push(format!(
            "{} files in place of {}",
            found.files().len(),
            expected.files().len()
        ));
    }
    for (one, other) in expected.files().iter().zip(found.files()) {
        if one.bytes != other.bytes {
            wrong.push(format!("{}: {} bytes in place of {}", one.name, other.bytes, one.bytes));
        }
        if (one.header_bytes, one.header_sha256) != (other.header_bytes, other.header_sha256) {
            wrong.push(format!("{}: another header", one.name));
        }
    }
    for tensor in expected.tensors() {
        match found.tensor(&tensor.name) {
            None => wrong.push(format!("{}: missing", tensor.name)),
            Some(other) if other.sha256 != tensor.sha256 => wrong.push(format!(
                "{}: SHA-256 {} in place of {}",
                tensor.name, other.sha256, tensor.sha256
            )),
            Some(other) if other != tensor => wrong.push(format!("{}: in another place", tensor.name)),
            Some(_) => {}
        }
    }
    let surplus = found
        .tensors()
        .iter()
        .filter(|tensor| expected.tensor(&tensor.name).is_none());
    wrong.extend(surplus.map(|tensor| format!("{}: not in the index", tensor.name)));
    if wrong.is_empty() {
        wrong.push("bytes between the tensors, which are all right themselves".to_owned());
    }
    let more = wrong.len().saturating_sub(NAMED_MAX);
    wrong.truncate(NAMED_MAX);
    let mut text = format!("the model is not the one in the index:\n  {}", wrong.join("\n  "));
    if more > 0 {
        text.push_str(&format!("\n  and {more} more"));
    }
    Err(Failure::BadData(
        text + "\nfetch it again, or make the index anew if the change was meant",
    ))
}
