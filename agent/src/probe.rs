//! The `probe` subcommand: as JSON it asks in this very process, which is what the agent's children do; else it asks in
//! children, one per backend, and prints what people like to read.

mod table;

pub use table::{Shown, gibibytes, table};

use crate::args::ProbeArgs;
use crate::devices::bus::{self, Card};
use crate::devices::readings;
use device::child::Quota;
use device::child::probe::{self, PROBE_LIMIT};
use device::child::watch::{self, Heard, WatchChild};
use device::registry::Registry;
use device::telemetry::Sample;
use device::{Answer, Backend, ProbeRequest, merge};
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
        root: args.sysfs_root.clone(),
        limit: PROBE_LIMIT,
    };
    let cards = bus::cards(&args.sysfs_root);
    let (mut answers, mut useful, mut samples) = (Vec::new(), BTreeSet::new(), Vec::new());
    for backend in args.backends.iter().copied() {
        let quota = Quota::new(backend);
        let asked = probe::ask(own, backend, &order, &quota).await;
        if asked.is_err() || is_useful(backend, asked.as_ref().ok(), &cards) {
            useful.insert(backend);
        }
        answers.push(asked.unwrap_or_else(|fault| Answer::nothing(backend, fault.to_string())));
        samples.extend(read_once(own, backend, args, &quota).await);
    }
    (answers, useful, samples)
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
        root: args.sysfs_root.clone(),
    };
    match WatchChild::start(own, backend, &order, quota) {
        Ok(mut child) => match child.next(READING_LIMIT).await {
            Heard::Reading(reading) => reading.samples,
            Heard::Silence | Heard::Finished | Heard::Broken(_) => Vec::new(),
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
