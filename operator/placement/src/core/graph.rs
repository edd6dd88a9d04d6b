//! A problem in the form the search works on: every cost that does not depend on the cut folded into ways, every cap folded
//! into reaches, layers that cannot be parted taken as one.

use super::{
    problem::{NEVER_NS, Problem},
    uniform::Uniform,
};

/// Units, ways and spans under one cap. A *position* is a place where stages may meet: 0 is the front, the last one the end.
#[derive(Clone, Debug)]
pub(crate) struct Graph {
    pub positions: usize,
    /// The layer at each position.
    pub layer_at: Vec<usize>,
    /// Per unit: time of everything before each position.
    pub elapsed_ns: Vec<Vec<u64>>,
    /// Per unit: the largest end position for each first position.
    pub reach: Vec<Vec<usize>>,
    /// Per unit: the smallest end position for each first position; beyond the reach where the stage would be too short.
    pub earliest: Vec<Vec<usize>>,
    /// Launch included.
    pub entry_ns: Vec<u64>,
    /// Launch of the unit at the far end included.
    pub way_ns: Vec<Vec<u64>>,
    /// Head included.
    pub exit_ns: Vec<u64>,
    /// Units that cannot follow once this one takes part, itself among them.
    pub blocks: Vec<u64>,
    /// Units of smaller number that this one can be exchanged with: they go first.
    pub elders: Vec<u64>,
    pub min_stages: usize,
    pub max_stages: usize,
    pub needed: Vec<u64>,
    pub forbidden: Option<u64>,
    pub below_ns: u64,
    /// Present where all layers are alike and only their number matters.
    pub uniform: Option<Uniform>,
}

impl Graph {
    /// `problem` must be valid.
    pub(crate) fn new(problem: &Problem, cap_ns: u64) -> Self {
        let n = problem.units.len();
        let layer_at = positions(problem);
        let positions = layer_at.len() - 1;
        let mut graph = Self {
            positions,
            elapsed_ns: Vec::with_capacity(n),
            reach: Vec::with_capacity(n),
            earliest: Vec::with_capacity(n),
            entry_ns: problem.units.iter().map(|u| u.entry_ns + u.launch_ns).collect(),
            way_ns: vec![vec![NEVER_NS; n]; n],
            exit_ns: problem.units.iter().map(|u| u.exit_ns + u.head_ns).collect(),
            blocks: (0..n).map(|u| problem.units[u].excludes | 1 << u).collect(),
            elders: vec![0; n],
            min_stages: problem.min_stages.max(1),
            max_stages: problem.max_stages.min(n).min(positions),
            needed: problem.needed.clone(),
            forbidden: problem.forbidden,
            below_ns: problem.below_ns,
            uniform: None,
            layer_at,
        };
        for unit in &problem.units {
            let elapsed_ns: Vec<u64> = graph.layer_at.iter().map(|layer| unit.elapsed_ns[*layer]).collect();
            let reach = (0..positions).map(|first| {
                let fits = |end: &usize| {
                    let head_ns = if *end == positions { unit.head_ns } else { 0 };
                    graph.layer_at[*end] <= unit.reach[graph.layer_at[first]]
                        && unit.launch_ns + elapsed_ns[*end] - elapsed_ns[first] + head_ns <= cap_ns
                };
                (first + 1..=positions).take_while(fits).last().unwrap_or(first)
            });
            let reach = reach.collect();
            let earliest = (0..positions).map(|first| {
                let least = unit.earliest[graph.layer_at[first]];
                graph.layer_at.partition_point(|layer| *layer < least).max(first + 1)
            });
            let earliest = earliest.collect();
            graph.elapsed_ns.push(elapsed_ns);
            graph.reach.push(reach);
            graph.earliest.push(earliest);
        }
        for from in 0..n {
            for to in (0..n).filter(|to| *to != from) {
                let way_ns = problem.way_ns[from][to];
                if way_ns < NEVER_NS && problem.carry_ns[from][to] <= cap_ns {
                    graph.way_ns[from][to] = way_ns + problem.units[to].launch_ns;
                }
                if graph.blocks[from] >> to & 1 == 1 {
                    graph.blocks[to] |= 1 << from;
                }
            }
        }
        graph.uniform = Uniform::of(&graph);
        graph.find_elders();
        graph
    }

    pub(crate) fn units(&self) -> usize {
        self.entry_ns.len()
    }

