//! Vendor libraries that answer from a script: shared objects with the symbols of NVML, CUDA and their like, loaded by
//! the very code that loads the real ones. They are for faults that cannot be made for real: a card that falls off the
//! bus, a driver that hangs, memory that forgets.
//!
//! ```text
//!  LD_LIBRARY_PATH=<folder>  SHARDWRIGHT_FAKE_GPU=<script>  shardwright-agent probe
//! ```
//!
//! The script is lines of `key=value`, read again whenever the file changes: `cards=2`, `0.name=NVIDIA H100`,
//! `hang=nvmlDeviceGetTemperature`,
//! `1.crash=cuMemAlloc_v2`. Each library's C source says which keys it knows.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the libraries read their script from.
pub const SCRIPT_VARIABLE: &str = "SHARDWRIGHT_FAKE_GPU";

/// A library that can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// NVIDIA's management library.
    Nvml,
    /// NVIDIA's driver's own library.
    Cuda,
    /// AMD's compute runtime.
    Hip,
    /// AMD's compiler at run time.
    Hiprtc,
    /// AMD's management library.
    RocmSmi,
    /// Intel's loader.
    LevelZero,
}

impl Library {
    /// All of them.
    #[rustfmt::skip]
    pub const ALL: &[Library] = &[
        Library::Nvml,
        Library::Cuda,
        Library::Hip,
        Library::Hiprtc,
        Library::RocmSmi,
        Library::LevelZero,
    ];

    fn file_name(self) -> &'static str {
        match self {
            Library::Nvml => "libnvidia-ml.so.1",
            Library::Cuda => "libcuda.so.1",
            Library::Hip => "libamdhip64.so.6",
            Library::Hiprtc => "libhiprtc.so.6",
            Library::RocmSmi => "librocm_smi64.so.6",
            Library::LevelZero => "libze_loader.so.1",
        }
    }

    fn source(self) -> &'static str {
        match self {
            Library::Nvml => include_str!("../c/nvml.c"),
            Library::Cuda => include_str!("../c/cuda.c"),
            Library::Hip => include_str!("../c/hip.c"),
            Library::Hiprtc => include_str!("../c/hiprtc.c"),
            Library::RocmSmi => include_str!("../c/rocm_smi.c"),
            Library::LevelZero => include_str!("../c/level_zero.c"),
        }
    }
}

/// Why a library could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A file could not be written, or the compiler not be started.
    #[error("{what}: {cause}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        cause: std::io::Error,
    },
    /// The compiler refused.
    #[error("cc refused {library}: {complaint}")]
    Refused {
        /// Which one.
        library: &'static str,
        /// What it said.
        complaint: String,
    },
}

