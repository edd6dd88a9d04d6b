//! Why one plan was preferred to another, in a sentence.

use std::collections::BTreeSet;

use crate::{Objective, Plan, Problem, text};

/// Devices named in one sentence; the rest are counted.
const MAX_NAMED: usize = 3;

/// Why `other` was not chosen: what it costs more, where, and on which devices.
///
/// "17010 us more per token (stages +16480, hops +530): big-cpu0 in place of old-cuda0".
pub fn why_not(problem: &Problem, chosen: &Plan, other: &Plan) -> String {
    let parts = |plan: &Plan| {
        let stages_ns = plan.stages.iter().map(|s| s.time_ns).fold(0, u64::saturating_add);
        (stages_ns, plan.latency_ns.saturating_sub(stages_ns))
    };
    let ((stages, hops), (other_stages, other_hops)) = (parts(chosen), parts(other));
    let slower = other.slowest_ns > chosen.slowest_ns;
    let why = if problem.objective == Objective::Throughput && slower {
        format!(
            "its slowest part takes {} us, not {}",
            text::us(other.slowest_ns),
            text::us(chosen.slowest_ns)
        )
    } else if other.latency_ns > chosen.latency_ns {
        format!(
            "{} us more per token (stages {}, hops {})",
            text::us(other.latency_ns - chosen.latency_ns),
            change(stages, other_stages),
            change(hops, other_hops),
        )
    } else if other.latency_ns == chosen.latency_ns {
        "as fast for one token".to_owned()
    } else {
        "more layers would move to it".to_owned()
    };
    match exchanged(chosen, other) {
        Some(devices) => format!("{why}: {devices}"),
        None => why,
    }
}

fn change(from_ns: u64, to_ns: u64) -> String {
    if to_ns >= from_ns {
        format!("+{}", text::us(to_ns - from_ns))
    } else {
        format!("-{}", text::us(from_ns - to_ns))
    }
}

/// "a in place of b", "a besides", "without b".
fn exchanged(chosen: &Plan, other: &Plan) -> Option<String> {
    let devices = |plan: &Plan| plan.stages.iter().map(|s| s.device.clone()).collect::<BTreeSet<_>>();
    let (ours, theirs) = (devices(chosen), devices(other));
    let more = joined(&theirs.difference(&ours).collect::<Vec<_>>());
    let less = joined(&ours.difference(&theirs).collect::<Vec<_>>());
    match (more.is_empty(), less.is_empty()) {
        (false, false) => Some(format!("{more} in place of {less}")),
        (false, true) => Some(format!("{more} besides")),
        (true, false) => Some(format!("without {less}")),
        (true, true) => None,
    }
}

/// "a, b and 7 more".
fn joined(devices: &[&String]) -> String {
    let named: Vec<&str> = devices.iter().take(MAX_NAMED).map(|name| name.as_str()).collect();
    match devices.len().saturating_sub(MAX_NAMED) {
        0 => named.join(" and "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

#[cfg(test)]
mod tests;
