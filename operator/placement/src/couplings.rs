//! What stages share: the memory of a pool, its time, the layers of a pin, a link. Where a plan of stages that know nothing of each other
//! breaks one of these, its case is divided.
//!
//! Every division is complete: a plan that keeps the coupling is in exactly one of the cases, and the plan that broke it is in
//! none.
//!
//! - *Too much*: amounts `m_1..m_k` of members have a sum above `limit`, by `e`. Plans that keep the limit have some member at
//!   or below `m_i - 1 - (e - 1) / k`, or else their sum would be above the limit too.
//! - *Too little*: likewise some member of the pin has at least `m_i + 1 + (need - 1) / k`.
//! - *A full link*: of `k + 1` hops over a link that carries `k`, plans that keep the limit go without one.
//! - Of two members that use a pool too much, either not both take part, or both do and leave each other room. That is asked
//!   first: mostly the one or the other is out of the question.

use crate::{
    cost::Goal,
    domain::Domain,
    found::Found,
    limits::{Limits, shared_pins},
};

/// The cases of the first coupling that a plan breaks; `None` if it keeps all of them.
pub(crate) fn cases_of_broken(domain: &Domain<'_>, limits: &Limits, goal: Goal, found: &Found) -> Option<Vec<Limits>> {
    let cap_ns = match goal {
        Goal::Sum { cap_ns } => cap_ns.min(domain.cap_ns),
        Goal::Slowest => domain.cap_ns,
    };
    let amounts = Amounts::new(domain, found);
    amounts
        .pools(domain)
        .find_map(|pool| {
            amounts
                .above(limits, pool, What::Bytes, domain.pool_bytes(pool))
                .or_else(|| amounts.above(limits, pool, What::Time, cap_ns))
        })
        .or_else(|| amounts.pins(domain, limits))
        .or_else(|| cases_of_full(domain, limits, found))
}

/// The cases of the first link over which a plan goes more often than it carries: one for each hop that is left out, with those
/// before it.
fn cases_of_full(domain: &Domain<'_>, limits: &Limits, found: &Found) -> Option<Vec<Limits>> {
    let hops = domain.overfull(&found.order)?;
    let case = |left_out: usize| {
        let mut case = limits.clone();
        hops[..left_out].iter().for_each(|hop| case.join(*hop));
        case.close(hops[left_out]);
        case
    };
    Some((0..hops.len()).map(case).collect())
}

/// The cases in which no pool works for `limit_ns` or longer; `None` if none of the plan's does.
pub(crate) fn cases_of_busy(domain: &Domain<'_>, limits: &Limits, found: &Found, limit_ns: u64) -> Option<Vec<Limits>> {
    let amounts = Amounts::new(domain, found);
    let below_ns = limit_ns.saturating_sub(1);
    amounts
        .pools(domain)
        .find_map(|pool| amounts.above(limits, pool, What::Time, below_ns))
}

/// The time that the pool which works longest works.
pub(crate) fn busiest_pool_ns(domain: &Domain<'_>, found: &Found) -> u64 {
    let amounts = Amounts::new(domain, found);
    let sum_ns = |pool: usize| amounts.on(pool).map(|stage| stage.ns).fold(0, u64::saturating_add);
    amounts.pools(domain).map(sum_ns).max().unwrap_or(0)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Bytes,
    Time,
}

struct Stage {
    candidate: usize,
    pool: usize,
    bytes: u64,
    ns: u64,
    layers: usize,
}

struct Amounts {
    stages: Vec<Stage>,
    overhead_bytes: Vec<u64>,
}

impl Amounts {
    fn new(domain: &Domain<'_>, found: &Found) -> Self {
        let firsts = std::iter::once(0).chain(found.ends.iter().copied());
        let spans = found.order.iter().zip(firsts).zip(&found.ends);
        let stage = |((candidate, first), end): ((&usize, usize), &usize)| Stage {
            candidate: *candidate,
            pool: domain.candidates[*candidate].pool,
            bytes: domain.memory_bytes(*candidate, first, *end),
            ns: domain.time_ns(*candidate, first, *end),
            layers: end - first,
        };
        Self {
            stages: spans.map(stage).collect(),
            overhead_bytes: domain.candidates.iter().map(|c| c.overhead_bytes).collect(),
        }
    }

    fn on(&self, pool: usize) -> impl Iterator<Item = &Stage> {
        self.stages.iter().filter(move |stage| stage.pool == pool)
    }

