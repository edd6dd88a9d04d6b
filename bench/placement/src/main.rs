//! Placement beside its peers. Prints tables and writes `target/bench/placement.json`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use clap::Parser;
use report::Report;
use solvers::{
    BenchError, anytime, bars,
    instance::{self, Instance},
    peers::Peer,
    questions,
    race::{self, Outcome},
    table,
};

/// Times the placement solver, CP-SAT and HiGHS on the same instances, one thread each.
#[derive(Debug, Parser)]
struct Flags {
    /// Seconds for one instance and solver; of more than 16 devices, `--cap-large`.
    #[arg(long, default_value_t = 20.0)]
    cap: f64,
    /// Seconds for one instance of more than 16 devices.
    #[arg(long, default_value_t = 5.0)]
    cap_large: f64,
    /// Only instances whose name has this in it.
    #[arg(long, default_value = "")]
    filter: String,
    /// The most devices of an instance that the other solvers are asked about.
    #[arg(long, default_value_t = 64)]
    peers_up_to: usize,
    /// A Python that has the packages of `bench/placement/peers/requirements.txt`; without one the others are left out.
    #[arg(long)]
    python: Option<PathBuf>,
}

/// Instances up to this size are solved by everybody, mostly in milliseconds.
const SMALL_DEVICES: usize = 16;

fn main() -> ExitCode {
    let flags = Flags::parse();
    match bench(&flags) {
        Ok(is_sound) if is_sound => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-placement: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench(flags: &Flags) -> Result<bool, BenchError> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap_or(Path::new("."));
    let mut instances = instance::read_all(&workspace.join("operator/placement/tests/instances"))?;
    instances.retain(|instance| instance.name.contains(&flags.filter));
    if instances.is_empty() {
        return Err(BenchError::Nothing);
    }
    let mut report = Report::new(bars::PLACEMENT);
    let begun = Instant::now();
    let outcomes = race_all(flags, &instances, &mut report)?;
    let anytime = anytime::measure(&outcomes);
    let questions = questions::measure(&instances);
    for contradiction in outcomes.iter().flat_map(Outcome::contradictions) {
        report.fail("agreement", &contradiction);
    }
    table::print_all(&outcomes, &anytime, &questions, &mut report);
    report.set("seconds", Some(begun.elapsed().as_secs_f64()));
    print!("\n{}", report.table());
    let path = report
        .write(workspace, "placement")
        .map_err(|source| BenchError::File {
            path: "target/bench/placement.json".to_owned(),
            source,
        })?;
    println!("\nwrote {}", path.display());
    Ok(report.is_sound())
}

fn race_all<'i>(flags: &Flags, instances: &'i [Instance], report: &mut Report) -> Result<Vec<Outcome<'i>>, BenchError> {
    let scripts = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("peers");
    let mut peers = [None, None];
    match &flags.python {
        Some(python) => {
            for (index, peer) in peers.iter_mut().enumerate() {
                *peer = Some(Peer::start(python, &scripts, index)?);
            }
        }
        None => report.skip("CP-SAT and HiGHS", "no --python was given"),
    }
    let mut none = [None, None];
    let mut outcomes = Vec::new();
    for (index, instance) in instances.iter().enumerate() {
        let devices = instance.devices();
        let asked = if devices <= flags.peers_up_to {
            &mut peers
        } else {
            &mut none
        };
        let cap_s = if devices <= SMALL_DEVICES {
            flags.cap
        } else {
            flags.cap_large
        };
        eprint!("\r{:>3}/{} {:20}", index + 1, instances.len(), instance.name);
        outcomes.push(race::run(instance, asked, cap_s)?);
    }
    eprintln!();
    Ok(outcomes)
}
