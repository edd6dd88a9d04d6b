//! `crdgen <dir>` writes the CustomResourceDefinitions; `crdgen --check <dir>` tells whether they are up to date.

use std::{env, fs, path::Path, process::ExitCode};

const USAGE: &str = "usage: crdgen [--check] <directory>";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--check", directory] => check(Path::new(directory)),
        [directory] if !directory.starts_with('-') => write(Path::new(directory)),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(64);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("crdgen: {message}");
            ExitCode::FAILURE
        }
    }
}

fn write(directory: &Path) -> Result<(), String> {
    fs::create_dir_all(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    for manifest in crds::manifest::manifests().map_err(|e| e.to_string())? {
        let path = directory.join(&manifest.file_name);
        fs::write(&path, &manifest.yaml).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

fn check(directory: &Path) -> Result<(), String> {
    for manifest in crds::manifest::manifests().map_err(|e| e.to_string())? {
        let path = directory.join(&manifest.file_name);
        let regenerate = format!(
            "regenerate with: cargo run -p crds --bin crdgen -- {}",
            directory.display()
        );
        let present = fs::read_to_string(&path).map_err(|e| format!("{}: {e}; {regenerate}", path.display()))?;
        if present != manifest.yaml {
            return Err(format!("{} differs from the types; {regenerate}", path.display()));
        }
    }
    Ok(())
}
