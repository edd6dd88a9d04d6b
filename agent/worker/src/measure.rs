//! A worker that holds no shard: it measures its device, or several as one, and ends. The engine is linked here and nowhere else.

use std::path::PathBuf;
use std::time::Duration;

use engine::rates::{self, Rates, Times};
use engine::{Device, EngineError, Runtime, select_device};
use serde::Serialize;

use crate::args::refuse;
use crate::run::Exit;

/// Enough for medians on a device of any speed that is worth a model.
const BUDGET: Duration = Duration::from_millis(1500);

/// What is printed: rates, and the times that they were made of.
#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    rates: Rates,
    /// Operators that the device, or one of them, has no kernel for.
    missing_operators: Vec<&'static str>,
    times: Times,
    /// Whether these are better than those before.
    improved: bool,
}

/// Measures and prints; the files are in `folder`, or where the system keeps what is temporary. Of each time the least counts,
/// those of `before` included.
pub fn run(device: &Device, folder: Option<PathBuf>, before: Times) -> Exit {
    // First of all: it changes the environment, which is safe only while there is one thread.
    if let Err(error) = select_device(device) {
        return refuse(Exit::Device, &error);
    }
    let folder = folder.unwrap_or_else(std::env::temp_dir);
    let measured = Runtime::load_for(None, device)
        .and_then(|runtime| {
            let missing_operators = runtime.missing_operators(device)?;
            Ok((missing_operators, rates::measure(&runtime, device, &folder, BUDGET)?))
        })
        .map_err(|error: EngineError| error.to_string())
        .and_then(|(missing_operators, times)| {
            let times = times.least(before);
            let answer = Answer {
                rates: Rates::of(&times, device.members()),
                improved: times.improves_on(&before),
                missing_operators,
                times,
            };
            serde_json::to_string(&answer).map_err(|error| error.to_string())
        });
    match measured {
        Ok(text) => {
            println!("{text}");
            Exit::Drained
        }
        Err(error) => refuse(Exit::Device, &error),
    }
}
