//! The decision: a guess, then the search, then what is known of the result.

use std::fmt;

use crate::{
    Objective, Plan, Problem, Stage,
    cost::{Goal, NEVER_NS},
    domain::Domain,
    greedy::{Found, greedy},
    search::{root_bound_ns, search},
    spans::Work,
};

/// How much a decision may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Steps of the search, each one device tried at the end of one order. Zero: the guess alone.
    pub nodes: u64,
}

impl Default for Budget {
    /// Enough for every order of eight devices (109,600 of them), twice over for the two passes of a throughput objective;
    /// few enough to end within seconds whatever the problem.
    fn default() -> Self {
        Self { nodes: 400_000 }
    }
}

/// A plan and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Solution {
    pub plan: Plan,
    pub verdict: Verdict,
    /// The best plan found on another set of devices, for people.
    pub runner_up: Option<Plan>,
    /// Steps of the search that were taken.
    pub explored: u64,
}

/// How good a plan is known to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No plan costs less.
    Optimal,
    /// The search stopped early; no plan costs less than this one by more than the gap.
    Feasible { gap_percent: u32 },
    /// A guess; nothing is known of better plans.
    Greedy,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Optimal => f.write_str("Optimal"),
            Self::Feasible { gap_percent } => write!(f, "Feasible, at most {gap_percent} % above the best possible"),
            Self::Greedy => f.write_str("Greedy"),
        }
    }
}

/// There is no plan. Every variant but [`Infeasible::Exhausted`] is a proof. [`crate::explain`] says what would help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Infeasible {
    #[error("the model has no layers")]
    NoLayers,
    #[error("{needed} devices are needed and {usable} are usable")]
    TooFewDevices { needed: u32, usable: u32 },
    #[error("{needed} stages are needed and the model can be cut into {segments}")]
    TooFewSegments { needed: u32, segments: u32 },
    #[error("minDevices is {min} and maxDevices is {max}")]
    MinAboveMax { min: u32, max: u32 },
    #[error("no usable device matches pinnedLayers[{pin}]")]
    PinUnmatched { pin: usize },
    /// Not even if layers could be divided at will.
    #[error("{needed_bytes} bytes are needed and {usable_bytes} are usable on {devices} devices")]
    Memory {
        needed_bytes: u64,
        usable_bytes: u64,
        devices: u32,
    },
    /// Each constraint can be met alone; all of them cannot be met together.
    #[error("no order of devices and no cut of the layers meets every constraint")]
    NoPlan,
    /// The budget ended before a plan was found or excluded.
    #[error("no plan was found within {nodes} steps of the search")]
    Exhausted { nodes: u64 },
}

/// Decides where the layers of a model run.
///
/// The plan respects every constraint of the problem; [`crate::check`] says so independently. The same problem and budget always
/// give the same answer.
pub fn solve(problem: &Problem, budget: Budget) -> Result<Solution, Infeasible> {
    if problem.model.layers.is_empty() {
        return Err(Infeasible::NoLayers);
    }
    let domain = Domain::new(problem);
    obvious(&domain)?;
    let outcome = best(&domain, budget.nodes, None);
    let Some(found) = outcome.found else {
        let proved = outcome.complete && !domain.truncated;
        return Err(if proved {
            Infeasible::NoPlan
        } else {
            Infeasible::Exhausted { nodes: budget.nodes }
        });
    };
    // The second best is worth a fraction of the work: it only informs.
    let other = best(&domain, budget.nodes / 8, Some(found.members()));
    Ok(Solution {
        plan: plan(&domain, &found),
        verdict: verdict(&domain, budget, outcome.complete, outcome.gap_percent),
        runner_up: other.found.map(|found| plan(&domain, &found)),
        explored: outcome.explored,
    })
}

