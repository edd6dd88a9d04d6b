//! What placement predicts beside what is measured. Prints a table and writes `target/bench/prediction.json`.

use std::process::ExitCode;

use bench::report::Report;
use bench::{Result, bars, prediction, trying};
use clap::Parser;
use localplane::assets;

/// Deploys ten cuts of one model over three devices and compares each prediction with what the stages take.
#[derive(Debug, Parser)]
struct Flags {}

// One thread: children die with the thread that starts them.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // Taken already means that something chose it before us, which nothing does.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let Flags {} = Flags::parse();
    let mut report = Report::new(bars::PREDICTION);
    let outcome = tokio::select! {
        outcome = prediction::measure(&mut report) => outcome,
        // Everything that was started ends when the future that waits for it is dropped.
        _ = tokio::signal::ctrl_c() => Err(bench::failed("measuring", "interrupted")),
    };
    print!("\n{}", report.table());
    match outcome.and_then(|()| write(&report)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-prediction: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(report: &Report) -> Result<()> {
    let path = report.write(&assets::workspace(), "prediction");
    println!("\nwrote {}", path.map_err(trying("the results"))?.display());
    Ok(())
}
