//! Every measurement of the engine and what is around it. Prints a table and writes `target/bench/engine.json`.

use std::process::ExitCode;

use bench::netns::{Hosts, Network};
use bench::report::Report;
use bench::session::Session;
use bench::two_stage::contestants::{HEAD_CORE, TAIL_CORE};
use bench::{Result, awake, bars, gateway, hop, one_stage, pinning, prefix, stack, trying, two_stage};
use clap::{Parser, ValueEnum};
use localplane::assets;
use tokio::signal::unix::{SignalKind, signal};

/// Cores that the comparisons of two stages take.
const CORES: usize = 2;

/// Measures Shardwright against llama.cpp on this machine.
#[derive(Debug, Parser)]
struct Flags {
    /// How often everything is measured, in turns; the best counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only these; the result goes to engine-partial.json.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Measurement>,
    /// The last layer of the first of two stages; measured where not given.
    #[arg(long)]
    cut: Option<u32>,
    /// Seeded jitter of the slow links, microseconds at most.
    #[arg(long, default_value_t = 0)]
    jitter_us: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Measurement {
    OneStage,
    TwoStage,
    Awake,
    Prefix,
    Hop,
    Gateway,
    Stack,
}

impl Flags {
    fn wants(&self, measurement: Measurement) -> bool {
        self.only.is_empty() || self.only.contains(&measurement)
    }
}

// One thread: children die with the thread that starts them.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // Taken already means that something chose it before us, which nothing does.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let flags = Flags::parse();
    let mut report = Report::new(bars::ENGINE);
    let outcome = tokio::select! {
        outcome = measure(&flags, &mut report) => outcome,
        outcome = interrupted() => outcome,
    };
    print!("\n{}", report.table());
    let written = if outcome.is_ok() {
        write(&flags, &report)
    } else {
        Ok(())
    };
    match outcome.and(written) {
        Ok(()) if report.is_sound() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-engine: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Everything that was started ends when the future that waits for it is dropped.
async fn interrupted() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).map_err(trying("SIGTERM"))?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    Err(bench::failed("measuring", "interrupted"))
}

fn write(flags: &Flags, report: &Report) -> Result<()> {
    let name = if flags.only.is_empty() {
        "engine"
    } else {
        "engine-partial"
    };
    let path = report
        .write(&assets::workspace(), name)
        .map_err(trying("the results"))?;
    println!("\nwrote {}", path.display());
    Ok(())
}

async fn measure(flags: &Flags, report: &mut Report) -> Result<()> {
    let network = network(report);
    let session = Session::new(flags.rounds, flags.cut, flags.jitter_us)?;
    if flags.wants(Measurement::Gateway) {
        let outcome = gateway::measure(&session, report).await;
        note(report, "gateway", outcome);
    }
    pinning::stand_back()?;
    if flags.wants(Measurement::OneStage) {
        let outcome = one_stage::measure(&session, report).await;
        note(report, "one stage", outcome);
    }
    if pinning::cores() < CORES {
        report.skip("two stages, prefix, hop", "two cores are needed, one for each stage");
    } else {
        on_two_cores(flags, &session, &network, report).await;
    }
    if flags.wants(Measurement::Stack) {
        let outcome = stack::measure(&session, report).await;
        note(report, "through the gateway", outcome);
    }
    Ok(())
}

async fn on_two_cores(flags: &Flags, session: &Session, network: &Network, report: &mut Report) {
    if flags.wants(Measurement::TwoStage) {
        let outcome = two_stage::measure(session, network, report).await;
        note(report, "two stages", outcome);
    }
    // Has no bar: only where it is asked for.
    if flags.only.contains(&Measurement::Awake) {
        let outcome = awake::measure(session, network, report).await;
        note(report, "awake", outcome);
    }
    if flags.wants(Measurement::Prefix) {
        let outcome = prefix::measure(session, network, report).await;
        note(report, "prefix", outcome);
    }
    if flags.wants(Measurement::Hop) {
        let outcome = hop::measure(session, (HEAD_CORE, TAIL_CORE), report).await;
        note(report, "hop", outcome);
    }
}

/// One measurement that fails does not cost the others.
fn note(report: &mut Report, what: &str, outcome: Result<()>) {
    if let Err(error) = outcome {
        report.fail(what, &error.to_string());
    }
}

/// Hosts of their own, or loopback where that is impossible.
fn network(report: &mut Report) -> Network {
    match Hosts::new() {
        Ok(hosts) => Network::Cables(hosts),
        Err(error) => {
            report.skip("network namespaces", &format!("{error}; loopback instead"));
            Network::Loopback
        }
    }
}
