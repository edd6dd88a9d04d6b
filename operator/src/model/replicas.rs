//! PURE: which pipelines of a placement go on as they are, and which place new ones take.
//!
//! Each pipeline answers by itself. Where one loses a device, the others are left alone: their devices and memory are taken out
//! of the problem, and only what is missing is decided anew. A shard is known by the numbers of its pipeline and stage, so
//! pipelines keep their numbers as long as they live.

use std::collections::BTreeSet;

use crds::names::members;
use placement::{Plan, Violation, check, check_together};
use topology::HeldMemory;

use super::decide::{Known, Own, Question, World};
use super::in_force::InForce;
use super::stages::{self, StageSight};
use super::traffic::Sends;
use super::translate;

/// One pipeline of the next placement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Replica<'p> {
    /// The one in force with this number.
    Kept(usize),
    /// A new one.
    New(&'p Plan),
    /// There is none at present.
    Missing,
}

/// The pipelines in force that can go on as they are, by their numbers: so many at most. Without facts only their devices are
/// judged.
pub(super) fn going_on(
    world: &World<'_>,
    known: Known<'_>,
    in_force: &InForce,
    failing: &BTreeSet<String>,
) -> Vec<usize> {
    let devices = in_force.devices();
    let topology = world.topology(&Question {
        uid: in_force.model_uid(),
        among: Some(&devices),
        failing,
        freed: &[],
        own: None,
        facts: None,
        may_group: false,
        in_force: true,
    });
    let constraints = &known.validated.constraints;
    let takes_layers = |name: &str| {
        let device = topology.device(name);
        device.is_some_and(|device| constraints.untolerated(device).is_none())
    };
    let plans = translate::plans(in_force);
    let sights = stages::look(in_force, world.agents());
    // What fits is not moved for what was measured of it, however it stands at the moment.
    let learned = known.learned.filter(|_| sights.iter().any(StageSight::refused_memory));
    let problem = known
        .facts
        .map(|facts| translate::problem("", known.validated, facts, learned.as_ref(), topology.clone()));
    let mut going_on: Vec<usize> = Vec::new();
    let untold = |name: &str| !world.is_told_of(name);
    for (number, plan) in plans.iter().enumerate() {
        let own: Vec<&StageSight> = sights.iter().filter(|sight| sight.pipeline == number).collect();
        let is_fit = |name: &str| {
            let mut members = members(name);
            takes_layers(name) || (untold(name) && members.all(|member| untold(member) || takes_layers(member)))
        };
        if plan.stages.iter().any(|stage| untold(&stage.device)) {
            // Nothing is known of a device, or of several as one, but that they serve: their agent tells of them anew within a minute.
            if own.iter().all(|sight| sight.serves()) && plan.stages.iter().all(|stage| is_fit(&stage.device)) {
                going_on.push(number);
            }
            continue;
        }
        if plan.stages.is_empty() || !plan.stages.iter().all(|stage| takes_layers(&stage.device)) {
            continue;
        }
        let mut violations = Vec::new();
        match &problem {
            Some(Ok(problem)) => {
                let beside = going_on.iter().chain([&number]).map(|at| plans[*at].clone());
                violations = check(problem, plan);
                violations.extend(check_together(problem, &beside.collect::<Vec<_>>()));
            }
            Some(Err(_)) => continue,
            None => {}
        }
        let is_limited = known.validated.constraints.max_link_percent.is_some();
        if violations
            .iter()
            .all(|violation| is_tolerated(violation, &own, is_limited))
        {
            going_on.push(number);
        }
    }
    going_on.truncate(known.validated.replicas as usize);
    going_on
}

/// Whether a pipeline in force may have such a fault. `is_limited`: links must be left free.
fn is_tolerated(violation: &Violation, own: &[&StageSight], is_limited: bool) -> bool {
    match violation {
        // Predictions are of the day they were made.
        Violation::WrongFigure { .. } | Violation::TooSlow { .. } => true,
        // As with what is too slow: without a share it is only a rate that is missed.
        Violation::LinkOverused { .. } => !is_limited,
        // One that was refused its memory shall not try again with the same budget where more is known by now.
        Violation::StageMemory { stage, said, is } => {
            let refused = own.get(*stage).is_some_and(|sight| sight.refused_memory());
            !(refused && *is > u128::from(*said))
        }
        // Shards that serve have proved that they fit.
        Violation::DeviceMemory { .. } | Violation::PoolMemory { .. } => own.iter().all(|sight| sight.serves()),
        _ => false,
    }
}

