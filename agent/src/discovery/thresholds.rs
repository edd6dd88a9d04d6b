//! What is worth a write to the API server, in one table.
//!
//! A status is written when something in it changed that somebody acts on, and at once. Readings drift all the time: they
//! are written when they are further from what was written last than the table allows, have been so for [`LASTING`], and not
//! sooner than [`CALM`] after the last write of the same device. An idle device therefore writes nothing at all, nor does one
//! that its own test wakes for seconds; every reading is in the metrics.

use crds::DeviceGPUStateStatus;
use crds::conditions::{self, device as kind};
use std::time::Duration;

/// Between two writes of one device that nobody waits for.
pub const CALM: Duration = Duration::from_secs(60);
/// How long a drift has to stay. A card that was tested draws more than at rest for that and some ten seconds after.
pub const LASTING: Duration = Duration::from_secs(20);

/// How far a reading may drift from what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drift {
    /// By less than so many of the field's own unit.
    Units(i64),
    /// By less than so many hundredths of the device's memory.
    PercentOfMemory(i64),
    /// By less than so many hundredths of what was written, and in any case by less than so many units.
    Percent(i64, i64),
}

/// One field that drifts.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// As the API names it.
    pub name: &'static str,
    /// From where on it is news.
    pub drift: Drift,
    /// Whether the news is for placement, which must not wait.
    pub urgent: bool,
    read: fn(&DeviceGPUStateStatus) -> Option<i64>,
    take: fn(&mut DeviceGPUStateStatus, &DeviceGPUStateStatus),
}

/// Every field that drifts. All others are news whenever they change.
pub const FIELDS: [Field; 7] = [
    Field {
        name: "memoryUsableBytes",
        drift: Drift::PercentOfMemory(5),
        urgent: true,
        read: |status| Some(status.memory_usable_bytes),
        take: |to, from| to.memory_usable_bytes = from.memory_usable_bytes,
    },
    Field {
        name: "memoryFreeBytes",
        drift: Drift::PercentOfMemory(10),
        urgent: false,
        read: |status| Some(status.memory_free_bytes),
        take: |to, from| to.memory_free_bytes = from.memory_free_bytes,
    },
    Field {
        name: "memoryUsedByUsBytes",
        drift: Drift::PercentOfMemory(10),
        urgent: false,
        read: |status| status.memory_used_by_us_bytes,
        take: |to, from| to.memory_used_by_us_bytes = from.memory_used_by_us_bytes,
    },
    Field {
        name: "memoryUsedByOthersBytes",
        drift: Drift::PercentOfMemory(10),
        urgent: false,
        read: |status| status.memory_used_by_others_bytes,
        take: |to, from| to.memory_used_by_others_bytes = from.memory_used_by_others_bytes,
    },
    Field {
        name: "temperatureCelsius",
        drift: Drift::Units(5),
        urgent: false,
        read: |status| status.temperature_celsius.map(i64::from),
        take: |to, from| to.temperature_celsius = from.temperature_celsius,
    },
    Field {
        name: "powerWatts",
        drift: Drift::Percent(20, 10),
        urgent: false,
        read: |status| status.power_watts.map(i64::from),
        take: |to, from| to.power_watts = from.power_watts,
    },
    Field {
        name: "utilisationPercent",
        drift: Drift::Units(25),
        urgent: false,
        read: |status| status.utilisation_percent.map(i64::from),
        take: |to, from| to.utilisation_percent = from.utilisation_percent,
    },
];

/// How much a status is worth a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum News {
    /// Nothing that anybody would act on.
    None,
    /// A reading that went far: once it has been so for [`LASTING`] and [`CALM`] has passed since the last write.
    CanWait,
    /// At once.
    Urgent,
}

/// Compares a status with the one that was written last. What changed in words only can wait, as can throttling, which
/// comes and goes with the load.
pub fn news(written: &DeviceGPUStateStatus, now: &DeviceGPUStateStatus) -> News {
    let mut calm = now.clone();
    let mut drifted = News::None;
    for field in FIELDS {
        if far(&field, written, now) {
            let news = if field.urgent { News::Urgent } else { News::CanWait };
            drifted = drifted.max(news);
        }
        (field.take)(&mut calm, written);
    }
    if calm == *written {
        return drifted;
    }
    calm.throttle_reasons.clone_from(&written.throttle_reasons);
    for condition in &mut calm.conditions {
        let Some(before) = conditions::find(&written.conditions, &condition.type_) else {
            continue;
        };
        let same = condition.status == before.status && condition.reason == before.reason;
        let generation = condition.observed_generation;
        if same || condition.type_ == kind::THROTTLED {
            condition.clone_from(before);
            condition.observed_generation = generation;
        }
    }
    if calm == *written { News::CanWait } else { News::Urgent }
}

fn far(field: &Field, written: &DeviceGPUStateStatus, now: &DeviceGPUStateStatus) -> bool {
    let (before, after) = match ((field.read)(written), (field.read)(now)) {
        (Some(before), Some(after)) => (before, after),
        (before, after) => return before != after,
    };
    let moved = before.abs_diff(after);
    let least = match field.drift {
        Drift::Units(units) => units,
        Drift::PercentOfMemory(percent) => hundredths(now.memory_total_bytes, percent),
        Drift::Percent(percent, units) => hundredths(before, percent).max(units),
    };
    moved > 0 && moved >= u64::try_from(least).unwrap_or(0)
}

fn hundredths(of: i64, percent: i64) -> i64 {
    let product = i128::from(of) * i128::from(percent) / 100;
    i64::try_from(product).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
