//! A worker that holds no shard: it measures its device and ends. The engine is linked here and nowhere else.

use std::path::PathBuf;
use std::time::Duration;

use engine::{Device, EngineError, Runtime, rates, select_device};

use crate::args::refuse;
use crate::run::Exit;

/// Enough for medians on a device of any speed that is worth a model.
const BUDGET: Duration = Duration::from_millis(1500);

/// Measures and prints; the files are in `folder`, or where the system keeps what is temporary.
pub fn run(device: &Device, folder: Option<PathBuf>) -> Exit {
    // First of all: it changes the environment, which is safe only while there is one thread.
    if let Err(error) = select_device(device) {
        return refuse(Exit::Device, &error);
    }
    let folder = folder.unwrap_or_else(std::env::temp_dir);
    let measured = Runtime::load_for(None, device)
        .and_then(|runtime| rates::measure(&runtime, device, &folder, BUDGET))
        .map_err(|error: EngineError| error.to_string())
        .and_then(|rates| serde_json::to_string(&rates).map_err(|error| error.to_string()));
    match measured {
        Ok(text) => {
            println!("{text}");
            Exit::Drained
        }
        Err(error) => refuse(Exit::Device, &error),
    }
}
