//! Keeps a command running: one that crashes is started again at once, so that what it left behind, the workers, goes on.
//!
//! A container ends with its first process, and all others in it are killed. With this in between, the agent of a node may crash
//! and come back while its workers serve on, and takes them over.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::args::EXIT_BAD_CONFIGURATION;

/// After the first crash: workers wait, clients do not notice.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// So many crashes within [`CRASHES_WITHIN`] are a habit. Then it ends, and the kubelet shows a pod that crashes.
const CRASHES_MAX: usize = 5;
const CRASHES_WITHIN: Duration = Duration::from_secs(60);
/// As shells say it: the number of the signal is added.
const KILLED_BY: u8 = 128;

/// What comes after an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// It is over, with this code.
    End(u8),
    /// It is started again.
    Again(Duration),
}

/// Ends of the command that nobody asked for.
#[derive(Debug, Default)]
struct Crashes(Vec<Instant>);

impl Crashes {
    /// An end with this code. One that was asked for, one without a fault and one for a bad configuration are final.
    fn ended(&mut self, code: u8, asked: bool, now: Instant) -> Next {
        if asked || code == 0 || code == EXIT_BAD_CONFIGURATION {
            return Next::End(code);
        }
        self.0.retain(|at| now.duration_since(*at) < CRASHES_WITHIN);
        self.0.push(now);
        if self.0.len() >= CRASHES_MAX {
            return Next::End(code);
        }
        Next::Again(FIRST_WAIT * 2_u32.pow(self.0.len() as u32 - 1))
    }
}

/// Runs a command until it ends as it should, passing on what it is asked to; its exit code is ours.
pub fn run(command: &[OsString]) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.and_then(|runtime| runtime.block_on(keep(command)));
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("shardwright-supervise: {error}");
            ExitCode::from(EXIT_BAD_CONFIGURATION)
        }
    }
}

async fn keep(command: &[OsString]) -> std::io::Result<u8> {
    let missing = || std::io::Error::other("name a command to run, and its arguments");
    let (program, arguments) = command.split_first().ok_or_else(missing)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut crashes = Crashes::default();
    let mut asked = false;
    loop {
        let named = |error| std::io::Error::other(format!("{}: {error}", program.display()));
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .spawn()
            .map_err(named)?;
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let status = loop {
            let passed_on = tokio::select! {
                status = child.wait() => break status?,
                _ = terminate.recv() => Signal::TERM,
                _ = interrupt.recv() => Signal::INT,
            };
            asked = true;
            // What cannot be signalled has ended.
            let _ = pid.map(|pid| kill_process(pid, passed_on));
        };
        match crashes.ended(code(status), asked, Instant::now()) {
            Next::End(code) => return Ok(code),
            Next::Again(wait) => {
                eprintln!(
                    "shardwright-supervise: {} ended ({status}); starting it again",
                    program.display()
                );
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    // There is nobody to pass it on to.
                    _ = terminate.recv() => return Ok(code(status)),
                    _ = interrupt.recv() => return Ok(code(status)),
                }
            }
        }
    }
}

fn code(status: ExitStatus) -> u8 {
    let by_signal = || KILLED_BY.saturating_add(u8::try_from(status.signal().unwrap_or(0)).unwrap_or(0));
    let code = status.code().map(|code| u8::try_from(code).unwrap_or(u8::MAX));
    code.unwrap_or_else(by_signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_crash_is_followed_by_another_start() {
        let (mut crashes, now) = (Crashes::default(), Instant::now());
        assert_eq!(crashes.ended(0, false, now), Next::End(0));
        assert_eq!(crashes.ended(137, true, now), Next::End(137));
        let bad = crashes.ended(EXIT_BAD_CONFIGURATION, false, now);
        assert_eq!(bad, Next::End(EXIT_BAD_CONFIGURATION));
        assert_eq!(crashes.ended(137, false, now), Next::Again(FIRST_WAIT));
    }

    #[test]
    fn crashes_that_come_one_after_the_other_are_waited_for_longer_and_then_given_up() {
        let (mut crashes, now) = (Crashes::default(), Instant::now());
        let nexts: Vec<Next> = (0..5).map(|_| crashes.ended(1, false, now)).collect();
        let waits = [1, 2, 4, 8].map(|times| Next::Again(FIRST_WAIT * times));
        assert_eq!(nexts[..4], waits);
        assert_eq!(nexts[4], Next::End(1));
    }

    #[test]
    fn crashes_of_long_ago_do_not_count() {
        let (mut crashes, mut now) = (Crashes::default(), Instant::now());
        for _ in 0..20 {
            assert_eq!(crashes.ended(1, false, now), Next::Again(FIRST_WAIT));
            now += CRASHES_WITHIN;
        }
    }
}
