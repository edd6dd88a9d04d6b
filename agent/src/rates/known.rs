//! What was measured of a device or a group so far, and whether it is enough. Pure.

use super::Rates;
use super::child::Answer;
use crate::groups::Failed;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Measurements of one device or group, at most.
pub(super) const ROUNDS_MAX: u32 = 16;
/// So many in a row that found nothing better: it is known.
const IN_VAIN_MAX: u32 = 2;
/// Devices and groups that are remembered; nodes have fewer.
const KNOWN_MAX: usize = 256;

/// What was measured, under conditions that its key says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) rounds: u32,
    /// Of these the last ones, as far as they found nothing better.
    in_vain: u32,
    pub(super) rates: Option<Rates>,
    /// What the worker wants to be given again: the least times so far.
    pub(super) times: Option<serde_json::Value>,
    /// Of a group: why there are no rates, once that was tried often enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failed: Option<Failed>,
}

impl Known {
    /// Whether it is not measured any more.
    pub(super) fn is_settled(&self) -> bool {
        self.in_vain >= IN_VAIN_MAX || self.rounds >= ROUNDS_MAX
    }

    /// What a group can be told with.
    pub(super) fn outcome(&self) -> Option<Result<Rates, Failed>> {
        let failed = || self.failed.clone().map(Err);
        self.rates.clone().map(Ok).or_else(failed)
    }

    /// Takes in what came of a measurement at that time.
    pub(super) fn take(&mut self, measured: Result<Answer, String>, is_group: bool, now_unix_s: u64) {
        self.rounds += 1;
        match measured {
            Ok(answer) => {
                self.rates = Some(answer.rates);
                self.times = Some(answer.times);
                self.failed = None;
                self.in_vain = if answer.improved { 0 } else { self.in_vain + 1 };
            }
            Err(cause) => {
                self.in_vain += 1;
                if is_group && self.rates.is_none() && self.is_settled() {
                    self.failed = Some(Failed {
                        cause,
                        at_unix_s: now_unix_s,
                    });
                }
            }
        }
    }

    /// In another life of the agent. What kept a group from loading may be gone, and until it is tried it counts as it did.
    pub(super) fn begin_life(&mut self) {
        if self.failed.is_some() {
            (self.rounds, self.in_vain) = (0, 0);
        }
    }
}

/// Forgets devices and groups of which there are too many; none that is there, or it would be measured again and again.
pub(super) fn bound(known: &mut BTreeMap<String, Known>, present: &BTreeSet<String>) {
    let excess = known.len().saturating_sub(KNOWN_MAX);
    let others = known.keys().filter(|key| !present.contains(*key));
    let others: Vec<String> = others.take(excess).cloned().collect();
    for key in others {
        known.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_those_are_forgotten_that_are_not_there() {
        let key = |number: usize| format!("{number:04}");
        let of = |count: usize| -> BTreeMap<String, Known> {
            (0..count).map(|number| (key(number), Known::default())).collect()
        };
        let present = BTreeSet::from([key(0), key(KNOWN_MAX)]);
        let mut known = of(KNOWN_MAX);
        bound(&mut known, &present);
        assert_eq!(known.len(), KNOWN_MAX);
        let mut known = of(KNOWN_MAX + 2);
        bound(&mut known, &present);
        assert_eq!(known.len(), KNOWN_MAX);
        assert!(present.iter().all(|key| known.contains_key(key)));
        assert!(!known.contains_key(&key(1)) && !known.contains_key(&key(2)));
    }
}
