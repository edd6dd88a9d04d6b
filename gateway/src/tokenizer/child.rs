//! One tokeniser process: its start, its lines, its end.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::process::{ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Job, TokenizeError, TokenizerCommand, Vocabulary};
use crate::detokenise::Pieces;
use crate::lines::Lines;

/// Bytes of one line from the child: all pieces of a vocabulary of a million tokens, or a token for every byte of text.
const MAX_LINE_BYTES: u64 = 64 * 1024 * 1024;
/// Longest wait for a child to read its vocabulary.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Environment that the child keeps: where its libraries are, and how much it says.
const KEPT_ENVIRONMENT: [&str; 3] = ["LD_LIBRARY_PATH", "PATH", "SHARDWRIGHT_LOG"];

/// Why a child serves no longer.
#[derive(Debug)]
pub(super) enum Lost {
    /// Nobody can ask any more.
    NoAskers,
    /// It failed.
    Fault(String),
}

#[derive(Deserialize)]
struct ReadyLine {
    ready: Ready,
}

#[derive(Deserialize)]
struct Ready {
    pieces_base64: Vec<String>,
    eog: Vec<i32>,
    bos: Option<i32>,
    eos: Option<i32>,
    add_bos: bool,
}

#[derive(Serialize)]
struct Question<'a> {
    id: u64,
    tokenize: Tokenize<'a>,
}

#[derive(Serialize)]
struct Tokenize<'a> {
    text: &'a str,
    parse_special: bool,
    add_special: bool,
}

#[derive(Deserialize)]
struct Answer {
    id: u64,
    tokens: Option<Vec<i32>>,
    error: Option<String>,
}

/// A running child.
pub(super) struct Child {
    /// Held for its end: dropping it kills the process.
    _process: tokio::process::Child,
    stdin: ChildStdin,
    lines: Lines,
    next_id: u64,
}

impl Child {
    /// Starts a process and waits until it has read its vocabulary.
    pub(super) async fn start(command: &TokenizerCommand) -> Result<(Self, Vocabulary), Lost> {
        let fault = |error: io::Error| Lost::Fault(error.to_string());
        let environment = KEPT_ENVIRONMENT
            .iter()
            .filter_map(|name| std::env::var_os(name).map(|value| (name, value)));
        let mut process = Command::new(&command.executable)
            .arg("--vocabulary")
            .arg(&command.vocabulary)
            .env_clear()
            .envs(environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(fault)?;
        let no_pipe = || Lost::Fault("it was started without pipes".to_owned());
        let stdin = process.stdin.take().ok_or_else(no_pipe)?;
        let mut lines = Lines::new(process.stdout.take().ok_or_else(no_pipe)?, MAX_LINE_BYTES);
        let first = tokio::time::timeout(START_LIMIT, lines.next())
            .await
            .map_err(|_| Lost::Fault(format!("not ready within {} s", START_LIMIT.as_secs())))?
            .map_err(fault)?;
        let vocabulary = read_ready(&first).map_err(Lost::Fault)?;
        Ok((
            Self {
                _process: process,
                stdin,
                lines,
                next_id: 0,
            },
            vocabulary,
        ))
    }

    /// Answers jobs, one at a time, until the child fails or nobody can ask any more.
    ///
    /// With one question on its way, neither side ever waits for the other to empty a pipe.
    pub(super) async fn serve(&mut self, queue: &mut mpsc::Receiver<Job>, limit: Duration) -> Lost {
        loop {
            let job = tokio::select! {
                job = queue.recv() => match job {
                    Some(job) => job,
                    None => return Lost::NoAskers,
                },
                // A child that speaks unasked, or ends.
                line = self.lines.next() => return Lost::Fault(match line {
                    Ok(_) => "it answered what was not asked".to_owned(),
                    Err(error) => error.to_string(),
                }),
            };
            // Whoever asked may have gone.
            if job.answer.is_closed() || job.deadline <= Instant::now() {
                continue;
            }
            let answer = match tokio::time::timeout(limit, self.ask(&job.text)).await {
                Ok(answer) => answer,
                Err(_) => Err(format!("no answer within {} s", limit.as_secs())),
            };
            match answer {
                Ok(result) => drop(job.answer.send(result)),
                Err(cause) => {
                    let _ = job.answer.send(Err(TokenizeError::Unavailable));
                    return Lost::Fault(cause);
                }
            }
        }
    }

    /// The child's answer, or what is wrong with the child.
    async fn ask(&mut self, text: &str) -> Result<Result<Vec<i32>, TokenizeError>, String> {
        let id = self.next_id;
        self.next_id += 1;
        let question = Question {
            id,
            tokenize: Tokenize {
                text,
                parse_special: true,
                add_special: false,
            },
        };
        let mut line = serde_json::to_vec(&question).map_err(|error| error.to_string())?;
        line.push(b'\n');
        self.stdin.write_all(&line).await.map_err(|error| error.to_string())?;
        let line = self.lines.next().await.map_err(|error| error.to_string())?;
        let answer: Answer =
            serde_json::from_slice(&line).map_err(|error| format!("its answer cannot be read: {error}"))?;
        if answer.id != id {
            return Err(format!("it answered question {} and not {id}", answer.id));
        }
        match (answer.tokens, answer.error) {
            (Some(tokens), None) => Ok(Ok(tokens)),
            (_, Some(error)) => Ok(Err(TokenizeError::Refused(error))),
            (None, None) => Err("its answer has neither tokens nor an error".to_owned()),
        }
    }
}

fn read_ready(line: &[u8]) -> Result<Vocabulary, String> {
    let ReadyLine { ready } =
        serde_json::from_slice(line).map_err(|error| format!("its first line cannot be read: {error}"))?;
    let mut pieces = Pieces::default();
    for piece in &ready.pieces_base64 {
        pieces.push(
            &STANDARD
                .decode(piece)
                .map_err(|error| format!("a piece is not base64: {error}"))?,
        );
    }
    Ok(Vocabulary {
        pieces,
        end_of_generation: ready.eog.into_iter().collect(),
        bos: ready.bos,
        eos: ready.eos,
        add_bos: ready.add_bos,
    })
}
