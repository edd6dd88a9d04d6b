//! The command line, and what follows from it before anything runs.

use std::path::PathBuf;
use std::sync::Arc;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, Parser};
use engine::rates::Times;
use engine::select_device;
use lifecycle::log;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::compute::{device, engine_device, engine_loader};
use crate::config::{self, Backend, WorkerConfig};
use crate::measure;
use crate::memory::observation;
use crate::process;
use crate::run::{Exit, run_observed};

/// Runs one shard of a model. Started and supervised by shardwright-agent.
#[derive(Debug, Parser)]
#[command(name = "shardwright-worker", version)]
pub struct Args {
    /// The shard's configuration, JSON.
    #[arg(long, required_unless_present = "measure")]
    config: Option<PathBuf>,
    /// Holds no shard, but measures how fast steps are on this backend, prints one JSON object and ends.
    #[arg(long, value_name = "BACKEND", conflicts_with = "config", value_parser = backends())]
    measure: Option<Backend>,
    /// Of `--measure`: index of the device in its backend.
    #[arg(long, default_value_t = 0, requires = "measure")]
    device_index: u32,
    /// Of `--measure`: index of a further device, that works with the first and all others given so as one.
    #[arg(long, value_name = "INDEX", requires = "measure")]
    group_index: Vec<u32>,
    /// Of `--measure`: compute threads on the CPU.
    #[arg(long, default_value_t = 1, requires = "measure")]
    threads: u32,
    /// Of `--measure`: an empty folder for its files.
    #[arg(long, value_name = "FOLDER", requires = "measure")]
    folder: Option<PathBuf>,
    /// Of `--measure`: the `times` that it printed before; of each the least counts.
    #[arg(long, value_name = "JSON", requires = "measure", value_parser = times)]
    before: Option<Times>,
    /// How log lines on standard error look.
    #[arg(long, value_enum, default_value_t = log::Format::Text)]
    log_format: log::Format,
    /// Whether cores may be kept awake while a stream is decoded; `false` overrules the configuration.
    #[arg(long, env = "SHARDWRIGHT_KEEP_AWAKE", action = ArgAction::Set, default_value_t = true)]
    keep_awake: bool,
    /// Whether tokens may be drafted, to be computed by stages that would idle; `false` overrules the configuration.
    #[arg(long, env = "SHARDWRIGHT_SPECULATE", action = ArgAction::Set, default_value_t = true)]
    speculate: bool,
}

fn backends() -> impl TypedValueParser<Value = Backend> {
    let names = PossibleValuesParser::new(Backend::ALL.map(Backend::name));
    names.try_map(|name| Backend::named(&name).ok_or("is no backend"))
}

fn times(text: &str) -> Result<Times, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

impl Args {
    /// Runs the worker to its end.
    pub fn run(self) -> Exit {
        if let Some(backend) = self.measure {
            let device = engine_device(backend, self.device_index, &self.group_index, self.threads);
            return measure::run(&device, self.folder, self.before.unwrap_or_default());
        }
        let config = match config::read(&self.config.unwrap_or_default()) {
            Ok(config) => Arc::new(WorkerConfig {
                keep_awake: config.keep_awake && self.keep_awake,
                speculate: config.speculate && self.speculate,
                ..config
            }),
            Err(error) => return refuse(Exit::Config, &error),
        };
        // First of all: it changes the environment, which is safe only while there is one thread.
        if let Err(error) = select_device(&device(&config)) {
            return refuse(Exit::Device, &error);
        }
        lifecycle::log::to_stderr(self.log_format);
        process::confine(&config);
        let runtime = match io_runtime() {
            Ok(runtime) => runtime,
            Err(error) => return refuse(Exit::Engine, &error),
        };
        let exit = runtime.block_on(async {
            let (gauge, observation) = observation();
            let loader = engine_loader(Arc::clone(&config), gauge);
            run_observed(config, loader, observation, terminated()).await
        });
        // The engine may be in the middle of a load: the process does not wait for it.
        runtime.shutdown_background();
        exit.unwrap_or_else(|error| refuse(Exit::Config, &error))
    }
}

/// The thread that carries bytes: encryption of one stream each way. Compute has a thread, or a pool, of its own.
///
/// It is one: what arrives passes through several tasks on its way to the compute thread, and handing it from one thread to the
/// next would cost more than the work of each.
///
/// # Errors
/// When the system refuses what a runtime needs.
pub fn io_runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Tells why, and gives the exit.
pub(crate) fn refuse(exit: Exit, error: &dyn std::fmt::Display) -> Exit {
    eprintln!("shardwright-worker: {error}");
    exit
}

/// Returns on SIGTERM or SIGINT.
async fn terminated() {
    let both = signal(SignalKind::terminate()).and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
    match both {
        Ok((mut term, mut interrupt)) => {
            tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        Err(error) => {
            tracing::warn!(%error, "signals cannot be heard; the agent can still ask for a drain");
            std::future::pending().await
        }
    }
}
