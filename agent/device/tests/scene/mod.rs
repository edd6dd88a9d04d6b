//! A test's body in a process of its own, with vendors' libraries that answer from a script.
#![allow(dead_code, reason = "not every file of tests needs all of it")]

use device::driver::Driver;
use device::factory;
use device::{Backend, BackendError};
use fakegpu::{Library, SCRIPT_VARIABLE, Script};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Says to a process that it is the inner one.
const INNER: &str = "SHARDWRIGHT_TEST_INNER";

/// The script, and the folder that the machine's files are read below.
pub struct Scene {
    pub script: Script,
    pub root: PathBuf,
}

impl Scene {
    pub fn set(&mut self, values: &[(&str, &str)]) {
        let values = values.iter().map(|(key, value)| (*key, (*value).to_owned()));
        self.script.set(values).expect("the script is writable");
    }

    /// The driver, open.
    pub fn open(&self) -> Box<dyn Driver> {
        self.try_open().expect("the fakes open")
    }

    pub fn try_open(&self) -> Result<Box<dyn Driver>, BackendError> {
        let mut driver = factory::driver(Backend::Rocm, &self.root).expect("this build has the driver");
        driver.open()?;
        Ok(driver)
    }
}

/// Runs `body` in a process that finds `libraries`. `name` is the whole name of the test.
pub fn with(name: &str, libraries: &[Library], body: impl FnOnce(&mut Scene)) {
    if let Some(folder) = inner() {
        return body(&mut scene(&folder));
    }
    let paths: Vec<PathBuf> = libraries.iter().map(|library| made(*library)).collect();
    let path = std::env::join_paths(paths).expect("folders without colons");
    let output = outer(name, &path);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("1 passed"), "no such test: {}", said(&output));
}

/// As [`with`], with a library path of the caller's.
pub fn with_path(name: &str, path: &Path, body: impl FnOnce(&mut Scene)) {
    if let Some(folder) = inner() {
        return body(&mut scene(&folder));
    }
    let output = outer(name, path.as_os_str());
    assert!(output.status.success(), "{}", said(&output));
}

/// As [`with`], for a body that takes its process down: what came of it.
pub fn doomed(name: &str, libraries: &[Library], body: impl FnOnce(&mut Scene)) -> Option<Output> {
    if let Some(folder) = inner() {
        body(&mut scene(&folder));
        return None;
    }
    let paths: Vec<PathBuf> = libraries.iter().map(|library| made(*library)).collect();
    Some(outer(
        name,
        &std::env::join_paths(paths).expect("folders without colons"),
    ))
}

fn inner() -> Option<PathBuf> {
    std::env::var_os(INNER).map(PathBuf::from)
}

fn scene(folder: &Path) -> Scene {
    let root = folder.join("root");
    std::fs::create_dir_all(&root).expect("a writable folder");
    Scene {
        script: Script::create(folder.join("script")).expect("a writable folder"),
        root,
    }
}

fn outer(name: &str, path: &std::ffi::OsStr) -> Output {
    let folder = tempfile::tempdir().expect("a writable folder");
    Command::new(std::env::current_exe().expect("a test has a file"))
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INNER, folder.path())
        .env(SCRIPT_VARIABLE, folder.path().join("script"))
        .env("LD_LIBRARY_PATH", path)
        .output()
        .expect("a test can be started")
}

fn said(output: &Output) -> String {
    format!(
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The folder of a library, made once per run.
fn made(library: Library) -> PathBuf {
    static MADE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = MADE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a writable folder");
        for library in [Library::Hip, Library::Hiprtc, Library::RocmSmi, Library::LevelZero] {
            let own = folder.path().join(format!("{library:?}"));
            std::fs::create_dir(&own).expect("a writable folder");
            fakegpu::build(&own, &[library]).expect("a C compiler");
        }
        folder
    });
    folder.path().join(format!("{library:?}"))
}

/// A copy of a recorded tree, to be changed.
pub fn recorded(card: &str, to: &Path) {
    copy(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/sysfs").join(card),
        to,
    );
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a writable folder");
    for entry in std::fs::read_dir(from).expect("a recorded tree") {
        let entry = entry.expect("a readable tree");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a readable file");
        }
    }
}
