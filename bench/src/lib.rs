//! Measurements against named peers. Every number is taken beside its peer's in one run, in turns, because machines are noisy:
//! ratios are what counts.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// The middle of an odd number of measurements; of an even number, the higher of the two in the middle.
///
/// # Panics
/// When there is none.
pub fn median(mut values: Vec<f64>) -> f64 {
    assert!(!values.is_empty(), "a median of nothing");
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
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
    use super::median;

    #[test]
    fn the_median_ignores_one_outlier() {
        assert_eq!(median(vec![3.0, 1000.0, 2.0]), 3.0);
    }
}
