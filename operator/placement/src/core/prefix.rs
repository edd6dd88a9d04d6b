//! What a label of the search knows of the layers before it: a number where layers are alike, else a table over positions.

use super::{graph::Graph, problem::NEVER_NS, route::stage, uniform::Uniform};

/// A set of units in some order that ends with `last`.
///
/// Of all orders of the same set with the same end only the cheapest can be part of a best plan; `first` is part of the state
/// where it holds a different number of layers as the first stage than elsewhere, and [`ANY`] otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Label {
    pub set: u64,
    pub first: u8,
    pub last: u8,
    /// The unit before the last one. Where the cost is a table, it is kept by position instead.
    pub via: u8,
    /// Row of the table.
    pub row: u32,
    /// Entry and ways, where the layers are counted.
    pub ways_ns: u64,
    /// Lower bound on every plan that goes on from here.
    pub bound_ns: u64,
}

pub(crate) const ANY: u8 = u8::MAX;

impl Label {
    pub(crate) fn first_unit(&self) -> Option<usize> {
        (self.first != ANY).then_some(usize::from(self.first))
    }

    pub(crate) fn last_unit(&self) -> usize {
        usize::from(self.last)
    }

    pub(crate) fn key(&self) -> (u64, u8, u8) {
        (self.set, self.first, self.last)
    }
}

/// How labels are extended and valued. The two kinds are the two forms of a prefix's cost.
pub(crate) trait Prefixes {
    /// Labels of one unit each.
    fn begin(&mut self, unit: usize) -> Option<Label>;
    /// Called before the labels of one set are valued.
    fn enter(&mut self, set: u64, first: Option<usize>);
    /// The best way to `unit` from any of the labels, all of one set.
    fn extend(&mut self, labels: &[Label], unit: usize) -> Option<Label>;
    /// Cost of the label as a whole plan.
    fn whole_ns(&self, label: &Label) -> u64;
    /// Least of the prefix and what comes after it, by position.
    fn joined_ns(&self, label: &Label, after_ns: &[i64]) -> i64;
    /// The next level becomes the present one.
    fn advance(&mut self);
    /// The unit before the last, and where the last stage begins.
    fn before(&self, label: &Label, level: usize, end: usize) -> (usize, usize);
}

/// Equal layers: how a set divides them depends on nothing but the set.
pub(crate) struct Counted<'g> {
    graph: &'g Graph,
    uniform: &'g Uniform,
    fill_ns: Vec<u64>,
    whole_ns: u64,
}

impl<'g> Counted<'g> {
    pub(crate) fn new(graph: &'g Graph, uniform: &'g Uniform) -> Self {
        Self {
            graph,
            uniform,
            fill_ns: vec![NEVER_NS; graph.positions + 1],
            whole_ns: NEVER_NS,
        }
    }
}

impl Prefixes for Counted<'_> {
    fn begin(&mut self, unit: usize) -> Option<Label> {
        let uniform = self.uniform;
        let special = uniform.first[unit] != uniform.inner[unit];
        (uniform.first[unit] > 0).then(|| Label {
            set: 1 << unit,
            first: if special { byte(unit) } else { ANY },
            last: byte(unit),
            via: ANY,
            row: 0,
            ways_ns: self.graph.entry_ns[unit],
            bound_ns: 0,
        })
    }

    fn enter(&mut self, set: u64, first: Option<usize>) {
        self.uniform.fill_table(set, first, &mut self.fill_ns);
        self.whole_ns = self.fill_ns[self.graph.positions];
    }

    fn extend(&mut self, labels: &[Label], unit: usize) -> Option<Label> {
        if self.uniform.inner[unit] == 0 {
            return None;
        }
        let ways_ns = |label: &Label| label.ways_ns + self.graph.way_ns[label.last_unit()][unit];
        let best = labels.iter().min_by_key(|label| ways_ns(label))?;
        let ways_ns = ways_ns(best);
        (ways_ns < NEVER_NS).then(|| Label {
            set: best.set | 1 << unit,
            last: byte(unit),
            via: best.last,
            ways_ns,
            ..*best
        })
    }

    fn whole_ns(&self, label: &Label) -> u64 {
        let last = label.last_unit();
        let uniform = self.uniform;
        let fill_ns = if uniform.last[last] == uniform.inner[last] {
            self.whole_ns
        } else {
            uniform.fill_ns(label.set, self.graph.positions, label.first_unit(), Some(last))
        };
        (label.ways_ns + fill_ns + self.graph.exit_ns[last]).min(NEVER_NS)
    }

    fn joined_ns(&self, label: &Label, after_ns: &[i64]) -> i64 {
        let from = (label.set.count_ones() as usize).min(after_ns.len());
        least_sum(&self.fill_ns[from..], &after_ns[from..]).saturating_add_unsigned(label.ways_ns)
    }

    fn advance(&mut self) {}

    fn before(&self, label: &Label, _: usize, _: usize) -> (usize, usize) {
        (usize::from(label.via), 0)
    }
}

