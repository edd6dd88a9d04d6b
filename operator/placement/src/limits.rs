//! One case of a problem: what every candidate may hold, and how the exact core takes it.

use crate::{
    core::{self, Unit},
    cost::Goal,
    domain::{Domain, index},
};

/// What every candidate may hold at most and at least, and which take part. Couplings between stages are not in it: where a plan
/// breaks one, a case is divided into cases of narrower limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Memory and time of a stage on each candidate at most.
    pub bytes: Vec<u64>,
    pub ns: Vec<u64>,
    /// And at least.
    pub least_bytes: Vec<u64>,
    pub least_ns: Vec<u64>,
    /// Layers of a stage on each candidate.
    pub most_layers: Vec<usize>,
    pub least_layers: Vec<usize>,
    /// Per candidate: those that may not take part beside it, one bit each.
    pub excludes: Vec<u64>,
    /// Of each of these sets at least one candidate takes part.
    pub needed: Vec<u64>,
    /// Per candidate: those that do not come right after it, one bit each.
    pub closed: Vec<u64>,
}

impl Limits {
    /// What the problem itself says of each candidate.
    pub(crate) fn new(domain: &Domain<'_>) -> Self {
        let candidates = &domain.candidates;
        let pins = domain.problem.constraints.pinned_layers.iter().zip(&domain.pin_members);
        Self {
            bytes: candidates
                .iter()
                .map(|c| c.usable_bytes.min(domain.pool_bytes(c.pool)))
                .collect(),
            ns: candidates.iter().map(|c| c.most_ns.min(domain.cap_ns)).collect(),
            least_bytes: vec![0; candidates.len()],
            least_ns: vec![0; candidates.len()],
            most_layers: candidates.iter().map(|c| c.max_layers).collect(),
            least_layers: candidates.iter().map(|c| c.min_layers).collect(),
            excludes: domain.excludes.clone(),
            needed: pins
                .filter(|(pin, _)| pin.min_layers > 0)
                .map(|(_, members)| *members)
                .collect(),
            closed: vec![0; candidates.len()],
        }
    }

    /// The same with at most one device of each memory pool: its plans break no coupling of memory.
    pub(crate) fn one_of_each_pool(mut self, domain: &Domain<'_>) -> Self {
        for (i, a) in domain.candidates.iter().enumerate() {
            for (j, b) in domain.candidates.iter().enumerate() {
                if i != j && a.pool == b.pool {
                    self.excludes[i] |= 1 << j;
                }
            }
        }
        self
    }

    /// The case without couplings, for plans that cost less than `below_ns` and are not on exactly the `forbidden` candidates.
    pub(crate) fn as_core(&self, domain: &Domain<'_>, forbidden: Option<u64>, below_ns: u64) -> core::Problem {
        core::Problem {
            layers: domain.layers,
            units: (0..domain.candidates.len()).map(|c| self.unit(domain, c)).collect(),
            way_ns: self.ways(domain),
            carry_ns: domain.carry_ns.clone(),
            cuts: (1..domain.layers).filter(|layer| domain.boundary[*layer]).collect(),
            min_stages: domain.min_stages,
            max_stages: domain.max_stages,
            needed: self.needed.clone(),
            forbidden,
            below_ns,
        }
    }

    fn unit(&self, domain: &Domain<'_>, candidate: usize) -> Unit {
        let c = &domain.candidates[candidate];
        let mut end = 0;
        let reach = (0..domain.layers).map(|first| {
            // Memory and time only grow with the span, and a later beginning reaches at least as far.
            end = end.max(first);
            while end < domain.layers && self.fits(domain, candidate, first, end + 1) {
                end += 1;
            }
            end
        });
        Unit {
            reach: reach.collect(),
            elapsed_ns: elapsed(domain, candidate),
            earliest: self.earliest(domain, candidate),
            launch_ns: c.launch_ns,
            head_ns: c.output_ns,
            entry_ns: c.entry_ns,
            exit_ns: 0,
            excludes: self.excludes[candidate],
        }
    }