/// Whether a placement has exactly the replicas that are asked for, and all of them go on.
#[must_use]
pub fn is_complete(in_force: &InForce, going_on: &[usize], asked: u32) -> bool {
    going_on.len() == asked as usize && in_force.replicas() == going_on.len()
}

/// What the pipelines that go on take on each device and link.
pub(super) fn own(known: Known<'_>, in_force: &InForce, going_on: &[usize]) -> Own {
    let pipelines = going_on.iter().filter_map(|number| in_force.pipelines().get(*number));
    let stages = pipelines.flat_map(|pipeline| &pipeline.stages);
    let asked = known.validated.constraints.min_tokens_per_second;
    let sends = known.facts.map(|facts| Sends::of(facts, asked));
    Own {
        memory: stages
            .map(|stage| HeldMemory {
                device: stage.device.clone(),
                bytes: stage.memory_budget_bytes,
            })
            .collect(),
        loads: sends.map_or_else(Vec::new, |sends| sends.loads_of(in_force, going_on)),
    }
}

/// Those that go on keep their numbers; new ones take the first that are free.
#[must_use]
pub fn arrange<'p>(going_on: &[usize], new: &'p [Plan]) -> Vec<Replica<'p>> {
    let mut new = new.iter();
    let mut arranged = Vec::new();
    loop {
        let number = arranged.len();
        arranged.push(if going_on.contains(&number) {
            Replica::Kept(number)
        } else if let Some(plan) = new.next() {
            Replica::New(plan)
        } else if going_on.iter().any(|other| *other > number) {
            Replica::Missing
        } else {
            return arranged;
        });
    }
}

/// Whether the next placement would have the same layers on the same devices as the one in force.
#[must_use]
pub fn is_same(next: &[Replica<'_>], in_force: &InForce) -> bool {
    let same = |(number, replica): (usize, &Replica<'_>)| match replica {
        Replica::Kept(was) => *was == number,
        Replica::New(plan) => is_plan_of(plan, in_force, number),
        Replica::Missing => in_force
            .pipelines()
            .get(number)
            .is_some_and(|old| old.stages.is_empty()),
    };
    next.len() == in_force.pipelines().len() && next.iter().enumerate().all(same)
}

/// Whether a plan has the same layers on the same devices as the pipeline of a number.
#[must_use]
pub fn is_plan_of(plan: &Plan, in_force: &InForce, number: usize) -> bool {
    let stages = in_force.pipelines().get(number).map(|pipeline| &pipeline.stages);
    let spans = stages.into_iter().flatten();
    let spans = spans.map(|s| (&s.device, s.first_layer, s.end_layer));
    spans.eq(plan.stages.iter().map(|s| (&s.device, s.first_layer, s.end_layer)))
}

/// Whether a new pipeline in the place of the same one gives more memory to a stage that failed for want of it.
#[must_use]
pub fn outgrows(next: &[Replica<'_>], in_force: &InForce, sights: &[StageSight]) -> bool {
    let grown = |sight: &StageSight| {
        let Some(Replica::New(plan)) = next.get(sight.pipeline) else {
            return false;
        };
        let held = in_force.pipelines()[sight.pipeline].stages.get(sight.stage);
        let planned = plan.stages.get(sight.stage);
        planned
            .zip(held)
            .is_some_and(|(planned, held)| planned.memory_bytes > held.memory_budget_bytes)
    };
    sights.iter().any(|sight| sight.refused_memory() && grown(sight))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(device: &str) -> Plan {
        Plan {
            stages: vec![placement::Stage {
                device: device.into(),
                node: String::new(),
                backend: String::new(),
                first_layer: 0,
                end_layer: 6,
                weight_bytes: 0,
                memory_bytes: 0,
                time_ns: 0,
                hop_ns: None,
            }],
            entry_ns: 0,
            latency_ns: 0,
            slowest_ns: 0,
        }
    }

    #[test]
    fn replicas_that_go_on_keep_their_numbers_and_new_ones_take_the_first_that_are_free() {
        let new = [plan("x"), plan("y")];
        assert_eq!(
            arrange(&[1], &new),
            [Replica::New(&new[0]), Replica::Kept(1), Replica::New(&new[1])]
        );
        assert_eq!(
            arrange(&[2], &new[..1]),
            [Replica::New(&new[0]), Replica::Missing, Replica::Kept(2)]
        );
        assert_eq!(arrange(&[0], &[]), [Replica::Kept(0)]);
        assert_eq!(arrange(&[], &[]), []);
    }
}