/// Whether a plan exists: `None` if the budget does not suffice to tell.
pub(crate) fn is_feasible(problem: &Problem, nodes: u64) -> Option<bool> {
    if problem.model.layers.is_empty() {
        return Some(false);
    }
    let domain = Domain::new(problem);
    if obvious(&domain).is_err() {
        return Some(false);
    }
    let goal = Goal::Sum { cap_ns: NEVER_NS };
    if greedy(&domain, goal, None).is_some() {
        return Some(true);
    }
    let mut work = Work::new(nodes);
    let found = search(&domain, goal, None, None, &mut work).is_some();
    if found || (work.complete() && !domain.truncated) {
        Some(found)
    } else {
        None
    }
}

struct Outcome {
    found: Option<Found>,
    complete: bool,
    gap_percent: u32,
    explored: u64,
}

fn best(domain: &Domain<'_>, nodes: u64, forbidden: Option<u64>) -> Outcome {
    match domain.problem.objective {
        Objective::Latency => pass(domain, Goal::Sum { cap_ns: NEVER_NS }, nodes, forbidden, None),
        Objective::Throughput => {
            // First the slowest part alone, then the least latency that keeps it.
            let first = pass(domain, Goal::Slowest, nodes / 2, forbidden, None);
            let Some(slowest) = first.found else { return first };
            let goal = Goal::Sum {
                cap_ns: slowest.cost_ns,
            };
            let second = pass(domain, goal, nodes / 2, forbidden, Some(&slowest));
            Outcome {
                found: second.found.or(Some(slowest)),
                complete: first.complete && second.complete,
                gap_percent: if first.complete {
                    second.gap_percent
                } else {
                    first.gap_percent
                },
                explored: first.explored + second.explored,
            }
        }
    }
}

/// One guess and one search. A plan of an earlier pass serves as a guess where no better one is found.
fn pass(domain: &Domain<'_>, goal: Goal, nodes: u64, forbidden: Option<u64>, earlier: Option<&Found>) -> Outcome {
    let earlier = earlier.map(|found| Found {
        cost_ns: plan(domain, found).latency_ns,
        ..found.clone()
    });
    let guess = [greedy(domain, goal, forbidden), earlier]
        .into_iter()
        .flatten()
        .min_by_key(|f| f.cost_ns);
    let mut work = Work::new(nodes);
    let found = search(domain, goal, guess, forbidden, &mut work);
    let cost_ns = found.as_ref().map_or(NEVER_NS, |f| f.cost_ns);
    Outcome {
        gap_percent: gap_percent(cost_ns, work.open_ns.max(root_bound_ns(domain, goal))),
        complete: work.complete(),
        explored: work.spent,
        found,
    }
}

/// How much more than the bound the cost is, rounded up.
fn gap_percent(cost_ns: u64, bound_ns: u64) -> u32 {
    let above = u128::from(cost_ns.saturating_sub(bound_ns)) * 100;
    u32::try_from(above.div_ceil(u128::from(bound_ns.max(1)))).unwrap_or(u32::MAX)
}

fn verdict(domain: &Domain<'_>, budget: Budget, complete: bool, gap_percent: u32) -> Verdict {
    if domain.truncated || (budget.nodes == 0 && !complete) {
        Verdict::Greedy
    } else if complete {
        Verdict::Optimal
    } else {
        Verdict::Feasible { gap_percent }
    }
}

/// Facts that exclude every plan and need no search.
fn obvious(domain: &Domain<'_>) -> Result<(), Infeasible> {
    let constraints = &domain.problem.constraints;
    let needed = constraints.min_devices.max(1);
    if let Some(max) = constraints.max_devices.filter(|max| *max < needed) {
        return Err(Infeasible::MinAboveMax { min: needed, max });
    }
    let usable = count(domain.candidates.len());
    if usable < needed && !domain.truncated {
        return Err(Infeasible::TooFewDevices { needed, usable });
    }
    let segments = count(domain.boundary.iter().filter(|b| **b).count().saturating_sub(1));
    if segments < needed {
        return Err(Infeasible::TooFewSegments { needed, segments });
    }
    let mut pins = constraints.pinned_layers.iter().zip(&domain.pin_members);
    if let Some(pin) = pins.position(|(pin, members)| pin.min_layers > 0 && *members == 0) {
        return Err(Infeasible::PinUnmatched { pin });
    }
    memory(domain)
}

