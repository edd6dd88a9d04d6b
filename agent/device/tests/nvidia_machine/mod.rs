//! A machine as a script describes it, and a child process on it that is asked something.

use crate::nvidia_child::{ANSWER, TASK};
use fakegpu::{Library, SCRIPT_VARIABLE, Script};
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

pub const GIB: u64 = 1 << 30;

/// The fakes, compiled once.
pub struct Fakes {
    all: PathBuf,
    /// Of a board that has no NVML.
    pub jetson: PathBuf,
    /// Of a container that was given the utilities only.
    pub utilities: PathBuf,
    /// Without any function.
    pub hollow: PathBuf,
    pub none: PathBuf,
}

pub fn fakes() -> &'static Fakes {
    static FAKES: OnceLock<Fakes> = OnceLock::new();
    FAKES.get_or_init(|| {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nvidia");
        let empty = |name: &str| {
            let folder = root.join(name);
            std::fs::create_dir_all(&folder).unwrap();
            folder
        };
        let folder = |name: &str, libraries: &[Library]| {
            let folder = empty(name);
            fakegpu::build(&folder, libraries).unwrap();
            folder
        };
        let hollow = empty("hollow");
        fakegpu::build_hollow(&hollow, &[Library::Nvml, Library::Cuda]).unwrap();
        Fakes {
            all: folder("all", &[Library::Nvml, Library::Cuda]),
            jetson: folder("jetson", &[Library::Cuda]),
            utilities: folder("utilities", &[Library::Nvml]),
            hollow,
            none: empty("none"),
        }
    })
}

/// A value that must be text.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// A script, the folder that it is in, and the libraries that read it.
pub struct Machine {
    script: Script,
    libraries: PathBuf,
    _folder: tempfile::TempDir,
}

impl Machine {
    pub fn new(values: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut machine = Self {
            script: Script::create(folder.path().join("script")).unwrap(),
            libraries: fakes().all.clone(),
            _folder: folder,
        };
        machine.set(values);
        machine
    }

    pub fn with_libraries(mut self, libraries: &Path) -> Self {
        libraries.clone_into(&mut self.libraries);
        self
    }

    fn set(&mut self, values: &[(&str, &str)]) {
        let values = values.iter().map(|(key, value)| (*key, (*value).to_owned()));
        self.script.set(values).unwrap();
    }

    pub fn start(&self, task: &str) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args([
                "--exact",
                "nvidia_child::does_as_told",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(SCRIPT_VARIABLE, self.script.path())
            .env(TASK, task)
            .env_remove("CUDA_VISIBLE_DEVICES")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if !self.libraries.as_os_str().is_empty() {
            command.env("LD_LIBRARY_PATH", &self.libraries);
        }
        command.spawn().unwrap()
    }

    /// The child's answer, and what the libraries wrote beside it.
    pub fn ask_with_complaints(&self, task: &str) -> (Value, String) {
        let output = self.start(task).wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        match said.lines().find_map(answer) {
            Some(answer) => (answer, complaints),
            None => panic!("no answer ({}): {said}\n{complaints}", output.status),
        }
    }

    pub fn ask(&self, task: &str) -> Value {
        self.ask_with_complaints(task).0
    }

    /// As [`Machine::ask`], with a change of the script at the moment when the child says that it is ready for one.
    pub fn ask_after(mut self, task: &str, change: &[(&str, &str)]) -> Value {
        let mut child = self.start(task);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.by_ref().map_while(Result::ok).any(|line| line.contains("READY"));
        assert!(ready, "the child ended before it was ready");
        self.set(change);
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        // To the end: a child that cannot write any more would fail.
        let answers: Vec<Value> = lines.map_while(Result::ok).filter_map(|line| answer(&line)).collect();
        assert!(child.wait().unwrap().success());
        answers.into_iter().next().unwrap()
    }
}

fn answer(line: &str) -> Option<Value> {
    let (_, json) = line.split_once(ANSWER)?;
    Some(serde_json::from_str(json).unwrap())
}
