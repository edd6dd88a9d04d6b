//! Why there is no plan, as the smallest fact that would change it.

use crate::{
    Infeasible, Problem,
    domain::{Refusal, refusals},
    solve::is_feasible,
    text,
};

/// Steps of the search for each "and what if" that is asked.
const STEPS_PER_QUESTION: u64 = 20_000;

/// Memory that is as good as endless, and far from overflow when added up.
const ENDLESS_BYTES: u64 = 1 << 55;

/// How exactly missing memory is told.
const MISSING_STEP_BYTES: u64 = 1 << 20;

/// Devices named in one message; the rest are counted.
const MAX_NAMED: usize = 4;

/// Why there is no plan, for a condition and for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// One CamelCase word: InsufficientMemory, TooFewDevices, TooFewLayers, PinUnsatisfiable, ConstraintsClash, SearchExhausted.
    pub reason: &'static str,
    pub message: String,
    /// Memory that is missing, where that is the cause.
    pub missing_bytes: Option<u64>,
}

impl Explanation {
    fn new(reason: &'static str, message: String) -> Self {
        Self {
            reason,
            message,
            missing_bytes: None,
        }
    }
}

/// Says what would have to change for a plan to exist.
///
/// `infeasible` is what [`crate::solve`] gave for the same problem. Where no single fact shows on the surface, constraints are
/// lifted one after the other until those remain that clash; the work is limited.
pub fn explain(problem: &Problem, infeasible: &Infeasible) -> Explanation {
    match infeasible {
        Infeasible::NoLayers => Explanation::new("TooFewLayers", "the model has no layers".to_owned()),
        Infeasible::MinAboveMax { min, max } => Explanation::new(
            "ConstraintsClash",
            format!("minDevices is {min} and maxDevices is {max}: no number of devices is allowed"),
        ),
        Infeasible::TooFewDevices { needed, usable } => Explanation::new(
            "TooFewDevices",
            format!(
                "needs {}, {}",
                counted(*needed, "device"),
                usable_and_why_not(problem, *usable)
            ),
        ),
        Infeasible::TooFewSegments { needed, segments } => Explanation::new(
            "TooFewLayers",
            format!(
                "needs {}, one part of the model each, and its {} can be cut into {} at most",
                counted(*needed, "device"),
                counted(count(problem.model.layers.len()), "layer"),
                counted(*segments, "part"),
            ),
        ),
        Infeasible::PinUnmatched { pin } => explain_pin(problem, *pin),
        Infeasible::Memory {
            needed_bytes,
            usable_bytes,
            devices,
        } => explain_memory(problem, *needed_bytes, *usable_bytes, *devices),
        Infeasible::NoPlan => explain_clash(problem),
        Infeasible::Exhausted { steps } => Explanation::new(
            "SearchExhausted",
            format!(
                "no plan was found in {steps} steps of the search, and none was excluded: ease a constraint or add a device"
            ),
        ),
    }
}

fn usable_and_why_not(problem: &Problem, usable: u32) -> String {
    let is = if usable == 1 { "is" } else { "are" };
    let refused = named(&refusals(problem));
    let why_not = if refused.is_empty() {
        "no other device is reported".to_owned()
    } else {
        refused
    };
    format!("{usable} {is} usable: {why_not}")
}

fn explain_pin(problem: &Problem, pin: usize) -> Explanation {
    let Some(wanted) = problem.constraints.pinned_layers.get(pin) else {
        return Explanation::new("PinUnsatisfiable", format!("pinnedLayers[{pin}] does not exist"));
    };
    let mut matching = refusals(problem);
    matching.retain(|r| wanted.matches_parts(&r.backend, &r.node, &r.device));
    let refused = named(&matching);
    let why = if refused.is_empty() {
        "none is reported".to_owned()
    } else {
        refused
    };
    Explanation::new(
        "PinUnsatisfiable",
        format!("pinnedLayers[{pin}] wants {wanted} and no usable device is there: {why}"),
    )
}

fn explain_memory(problem: &Problem, needed_bytes: u64, usable_bytes: u64, devices: u32) -> Explanation {
    let missing_bytes = needed_bytes.saturating_sub(usable_bytes);
    let place = match problem.constraints.max_devices {
        Some(max) => format!("in at most {}", counted(max, "device")),
        None => format!("on {}", counted(devices, "device")),
    };
    let refused = named(&refusals(problem));
    let rest = if refused.is_empty() {
        String::new()
    } else {
        format!("; {refused}")
    };
    Explanation {
        reason: "InsufficientMemory",
        message: format!(
            "{} short: the model needs {} {place} and {} are usable{rest}",
            text::bytes(missing_bytes),
            text::bytes(needed_bytes),
            text::bytes(usable_bytes),
        ),
        missing_bytes: Some(missing_bytes),
    }
}

/// A constraint that can be lifted to see whether it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lifted {
    Memory,
    MaxDevices,
    MinDevices,
    Rate,
    Pin(usize),
}

