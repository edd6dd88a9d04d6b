//! The smallest single change after which there is a plan.

use super::lifted::{ENDLESS_BYTES, Lifted, add_memory, add_memory_on, feasible_without, has_plan};
use crate::{Infeasible, Problem, domain::eligible, text};

/// How exactly missing memory is told.
const MISSING_STEP_BYTES: u64 = 1 << 20;

/// Devices that are asked whether more memory there alone would do: the largest.
const MAX_ASKED: usize = 16;

/// Changes that are told.
const MAX_TOLD: usize = 3;

/// "it would fit without maxDevices 1, or with 2.1 GiB more on node-a-gpu0": each by itself; `None` where no single change is enough,
/// or the reason says it already.
pub(super) fn remedy(problem: &Problem, infeasible: &Infeasible) -> Option<String> {
    if *infeasible == Infeasible::NoLayers {
        return None;
    }
    let enough = |lifted: &Lifted| feasible_without(problem, &[*lifted]);
    let mut ways: Vec<String> = match infeasible {
        // The constraints that clash are named, each of which would do.
        Infeasible::NoPlan if !feasible_without(problem, &[Lifted::Memory]) => Vec::new(),
        _ => {
            let all = Lifted::all(problem).into_iter();
            all.filter(enough).map(|lifted| lifted.change(problem)).collect()
        }
    };
    ways.truncate(MAX_TOLD - 1);
    if let Some((device, bytes)) = least_on_one_device(problem) {
        ways.push(format!("with {} more on {device}", text::bytes(bytes)));
    }
    (!ways.is_empty()).then(|| format!("it would fit {}", ways.join(", or ")))
}

/// The device on which the least more memory is enough, and how much.
fn least_on_one_device(problem: &Problem) -> Option<(&str, u64)> {
    let suffices = |device: usize, steps: u64| {
        let mut eased = problem.clone();
        add_memory_on(&mut eased, device, steps * MISSING_STEP_BYTES);
        has_plan(&eased)
    };
    let mut asked = eligible(problem);
    asked.retain(|device| !problem.topology.devices[*device].is_group());
    asked.sort_by_key(|device| {
        (
            std::cmp::Reverse(problem.topology.devices[*device].usable_bytes),
            *device,
        )
    });
    asked.truncate(MAX_ASKED);
    let mut best: Option<(usize, u64)> = None;
    for device in asked {
        // Only what is less than the best so far is of interest.
        let most = best.map_or(ENDLESS_BYTES / MISSING_STEP_BYTES, |(_, steps)| steps - 1);
        if most > 0 && suffices(device, most) {
            best = Some((device, least(most, |steps| suffices(device, steps))));
        }
    }
    let (device, steps) = best?;
    Some((&problem.topology.devices[device].name, steps * MISSING_STEP_BYTES))
}

/// The least memory, on every device and in every pool, with which a plan is found.
pub(super) fn missing_on_each_device(problem: &Problem) -> Option<u64> {
    let suffices = |steps: u64| {
        let mut eased = problem.clone();
        add_memory(&mut eased, steps * MISSING_STEP_BYTES);
        has_plan(&eased)
    };
    let most = ENDLESS_BYTES / MISSING_STEP_BYTES;
    suffices(most).then(|| least(most, suffices) * MISSING_STEP_BYTES)
}

/// The least number that suffices, where `enough` does.
fn least(mut enough: u64, suffices: impl Fn(u64) -> bool) -> u64 {
    let mut too_few = 0;
    while enough - too_few > 1 {
        let middle = too_few + (enough - too_few) / 2;
        if suffices(middle) {
            enough = middle;
        } else {
            too_few = middle;
        }
    }
    enough
}
