//! Every order of devices that can still be better than the best plan known.
//!
//! A node of the search is a list of devices; with it goes, for every layer, the least cost of placing all layers before it on
//! exactly these devices (couplings between stages ignored). What remains is bounded from below by handing the remaining bytes
//! to the fastest free devices, in fractions, as far as their memory goes. Of devices that are interchangeable the first free one
//! stands for all.

use std::cmp::Reverse;

use crate::{
    cost::{Goal, NEVER_NS},
    domain::Domain,
    greedy::Found,
    spans::{Work, best_spans},
};

/// Parts per million: the ratio of bytes read to bytes held, in whole numbers.
const PPM: u128 = 1_000_000;

/// Improves on `incumbent` until nothing better is left or the work is used up.
///
/// Gives the cheapest plan found, the incumbent included. If `work` is complete afterwards, none is cheaper; if nothing is
/// returned then, none exists. Plans on exactly the `forbidden` devices do not count.
pub(crate) fn search(
    domain: &Domain<'_>,
    goal: Goal,
    incumbent: Option<Found>,
    forbidden: Option<u64>,
    work: &mut Work,
) -> Option<Found> {
    let mut search = Search::new(domain, goal, incumbent, forbidden);
    search.visit(None, 0, work);
    search.best
}

/// A lower bound on the cost of any plan at all.
pub(crate) fn root_bound_ns(domain: &Domain<'_>, goal: Goal) -> u64 {
    let search = Search::new(domain, goal, None, None);
    search.rest_bounds_ns().first().copied().unwrap_or(NEVER_NS)
}

/// Candidates by what the bounds look at.
struct Ranks {
    by_capacity: Vec<usize>,
    by_speed: Vec<usize>,
    /// Bytes of layers that fit on each candidate, overheads taken off.
    capacity_bytes: Vec<u64>,
    /// Bytes read per token that fit on each candidate, at most.
    readable_bytes: Vec<u64>,
    least_launch_ns: u64,
    least_hop_ns: u64,
    least_output_ns: u64,
}

impl Ranks {
    fn new(domain: &Domain<'_>) -> Self {
        let candidates = &domain.candidates;
        let capacity_bytes: Vec<u64> = candidates
            .iter()
            .map(|c| c.usable_bytes.saturating_sub(c.overhead_bytes))
            .collect();
        let ratio_ppm = most_read_per_held_ppm(domain);
        let readable = |capacity: &u64| match ratio_ppm {
            Some(ppm) => u64::try_from((u128::from(*capacity) * ppm).div_ceil(PPM)).unwrap_or(u64::MAX),
            None => u64::MAX,
        };
        let mut by_capacity: Vec<usize> = (0..candidates.len()).collect();
        by_capacity.sort_by_key(|c| (Reverse(capacity_bytes[*c]), *c));
        let mut by_speed: Vec<usize> = (0..candidates.len()).collect();
        by_speed.sort_by_key(|c| (Reverse(candidates[*c].bytes_per_second), *c));
        let ways = (0..candidates.len()).flat_map(|i| (0..candidates.len()).map(move |j| (i, j)));
        let least_hop_ns = ways.filter(|(i, j)| i != j).map(|(i, j)| domain.hop_ns[i][j]).min();
        Self {
            readable_bytes: capacity_bytes.iter().map(readable).collect(),
            capacity_bytes,
            by_capacity,
            by_speed,
            least_launch_ns: candidates.iter().map(|c| c.launch_ns).min().unwrap_or(0),
            least_hop_ns: least_hop_ns.unwrap_or(0),
            least_output_ns: candidates.iter().map(|c| c.output_ns).min().unwrap_or(0),
        }
    }
}

/// Of all layers, the most bytes read per byte held; `None` if a layer reads and holds nothing.
fn most_read_per_held_ppm(domain: &Domain<'_>) -> Option<u128> {
    let mut most = 0;
    for (layer, held) in domain.problem.model.layers.iter().zip(domain.content_bytes.windows(2)) {
        let read = u128::from(layer.weight_bytes.saturating_add(layer.kv_read_bytes));
        let held = u128::from(held[1] - held[0]);
        if read > 0 && held == 0 {
            return None;
        }
        if held > 0 {
            most = most.max((read * PPM).div_ceil(held));
        }
    }
    Some(most)
}

/// Bytes that one token reads in this layer and all after it.
fn suffix_read_bytes(domain: &Domain<'_>) -> Vec<u64> {
    let mut sums = vec![0_u64; domain.layers + 1];
    for (i, layer) in domain.problem.model.layers.iter().enumerate().rev() {
        sums[i] = sums[i + 1]
            .saturating_add(layer.weight_bytes)
            .saturating_add(layer.kv_read_bytes);
    }
    sums
}

