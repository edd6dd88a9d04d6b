//! The other solvers: a process each, one line for a question, one for the answer.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde::{Deserialize, Serialize};

use crate::{BenchError, instance::Instance};

/// CP-SAT's and HiGHS' names and scripts, in the order in which their answers stand.
pub const PEERS: [(&str, &str); 2] = [("cpsat", "cpsat.py"), ("highs", "highs.py")];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Optimal,
    Feasible,
    Infeasible,
    Unknown,
}

/// What a peer found. Times in the instance's microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Theirs {
    pub status: Status,
    pub objective: Option<u64>,
    pub bound: Option<f64>,
    pub ms: f64,
}

impl Theirs {
    pub fn is_proved(&self) -> bool {
        matches!(self.status, Status::Optimal | Status::Infeasible)
    }
}

/// A running peer.
pub struct Peer {
    pub name: &'static str,
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts one; it lives until it is dropped.
    ///
    /// # Errors
    /// The process does not start.
    pub fn start(python: &Path, scripts: &Path, index: usize) -> Result<Self, BenchError> {
        let (name, script) = PEERS[index];
        let failed = |what: String| BenchError::Peer { peer: name, what };
        // One thread each, as ours: what a library beneath would take on its own is switched off too.
        let mut child = Command::new(python)
            .arg(scripts.join(script))
            .args(["--cap", "20"])
            .envs([("OMP_NUM_THREADS", "1"), ("OPENBLAS_NUM_THREADS", "1")])
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| failed(format!("{}: {error}", python.display())))?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (questions, answers) = pipes.ok_or_else(|| failed("no pipes".to_owned()))?;
        Ok(Self {
            name,
            child,
            questions,
            answers: BufReader::new(answers),
        })
    }

    /// Asks for one instance.
    ///
    /// # Errors
    /// The process has ended, or says what cannot be read.
    pub fn solve(&mut self, instance: &Instance, cap_s: f64) -> Result<Theirs, BenchError> {
        let failed = |what: String| BenchError::Peer { peer: self.name, what };
        writeln!(self.questions, "{}\t{cap_s}", instance.path.display())
            .and_then(|()| self.questions.flush())
            .map_err(|error| failed(format!("{}: {error}", instance.name)))?;
        let mut line = String::new();
        self.answers
            .read_line(&mut line)
            .map_err(|error| failed(format!("{}: {error}", instance.name)))?;
        serde_json::from_str(&line).map_err(|error| failed(format!("{}: {error}: {line:?}", instance.name)))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
