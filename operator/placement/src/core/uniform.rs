//! The case of equal layers: a set of units divides them best by filling the fastest first, in closed form.

use super::{
    graph::{Graph, bits},
    problem::NEVER_NS,
};

/// What a stage can hold, in layers, where every layer of a unit takes the same time.
#[derive(Clone, Debug)]
pub(crate) struct Uniform {
    pub layer_ns: Vec<u64>,
    /// Most layers of a stage between others, of the first stage and of the last one.
    pub inner: Vec<usize>,
    pub first: Vec<usize>,
    pub last: Vec<usize>,
    /// Units by time per layer.
    pub by_speed: Vec<usize>,
}

impl Uniform {
    /// The counts, if the graph has them: equal times, and reaches that are a number of layers wherever a stage begins.
    pub(crate) fn of(graph: &Graph) -> Option<Self> {
        let p = graph.positions;
        let any_length = graph.earliest.iter().flatten().zip((1..=p).cycle());
        if p < 2 || any_length.into_iter().any(|(earliest, next)| *earliest != next) {
            return None;
        }
        let n = graph.units();
        let mut uniform = Self {
            layer_ns: Vec::with_capacity(n),
            inner: Vec::with_capacity(n),
            first: Vec::with_capacity(n),
            last: Vec::with_capacity(n),
            by_speed: (0..n).collect(),
        };
        for (elapsed_ns, reach) in graph.elapsed_ns.iter().zip(&graph.reach) {
            let layer_ns = elapsed_ns[1] - elapsed_ns[0];
            if elapsed_ns.windows(2).any(|pair| pair[1] - pair[0] != layer_ns) {
                return None;
            }
            let inner = if reach[1] + 1 < p { reach[1] - 1 } else { p - 1 };
            let last = (1..p).find(|first| reach[*first] == p).map_or(0, |first| p - first);
            let first = reach[0].min(p - 1);
            let expected = |at: usize| if at + last >= p { p } else { (at + inner).min(p - 1) };
            if last > inner || first > inner || (1..p).any(|at| reach[at] != expected(at)) {
                return None;
            }
            uniform.layer_ns.push(layer_ns);
            uniform.inner.push(inner);
            uniform.first.push(first);
            uniform.last.push(last);
        }
        uniform.by_speed.sort_by_key(|u| (uniform.layer_ns[*u], *u));
        Some(uniform)
    }

    /// Most layers of a unit in a plan of several stages that begins and ends with the units named.
    fn most(&self, unit: usize, first: Option<usize>, last: Option<usize>) -> usize {
        if first == Some(unit) {
            self.first[unit]
        } else if last == Some(unit) {
            self.last[unit]
        } else {
            self.inner[unit]
        }
    }

    /// Time of the layers on exactly these units: one each, the rest to the fastest as far as they hold. [`NEVER_NS`] if they do
    /// not fit. Nothing is faster, because moving one layer from a unit to a slower one never pays.
    pub(crate) fn fill_ns(&self, set: u64, layers: usize, first: Option<usize>, last: Option<usize>) -> u64 {
        let Some(mut left) = layers.checked_sub(set.count_ones() as usize) else {
            return NEVER_NS;
        };
        let mut total_ns = 0;
        for unit in self.by_speed.iter().copied().filter(|u| set >> u & 1 == 1) {
            let most = self.most(unit, first, last);
            if most == 0 {
                return NEVER_NS;
            }
            let more = left.min(most - 1);
            total_ns += self.layer_ns[unit] * (1 + more as u64);
            left -= more;
        }
        if left == 0 { total_ns } else { NEVER_NS }
    }

    /// Time of every number of layers on exactly these units, beginning with `first` and not ending here.
    pub(crate) fn fill_table(&self, set: u64, first: Option<usize>, table_ns: &mut [u64]) {
        table_ns.fill(NEVER_NS);
        let mut at = set.count_ones() as usize;
        if at >= table_ns.len() || bits(set).any(|unit| self.most(unit, first, None) == 0) {
            return;
        }
        let mut total_ns: u64 = bits(set).map(|unit| self.layer_ns[unit]).sum();
        table_ns[at] = total_ns;
        for unit in self.by_speed.iter().copied().filter(|u| set >> u & 1 == 1) {
            for _ in 1..self.most(unit, first, None) {
                at += 1;
                if at >= table_ns.len() {
                    return;
                }
                total_ns += self.layer_ns[unit];
                table_ns[at] = total_ns;
            }
        }
    }
}
