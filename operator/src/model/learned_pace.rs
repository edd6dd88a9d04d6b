//! PURE: what stages that serve teach about the speed of devices. A device's own measurements say what it can do; how much of it
//! a model gets, only the model's steps say. The next decision reckons with that; a model that serves is not moved for it.

use std::collections::BTreeMap;

use crds::{LearnedPace, PlacementStatus};
use topology::Topology;

/// Fewer tokens teach nothing.
const TOKENS_MIN: i64 = 200;
/// One wrong measurement must not make a device useless, or irresistible.
const FACTOR_PERCENT: std::ops::RangeInclusive<i64> = 25..=400;
/// Factors are rounded to this, so that what is decided does not change for a breath of wind.
const GRAIN_PERCENT: i64 = 5;
/// Devices that one model remembers: as many as it may have stages. What is not in use goes first.
const REMEMBERED_MAX: usize = 64;
/// Devices that are named to people.
const TOLD_MAX: usize = 3;
/// A factor that is no further from 1 is nothing to speak of.
const TOLD_PERCENT: i64 = 10;

/// What is known after the figures of a placement changed. `view` says what was predicted, with what correction, and what was
/// measured. A device that was met before moves half of the way to what was measured now.
#[must_use]
pub fn learn(known: &[LearnedPace], quantisation: &str, view: &PlacementStatus) -> Vec<LearnedPace> {
    let mut learned: Vec<LearnedPace> = known.to_vec();
    for stage in &view.stages {
        let observed = stage.observed.unwrap_or_default();
        let (Some(us), Some(tokens)) = (observed.us_per_token, observed.tokens) else {
            continue;
        };
        let expected = observed.expected_us_per_token.unwrap_or(stage.predicted_us_per_token);
        if tokens < TOKENS_MIN || expected <= 0 {
            continue;
        }
        let correction = i64::from(stage.correction_percent.unwrap_or(100));
        let measured = us.saturating_mul(correction) / expected;
        let before = take(&mut learned, &stage.device, &stage.backend, quantisation);
        let factor = match before {
            // Rounded towards what was measured, so that it gets there.
            Some(before) => halfway(i64::from(before.factor_percent), bounded(measured)),
            None => bounded(measured),
        };
        learned.push(LearnedPace {
            device: stage.device.clone(),
            backend: stage.backend.clone(),
            quantisation: quantisation.to_owned(),
            factor_percent: i32::try_from(factor).unwrap_or(100),
            tokens,
        });
    }
    // The latest are last.
    let surplus = learned.len().saturating_sub(REMEMBERED_MAX);
    learned.drain(..surplus);
    learned
}

fn take(learned: &mut Vec<LearnedPace>, device: &str, backend: &str, quantisation: &str) -> Option<LearnedPace> {
    let is =
        |known: &LearnedPace| known.device == device && known.backend == backend && known.quantisation == quantisation;
    let at = learned.iter().position(is)?;
    Some(learned.remove(at))
}

fn bounded(percent: i64) -> i64 {
    let rounded = (percent + GRAIN_PERCENT / 2) / GRAIN_PERCENT * GRAIN_PERCENT;
    rounded.clamp(*FACTOR_PERCENT.start(), *FACTOR_PERCENT.end())
}

fn halfway(from: i64, to: i64) -> i64 {
    let half = (to - from) / 2 / GRAIN_PERCENT * GRAIN_PERCENT;
    if half == 0 { to } else { from + half }
}

/// What all models together taught: the figure of the most tokens for each device and quantisation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Corrections(BTreeMap<(String, String, String), LearnedPace>);

impl Corrections {
    /// Out of what each model learned.
    pub fn of<'a>(learned: impl Iterator<Item = &'a LearnedPace>) -> Self {
        let mut best: BTreeMap<(String, String, String), LearnedPace> = BTreeMap::new();
        for learned in learned {
            let key = (
                learned.device.clone(),
                learned.backend.clone(),
                learned.quantisation.clone(),
            );
            // Of equals the larger factor: nobody is promised more than one of them saw.
            let rank = |pace: &LearnedPace| (pace.tokens, pace.factor_percent);
            if best.get(&key).is_none_or(|held| rank(held) < rank(learned)) {
                best.insert(key, learned.clone());
            }
        }
        Self(best)
    }

    /// What a device's predicted times are multiplied with, in percent.
    #[must_use]
    pub fn percent(&self, device: &str, backend: &str, quantisation: &str) -> Option<i32> {
        let key = (device.to_owned(), backend.to_owned(), quantisation.to_owned());
        self.0.get(&key).map(|learned| learned.factor_percent)
    }

    /// The graph as the next placement of a model of this quantisation shall reckon with it.
    #[must_use]
    pub fn correct(&self, mut topology: Topology, quantisation: &str) -> Topology {
        for device in &mut topology.devices {
            let Some(percent) = self.percent(&device.name, &device.backend, quantisation) else {
                continue;
            };
            let percent = u64::try_from(percent).unwrap_or(100).max(1);
            device.slow_down(percent);
        }
        topology
    }

    /// Writes beside each predicted time which correction is in it.
    pub fn note(&self, view: &mut PlacementStatus, quantisation: &str) {
        for stage in &mut view.stages {
            stage.correction_percent = self.percent(&stage.device, &stage.backend, quantisation);
        }
    }
}

/// What a model learned of the devices it is on, for a person; `None` where all came as predicted.
#[must_use]
pub fn explain(learned: &[LearnedPace], view: &PlacementStatus) -> Option<String> {
    let in_use = |pace: &&LearnedPace| view.stages.iter().any(|stage| stage.device == pace.device);
    let differs = |pace: &&LearnedPace| (i64::from(pace.factor_percent) - 100).abs() >= TOLD_PERCENT;
    let said: Vec<String> = learned.iter().filter(in_use).filter(differs).map(sentence).collect();
    if said.is_empty() {
        return None;
    }
    let more = said.len().saturating_sub(TOLD_MAX);
    let mut text = said[..said.len().min(TOLD_MAX)].join(", ");
    if more > 0 {
        text = format!("{text} and {more} more");
    }
    Some(format!("{text}; reckoned with from the next placement on"))
}

fn sentence(pace: &LearnedPace) -> String {
    let LearnedPace {
        device, factor_percent, ..
    } = pace;
    let factor = f64::from(*factor_percent) / 100.0;
    if factor >= 1.0 {
        format!("{device} measured {factor:.2} x slower than its own figures")
    } else {
        format!("{device} measured {:.2} x faster than its own figures", 1.0 / factor)
    }
}

#[cfg(test)]
mod tests;