/// Nothing is missing that a sum could show: asks which constraints, lifted, would leave a plan.
fn explain_clash(problem: &Problem) -> Explanation {
    if feasible_without(problem, &[Lifted::Memory])
        && let Some(missing_bytes) = missing_on_each_device(problem)
    {
        return Explanation {
            reason: "InsufficientMemory",
            message: format!(
                "{} short on each device: the model's parts cannot be divided so that every one fits beside the others",
                text::bytes(missing_bytes)
            ),
            missing_bytes: Some(missing_bytes),
        };
    }
    let clashing = smallest_clash(problem);
    let names: Vec<String> = clashing.iter().map(|lifted| name(problem, *lifted)).collect();
    let only_pins = clashing.iter().all(|lifted| matches!(lifted, Lifted::Pin(_)));
    let reason = if only_pins && !clashing.is_empty() {
        "PinUnsatisfiable"
    } else {
        "ConstraintsClash"
    };
    let message = match names.as_slice() {
        [] => "the layers cannot be cut and placed as the model allows".to_owned(),
        [one] => format!("no plan meets {one}; without it there is one"),
        several => format!(
            "no plan meets all of: {}; without any one of them there is one",
            several.join(", ")
        ),
    };
    Explanation::new(reason, message)
}

/// Lifts constraints as long as the rest still clash: what remains is needed for the clash, every part of it.
fn smallest_clash(problem: &Problem) -> Vec<Lifted> {
    let pins = (0..problem.constraints.pinned_layers.len()).map(Lifted::Pin);
    let all = [Lifted::Memory, Lifted::MaxDevices, Lifted::MinDevices, Lifted::Rate]
        .into_iter()
        .chain(pins);
    let mut lifted: Vec<Lifted> = Vec::new();
    let mut kept: Vec<Lifted> = Vec::new();
    for constraint in all {
        lifted.push(constraint);
        if feasible_without(problem, &lifted) {
            lifted.pop();
            kept.push(constraint);
        }
    }
    kept
}

fn feasible_without(problem: &Problem, lifted: &[Lifted]) -> bool {
    let mut eased = problem.clone();
    for constraint in lifted {
        match constraint {
            Lifted::Memory => add_memory(&mut eased, ENDLESS_BYTES),
            Lifted::MaxDevices => eased.constraints.max_devices = None,
            Lifted::MinDevices => eased.constraints.min_devices = 1,
            Lifted::Rate => eased.constraints.min_tokens_per_second = None,
            Lifted::Pin(pin) => {
                if let Some(pin) = eased.constraints.pinned_layers.get_mut(*pin) {
                    (pin.min_layers, pin.max_layers) = (0, None);
                }
            }
        }
    }
    is_feasible(&eased, STEPS_PER_QUESTION) == Some(true)
}

/// The least memory, on every device and in every pool, with which a plan is found.
fn missing_on_each_device(problem: &Problem) -> Option<u64> {
    let suffices = |steps: u64| {
        let mut eased = problem.clone();
        add_memory(&mut eased, steps * MISSING_STEP_BYTES);
        is_feasible(&eased, STEPS_PER_QUESTION) == Some(true)
    };
    let (mut too_few, mut enough) = (0, ENDLESS_BYTES / MISSING_STEP_BYTES);
    if !suffices(enough) {
        return None;
    }
    while enough - too_few > 1 {
        let middle = too_few + (enough - too_few) / 2;
        if suffices(middle) {
            enough = middle;
        } else {
            too_few = middle;
        }
    }
    Some(enough * MISSING_STEP_BYTES)
}

/// More memory on every device; a pool grows by as much for each of its devices.
fn add_memory(problem: &mut Problem, bytes: u64) {
    for device in &mut problem.topology.devices {
        device.usable_bytes = device.usable_bytes.saturating_add(bytes);
        if let Some(pool) = problem.topology.pools.get_mut(device.pool) {
            pool.usable_bytes = pool.usable_bytes.saturating_add(bytes);
        }
    }
}

fn name(problem: &Problem, lifted: Lifted) -> String {
    let constraints = &problem.constraints;
    match lifted {
        Lifted::Memory => "the memory of the devices".to_owned(),
        Lifted::MaxDevices => format!("maxDevices {}", constraints.max_devices.unwrap_or(u32::MAX)),
        Lifted::MinDevices => format!("minDevices {}", constraints.min_devices),
        Lifted::Rate => format!("minTokensPerSecond {}", constraints.min_tokens_per_second.unwrap_or(0)),
        Lifted::Pin(pin) => match constraints.pinned_layers.get(pin) {
            Some(wanted) => format!("pinnedLayers[{pin}] ({wanted})"),
            None => format!("pinnedLayers[{pin}]"),
        },
    }
}

/// "a is cordoned; b is not verified; and 2 more".
fn named(refused: &[Refusal]) -> String {
    let mut parts: Vec<String> = refused
        .iter()
        .take(MAX_NAMED)
        .map(|r| format!("{} {}", r.device, r.why))
        .collect();
    if refused.len() > MAX_NAMED {
        parts.push(format!("and {} more take no layers", refused.len() - MAX_NAMED));
    }
    parts.join("; ")
}

/// "1 device", "3 devices".
fn counted(number: u32, what: &str) -> String {
    if number == 1 {
        format!("1 {what}")
    } else {
        format!("{number} {what}s")
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
