//! `chaos`: random faults under load, judged. Exit code 1 when an invariant was violated.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use chaos::history::Kind;
use chaos::run::{Options, Outcome, run};
use chaos::summary::Summary;
use chaos::{Error, Result};
use clap::Parser;
use localplane::assets;

#[derive(Parser)]
#[command(about = "Kills and freezes parts of a whole installation under load and checks every answer")]
struct Arguments {
    /// Data, logs and the history: a new folder, an empty one, or that of an earlier run, which is emptied first.
    #[arg(long, default_value = "target/chaos")]
    dir: PathBuf,
    /// For how long faults are injected.
    #[arg(long, default_value_t = 240)]
    seconds: u64,
    /// At most so many faults.
    #[arg(long)]
    kills: Option<usize>,
    /// Everything random follows from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// From one fault to the next; random pauses without it.
    #[arg(long)]
    every_seconds: Option<u64>,
    /// Only these kinds of faults.
    #[arg(long, value_delimiter = ',', value_parser = kind)]
    only: Vec<Kind>,
    /// Clients that stream.
    #[arg(long, default_value_t = 5)]
    streaming: usize,
    /// Clients that wait for whole answers.
    #[arg(long, default_value_t = 1)]
    waiting: usize,
    /// How long a client waits for an answer, asking again included.
    #[arg(long, default_value_t = 120)]
    patience_seconds: u64,
    /// The results' file: target/bench/<NAME>.json.
    #[arg(long, default_value = "chaos")]
    name: String,
}

fn kind(text: &str) -> std::result::Result<Kind, String> {
    let known = || Kind::ALL.map(Kind::name).join(", ");
    let found = Kind::ALL.into_iter().find(|kind| kind.name() == text);
    found.ok_or_else(|| format!("{text:?} is none of {}", known()))
}

// One thread: children die with the thread that started them.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let _ = rustls::crypto::ring::default_provider().install_default();
    match Box::pin(judged(Arguments::parse())).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error}");
            ExitCode::from(2)
        }
    }
}

async fn judged(arguments: Arguments) -> Result<bool> {
    let options = Options {
        dir: arguments.dir,
        seed: arguments.seed,
        time: Duration::from_secs(arguments.seconds),
        kills: arguments.kills,
        every: arguments.every_seconds.map(Duration::from_secs),
        kinds: if arguments.only.is_empty() {
            Kind::ALL.to_vec()
        } else {
            arguments.only
        },
        streaming: arguments.streaming,
        waiting: arguments.waiting,
        patience: Duration::from_secs(arguments.patience_seconds),
    };
    println!("seed {}", options.seed);
    let outcome = tokio::select! {
        outcome = run(&options) => outcome?,
        // Dropping the run kills what it started.
        _ = tokio::signal::ctrl_c() => return Err(Error::Other("interrupted".to_owned())),
    };
    let history = keep(&options, &outcome)?;
    let summary = Summary::of(&outcome, options.seed);
    println!("{}", summary.text());
    let path = summary.write(&assets::workspace(), &arguments.name)?;
    println!("wrote {} and {}", path.display(), history.display());
    if !summary.is_good() {
        println!(
            "the logs are in {}; --seed {} repeats the faults",
            options.dir.display(),
            options.seed
        );
    }
    Ok(summary.is_good())
}

/// Writes the history beside the logs.
fn keep(options: &Options, outcome: &Outcome) -> Result<PathBuf> {
    let path = options.dir.join("history.json");
    let failed = |cause| Error::File {
        path: path.display().to_string(),
        cause,
    };
    let text = serde_json::to_vec(&outcome.history).map_err(|error| failed(error.into()))?;
    std::fs::write(&path, text).map_err(failed)?;
    Ok(path)
}