struct Search<'a, 'p> {
    domain: &'a Domain<'p>,
    goal: Goal,
    forbidden: Option<u64>,
    best: Option<Found>,
    order: Vec<usize>,
    used: u64,
    ranks: Ranks,
    read_bytes: Vec<u64>,
}

/// A device to go on with: the bound of everything behind it, and the costs of the layers before each layer.
struct Branch {
    bound_ns: u64,
    candidate: usize,
    reached_ns: Vec<u64>,
}

impl<'a, 'p> Search<'a, 'p> {
    fn new(domain: &'a Domain<'p>, goal: Goal, best: Option<Found>, forbidden: Option<u64>) -> Self {
        Self {
            domain,
            goal,
            forbidden,
            best,
            order: Vec::new(),
            used: 0,
            ranks: Ranks::new(domain),
            read_bytes: suffix_read_bytes(domain),
        }
    }

    fn below_ns(&self) -> u64 {
        self.best.as_ref().map_or(NEVER_NS, |best| best.cost_ns)
    }

    /// Looks at the present order as a whole plan, then at every order that goes on from it.
    ///
    /// `bound_ns` is the bound of all these orders. One unit of work is one device tried at the end of one order.
    fn visit(&mut self, reached_ns: Option<&[u64]>, bound_ns: u64, work: &mut Work) {
        if let Some(reached_ns) = reached_ns {
            self.complete(reached_ns, work);
        }
        if self.order.len() >= self.domain.max_stages {
            return;
        }
        let mut branches: Vec<Branch> = Vec::new();
        for candidate in 0..self.domain.candidates.len() {
            if self.is_worth_trying(candidate) {
                if !work.take(bound_ns) {
                    return;
                }
                branches.extend(self.branch(reached_ns, candidate));
            }
        }
        branches.sort_by_key(|branch| (branch.bound_ns, branch.candidate));
        for branch in branches {
            if branch.bound_ns >= self.below_ns() {
                break;
            }
            self.order.push(branch.candidate);
            self.used |= 1 << branch.candidate;
            self.visit(Some(&branch.reached_ns), branch.bound_ns, work);
            self.used &= !(1 << branch.candidate);
            self.order.pop();
        }
    }

    /// A device must be free, and the first free one of those it is interchangeable with.
    fn is_worth_trying(&self, candidate: usize) -> bool {
        let class = self.domain.candidates[candidate].class;
        let is_free = |c: usize| (self.used >> c) & 1 == 0;
        let is_like_it = |c: usize| self.domain.candidates[c].class == class;
        is_free(candidate) && !(class..candidate).any(|c| is_like_it(c) && is_free(c))
    }

    fn complete(&mut self, reached_ns: &[u64], work: &mut Work) {
        let enough = self.order.len() >= self.domain.min_stages;
        if !enough || self.forbidden == Some(self.used) || reached_ns[self.domain.layers] >= self.below_ns() {
            return;
        }
        if let Some(spans) = best_spans(self.domain, &self.order, self.goal, self.below_ns(), work) {
            self.best = Some(Found {
                cost_ns: spans.cost_ns,
                order: self.order.clone(),
                ends: spans.ends,
            });
        }
    }

    fn branch(&mut self, reached_ns: Option<&[u64]>, candidate: usize) -> Option<Branch> {
        let reached_ns = self.extend(reached_ns, candidate)?;
        self.order.push(candidate);
        self.used |= 1 << candidate;
        let rest_ns = self.rest_bounds_ns();
        self.used &= !(1 << candidate);
        self.order.pop();
        let may_end = self.order.len() + 1 >= self.domain.min_stages;
        let last_end = if may_end {
            self.domain.layers
        } else {
            self.domain.layers - 1
        };
        let bound_ns = (1..=last_end)
            .map(|end| self.goal.join(reached_ns[end], rest_ns[end]))
            .min()?;
        (bound_ns < self.below_ns()).then_some(Branch {
            bound_ns,
            candidate,
            reached_ns,
        })
    }