    fn earliest(&self, domain: &Domain<'_>, candidate: usize) -> Vec<usize> {
        let is_small = |first: usize, end: usize| {
            end - first < self.least_layers[candidate]
                || domain.memory_bytes(candidate, first, end) < self.least_bytes[candidate]
                || domain.time_ns(candidate, first, end) < self.least_ns[candidate]
        };
        let mut end = 0;
        let ends = (0..domain.layers).map(|first| {
            // The end of the layers may suffice where one layer less does not; past it nothing does.
            end = end.max(first + 1);
            while end <= domain.layers && is_small(first, end) {
                end += 1;
            }
            end
        });
        ends.collect()
    }

    /// A candidate takes part.
    pub(crate) fn need(&mut self, candidate: usize) {
        if !self.needs(candidate) {
            self.needed.push(1 << candidate);
        }
    }

    /// One candidate does not come right after the other.
    pub(crate) fn close(&mut self, (from, to): (usize, usize)) {
        self.closed[from] |= 1 << to;
    }

    /// Both take part, and if they are not the last and the first, the one comes right after the other.
    pub(crate) fn join(&mut self, (from, to): (usize, usize)) {
        self.need(from);
        self.need(to);
        self.closed[from] |= !(1 << to);
        for (other, closed) in self.closed.iter_mut().enumerate() {
            if other != from {
                *closed |= 1 << to;
            }
        }
    }

    /// The ways that are open in this case and not too slow for what must pass them.
    fn ways(&self, domain: &Domain<'_>) -> Vec<Vec<u64>> {
        let way_ns = |from: usize, to: usize| {
            let is_closed = self.closed[from] >> to & 1 == 1 || !domain.is_open(from, to);
            match is_closed || domain.carry_ns[from][to] > domain.cap_ns {
                true => core::NEVER_NS,
                false => domain.hop_ns[from][to],
            }
        };
        let all = 0..domain.candidates.len();
        all.clone()
            .map(|from| all.clone().map(|to| way_ns(from, to)).collect())
            .collect()
    }

    pub(crate) fn needs(&self, candidate: usize) -> bool {
        self.needed.contains(&(1 << candidate))
    }

    fn fits(&self, domain: &Domain<'_>, candidate: usize, first: usize, end: usize) -> bool {
        end - first <= self.most_layers[candidate]
            && domain.may_hold(candidate, first, end)
            && domain.memory_bytes(candidate, first, end) <= self.bytes[candidate]
            && domain.time_ns(candidate, first, end) <= self.ns[candidate]
    }
}

/// Time of the layers before each layer, and what moving them there costs.
fn elapsed(domain: &Domain<'_>, candidate: usize) -> Vec<u64> {
    let elapsed_ns = &domain.candidates[candidate].elapsed_ns;
    match domain.moving_ns.get(candidate) {
        Some(moving_ns) => elapsed_ns
            .iter()
            .zip(moving_ns)
            .map(|(a, b)| a.saturating_add(*b))
            .collect(),
        None => elapsed_ns.clone(),
    }
}

/// What a goal minimises, where stages do not touch each other.
pub(crate) fn objective(goal: Goal) -> core::Objective {
    match goal {
        Goal::Sum { cap_ns } => core::Objective::Sum {
            cap_ns: cap_ns.min(core::NEVER_NS),
        },
        Goal::Slowest => core::Objective::Bottleneck,
    }
}

/// Members, fewest and most layers of every pin over several devices.
pub(crate) fn shared_pins(domain: &Domain<'_>) -> impl Iterator<Item = (u64, usize, Option<usize>)> {
    let pins = domain.problem.constraints.pinned_layers.iter().zip(&domain.pin_members);
    let several = pins.filter(|(_, members)| members.count_ones() > 1);
    several.map(|(pin, members)| (*members, index(pin.min_layers), pin.max_layers.map(index)))
}
