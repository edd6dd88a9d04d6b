//! The operator with many nodes. Prints a table and writes `target/bench/operator.json`.
//!
//! ```text
//!  localplane: etcd, kube-apiserver ◀── nodes, devices, Leases ─── agents (one process): a stream each, over mutual TLS
//!        ▲            │ watches                                       │ Hello, shards, inspections ▲ assignments
//!        │            ▼                                               ▼                           │
//!     observer ◀─ InferenceModel status ◀──── shardwright-operator, as it is shipped ─────────────┘
//! ```

mod agents;
mod bars;
mod cluster;
mod facts;
mod objects;
mod phases;
mod rig;
mod shards;
mod usage;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use cluster::Size;
use localplane::wait::{Seen, until};
use localplane::{Error, Result, assets, plane};
use phases::Phases;
use report::Report;
use rig::Rig;

/// Measures the operator with a simulated cluster.
#[derive(Debug, Parser)]
struct Flags {
    #[arg(long, default_value_t = 1000)]
    nodes: usize,
    #[arg(long, default_value_t = 8)]
    devices_per_node: usize,
    #[arg(long, default_value_t = 100)]
    models: usize,
    /// Devices that are lost, one after the other.
    #[arg(long, default_value_t = 200)]
    losses: usize,
    /// How long nothing happens.
    #[arg(long, default_value_t = 90)]
    idle_seconds: u64,
    /// How long a restarted operator is watched.
    #[arg(long, default_value_t = 30)]
    calm_seconds: u64,
    /// Data, keys and logs of the control plane; its log tells why where something fails.
    #[arg(long, default_value = "target/bench-operator")]
    dir: PathBuf,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let mut report = Report::new(bars::OPERATOR);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let outcome = match runtime {
        // Processes die with the thread that started them: it is this one.
        Ok(runtime) => runtime.block_on(measure(&flags, &mut report)),
        Err(error) => Err(Error::Other(format!("cannot start threads: {error}"))),
    };
    if let Err(error) = outcome {
        report.fail("the operator", &error.to_string());
    }
    print!("\n{}", report.table());
    match report.write(&assets::workspace(), "operator") {
        Ok(path) => println!("\nwrote {}", path.display()),
        Err(error) => report.fail("target/bench/operator.json", &error.to_string()),
    }
    if report.is_sound() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

async fn measure(flags: &Flags, report: &mut Report) -> Result<()> {
    // Another one may be installed already: the first stands.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let size = Size {
        nodes: flags.nodes,
        devices_per_node: flags.devices_per_node,
        models: flags.models,
    };
    plane::clear(&flags.dir)?;
    let start = Instant::now();
    let mut rig = Rig::start(&flags.dir, size).await?;
    println!("the cluster stands after {:.0} s", start.elapsed().as_secs_f64());
    report.set("nodes", Some(size.nodes as f64));
    report.set("models", Some(size.models as f64));
    let mut phases = Phases {
        rig: &mut rig,
        size,
        report,
        peak_mib: 0.0,
    };
    phases.settle().await?;
    phases.calm().await?;
    phases.idle(Duration::from_secs(flags.idle_seconds)).await?;
    phases.losses(flags.losses).await?;
    phases.burst().await?;
    phases.restart(Duration::from_secs(flags.calm_seconds)).await
}

/// Waits until something is so.
async fn wait_for(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) -> Result<()> {
    until(what, limit, || {
        let seen = is_so();
        async move {
            Ok(if seen {
                Seen::Done(())
            } else {
                Seen::Not("not yet".into())
            })
        }
    })
    .await
}