    /// Least costs with one more stage at the end; `None` if it can hold nothing.
    fn extend(&self, reached_ns: Option<&[u64]>, candidate: usize) -> Option<Vec<u64>> {
        let domain = self.domain;
        let c = &domain.candidates[candidate];
        let way_ns = match self.order.last() {
            Some(last) => domain.way_ns(self.goal, *last, candidate)?,
            None => 0,
        };
        let mut next_ns = vec![NEVER_NS; domain.layers + 1];
        let mut any = false;
        let firsts = if reached_ns.is_some() { 1..domain.layers } else { 0..1 };
        for first in firsts {
            let before_ns = reached_ns.map_or(0, |reached| reached[first]);
            if before_ns == NEVER_NS {
                continue;
            }
            let begun_ns = self.goal.join(before_ns, way_ns);
            let last_end = first.saturating_add(c.max_layers).min(domain.layers);
            let reached = next_ns
                .iter_mut()
                .enumerate()
                .take(last_end + 1)
                .skip(first + c.min_layers);
            for (end, reached_ns) in reached.filter(|(end, _)| domain.boundary[*end]) {
                // Memory and time only grow with the span.
                let fits = domain.memory_bytes(candidate, first, end) <= c.usable_bytes;
                let own_ns = domain.time_ns(candidate, first, end);
                if !fits || !self.goal.admits(own_ns) {
                    break;
                }
                *reached_ns = (*reached_ns).min(self.goal.join(begun_ns, own_ns));
                any = true;
            }
        }
        any.then_some(next_ns)
    }

    /// For every layer, a lower bound on the cost of it and all after it on devices that are still free.
    fn rest_bounds_ns(&self) -> Vec<u64> {
        let domain = self.domain;
        let is_free = |c: &&usize| (self.used >> **c) & 1 == 0;
        let places = domain.max_stages.saturating_sub(self.order.len());
        let by_capacity: Vec<u64> = self
            .ranks
            .by_capacity
            .iter()
            .filter(is_free)
            .take(places)
            .map(|c| self.ranks.capacity_bytes[*c])
            .collect();
        let mut by_speed = self.ranks.by_speed.iter().filter(is_free).copied();
        let speed_sum: u128 = by_speed
            .clone()
            .take(places)
            .map(|c| u128::from(domain.candidates[c].bytes_per_second))
            .sum();
        let mut bounds_ns = vec![NEVER_NS; domain.layers + 1];
        bounds_ns[domain.layers] = 0;

        let (mut stages, mut room_bytes) = (0_u64, 0_u64);
        let mut fill = Fill {
            device: by_speed.next(),
            filled_bytes: 0,
            total_ns: 0,
        };
        for layer in (0..domain.layers).rev() {
            let held_bytes = domain.content_bytes[domain.layers] - domain.content_bytes[layer];
            while room_bytes < held_bytes.saturating_add(domain.tail_bytes) || stages == 0 {
                let Some(more) = usize::try_from(stages).ok().and_then(|s| by_capacity.get(s)) else {
                    return bounds_ns;
                };
                room_bytes = room_bytes.saturating_add(*more);
                stages += 1;
            }
            let read_bytes = self.read_bytes[layer] - self.read_bytes[layer + 1];
            if !fill.add(domain, &self.ranks, read_bytes, &mut by_speed) {
                return bounds_ns;
            }
            bounds_ns[layer] = match self.goal {
                Goal::Sum { .. } => {
                    let ways = if self.order.is_empty() { stages - 1 } else { stages };
                    (fill.total_ns + self.ranks.least_output_ns)
                        .saturating_add(stages.saturating_mul(self.ranks.least_launch_ns))
                        .saturating_add(ways.saturating_mul(self.ranks.least_hop_ns))
                }
                // The fastest devices, all busy for the same time.
                Goal::Slowest => {
                    let read_bytes = u128::from(self.read_bytes[layer]) + u128::from(domain.problem.model.output_bytes);
                    u64::try_from(read_bytes * 1_000_000_000 / speed_sum.max(1)).unwrap_or(0)
                }
            };
        }
        bounds_ns
    }
}

/// Bytes handed to the fastest free devices, in fractions.
struct Fill {
    device: Option<usize>,
    filled_bytes: u64,
    total_ns: u64,
}

impl Fill {
    /// Hands out more bytes; `false` if nobody has room for them.
    fn add(
        &mut self,
        domain: &Domain<'_>,
        ranks: &Ranks,
        mut bytes: u64,
        others: &mut impl Iterator<Item = usize>,
    ) -> bool {
        while bytes > 0 {
            let Some(device) = self.device else { return false };
            let here = bytes.min(ranks.readable_bytes[device].saturating_sub(self.filled_bytes));
            // Rounded down: a lower bound must not owe anything to rounding.
            let ns = u128::from(here) * 1_000_000_000 / u128::from(domain.candidates[device].bytes_per_second);
            self.total_ns = self.total_ns.saturating_add(u64::try_from(ns).unwrap_or(0));
            self.filled_bytes += here;
            bytes -= here;
            if bytes > 0 {
                self.device = others.next();
                self.filled_bytes = 0;
            }
        }
        true
    }
}
