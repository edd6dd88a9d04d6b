//! A plan in milliseconds, by rule of thumb: the k fastest devices, or the k largest, for every k.

use std::cmp::Reverse;

use crate::{
    cost::{Goal, NEVER_NS},
    domain::Domain,
    found::Found,
    spans::{Work, best_spans},
};

/// Steps of the walk through the cuts of one order: enough to follow a coupling or two, few enough to stay quick.
const NODES_PER_ORDER: u64 = 500;

/// The best of the guesses, if any of them holds the model. Finding none proves nothing.
pub(crate) fn greedy(domain: &Domain<'_>, goal: Goal, forbidden: Option<u64>) -> Option<Found> {
    let mut best: Option<Found> = None;
    for ranking in rankings(domain) {
        for stages in domain.min_stages..=domain.max_stages.min(ranking.len()) {
            let mut chosen: Vec<usize> = ranking[..stages].to_vec();
            include_pinned(domain, &ranking, &mut chosen);
            for order in orders(domain, &chosen) {
                let below_ns = best.as_ref().map_or(NEVER_NS, |b| b.cost_ns);
                let mut work = Work::new(NODES_PER_ORDER);
                let Some(spans) = best_spans(domain, &order, goal, below_ns, &mut work) else {
                    continue;
                };
                let found = Found {
                    cost_ns: spans.cost_ns,
                    order,
                    ends: spans.ends,
                };
                if forbidden != Some(found.members()) {
                    best = Some(found);
                }
            }
        }
    }
    best
}

/// Of all candidates; where there are groups among them, of those that are none as well: each may be the better start.
fn rankings(domain: &Domain<'_>) -> Vec<Vec<usize>> {
    let all: Vec<usize> = (0..domain.candidates.len()).collect();
    let mut rankings = both_ways(domain, &all).to_vec();
    if domain.widest > 1 {
        let is_single = |candidate: &usize| domain.candidates[*candidate].members == 1;
        let singles: Vec<usize> = all.into_iter().filter(is_single).collect();
        rankings.extend(both_ways(domain, &singles));
    }
    rankings
}

fn both_ways(domain: &Domain<'_>, candidates: &[usize]) -> [Vec<usize>; 2] {
    let mut fastest = candidates.to_vec();
    fastest.sort_by_key(|c| (Reverse(domain.candidates[*c].bytes_per_second), *c));
    let mut largest = candidates.to_vec();
    largest.sort_by_key(|c| (Reverse(domain.candidates[*c].usable_bytes), *c));
    [fastest, largest].map(|ranking| compatible(domain, &ranking))
}

/// Those that can be in one plan, the first before all others.
fn compatible(domain: &Domain<'_>, ranking: &[usize]) -> Vec<usize> {
    let mut blocked = 0_u64;
    let mut kept = Vec::with_capacity(ranking.len());
    for candidate in ranking {
        if blocked >> candidate & 1 == 0 {
            blocked |= domain.excludes[*candidate];
            kept.push(*candidate);
        }
    }
    kept
}

/// Exchanges the last devices for ones that a pin asks for, where none of the chosen matches it.
fn include_pinned(domain: &Domain<'_>, ranking: &[usize], chosen: &mut [usize]) {
    let pins = domain.problem.constraints.pinned_layers.iter().zip(&domain.pin_members);
    let mut needed: Vec<usize> = Vec::new();
    for (_, members) in pins.filter(|(pin, _)| pin.min_layers > 0) {
        let is_member = |c: &&usize| (members >> **c) & 1 == 1;
        if !chosen.iter().chain(&needed).any(|c| (members >> c) & 1 == 1) {
            needed.extend(ranking.iter().find(is_member));
        }
    }
    let places = chosen.len();
    for (place, candidate) in chosen.iter_mut().rev().zip(needed).take(places) {
        *place = candidate;
    }
}

/// The chosen devices by rank, and with those of one node next to each other.
fn orders(domain: &Domain<'_>, chosen: &[usize]) -> [Vec<usize>; 2] {
    let ranked = chosen.to_vec();
    let mut by_node = ranked.clone();
    let first_of_node = |c: &usize| {
        ranked
            .iter()
            .position(|r| domain.device(*r).node == domain.device(*c).node)
    };
    by_node.sort_by_key(first_of_node);
    [ranked, by_node]
}
