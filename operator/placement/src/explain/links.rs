//! Which link is full, and with what.

use super::lifted::STEPS_PER_QUESTION;
use crate::{
    Budget, Objective, Plan, Problem,
    domain::Within,
    links::{Carrying, Room, hops_over},
    solve::single,
    text,
};

/// Links that are told; one is mostly enough to act upon.
const MAX_TOLD: usize = 2;

/// Pipelines named on one link; the rest are counted together.
const MAX_NAMED: usize = 3;

/// "the link a -> b is full: 2 hops of 1.1 MiB/s, 300.0 KiB/s of default/x, and 2.0 MiB/s may be used (50 % of 4.0 MiB/s)": the links
/// that the best plan would overfill if nothing limited them; `None` where it overfills none.
pub(super) fn full(problem: &Problem) -> Option<String> {
    let carrying = Carrying::new(problem);
    if !carrying.is_limited() {
        return None;
    }
    let plans = [unlimited(problem)?];
    let full = hops_over(&plans).into_iter().filter_map(|((from, to), hops)| {
        let room = carrying.tightest(from, to).filter(|room| hops.len() > room.hops())?;
        Some(told(problem, (from, to), &room, hops.len()))
    });
    let full: Vec<String> = full.take(MAX_TOLD).collect();
    (!full.is_empty()).then(|| full.join("; "))
}

/// The quickest plan that keeps everything but what limits links: as if a hop put nothing on them.
fn unlimited(problem: &Problem) -> Option<Plan> {
    let mut eased = problem.clone();
    eased.model.activation_bytes = 0;
    eased.objective = Objective::Latency;
    let budget = Budget {
        steps: STEPS_PER_QUESTION,
        ..Budget::default()
    };
    let found = single(&eased, &Within::default(), budget).ok()?;
    Some(found.plan)
}

fn told(problem: &Problem, (from, to): (&str, &str), room: &Room<'_>, hops: usize) -> String {
    let per_second = |bytes: u64| format!("{}/s", text::bytes(bytes));
    let hop = per_second(room.hop_bytes_per_second);
    let own = match hops {
        1 => format!("a hop of {hop}"),
        hops => format!("{hops} hops of {hop}"),
    };
    let is_counted = |other: &str| room.beside.is_none_or(|beside| beside != other);
    let mut others: Vec<_> = problem.topology.traffic_on(from, to).collect();
    others.retain(|traffic| is_counted(&traffic.by));
    others.sort_by_key(|traffic| std::cmp::Reverse(traffic.bytes_per_second));
    let mut named: Vec<String> = others
        .iter()
        .take(MAX_NAMED)
        .map(|traffic| format!(", {} of {}", per_second(traffic.bytes_per_second), traffic.by))
        .collect();
    if let Some(more) = others.len().checked_sub(MAX_NAMED).filter(|more| *more > 0) {
        let rest = others[MAX_NAMED..]
            .iter()
            .fold(0, |sum: u64, t| sum.saturating_add(t.bytes_per_second));
        named.push(format!(", {} of {more} more", per_second(rest)));
    }
    let rate = problem.topology.link(from, to).rate.bytes_per_second;
    let allowed = per_second(room.allowed_bytes_per_second);
    let may_be_used = match (room.beside, problem.constraints.max_link_percent) {
        (Some(other), _) => format!("{allowed} may be used beside {other}, which comes first"),
        (None, Some(percent)) => format!("{allowed} may be used ({percent} % of {})", per_second(rate)),
        (None, None) => format!("{allowed} may be used"),
    };
    format!(
        "the link {from} -> {to} is full: {own}{}, and {may_be_used}",
        named.concat()
    )
}
