//! The executable, and an agent whose operator, bundle and token do not exist, unless a test says where they are.
#![allow(dead_code, reason = "each test file uses its part")]

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Nothing here takes longer on a machine that works.
pub const LIMIT: Duration = Duration::from_secs(60);

pub fn agent() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shardwright-agent"));
    for name in ["NODE_NAME", "POD_NAME", "POD_NAMESPACE", "POD_IP", "SHARDWRIGHT_LOG"] {
        command.env_remove(name);
    }
    command.env("KUBECONFIG", "/nonexistent/kubeconfig");
    command
}

pub fn lonely(state_dir: &Path) -> Command {
    let nowhere = Way {
        enrol: "127.0.0.1:1",
        control: "127.0.0.1:1",
        bundle: Path::new("/nonexistent/bundle.pem"),
        token: Path::new("/nonexistent/token"),
    };
    agent_of(state_dir, &nowhere)
}

/// Where an agent finds its operator, whom it trusts and what it shows.
pub struct Way<'a> {
    pub enrol: &'a str,
    pub control: &'a str,
    pub bundle: &'a Path,
    pub token: &'a Path,
}

pub fn agent_of(state_dir: &Path, way: &Way<'_>) -> Command {
    let mut command = agent();
    command.args(["--node-name", "node-a", "--backends", "cpu"]);
    command.args(["--admin-listen", "127.0.0.1:0", "--weights-listen", "127.0.0.1:0"]);
    command.args(["--operator-enrol", way.enrol, "--operator-control", way.control]);
    command.arg("--trust-bundle").arg(way.bundle);
    command.arg("--token").arg(way.token);
    command.arg("--state-dir").arg(state_dir);
    command
}

/// Waits for a condition.
pub fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "{what} did not come about in time");
        std::thread::yield_now();
    }
}

/// One that runs.
pub struct Lonely {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Lonely {
    pub fn start(state_dir: &Path) -> Self {
        Self::run(lonely(state_dir))
    }

    pub fn run(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, log }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Reads its log up to a line that has this in it; what was said, that line at its end.
    pub fn until(&mut self, text: &str) -> Vec<String> {
        let (start, mut said) = (Instant::now(), Vec::new());
        for line in self.log.by_ref().lines().map_while(Result::ok) {
            let found = line.contains(text);
            said.push(line);
            if found {
                return said;
            }
            assert!(start.elapsed() < LIMIT, "{text} did not come about in time");
        }
        panic!("the agent ended before {text}: {said:#?}");
    }

    /// Tells it to end, and waits until it has.
    pub fn terminated(mut self) -> ExitStatus {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < LIMIT, "it did not end in time");
            std::thread::yield_now();
        }
    }
}

impl Drop for Lonely {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
