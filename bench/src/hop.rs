//! What the wire between two stages costs, by the worker's own example: a chain of two stages that compute nothing but a fixed
//! time, and a raw TLS connection beside it.

use std::time::Duration;

use localplane::assets;
use serde_json::{Value, json};

use crate::child::Part;
use crate::error::{Result, failed, trying};
use crate::pinning::Seat;
use crate::report::{Report, ratio};
use crate::session::Session;
use crate::timing::{best, shortest};
use crate::worker_rig::read_model;

/// Built by `cargo build --workspace --example hop`.
const EXAMPLE: &str = "examples/hop";
/// One run takes some ten seconds.
const RUN_LIMIT: Duration = Duration::from_secs(120);
/// Each is short; the median of a quiet one counts.
const MAX_ROUNDS: usize = 3;

/// Runs the example with the width of the model and the step that the operator asks for, and notes what it found.
///
/// # Errors
/// When it cannot be run.
pub async fn measure(session: &Session, cores: (usize, usize), report: &mut Report) -> Result<()> {
    let directory = session.directory("hop")?;
    let header = read_model(&assets::model()?)?;
    let pieces = gguf::pieces(&header).map_err(trying("the model"))?;
    let width = pieces.embedding_length();
    let mut runs = Vec::new();
    for round in 1..=session.rounds.min(MAX_ROUNDS) {
        let found = run(&directory, cores, width).await?;
        session.say(&format!(
            "hop: round {round}: p50 {:.0} us; blocks {:.0} MB/s, raw TLS {:.0} MB/s",
            number(&found, "hop_us_p50"),
            number(&found, "block_mb_s"),
            number(&found, "raw_tls_mb_s")
        ));
        runs.push(found);
    }
    let of = |name: &str| -> Vec<f64> { runs.iter().filter_map(|run| run[name].as_f64()).collect() };
    let hop = shortest(&of("hop_us_p50"));
    // Each at its best: a disturbed raw connection would flatter.
    let throughput = ratio(best(&of("block_mb_s")), best(&of("raw_tls_mb_s")));
    report.set("hop_us_p50", hop.is_finite().then_some(hop));
    report.set("hop_throughput_ratio", throughput);
    report.figures(
        "hop",
        json!({ "width": width, "rows": engine::STEP_ROWS, "cores": [cores.0, cores.1], "runs": runs }),
    );
    Ok(())
}

fn number(found: &Value, name: &str) -> f64 {
    found[name].as_f64().unwrap_or(0.0)
}

async fn run(directory: &std::path::Path, (head, tail): (usize, usize), width: u32) -> Result<Value> {
    let mut command = Seat::anywhere().command(&assets::own(EXAMPLE)?);
    command
        .args(["--cores", &format!("{head},{tail}")])
        .args(["--width", &width.to_string()])
        .args(["--rows", &engine::STEP_ROWS.to_string()])
        .args(["--blocks", "512"]);
    let mut part = Part::spawn("hop", command, directory)?;
    // The table for people comes first.
    loop {
        let line = part.line(RUN_LIMIT).await?;
        if line.starts_with('{') {
            return serde_json::from_str(&line).map_err(|error| failed("the hop example", error.to_string()));
        }
    }
}
