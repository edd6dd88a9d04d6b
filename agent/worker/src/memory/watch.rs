//! Looks once a second how much memory is left, and tells who can give some way.

use std::time::Duration;

use engine::StageMemory;
use tokio::sync::watch;

use super::ladder::{Pressure, Usage, next};
use super::observe::{self, Source};

/// Between two looks: memory that grows by queued requests grows by megabytes a second, headroom is hundreds of them.
const INTERVAL: Duration = Duration::from_secs(1);

/// What others can see of the shard's memory.
#[derive(Clone, Debug)]
pub struct Observation {
    /// What the loaded stage takes, or took before it was refused as too large; `None` before.
    pub measured: watch::Receiver<Option<StageMemory>>,
    /// What gives way at present.
    pub pressure: watch::Receiver<Pressure>,
}

/// Where the loader and the watching thread tell it.
#[derive(Debug)]
pub struct Gauge {
    measured: watch::Sender<Option<StageMemory>>,
    pressure: watch::Sender<Pressure>,
}

/// Both ends. Without a gauge nothing is ever measured, and there is no pressure.
pub fn observation() -> (Gauge, Observation) {
    let (measured, seen) = watch::channel(None);
    let (pressure, felt) = watch::channel(Pressure::default());
    let gauge = Gauge { measured, pressure };
    let observation = Observation {
        measured: seen,
        pressure: felt,
    };
    (gauge, observation)
}

impl Gauge {
    /// The shard is loaded: what it takes, and what was given up for it.
    pub fn settle(&self, measured: StageMemory, pressure: Pressure) {
        self.measured.send_replace(Some(measured));
        self.pressure.send_replace(pressure);
    }

    /// The shard was loaded and is given up: what it took.
    pub fn refuse(&self, measured: StageMemory) {
        self.measured.send_replace(Some(measured));
    }

    /// Whether nobody looks any more.
    fn is_closed(&self) -> bool {
        self.pressure.is_closed()
    }
}

/// Starts the thread that watches a loaded shard: the limit of this process, and the device where it tells. It ends when
/// nobody looks any more.
///
/// # Errors
/// When the system refuses a thread.
pub fn watch_pressure(
    gauge: Gauge,
    source: Source,
    device: impl Fn() -> Option<Usage> + Send + 'static,
) -> std::io::Result<()> {
    let look = move || [observe::usage(&source), device()];
    let run = move || {
        // What is there no limit for now is not watched later either.
        let settled = look();
        while !gauge.is_closed() {
            std::thread::sleep(INTERVAL);
            let held = gauge.pressure.borrow().rung;
            let rungs = settled.into_iter().zip(look()).filter_map(|(settled, seen)| {
                let (settled, seen) = (settled?, seen?);
                Some((next(seen, settled, held), seen))
            });
            let Some((rung, seen)) = rungs.max_by_key(|(rung, _)| *rung) else {
                continue;
            };
            gauge.pressure.send_if_modified(|pressure| {
                let changed = pressure.rung != rung;
                if changed {
                    let (used_bytes, limit_bytes) = (seen.used_bytes, seen.limit_bytes);
                    tracing::warn!(from = ?pressure.rung, to = ?rung, used_bytes, limit_bytes, "memory pressure");
                }
                pressure.rung = rung;
                changed
            });
        }
    };
    std::thread::Builder::new().name("memory".to_owned()).spawn(run)?;
    Ok(())
}