fn trying(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> BuildError {
    let what = what.into();
    move |cause| BuildError::Io { what, cause }
}

/// Compiles the libraries into `folder`, under the names that the vendors' have, and links the names without version to
/// them: a loader that tries those first would find the machine's real ones.
///
/// # Errors
/// No C compiler, or no space.
pub fn build(folder: &Path, libraries: &[Library]) -> Result<(), BuildError> {
    for library in libraries {
        // One file per library, so that a folder is all that the compiler needs.
        let text = format!("{}\n{}", include_str!("../c/script.h"), library.source());
        make(folder, *library, &text)?;
    }
    Ok(())
}

/// As [`build`], of libraries in which no function is: those of a driver that is far too old, or no driver's at all.
///
/// # Errors
/// No C compiler, or no space.
pub fn build_hollow(folder: &Path, libraries: &[Library]) -> Result<(), BuildError> {
    libraries.iter().try_for_each(|library| make(folder, *library, ""))
}

fn make(folder: &Path, library: Library, text: &str) -> Result<(), BuildError> {
    compile(folder, library.file_name(), text)?;
    match library.file_name().split_once(".so.") {
        Some((plain, _)) => link(library.file_name(), &folder.join(format!("{plain}.so"))),
        None => Ok(()),
    }
}

fn compile(folder: &Path, library: &'static str, text: &str) -> Result<(), BuildError> {
    let source = folder.join(format!("{library}.c"));
    std::fs::write(&source, text).map_err(trying(format!("writing {}", source.display())))?;
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
        .arg(folder.join(library))
        .arg(&source)
        .arg("-lm")
        .output()
        .map_err(trying("starting cc"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(BuildError::Refused {
        library,
        complaint: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Makes a Vulkan layer in `folder` that shows the agent the first Vulkan device, such as a renderer on the processors, as
/// a card of AMD's at the bus address. It computes as before, so faults can be given to a device that really holds
/// layers. What has to be in the agent's environment; its workers inherit it, see [`lose_in_use`].
///
/// # Errors
/// No C compiler, or no space.
pub fn stand_in(folder: &Path, address: &str) -> Result<Vec<(&'static str, OsString)>, BuildError> {
    const LIBRARY: &str = "libstand_in.so";
    compile(folder, LIBRARY, include_str!("../c/stand_in.c"))?;
    let manifest = folder.join("stand_in.json");
    let text = format!(
        r#"{{"file_format_version": "1.1.2", "layer": {{"name": "{STAND_IN_LAYER}", "type": "GLOBAL", "api_version": "1.3.0",
            "library_path": "./{LIBRARY}", "implementation_version": "1", "description": "A renderer as a card"}}}}"#
    );
    std::fs::write(&manifest, text).map_err(trying(format!("writing {}", manifest.display())))?;
    Ok(vec![
        ("VK_LAYER_PATH", folder.into()),
        ("VK_INSTANCE_LAYERS", STAND_IN_LAYER.into()),
        ("SHARDWRIGHT_STAND_IN", address.into()),
        ("SHARDWRIGHT_STAND_IN_LOST", folder.join(STAND_IN_LOST).into()),
    ])
}

const STAND_IN_LAYER: &str = "VK_LAYER_SHARDWRIGHT_stand_in";
const STAND_IN_LOST: &str = "lost";

/// Loses the card of the layer in `folder` for all that computes on it: what is handed to it from now on is answered with
/// `VK_ERROR_DEVICE_LOST`. The agent's own children find it well.
///
/// # Errors
/// The folder cannot be written.
pub fn lose_in_use(folder: &Path) -> std::io::Result<()> {
    std::fs::write(folder.join(STAND_IN_LOST), "")
}

fn link(target: &str, link: &Path) -> Result<(), BuildError> {
    match std::os::unix::fs::symlink(target, link) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(trying(format!("linking {}", link.display()))(error))
        }
        _ => Ok(()),
    }
}

/// A script on disk. What is set is there for the libraries' next call.
#[derive(Debug)]
pub struct Script {
    path: PathBuf,
    values: BTreeMap<String, String>,
}

impl Script {
    /// An empty script at `path`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(path: impl Into<PathBuf>) -> std::io::Result<Self> {
        let script = Self {
            path: path.into(),
            values: BTreeMap::new(),
        };
        script.write()?;
        Ok(script)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sets keys, all at once.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set<'a>(&mut self, values: impl IntoIterator<Item = (&'a str, String)>) -> std::io::Result<()> {
        for (key, value) in values {
            self.values.insert(key.to_owned(), value);
        }
        self.write()
    }

    /// Removes a key.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn unset(&mut self, key: &str) -> std::io::Result<()> {
        self.values.remove(key);
        self.write()
    }

    /// Another file is put in its place, so that no library reads half of it.
    fn write(&self) -> std::io::Result<()> {
        let mut text = String::new();
        for (key, value) in &self.values {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{key}={value}");
        }
        let beside = self.path.with_extension("new");
        std::fs::write(&beside, text)?;
        std::fs::rename(&beside, &self.path)
    }
}
