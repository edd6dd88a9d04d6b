//! The `probe` subcommand: as JSON it asks in this very process, which is what the agent's children do; else it asks in
//! children, one per backend, and prints what people like to read.

mod table;

pub use table::{Shown, gibibytes, table};

use crate::args::ProbeArgs;
use crate::devices::bus::{self, Card};
use crate::devices::readings;
use device::child::Quota;
use device::child::parts;
use device::child::probe::{self, PROBE_LIMIT, ProbeFault};
use device::child::watch::{self, Heard, WatchChild};
use device::registry::Registry;
use device::telemetry::Sample;
use device::{Answer, Backend, ProbeRequest, Selection, merge};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// For one reading beside the answer: nice to have, so not worth a wait.
const READING_LIMIT: Duration = Duration::from_secs(2);

/// Carries out `probe`.
pub fn run(args: &ProbeArgs) -> ExitCode {
    let outcome = if args.json { json(args) } else { table_of(args) };
    match outcome {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("shardwright-agent: {message}");
            ExitCode::FAILURE
        }
    }
}

fn json(args: &ProbeArgs) -> Result<String, String> {
    if args.with_parent {
        readings::end_with_parent();
    }
    let now_unix_s = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let request = ProbeRequest {
        measure_budget: Duration::from_millis(args.measure_budget_ms),
        known: args.known.as_deref().map(Registry::peek).unwrap_or_default(),
        only: args.only.clone(),
    };
    let answers: Vec<Answer> = args
        .backends
        .iter()
        .map(|backend| device::probe(*backend, &args.sysfs_root, &request, now_unix_s))
        .collect();
    serde_json::to_string_pretty(&answers).map_err(|error| error.to_string())
}

fn table_of(args: &ProbeArgs) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let own = own_executable()?;
    let (answers, useful, samples) = runtime.block_on(ask_all(&own, args));
    let devices = merge::merge(&answers, args.memory_limit_bytes);
    Ok(table(&Shown {
        answers: &answers,
        useful: &useful,
        devices: &devices,
        samples: &samples,
        all: args.all,
    }))
}

/// Asks each backend in a child process, one after the other: measurements must not disturb each other. Gives the answers,
/// the backends whose notes are worth reading, and one reading of what can be read.
async fn ask_all(own: &Path, args: &ProbeArgs) -> (Vec<Answer>, BTreeSet<Backend>, Vec<Sample>) {
    let order = probe::Order {
        measure_budget: Duration::from_millis(args.measure_budget_ms),
        known: args.known.clone(),
        only: args.only.clone(),
        root: args.sysfs_root.clone(),
        limit: PROBE_LIMIT,
    };
    let cards = bus::cards(&args.sysfs_root);
    let (mut answers, mut useful, mut samples) = (Vec::new(), BTreeSet::new(), Vec::new());
    for backend in args.backends.iter().copied() {
        let quota = Quota::new(backend);
        let asked = ask_one(own, backend, &order, &cards, &quota).await;
        if asked.is_err() || is_useful(backend, asked.as_ref().ok(), &cards) {
            useful.insert(backend);
        }
        answers.push(asked.unwrap_or_else(|fault| Answer::nothing(backend, fault.to_string())));
        samples.extend(read_once(own, backend, args, &quota).await);
    }
    (answers, useful, samples)
}

/// All cards of a backend in one child; each in its own where one of several hangs or crashes. Those that do not answer
/// are in the note.
async fn ask_one(
    own: &Path,
    backend: Backend,
    order: &probe::Order,
    cards: &BTreeSet<Card>,
    quota: &Quota,
) -> Result<Answer, ProbeFault> {
    let asked = probe::ask(own, backend, order, quota).await;
    let of_backend = cards.iter().filter(|card| card.is_for(backend));
    let places: Vec<Selection> = of_backend.map(|card| Selection::one(&card.address)).collect();
    let divisible = matches!(asked, Err(ProbeFault::Hung(_) | ProbeFault::Crashed(_))) && places.len() > 1;
    if !divisible || order.only.alone().is_some() {
        return asked;
    }
    let parts = parts::ask(own, backend, order, places, quota).await;
    if parts.iter().all(|(_, outcome)| outcome.is_err()) {
        return asked;
    }
    let mut answer = parts::join(backend, &parts);
    let silent = parts
        .iter()
        .filter_map(|(only, outcome)| Some(format!("{only}: {}", outcome.as_ref().err()?)));
    answer.note = Some(silent.collect::<Vec<_>>().join("; ")).filter(|note| !note.is_empty());
    Ok(answer)
}

/// A driver that is missing for a card that is there, or a remark beside devices; not a driver that nobody needs.
fn is_useful(backend: Backend, answer: Option<&Answer>, cards: &BTreeSet<Card>) -> bool {
    backend == Backend::Cpu
        || answer.is_some_and(|answer| !answer.devices.is_empty())
        || cards.iter().any(|card| card.is_for(backend))
}

async fn read_once(own: &Path, backend: Backend, args: &ProbeArgs, quota: &Quota) -> Vec<Sample> {
    let order = watch::Order {
        interval: READING_LIMIT,
        only: args.only.clone(),
        root: args.sysfs_root.clone(),
    };
    match WatchChild::start(own, backend, &order, quota) {
        Ok(mut child) => match child.next(READING_LIMIT).await {
            Heard::Reading(reading) => reading.samples,
            Heard::Silence | Heard::Starved | Heard::Finished | Heard::Broken(_) => Vec::new(),
        },
        Err(_) => Vec::new(),
    }
}

/// This very executable, for children.
///
/// # Errors
/// The system does not tell.
pub fn own_executable() -> Result<std::path::PathBuf, String> {
    std::env::current_exe().map_err(|error| format!("our own path is unknown: {error}"))
}
