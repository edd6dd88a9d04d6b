//! Asks the rendering process, and starts it where there is none.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::{ChildStdin, Command};
use tokio::sync::Mutex;

use super::child::{ARGUMENT, Answer, MAX_LINE_BYTES, Opening, Question};
use super::{Message, SpecialText, TemplateError};
use crate::lines::Lines;

/// Longest rendering: a million steps take a second.
const RENDER_LIMIT: Duration = Duration::from_secs(10);
/// Longest wait for earlier ones to be rendered.
const TURN_LIMIT: Duration = Duration::from_secs(20);

/// A chat template in a process of its own, one conversation at a time. The process ends with this value.
#[derive(Debug)]
pub struct Renderer {
    executable: PathBuf,
    opening: Opening,
    /// `None` before the first conversation and after one that the process did not survive.
    process: Mutex<Option<Process>>,
}

#[derive(Debug)]
struct Process {
    /// Dropping it kills the process.
    process: tokio::process::Child,
    stdin: ChildStdin,
    lines: Lines,
}

impl Renderer {
    /// Of the template `source`. `executable` is the gateway's own. Nothing is started yet.
    #[must_use]
    pub fn new(executable: PathBuf, source: String, special: SpecialText) -> Self {
        Self {
            executable,
            opening: Opening { source, special },
            process: Mutex::default(),
        }
    }

    /// The prompt for `messages`, ending where the assistant's answer begins. `strftime_now` shows `now_unix_s`.
    ///
    /// # Errors
    /// See [`TemplateError`].
    pub async fn render(&self, messages: Vec<Message>, now_unix_s: i64) -> Result<String, TemplateError> {
        let mut place = tokio::time::timeout(TURN_LIMIT, self.process.lock())
            .await
            .map_err(|_| TemplateError::Unavailable)?;
        // Taken out while it is asked: a process whose answer nobody read must not answer the next question with it. One
        // that ended since it was asked last did not end of this question.
        let alive = place.take().and_then(Process::alive);
        let mut process = match alive {
            Some(process) => process,
            None => self.start().await?,
        };
        let question = Question { messages, now_unix_s };
        match tokio::time::timeout(RENDER_LIMIT, process.ask(&question)).await {
            Ok(Some(answer)) => {
                *place = Some(process);
                answer
            }
            Ok(None) | Err(_) => {
                tracing::warn!("a chat template took more memory or time than it may have; its process was ended");
                Err(TemplateError::Exhausted)
            }
        }
    }

    async fn start(&self) -> Result<Process, TemplateError> {
        let unavailable = |cause: &dyn std::fmt::Display| {
            tracing::error!(executable = %self.executable.display(), %cause, "no process to render chat templates");
            TemplateError::Unavailable
        };
        let mut process = Command::new(&self.executable)
            .arg(ARGUMENT)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // What it says at its end is said in one line here.
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| unavailable(&error))?;
        let (Some(stdin), Some(stdout)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(unavailable(&"it was started without pipes"));
        };
        let mut started = Process {
            process,
            stdin,
            lines: Lines::new(stdout, MAX_LINE_BYTES),
        };
        let opened = tokio::time::timeout(RENDER_LIMIT, started.say(&self.opening)).await;
        match opened {
            Ok(Some(())) => Ok(started),
            _ => Err(unavailable(&"it takes no template")),
        }
    }
}

impl Process {
    /// The process, unless it has ended.
    fn alive(mut self) -> Option<Self> {
        matches!(self.process.try_wait(), Ok(None)).then_some(self)
    }

    /// `None` when the process has ended or speaks nonsense.
    async fn ask(&mut self, question: &Question) -> Option<Answer> {
        self.say(question).await?;
        let line = self.lines.next().await.ok()?;
        serde_json::from_slice(&line).ok()
    }

    async fn say(&mut self, what: &impl serde::Serialize) -> Option<()> {
        let mut line = serde_json::to_vec(what).ok()?;
        line.push(b'\n');
        self.stdin.write_all(&line).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn where_no_process_can_be_started_the_request_is_told_to_come_again() {
        let renderer = Renderer::new("/nonexistent/renderer".into(), String::new(), SpecialText::default());
        let error = renderer.render(Vec::new(), 0).await.unwrap_err();
        assert_eq!(error, TemplateError::Unavailable);
        assert_eq!(
            error.to_string(),
            "chat templates cannot be rendered now; try again shortly"
        );
    }

    #[tokio::test]
    async fn a_process_that_ended_between_two_requests_is_replaced() {
        // Each ends after its first answer.
        let executable = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fakes/renderer.sh").into();
        let renderer = Renderer::new(executable, String::new(), SpecialText::default());
        for _ in 0..2 {
            assert_eq!(renderer.render(Vec::new(), 0).await.as_deref(), Ok("a prompt"));
            let mut place = renderer.process.lock().await;
            let ended = place.as_mut().unwrap().process.wait();
            tokio::time::timeout(RENDER_LIMIT, ended).await.unwrap().unwrap();
        }
    }
}
