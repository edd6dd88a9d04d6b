//! A stage that waits for its neighbour leaves the processor to it.
//!
//! An executable of its own: the processor time of other tests in the same process would count.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::mpsc;
use std::time::Duration;

use engine::{Device, Row, Runtime, StepInput};

/// For how long the stage is left alone.
const REST: Duration = Duration::from_millis(500);

/// Processor time it may take meanwhile, in clock ticks of a hundredth of a second: ggml's threads
/// would by default spin for the first tenth of a second and more.
const ALLOWED_TICKS: u64 = 5;

fn main() {
    let Some(model) = support::model_file() else { return };
    let device = Device::Cpu { threads: 2 };
    let runtime = Runtime::load_for(None, &device).unwrap();
    let (mut stage, _) = support::Pieces::write(&model).load(&runtime, (0, 2), &device, 1);
    let activations = vec![0.5; stage.embedding_length()];
    let rows = [Row {
        sequence: 0,
        position: 0,
        token: 0,
    }];
    stage
        .step(&StepInput {
            rows: &rows,
            activations: &activations,
            wants: &[false],
        })
        .unwrap();

    let before = processor_ticks();
    let (_open, silence) = mpsc::channel::<()>();
    assert!(silence.recv_timeout(REST).is_err());
    let spent = processor_ticks() - before;
    println!("an idle stage of two threads took {spent} ticks in {REST:?}");
    assert!(spent <= ALLOWED_TICKS, "{spent} ticks");
}

/// User and system time of this process in clock ticks.
fn processor_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // The second field, the name in brackets, may hold spaces; the times are fields 14 and 15.
    let (_, after_name) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<_> = after_name.split(' ').collect();
    fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum()
}