/// Any layers: for every position the least cost of ending there.
pub(crate) struct Tabled<'g> {
    graph: &'g Graph,
    present_ns: Vec<u64>,
    next_ns: Vec<u64>,
    /// By level, row and position: the unit before and the position where the last stage begins.
    via: Vec<Vec<(u8, u16)>>,
}

impl<'g> Tabled<'g> {
    pub(crate) fn new(graph: &'g Graph) -> Self {
        Self {
            graph,
            present_ns: Vec::new(),
            next_ns: Vec::new(),
            via: vec![Vec::new()],
        }
    }

    fn stride(&self) -> usize {
        self.graph.positions + 1
    }

    fn table(&self, label: &Label) -> &[u64] {
        &self.present_ns[label.row as usize * self.stride()..][..self.stride()]
    }

    /// Adds a row of the next level: the stage of a unit that begins at these costs, from these units.
    fn push(&mut self, unit: usize, begun_ns: &[u64], via: &[u8]) -> Option<u32> {
        let stride = self.stride();
        let row = u32::try_from(self.next_ns.len() / stride).ok()?;
        let mut from = vec![0_u16; stride];
        self.next_ns.resize(self.next_ns.len() + stride, NEVER_NS);
        let ended_ns = &mut self.next_ns[row as usize * stride..];
        stage(self.graph, unit, begun_ns, ended_ns, Some(&mut from));
        if ended_ns.iter().all(|ns| *ns >= NEVER_NS) {
            self.next_ns.truncate(row as usize * stride);
            return None;
        }
        let steps = from.into_iter().map(|begin| (via[usize::from(begin)], begin));
        self.via.last_mut()?.extend(steps);
        Some(row)
    }
}

impl Prefixes for Tabled<'_> {
    fn begin(&mut self, unit: usize) -> Option<Label> {
        let mut begun_ns = vec![NEVER_NS; self.stride()];
        begun_ns[0] = self.graph.entry_ns[unit];
        let via = vec![ANY; self.stride()];
        let row = self.push(unit, &begun_ns, &via)?;
        Some(Label {
            set: 1 << unit,
            first: ANY,
            last: byte(unit),
            via: ANY,
            row,
            ways_ns: 0,
            bound_ns: 0,
        })
    }

    fn enter(&mut self, _: u64, _: Option<usize>) {}

    fn extend(&mut self, labels: &[Label], unit: usize) -> Option<Label> {
        let mut begun_ns = vec![NEVER_NS; self.stride()];
        let mut via = vec![ANY; self.stride()];
        for label in labels {
            let way_ns = self.graph.way_ns[label.last_unit()][unit];
            for (at, ended_ns) in self.table(label).iter().enumerate() {
                if ended_ns + way_ns < begun_ns[at] {
                    begun_ns[at] = ended_ns + way_ns;
                    via[at] = label.last;
                }
            }
        }
        let row = self.push(unit, &begun_ns, &via)?;
        let any = labels.first()?;
        Some(Label {
            set: any.set | 1 << unit,
            last: byte(unit),
            row,
            ..*any
        })
    }

    fn whole_ns(&self, label: &Label) -> u64 {
        let ended_ns = self.table(label)[self.graph.positions];
        (ended_ns + self.graph.exit_ns[label.last_unit()]).min(NEVER_NS)
    }

    fn joined_ns(&self, label: &Label, after_ns: &[i64]) -> i64 {
        least_sum(self.table(label), after_ns)
    }

    fn advance(&mut self) {
        std::mem::swap(&mut self.present_ns, &mut self.next_ns);
        self.next_ns.clear();
        self.via.push(Vec::new());
    }

    fn before(&self, label: &Label, level: usize, end: usize) -> (usize, usize) {
        let (via, begin) = self.via[level][label.row as usize * self.stride() + end];
        (usize::from(via), usize::from(begin))
    }
}

fn least_sum(before_ns: &[u64], after_ns: &[i64]) -> i64 {
    let sums_ns = before_ns
        .iter()
        .zip(after_ns)
        .map(|(a, b)| b.saturating_add_unsigned(*a));
    sums_ns.min().unwrap_or(i64::MAX)
}

fn byte(unit: usize) -> u8 {
    u8::try_from(unit).unwrap_or(ANY)
}
