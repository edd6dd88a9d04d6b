//! Puts llama.cpp's shared objects where the executables look for them.
//!
//! The backend modules (`libggml-cpu.so`, `libggml-vulkan.so`, …) are opened at run time from the
//! folder of the executable, and `libllama.so.0` and its companions are linked with an rpath of that
//! folder. So all of them are placed beside the final executables, beside the test executables
//! (`deps`) and beside the examples.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=DEP_LLAMA_ROOT");

    // DT_RPATH, not DT_RUNPATH: only the former is also searched for the libraries that
    // libllama.so itself needs, and those carry no search path of their own.
    println!("cargo:rustc-link-arg=-Wl,--disable-new-dtags,-rpath,$ORIGIN,-rpath,$ORIGIN/..");

    let llama = PathBuf::from(env::var("DEP_LLAMA_ROOT")?);
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    // OUT_DIR is target/<profile>/build/<package>-<hash>/out.
    let profile_dir = out_dir
        .ancestors()
        .nth(3)
        .ok_or("OUT_DIR is not three folders below the profile folder")?;

    let mut objects = shared_objects(&llama.join("bin"))?;
    objects.extend(shared_objects(&llama.join("lib"))?);
    if objects.is_empty() {
        return Err(format!("no shared object of llama.cpp under {}", llama.display()).into());
    }
    for folder in [
        profile_dir.to_path_buf(),
        profile_dir.join("deps"),
        profile_dir.join("examples"),
    ] {
        fs::create_dir_all(&folder)?;
        for (name, file) in &objects {
            place(file, &folder.join(name))?;
        }
    }
    for (_, file) in &objects {
        println!("cargo:rerun-if-changed={}", file.display());
    }
    Ok(())
}

/// The names by which the loader asks for the objects of `folder`, with the files behind them.
///
/// Modules are opened as `libggml-*.so`, linked libraries by their soname `lib*.so.N`; the
/// unversioned link names of the latter serve only the linker and are left out.
fn shared_objects(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let version = name.split_once(".so").map(|(_, version)| version);
        let wanted = match version {
            Some("") => !path.is_symlink(),
            Some(version) => version.matches('.').count() == 1,
            None => false,
        };
        if wanted {
            found.push((name.to_owned(), fs::canonicalize(&path)?));
        }
    }
    Ok(found)
}

/// Links `file` to `target`, or copies it where links are impossible; never leaves half a file.
fn place(file: &Path, target: &Path) -> io::Result<()> {
    let partial = target.with_extension(format!("partial-{}", std::process::id()));
    if fs::hard_link(file, &partial).is_err() {
        fs::copy(file, &partial)?;
    }
    fs::rename(&partial, target)?;
    // A rename onto another link of the same file does nothing and leaves the first name behind.
    if partial.exists() {
        fs::remove_file(&partial)?;
    }
    Ok(())
}
