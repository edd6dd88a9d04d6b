//! A child that verifies and measures what a backend finds, answers once and ends.

use super::starved::{self, Late};
use super::{COMPLAINT_LIMIT_BYTES, Guarded, Quota, last_words, read_to_limit};
use crate::{Answer, Backend, Selection};
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A driver of a healthy card answers within two seconds even when it has to wake the card first.
pub const PROBE_LIMIT: Duration = Duration::from_secs(8);
/// An answer is about a kibibyte per device.
const ANSWER_LIMIT_BYTES: u64 = 1 << 20;

/// SIGILL, SIGABRT, SIGBUS, SIGFPE and SIGSEGV: a process does that to itself, and nobody else to it.
const CRASHES: [i32; 5] = [4, 6, 7, 8, 11];

/// What a probe child is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// How long it may measure what it has no valid figures for; zero measures nothing.
    pub measure_budget: Duration,
    /// A registry whose figures need not be measured again.
    pub known: Option<PathBuf>,
    /// Which devices.
    pub only: Selection,
    /// "/" but in tests.
    pub root: PathBuf,
    /// When it is given up, beyond the time it may measure and that in which it has no processor.
    pub limit: Duration,
}

impl Default for Order {
    /// Of this machine, without measuring.
    fn default() -> Self {
        Self {
            measure_budget: Duration::ZERO,
            known: None,
            only: Selection::All,
            root: PathBuf::from("/"),
            limit: PROBE_LIMIT,
        }
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeFault {
    /// It did not answer within the limit.
    #[error("{0}")]
    Hung(String),
    /// The node had no processor for it, and so it could not answer: that says nothing of the driver.
    #[error("{0}")]
    Starved(String),
    /// The driver took it down.
    #[error("{0}")]
    Crashed(String),
    /// It ended badly or said what cannot be read, or it could not be started.
    #[error("{0}")]
    Broken(String),
}

/// Runs `executable probe --json --backends <backend> …` and reads one [`Answer`] from its stdout.
///
/// # Errors
/// A driver that hangs, told apart from one that crashes and from a node that had no time for it.
pub async fn ask(executable: &Path, backend: Backend, order: &Order, quota: &Quota) -> Result<Answer, ProbeFault> {
    let name = backend.name();
    let broken = |message: String| ProbeFault::Broken(format!("the {name} probe {message}"));
    let mut guarded = Guarded::start(executable, arguments(backend, order), quota)
        .map_err(|error| broken(format!("was not made: {error}")))?;
    let Some(child) = guarded.child() else {
        return Err(broken("was not made".to_owned()));
    };
    // Held open: the child ends when it closes.
    let stdin = child.stdin.take();
    let stdout = read_to_limit(child.stdout.take(), ANSWER_LIMIT_BYTES);
    let stderr = read_to_limit(child.stderr.take(), COMPLAINT_LIMIT_BYTES);
    let limit = order.limit + order.measure_budget;
    let pid = child.id();
    let ended = starved::within(limit, || pid.and_then(starved::delay_of), async {
        let (answer, complaint) = tokio::join!(stdout, stderr);
        (child.wait().await, answer, complaint)
    })
    .await;
    drop(stdin);
    let (status, answer, complaint) = ended.map_err(|late| match late {
        Late::Silent => ProbeFault::Hung(format!(
            "the {name} driver did not answer within {} s and was left alone; check the kernel's log for it",
            limit.as_secs()
        )),
        Late::Starved => ProbeFault::Starved(format!(
            "the {name} probe had no processor for long enough and is tried again later; this node is overloaded, or the \
             agent has too small a share of it"
        )),
    })?;
    let status = status.map_err(|error| broken(format!("could not be waited for: {error}")))?;
    if !status.success() {
        let message = format!(
            "the {name} driver took its probe down ({status}): {}",
            last_words(&complaint)
        );
        return Err(if status.signal().is_some_and(|signal| CRASHES.contains(&signal)) {
            ProbeFault::Crashed(message)
        } else {
            ProbeFault::Broken(message)
        });
    }
    let answers: Vec<Answer> = serde_json::from_slice(&answer)
        .map_err(|error| broken(format!("gave an answer that cannot be read: {error}")))?;
    answers
        .into_iter()
        .find(|answer| answer.backend == backend)
        .ok_or_else(|| broken("answered for another backend".to_owned()))
}

fn arguments(backend: Backend, order: &Order) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = ["probe", "--json", "--with-parent", "--backends", backend.name()]
        .map(OsString::from)
        .into();
    arguments.push("--measure-budget-ms".into());
    arguments.push(order.measure_budget.as_millis().to_string().into());
    arguments.push("--sysfs-root".into());
    arguments.push(order.root.clone().into());
    if order.only != Selection::All {
        arguments.push("--only".into());
        arguments.push(order.only.to_string().into());
    }
    if let Some(known) = &order.known {
        arguments.push("--known".into());
        arguments.push(known.into());
    }
    arguments
}