/// Compares what the model needs in any division with the most that the best devices can take.
fn memory(domain: &Domain<'_>) -> Result<(), Infeasible> {
    let room = |usable_bytes: u64, overhead_bytes: u64| Room {
        content_bytes: usable_bytes.saturating_sub(overhead_bytes),
        usable_bytes,
        overhead_bytes,
    };
    let devices = domain
        .candidates
        .iter()
        .map(|c| room(c.usable_bytes, c.overhead_bytes))
        .collect();
    let mut pools: Vec<Room> = Vec::new();
    for pool in 0..domain.problem.topology.pools.len() {
        let members = || domain.candidates.iter().filter(|c| c.pool == pool);
        if let Some(overhead_bytes) = members().map(|c| c.overhead_bytes).min() {
            let sum_bytes = members().map(|c| c.usable_bytes).fold(0_u64, u64::saturating_add);
            pools.push(room(sum_bytes.min(domain.pool_bytes(pool)), overhead_bytes));
        }
    }
    let content_bytes = domain.content_bytes[domain.layers].saturating_add(domain.tail_bytes);
    for mut rooms in [devices, pools] {
        rooms.sort_by(|a, b| b.cmp(a));
        rooms.truncate(domain.max_stages);
        let sum = |part: fn(&Room) -> u64, rooms: &[Room]| rooms.iter().map(part).fold(0_u64, u64::saturating_add);
        if sum(|r| r.content_bytes, &rooms) < content_bytes {
            // Devices too small for any layer do not help; the largest of them stands for itself if there is no other.
            let helpful = rooms.iter().filter(|r| r.content_bytes > 0).count().max(1);
            rooms.truncate(helpful);
            return Err(Infeasible::Memory {
                needed_bytes: content_bytes.saturating_add(sum(|r| r.overhead_bytes, &rooms)),
                usable_bytes: sum(|r| r.usable_bytes, &rooms),
                devices: count(rooms.len()),
            });
        }
    }
    Ok(())
}

/// What a device or a pool can take of a model, at most; compared by what is left for its layers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Room {
    content_bytes: u64,
    usable_bytes: u64,
    overhead_bytes: u64,
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Writes down what was found, with its predictions.
fn plan(domain: &Domain<'_>, found: &Found) -> Plan {
    let model = &domain.problem.model;
    let mut stages = Vec::with_capacity(found.order.len());
    let mut pool_ns = vec![0_u64; domain.problem.topology.pools.len()];
    let mut slowest_ns = 0;
    let mut first = 0;
    for (s, (candidate, end)) in found.order.iter().zip(&found.ends).enumerate() {
        let device = domain.device(*candidate);
        let next = found.order.get(s + 1);
        let time_ns = domain.time_ns(*candidate, first, *end);
        if let Some(ns) = pool_ns.get_mut(device.pool) {
            *ns = ns.saturating_add(time_ns);
        }
        slowest_ns = slowest_ns.max(next.map_or(0, |next| domain.carry_ns[*candidate][*next]));
        let layers = model.layers[first..*end].iter();
        let mut weight_bytes = layers.map(|l| l.weight_bytes).fold(0_u64, u64::saturating_add);
        if s == 0 {
            weight_bytes = weight_bytes.saturating_add(model.embedding_bytes);
        }
        if next.is_none() {
            weight_bytes = weight_bytes.saturating_add(model.output_bytes);
        }
        stages.push(Stage {
            device: device.name.clone(),
            node: device.node.clone(),
            backend: device.backend.clone(),
            first_layer: count(first),
            end_layer: count(*end),
            weight_bytes,
            memory_bytes: domain.memory_bytes(*candidate, first, *end),
            time_ns,
            hop_ns: next.map(|next| domain.hop_ns[*candidate][*next]),
        });
        first = *end;
    }
    let latency_ns = stages
        .iter()
        .map(|s| s.time_ns.saturating_add(s.hop_ns.unwrap_or(0)))
        .fold(0, u64::saturating_add);
    slowest_ns = pool_ns.into_iter().fold(slowest_ns, u64::max);
    Plan {
        stages,
        latency_ns,
        slowest_ns,
    }
}
