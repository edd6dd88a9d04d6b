//! Whether a shard of this node computes: asked of the workers, judged by a pure function.

use super::gate::Gate;
use crate::shard::Slot;
use crate::shard::drive::View;
use crate::worker::scrape;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// From one look to the next. Loads last longer than this, and a look costs each worker a page of text.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Of the time between two looks, in percent. A stage of a pipeline of eight computes an eighth of the time while a single
/// stream decodes: below a tenth nobody waits for a token that goes over the link.
const BUSY_PERCENT: f64 = 10.0;
/// The worker's metric.
const COMPUTE_SECONDS: &str = "shardwright_worker_compute_seconds_sum";

/// Seconds that each worker has computed in its life; `None` where it did not answer.
pub type Computed = BTreeMap<Slot, Option<f64>>;

/// Whether any worker computed for more than a tenth of the time between two looks. One that does not answer, or that was not
/// there before, may be about to: it counts as busy.
pub fn is_busy(before: &Computed, now: &Computed, passed: Duration) -> bool {
    now.iter().any(|(slot, computed_s)| {
        let known = before.get(slot).copied().flatten().zip(*computed_s);
        known.is_none_or(|(before_s, now_s)| {
            // Less than before: another process.
            now_s < before_s || now_s - before_s > passed.as_secs_f64() * BUSY_PERCENT / 100.0
        })
    })
}

/// The sum of the histogram of compute times, out of a scrape.
pub fn computed_s(scrape: &str) -> Option<f64> {
    let mut lines = scrape.lines();
    let value = lines.find_map(|line| line.strip_prefix(COMPUTE_SECONDS)?.strip_prefix(' '))?;
    value.trim().parse().ok().filter(|value: &f64| value.is_finite())
}

/// Tells the gate whether a shard computes, for as long as it is polled.
pub async fn watch(state_dir: PathBuf, mut view: watch::Receiver<Arc<View>>, gate: Arc<Gate>) {
    let mut before = Computed::new();
    let mut looked = tokio::time::Instant::now();
    loop {
        let serving = view.borrow_and_update().serving.clone();
        let mut now = Computed::new();
        for one in serving {
            let text = scrape::of(&state_dir, &one.slot).await;
            now.insert(one.slot, text.as_deref().and_then(computed_s));
        }
        let busy = is_busy(&before, &now, looked.elapsed());
        gate.serves()
            .send_if_modified(|serves| std::mem::replace(serves, busy) != busy);
        let idle = now.is_empty();
        (before, looked) = (now, tokio::time::Instant::now());
        let look_again = async {
            if idle {
                // Without a shard there is nothing to look at.
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        tokio::select! {
            () = look_again => {}
            changed = view.wait_for(|view| view.serving.len() != before.len()) => if changed.is_err() {
                return;
            },
        }
    }
}

#[cfg(test)]
mod tests;
