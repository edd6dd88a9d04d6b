//! The agent's life with devices, measured. Prints a table and writes `target/bench/devices.json`.

use std::process::ExitCode;

use bench::report::Report;
use bench::{Result, bars, devices, trying};
use clap::Parser;
use localplane::assets;

/// Measures how soon devices are ready, and what watching them costs.
#[derive(Debug, Parser)]
struct Flags {
    /// How often each number of cards is started; the best counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let mut report = Report::new(bars::DEVICES);
    let outcome = measure(&flags, &mut report);
    print!("\n{}", report.table());
    match outcome.and_then(|()| {
        report
            .write(&assets::workspace(), "devices")
            .map_err(trying("the results"))
    }) {
        Ok(path) => {
            println!("\nwrote {}", path.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench-devices: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(flags: &Flags, report: &mut Report) -> Result<()> {
    let own = std::env::current_exe().map_err(trying("our own path"))?;
    devices::measure(&own.with_file_name("shardwright-agent"), flags.rounds, report)
}
