//! Shards that crashed on a device and left it: whoever moved them away mended nothing, so where layers of their model come back in time
//! the count of crashes goes on, and so do the waits. Pure.

use super::crashes::Crashes;
use super::observed::Observed;
use super::{Slice, Slot};
use std::collections::BTreeMap;

/// Twice the longest time for which the operator leaves out a device on which a model's shards keep failing: moving there and back takes
/// its time as well.
pub const REMEMBERED_MS: u64 = 30 * 60 * 1000;
/// More than a node has devices, times models that crash there. The oldest goes first.
const REMEMBERED_MAX: usize = 256;

/// What is remembered, by model and device. A model whose weights are others now begins anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Departed {
    left: BTreeMap<Key, Left>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    model_uid: String,
    index: gguf::Digest,
    device: String,
}

impl Key {
    /// Another cut of the same layers crashes alike.
    fn of(slot: &Slot, slice: &Slice) -> Self {
        Self {
            model_uid: slot.model_uid.clone(),
            index: slice.index,
            device: slice.device.clone(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Left {
    failures: u32,
    crashes: Crashes,
    at_ms: u64,
}

impl Left {
    fn is_fresh(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.at_ms) < REMEMBERED_MS
    }
}

impl Departed {
    /// A shard is forgotten. One of which no crash is counted leaves nothing behind.
    pub(super) fn leaves(&mut self, slot: &Slot, seen: &Observed, now_ms: u64) {
        self.left.retain(|_, left| left.is_fresh(now_ms));
        if seen.crashes.are_none() {
            return;
        }
        let left = Left {
            failures: seen.failures,
            crashes: seen.crashes,
            at_ms: now_ms,
        };
        self.left.insert(Key::of(slot, &seen.slice), left);
        if self.left.len() > REMEMBERED_MAX {
            let oldest = self.left.iter().min_by_key(|(_, left)| left.at_ms);
            if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                self.left.remove(&key);
            }
        }
    }

    /// A shard of which nothing was done yet goes on with the count of the one that left, if one did.
    pub(super) fn comes_back(&mut self, slot: &Slot, seen: &mut Observed, now_ms: u64) {
        let left = self.left.remove(&Key::of(slot, &seen.slice));
        if let Some(left) = left.filter(|left| left.is_fresh(now_ms)) {
            (seen.failures, seen.crashes) = (left.failures, left.crashes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::observed::{Fault, Progress, State};
    use crate::shard::{Place, Purpose};
    use proto::placement::v1::Runtime;

    /// A shard at rest on a device with that number, of which nothing is counted.
    fn calm(device: u64) -> (Slot, Observed) {
        let slice = Slice {
            index: gguf::Digest([7; 32]),
            first_layer: 0,
            end_layer: 10,
            total_layers: 30,
            device: format!("cpu{device}"),
            backend: "cpu".to_owned(),
            runtime: Runtime::default(),
            weight_root: [1; 32],
        };
        let seen = Observed {
            slice: slice.clone(),
            epoch: 1,
            place: Place {
                epoch: 1,
                pipeline: 0,
                stage: 0,
                purpose: Purpose::Serve,
            },
            state: State::Idle(Progress::New),
            failures: 0,
            crashes: Crashes::default(),
        };
        (Slot::of("uid", &slice), seen)
    }

    fn crashed(device: u64) -> (Slot, Observed) {
        let (slot, mut seen) = calm(device);
        seen.failures = 1;
        seen.crashes.count(Fault::new("Crashed", ""), 0);
        (slot, seen)
    }

    #[test]
    fn of_more_than_can_be_remembered_the_oldest_is_forgotten_first() {
        let mut departed = Departed::default();
        let devices = REMEMBERED_MAX as u64 + 1;
        for device in 0..devices {
            let (slot, seen) = crashed(device);
            departed.leaves(&slot, &seen, device);
        }
        assert_eq!(departed.left.len(), REMEMBERED_MAX);
        let failures_of = |departed: &mut Departed, device: u64| {
            let (slot, mut seen) = calm(device);
            departed.comes_back(&slot, &mut seen, devices);
            seen.failures
        };
        assert_eq!([0, 1].map(|device| failures_of(&mut departed, device)), [0, 1]);
    }

    #[test]
    fn what_is_too_old_goes_with_the_next_that_leaves_and_what_never_crashed_leaves_nothing() {
        let mut departed = Departed::default();
        let (slot, seen) = crashed(0);
        departed.leaves(&slot, &seen, 0);
        let (slot, seen) = calm(1);
        departed.leaves(&slot, &seen, REMEMBERED_MS);
        assert_eq!(departed, Departed::default());
    }
}