    /// The same question read from the end to the front.
    pub(crate) fn turned(&self) -> Self {
        let (n, p) = (self.units(), self.positions);
        let mut turned = self.clone();
        turned.uniform = None;
        turned.entry_ns.clone_from(&self.exit_ns);
        turned.exit_ns.clone_from(&self.entry_ns);
        for unit in 0..n {
            let elapsed_ns = &self.elapsed_ns[unit];
            turned.elapsed_ns[unit] = elapsed_ns.iter().rev().map(|ns| elapsed_ns[p] - ns).collect();
            // A stage from `first` there ends here at `p - first`; reaches never fall, so the first that does is the farthest.
            let farthest = |first: usize| (0..p - first).find(|begin| self.reach[unit][*begin] >= p - first);
            turned.reach[unit] = (0..p)
                .map(|first| farthest(first).map_or(first, |begin| p - begin))
                .collect();
            // The last beginning whose shortest stage still ends there; none lies one before the front.
            let begins = |first: usize| self.earliest[unit].partition_point(|end| *end <= p - first);
            turned.earliest[unit] = (0..p).map(|first| p + 1 - begins(first)).collect();
            for other in 0..n {
                turned.way_ns[unit][other] = self.way_ns[other][unit];
            }
        }
        turned
    }

    /// What one stage on one unit costs as a whole plan.
    pub(crate) fn alone_ns(&self, unit: usize) -> u64 {
        let holds_all = self.positions > 0 && (self.earliest[unit][0]..=self.reach[unit][0]).contains(&self.positions);
        if !holds_all || !self.admits(1 << unit) {
            return NEVER_NS;
        }
        self.entry_ns[unit] + self.elapsed_ns[unit][self.positions] + self.exit_ns[unit]
    }

    /// Whether a plan on exactly these units counts.
    pub(crate) fn admits(&self, set: u64) -> bool {
        self.forbidden != Some(set) && self.needed.iter().all(|needed| needed & set != 0)
    }

    /// Entry, ways and exit of an order; [`NEVER_NS`] if it cannot be gone.
    pub(crate) fn ways_ns(&self, order: &[usize]) -> u64 {
        let (Some(first), Some(last)) = (order.first(), order.last()) else {
            return NEVER_NS;
        };
        let mut blocked = 0_u64;
        let mut total_ns = self.entry_ns[*first] + self.exit_ns[*last];
        for (i, unit) in order.iter().enumerate() {
            if blocked >> unit & 1 == 1 {
                return NEVER_NS;
            }
            blocked |= self.blocks[*unit];
            if i > 0 {
                let way_ns = self.way_ns[order[i - 1]][*unit];
                if way_ns >= NEVER_NS {
                    return NEVER_NS;
                }
                total_ns += way_ns;
            }
        }
        total_ns
    }

    /// Marks, for every unit, those of smaller number that can take its place in any plan at the same cost.
    fn find_elders(&mut self) {
        let mut classes: Vec<Vec<usize>> = Vec::new();
        for unit in 0..self.units() {
            let is_like = |class: &&mut Vec<usize>| class.iter().all(|member| self.interchangeable(*member, unit));
            match classes.iter_mut().find(is_like) {
                Some(class) => class.push(unit),
                None => classes.push(vec![unit]),
            }
        }
        for class in classes {
            let mut elders = 0;
            for unit in class {
                self.elders[unit] = elders;
                elders |= 1 << unit;
            }
        }
    }

    fn interchangeable(&self, i: usize, j: usize) -> bool {
        let both = 1_u64 << i | 1 << j;
        let same_unit = self.elapsed_ns[i] == self.elapsed_ns[j]
            && self.reach[i] == self.reach[j]
            && self.earliest[i] == self.earliest[j]
            && self.needed.iter().all(|needed| needed >> i & 1 == needed >> j & 1)
            && self.entry_ns[i] == self.entry_ns[j]
            && self.exit_ns[i] == self.exit_ns[j]
            && self.blocks[i] & !both == self.blocks[j] & !both;
        let others = || (0..self.units()).filter(|k| *k != i && *k != j);
        same_unit
            && self.way_ns[i][j] == self.way_ns[j][i]
            && others().all(|k| self.way_ns[i][k] == self.way_ns[j][k] && self.way_ns[k][i] == self.way_ns[k][j])
    }
}

fn positions(problem: &Problem) -> Vec<usize> {
    if problem.layers == 0 {
        return vec![0];
    }
    let inner = problem.cuts.iter().copied().filter(|c| *c > 0 && *c < problem.layers);
    std::iter::once(0).chain(inner).chain([problem.layers]).collect()
}

/// The numbers of the bits that are set.
pub(crate) fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let next = (set != 0).then(|| set.trailing_zeros() as usize)?;
        set &= set - 1;
        Some(next)
    })
}