    fn pools(&self, domain: &Domain<'_>) -> std::ops::Range<usize> {
        0..domain.problem.topology.pools.len()
    }

    fn above(&self, limits: &Limits, pool: usize, what: What, limit: u64) -> Option<Vec<Limits>> {
        let amount = |stage: &Stage| match what {
            What::Bytes => stage.bytes,
            What::Time => stage.ns,
        };
        let sum = self.on(pool).map(amount).fold(0, u64::saturating_add);
        if sum <= limit {
            return None;
        }
        let mut users: Vec<&Stage> = self.on(pool).collect();
        users.sort_by_key(|stage| (std::cmp::Reverse(amount(stage)), stage.candidate));
        if let [a, b, ..] = users.as_slice() {
            let (a, b) = (a.candidate, b.candidate);
            if ![a, b].iter().all(|c| limits.needs(*c)) {
                let room = (what == What::Bytes).then_some(limit);
                return Some(self.not_both_or_both(limits, a, b, room));
            }
        }
        let share = 1 + (sum - limit - 1) / (users.len() as u64).max(1);
        let allowed = |stage: &Stage| amount(stage).saturating_sub(share);
        let case = |(index, stage): (usize, &&Stage)| {
            let mut case = limits.clone();
            let most = match what {
                What::Bytes => &mut case.bytes[stage.candidate],
                What::Time => &mut case.ns[stage.candidate],
            };
            *most = (*most).min(allowed(stage));
            // Those before it are above what is allowed: these are other cases.
            for other in &users[..index] {
                case.need(other.candidate);
                let least = match what {
                    What::Bytes => &mut case.least_bytes[other.candidate],
                    What::Time => &mut case.least_ns[other.candidate],
                };
                *least = (*least).max(allowed(other) + 1);
            }
            case
        };
        Some(users.iter().enumerate().map(case).collect())
    }

    fn not_both_or_both(&self, limits: &Limits, a: usize, b: usize, room_bytes: Option<u64>) -> Vec<Limits> {
        let mut not_both = limits.clone();
        not_both.excludes[a] |= 1 << b;
        let mut both = limits.clone();
        for (one, other) in [(a, b), (b, a)] {
            both.need(one);
            if let Some(room_bytes) = room_bytes {
                let left_bytes = room_bytes.saturating_sub(self.overhead_bytes[other]);
                both.bytes[one] = both.bytes[one].min(left_bytes);
            }
        }
        vec![not_both, both]
    }

    fn pins(&self, domain: &Domain<'_>, limits: &Limits) -> Option<Vec<Limits>> {
        shared_pins(domain).find_map(|(members, least, most)| {
            let layers_of = |candidate: usize| {
                let stage = self.stages.iter().find(|stage| stage.candidate == candidate);
                stage.map_or(0, |stage| stage.layers)
            };
            let all = (0..domain.candidates.len()).filter(|c| members >> c & 1 == 1);
            let held: Vec<(usize, usize)> = all.map(|c| (c, layers_of(c))).collect();
            let sum: usize = held.iter().map(|(_, layers)| layers).sum();
            if let Some(most) = most.filter(|most| sum > *most) {
                let users: Vec<&(usize, usize)> = held.iter().filter(|(_, layers)| *layers > 0).collect();
                let share = 1 + (sum - most - 1) / users.len().max(1);
                let case = |(index, (c, layers)): (usize, &&(usize, usize))| {
                    let mut case = limits.clone();
                    case.most_layers[*c] = case.most_layers[*c].min(layers.saturating_sub(share));
                    for (other, layers) in &users[..index] {
                        case.need(*other);
                        case.least_layers[*other] = case.least_layers[*other].max(layers.saturating_sub(share) + 1);
                    }
                    case
                };
                return Some(users.iter().enumerate().map(case).collect());
            }
            let missing = least.checked_sub(sum).filter(|missing| *missing > 0)?;
            let share = 1 + (missing - 1) / held.len().max(1);
            let case = |(index, (c, layers)): (usize, &(usize, usize))| {
                let mut case = limits.clone();
                case.need(*c);
                case.least_layers[*c] = case.least_layers[*c].max(layers + share);
                for (other, layers) in &held[..index] {
                    case.most_layers[*other] = case.most_layers[*other].min(layers + share - 1);
                }
                case
            };
            Some(held.iter().enumerate().map(case).collect())
        })
    }
}
