//! Objects of a cluster, out of a file or from kubectl: it knows the cluster, the user and every way to log in.

use std::io::Read;
use std::path::Path;
use std::process::Command;

use crate::failure::{Failure, reading};

/// Objects of ten thousand devices have a tenth of it.
const LIST_BYTES_MAX: u64 = 512 << 20;

/// A List of objects as JSON: of `file` (`-` for standard input), or what kubectl has of `kinds`. `scope` are its arguments for a
/// namespace or all of them.
///
/// # Errors
/// A file that cannot be read, a kubectl that is not there or fails.
pub fn listed(file: Option<&Path>, kinds: &str, scope: &[&str]) -> Result<String, Failure> {
    file.map_or_else(|| ask(kinds, scope), read)
}

fn read(path: &Path) -> Result<String, Failure> {
    let failed = |error| reading(&path.display().to_string(), &error);
    let mut text = String::new();
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(path).map_err(failed)?)
    };
    source.take(LIST_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

fn ask(kinds: &str, scope: &[&str]) -> Result<String, Failure> {
    let mut arguments = vec!["get", kinds];
    arguments.extend(scope);
    arguments.extend(["-o", "json"]);
    call(&arguments, "give the objects with --file")
}

/// Has kubectl do this, and gives what it prints. Where it cannot be run, people are told to do `otherwise` what it would have done.
///
/// # Errors
/// A kubectl that is not there or fails.
pub fn call(arguments: &[&str], otherwise: &str) -> Result<String, Failure> {
    let answer = Command::new("kubectl").args(arguments).output().map_err(|error| {
        let command = arguments.join(" ");
        Failure::MissingInput(format!(
            "kubectl cannot be run ({error}); {otherwise}: kubectl {command}"
        ))
    })?;
    if !answer.status.success() {
        let complaint = String::from_utf8_lossy(&answer.stderr);
        return Err(Failure::Unavailable(format!("kubectl: {}", complaint.trim())));
    }
    String::from_utf8(answer.stdout).map_err(|error| Failure::BadData(format!("kubectl's answer: {error}")))
}
