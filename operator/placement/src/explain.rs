//! Why there is no plan, as the smallest fact that would change it.

mod lifted;
mod links;
mod remedy;

use crate::{
    Infeasible, Problem,
    domain::{Refusal, refusals},
    text,
};
use lifted::{Lifted, feasible_without, smallest_clash};
use remedy::{missing_on_each_device, remedy};
use topology::reason;

/// Devices named in one message; the rest are counted.
const MAX_NAMED: usize = 4;

/// Why there is no plan, for a condition and for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// One CamelCase word, of [`reason`].
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
/// lifted one after the other until those remain that clash. Last come the smallest changes each of which is enough by itself, as far
/// as there are any: one constraint less, or memory on one device. The work is limited.
pub fn explain(problem: &Problem, infeasible: &Infeasible) -> Explanation {
    let mut explanation = why(problem, infeasible);
    if let Some(remedy) = remedy(problem, infeasible) {
        explanation.message = format!("{}; {remedy}", explanation.message);
    }
    explanation
}

fn why(problem: &Problem, infeasible: &Infeasible) -> Explanation {
    match infeasible {
        Infeasible::NoLayers => Explanation::new(reason::TOO_FEW_LAYERS, "the model has no layers".to_owned()),
        Infeasible::MinAboveMax { min, max } => Explanation::new(
            reason::CONSTRAINTS_CLASH,
            format!("minDevices is {min} and maxDevices is {max}: no number of devices is allowed"),
        ),
        Infeasible::TooFewDevices { needed, usable } => Explanation::new(
            reason::TOO_FEW_DEVICES,
            format!(
                "needs {}, {}",
                counted(*needed, "device"),
                usable_and_why_not(problem, *usable)
            ),
        ),
        Infeasible::TooFewSegments { needed, segments } => Explanation::new(
            reason::TOO_FEW_LAYERS,
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
            reason::SEARCH_EXHAUSTED,
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
        return Explanation::new(reason::PIN_UNSATISFIABLE, format!("pinnedLayers[{pin}] does not exist"));
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
        reason::PIN_UNSATISFIABLE,
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
        reason: reason::INSUFFICIENT_MEMORY,
        message: format!(
            "{} short: the model needs {} {place} and {} are usable{rest}",
            text::bytes(missing_bytes),
            text::bytes(needed_bytes),
            text::bytes(usable_bytes),
        ),
        missing_bytes: Some(missing_bytes),
    }
}

/// Nothing is missing that a sum could show: asks which constraints, lifted, would leave a plan.
fn explain_clash(problem: &Problem) -> Explanation {
    let full = links::full(problem);
    if full.is_none()
        && feasible_without(problem, &[Lifted::Memory])
        && let Some(missing_bytes) = missing_on_each_device(problem)
    {
        return Explanation {
            reason: reason::INSUFFICIENT_MEMORY,
            message: format!(
                "{} short on each device: the model's parts cannot be divided so that every one fits beside the others",
                text::bytes(missing_bytes)
            ),
            missing_bytes: Some(missing_bytes),
        };
    }
    let clashing = smallest_clash(problem);
    let names: Vec<String> = clashing.iter().map(|lifted| lifted.name(problem)).collect();
    let only_pins = clashing.iter().all(|lifted| matches!(lifted, Lifted::Pin(_)));
    let reason = if only_pins && !clashing.is_empty() {
        reason::PIN_UNSATISFIABLE
    } else {
        reason::CONSTRAINTS_CLASH
    };
    let mut message = match names.as_slice() {
        [] => "the layers cannot be cut and placed as the model allows".to_owned(),
        [one] => format!("no plan meets {one}; without it there is one"),
        several => format!(
            "no plan meets all of: {}; without any one of them there is one",
            several.join(", ")
        ),
    };
    if let Some(full) = full {
        message = format!("{message}; {full}");
    }
    Explanation::new(reason, message)
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
