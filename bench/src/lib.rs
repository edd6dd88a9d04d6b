//! Measurements against named peers. Every number is taken beside its peer's in one run, in turns, because machines are noisy:
//! ratios are what counts.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// The highest of several measurements of a rate: whatever else the machine does can only slow it down. 0 of none.
pub fn best(rates: &[f64]) -> f64 {
    rates.iter().copied().fold(0.0, f64::max)
}

/// Writes `target/bench/<name>.json` in the workspace and returns its path.
///
/// # Errors
/// The file system's.
pub fn write_results(workspace: &Path, name: &str, results: &Value) -> std::io::Result<PathBuf> {
    let dir = workspace.join("target/bench");
    std::fs::create_dir_all(&dir)?;
    let path = dir.join(format!("{name}.json"));
    std::fs::write(&path, format!("{results:#}\n"))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::best;

    #[test]
    fn a_round_that_was_disturbed_does_not_count() {
        assert_eq!(best(&[91.0, 12.0, 90.0]), 91.0);
    }
}
