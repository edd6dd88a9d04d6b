//! The rungs, and when to take the next: pure functions of what was observed.

#[cfg(test)]
mod tests;

use crate::config::KvType;

/// What has given way so far, least painful first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// Nothing.
    #[default]
    Calm,
    /// No new sequence is admitted; what runs goes on.
    AdmissionStopped,
    /// Kept prefixes are evicted too.
    EvictingPrefixes,
}

/// How short of memory a worker is, and what it gave up for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// What gives way now.
    pub rung: Rung,
    /// The KV cache was loaded in 8 bits, though configured wider.
    pub kv_quantised: bool,
    /// So many of the shard's first layers are in host memory.
    pub host_layers: u32,
}

impl Pressure {
    /// One CamelCase word: the most painful that holds; `None` where nothing was given up.
    pub fn word(&self) -> Option<&'static str> {
        match self.rung {
            Rung::EvictingPrefixes => Some("EvictingPrefixes"),
            Rung::AdmissionStopped => Some("AdmissionStopped"),
            Rung::Calm if self.host_layers > 0 => Some("LayersOnHost"),
            Rung::Calm if self.kv_quantised => Some("KvQuantised"),
            Rung::Calm => None,
        }
    }
}

/// Memory of one kind at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// What is in use, without what the kernel gives back on demand.
    pub used_bytes: u64,
    /// What may be used.
    pub limit_bytes: u64,
}

impl Usage {
    fn headroom_bytes(self) -> u64 {
        self.limit_bytes.saturating_sub(self.used_bytes)
    }
}

/// Headroom below which admission stops, in hundredths of the limit; half of it evicts prefixes.
const SHORT_PERCENT: u64 = 10;
/// What brings relief, in hundredths of what brought the rung: so that a rung is not taken and left every second.
const RELIEF_PERCENT: u64 = 150;

/// The rung for what is observed now. `settled` is the usage right after loading: a shard that fills its node by design
/// is under pressure only when what was left then shrinks to half.
pub fn next(observed: Usage, settled: Usage, rung: Rung) -> Rung {
    let short = (observed.limit_bytes / 100 * SHORT_PERCENT).min(settled.headroom_bytes() / 2);
    let headroom = observed.headroom_bytes();
    let wanted = |threshold: u64, held: bool| {
        let threshold = if held {
            threshold / 100 * RELIEF_PERCENT
        } else {
            threshold
        };
        headroom < threshold
    };
    if wanted(short / 2, rung >= Rung::EvictingPrefixes) {
        Rung::EvictingPrefixes
    } else if wanted(short, rung >= Rung::AdmissionStopped) {
        Rung::AdmissionStopped
    } else {
        Rung::Calm
    }
}

/// How a shard is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Element type of the KV cache.
    pub kv_type: KvType,
    /// First layers in host memory.
    pub host_layers: u32,
}

/// What an attempt took on the shard's device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Weights.
    pub weights_bytes: u64,
    /// KV cache.
    pub kv_bytes: u64,
    /// Compute buffers.
    pub compute_bytes: u64,
}

impl Taken {
    fn total_bytes(self) -> u64 {
        self.weights_bytes
            .saturating_add(self.kv_bytes)
            .saturating_add(self.compute_bytes)
    }
}

/// What may be taken, and what may be given up for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// 0 sets none.
    pub budget_bytes: u64,
    /// Layers of the shard.
    pub layers: u32,
    /// Whether the device is one accelerator, so that host memory is elsewhere and layers can be left there.
    pub accelerator: bool,
    /// Whether the KV cache may be quantised, which changes tokens.
    pub allow_kv_quantisation: bool,
    /// Whether layers may be left in host memory, which is slow.
    pub allow_host_layers: bool,
}

/// What follows an attempt to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It fits.
    Keep,
    /// Unload, and load like this.
    Retry(Attempt),
    /// Nothing is left to give up; why, with the numbers.
    Refuse(String),
}

/// What follows from what an attempt took; `None`: an allocation failed, so that nobody knows what it would have taken.
pub fn after_loading(taken: Option<Taken>, limits: &Limits, attempt: Attempt) -> Action {
    let over_bytes = match taken {
        Some(taken) if limits.budget_bytes == 0 || taken.total_bytes() <= limits.budget_bytes => return Action::Keep,
        Some(taken) => Some(taken.total_bytes() - limits.budget_bytes),
        None => None,
    };
    if limits.allow_kv_quantisation && attempt.kv_type != KvType::Q8_0 {
        return Action::Retry(Attempt {
            kv_type: KvType::Q8_0,
            ..attempt
        });
    }
    let left = limits.layers.saturating_sub(attempt.host_layers);
    if limits.accelerator && limits.allow_host_layers && left > 0 {
        let more = match (taken, over_bytes) {
            (Some(taken), Some(over_bytes)) => {
                let per_layer = (taken.weights_bytes.saturating_add(taken.kv_bytes) / u64::from(left)).max(1);
                u32::try_from(over_bytes.div_ceil(per_layer)).unwrap_or(u32::MAX)
            }
            // Blind: in a few steps to none.
            _ => limits.layers.div_ceil(BLIND_STEPS),
        };
        return Action::Retry(Attempt {
            host_layers: attempt.host_layers + more.clamp(1, left),
            ..attempt
        });
    }
    Action::Refuse(refusal(taken, limits, attempt))
}

/// Loads take minutes: no more than so many are tried without knowing how much is missing.
const BLIND_STEPS: u32 = 4;

fn refusal(taken: Option<Taken>, limits: &Limits, attempt: Attempt) -> String {
    let needs = match taken {
        Some(taken) => format!(
            "{} of weights, {} of KV cache and {} of compute buffers are {}, {} more than the budget of {}",
            mebibytes(taken.weights_bytes),
            mebibytes(taken.kv_bytes),
            mebibytes(taken.compute_bytes),
            mebibytes(taken.total_bytes()),
            mebibytes(taken.total_bytes().saturating_sub(limits.budget_bytes)),
            mebibytes(limits.budget_bytes)
        ),
        None => format!(
            "an allocation failed within the budget of {}",
            mebibytes(limits.budget_bytes)
        ),
    };
    let mut remedies = vec!["lower contextLength, parallelSequences or kvCacheTokens"];
    if attempt.kv_type != KvType::Q8_0 {
        remedies.push("choose kvType q8_0");
    }
    if limits.accelerator && !limits.allow_host_layers {
        remedies.push("allow layers in host memory");
    }
    format!("{needs}; {}", remedies.join(", "))
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
