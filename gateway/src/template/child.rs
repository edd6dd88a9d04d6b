//! The process that renders: it has a limit on its memory, which no template can pass without ending it alone.
//!
//! Steps are bounded where templates are interpreted, but one step may double a text: forty of them make a terabyte.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::{ChatTemplate, MAX_PROMPT_BYTES, MAX_SOURCE_BYTES, Message, SpecialText, TemplateError};

/// First argument of the gateway's executable that makes it this process.
pub const ARGUMENT: &str = "render-chat-templates";

/// Address space of the process: the longest conversation takes some ten times its 4 MiB, and the program itself some 20 MiB.
const MAX_MEMORY_BYTES: u64 = 192 << 20;

/// Bytes of one line in either direction: the longest text with every byte escaped, and some for its frame.
pub(super) const MAX_LINE_BYTES: u64 = (6 * MAX_PROMPT_BYTES + 6 * MAX_SOURCE_BYTES) as u64;

/// The first line: what to render.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Opening {
    pub source: String,
    pub special: SpecialText,
}

/// Every further line.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Question {
    pub messages: Vec<Message>,
    pub now_unix_s: i64,
}

/// The answer to each line after the first.
pub(super) type Answer = Result<String, TemplateError>;

/// Renders what standard input asks for until it ends.
pub fn run() -> ExitCode {
    match serve(&mut BufReader::new(io::stdin().lock()), &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rendering chat templates: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(input: &mut impl BufRead, output: &mut impl Write) -> io::Result<()> {
    let limit = Rlimit {
        current: Some(MAX_MEMORY_BYTES),
        maximum: Some(MAX_MEMORY_BYTES),
    };
    setrlimit(Resource::As, limit)?;
    let Some(line) = next_line(input)? else {
        return Ok(());
    };
    let Opening { source, special } = serde_json::from_slice(&line)?;
    let template = ChatTemplate::compile(&source, special);
    while let Some(line) = next_line(input)? {
        let Question { messages, now_unix_s } = serde_json::from_slice(&line)?;
        let answer: Answer = match &template {
            Ok(template) => template.render(&messages, now_unix_s),
            Err(error) => Err(error.clone()),
        };
        let mut line = serde_json::to_vec(&answer)?;
        line.push(b'\n');
        output.write_all(&line)?;
        output.flush()?;
    }
    Ok(())
}

fn next_line(input: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    input.take(MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) => Err(io::Error::other("a line that does not end")),
    }
}
