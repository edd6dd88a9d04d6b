//! The search itself: all sets of units, level by level, that can still be part of a better plan.
//!
//! A label is a set of units and the last of them; its cost is that of the best order (dominance on set and last: what comes
//! after depends on nothing else). A label of `k` units arises from labels of `k - 1` units only, so that each is made exactly
//! once, already the best of its kind. It is dropped when a lower bound on all plans that go on from it reaches the limit. A pass
//! of limited width keeps the most promising labels of each level and remembers the least bound of those it gave up: if there are
//! none, the pass is a proof, otherwise that bound is one on all plans that were missed.

use super::{
    Work,
    bounds::SetBounds,
    completions::Completions,
    demand::most_layers,
    graph::{Graph, bits},
    prefix::{ANY, Counted, Label, Prefixes, Tabled},
    problem::NEVER_NS,
};

/// Numbers in the tables of one level's labels at most: some 128 MiB, and half of that for each level to find the way back.
const MAX_TABLE_NUMBERS: usize = 16 << 20;

/// What a pass may do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pass {
    /// Only plans that cost less are of interest.
    pub limit_ns: u64,
    /// Labels of each level that are followed.
    pub width: usize,
    /// Whether the first plan ends the pass.
    pub any: bool,
}

/// What a pass found.
#[derive(Clone, Debug)]
pub(crate) struct Passed {
    /// The best order and its cost, if there is one below the limit.
    pub best: Option<(u64, Vec<usize>)>,
    /// Lower bound on the plans that were not looked at; [`NEVER_NS`] if there are none.
    pub open_ns: u64,
}

/// Runs one pass. `after` bounds what can follow a label.
pub(crate) fn pass(graph: &Graph, after: &Completions<'_>, pass: Pass, work: &mut Work) -> Passed {
    match &graph.uniform {
        Some(uniform) => Levels::new(graph, after, pass, Counted::new(graph, uniform)).run(work),
        None => {
            let width = MAX_TABLE_NUMBERS / ((graph.positions + 1) * graph.units());
            let pass = Pass {
                width: pass.width.min(width.max(1)),
                ..pass
            };
            Levels::new(graph, after, pass, Tabled::new(graph)).run(work)
        }
    }
}

struct Levels<'g, P> {
    graph: &'g Graph,
    after: &'g Completions<'g>,
    bounds: Option<SetBounds<'g>>,
    /// Most layers of each unit.
    most: Vec<usize>,
    pass: Pass,
    prefixes: P,
    /// The labels followed, level by level, each in the order of their keys.
    levels: Vec<Vec<Label>>,
    /// Cost, level and label of the best plan.
    best: Option<(u64, usize, Label)>,
    open_ns: u64,
    stopped: bool,
}

impl<'g, P: Prefixes> Levels<'g, P> {
    fn new(graph: &'g Graph, after: &'g Completions<'g>, pass: Pass, prefixes: P) -> Self {
        Self {
            graph,
            after,
            bounds: graph.uniform.as_ref().map(|uniform| SetBounds::new(graph, uniform)),
            most: most_layers(graph),
            pass,
            prefixes,
            levels: Vec::new(),
            best: None,
            open_ns: NEVER_NS,
            stopped: false,
        }
    }

    fn run(mut self, work: &mut Work) -> Passed {
        let units = 0..self.graph.units();
        let firsts = units.filter(|unit| self.graph.elders[*unit] == 0);
        let mut labels: Vec<Label> = Vec::new();
        for unit in firsts {
            labels.extend(self.prefixes.begin(unit));
        }
        while !labels.is_empty() && !self.stopped {
            self.prefixes.advance();
            labels.sort_unstable_by_key(Label::key);
            let mut kept = self.value(&labels);
            self.narrow(&mut kept);
            let stages = self.levels.len() + 1;
            labels = if stages < self.graph.max_stages && !self.stopped {
                self.expand(&kept, work)
            } else {
                Vec::new()
            };
            self.levels.push(kept);
        }
        let best = self
            .best
            .take()
            .map(|(cost_ns, level, label)| (cost_ns, self.order(level, label)));
        Passed {
            best,
            open_ns: self.open_ns,
        }
    }

    fn limit_ns(&self) -> u64 {
        self.best.map_or(self.pass.limit_ns, |(ns, _, _)| ns)
    }

    /// Takes every label as a whole plan, and gives those that can still go on to a better one.
    fn value(&mut self, labels: &[Label]) -> Vec<Label> {
        let mut kept = Vec::new();
        let level = self.levels.len();
        for group in labels.chunk_by(same_set) {
            let first = &group[0];
            self.prefixes.enter(first.set, first.first_unit());
            if level + 1 >= self.graph.min_stages && level > 0 && self.graph.admits(first.set) {
                for label in group {
                    let whole_ns = self.prefixes.whole_ns(label);
                    if whole_ns < self.limit_ns() {
                        self.best = Some((whole_ns, level, *label));
                        self.stopped |= self.pass.any;
                    }
                }
            }
            self.keep(group, &mut kept);
        }
        let limit_ns = self.limit_ns();
        kept.retain(|label| label.bound_ns < limit_ns);
        kept
    }

    fn keep(&self, group: &[Label], kept: &mut Vec<Label>) {
        let limit_ns = self.limit_ns();
        let set = group[0].set;
        let blocked = bits(set).fold(0, |blocked, unit| blocked | self.graph.blocks[unit]);
        let is_lost = |needed: &u64| needed & set == 0 && needed & !blocked == 0;
        if self.graph.needed.iter().any(is_lost) {
            return;
        }
        let held: usize = bits(set).map(|unit| self.most[unit]).sum();
        let missing = self.graph.positions.saturating_sub(held);
        let of_set = self.bounds.as_ref().map(|bounds| bounds.of(set, blocked, missing));
        let mut owed = None;
        for label in group {
            let last = label.last_unit();
            let cheap_ns = of_set.as_ref().map_or(0, |bound| label.ways_ns + bound.after_ns(last));
            if cheap_ns >= limit_ns {
                continue;
            }
            let owed = owed.get_or_insert_with(|| self.after.owed(&self.most, missing, blocked));
            let priced_ns = self.prefixes.joined_ns(label, self.after.after(last, blocked));
            let bound_ns = self
                .after
                .bound_ns(owed, last, priced_ns)
                .max(cheap_ns)
                .max(label.bound_ns);
            if bound_ns < limit_ns {
                kept.push(Label { bound_ns, ..*label });
            }
        }
    }

    /// Gives up all but the most promising labels.
    fn narrow(&mut self, kept: &mut Vec<Label>) {
        if kept.len() <= self.pass.width {
            return;
        }
        kept.sort_unstable_by_key(|label| (label.bound_ns, label.key()));
        let given_up = kept[self.pass.width..].iter().map(|label| label.bound_ns).min();
        self.open_ns = self.open_ns.min(given_up.unwrap_or(NEVER_NS));
        kept.truncate(self.pass.width);
        kept.sort_unstable_by_key(Label::key);
    }

    /// Every label of one unit more. One step of work is one set with one more unit.
    fn expand(&mut self, kept: &[Label], work: &mut Work) -> Vec<Label> {
        let mut next = Vec::new();
        for group in kept.chunk_by(same_set) {
            let set = group[0].set;
            let blocked = bits(set).fold(0, |blocked, unit| blocked | self.graph.blocks[unit]);
            let least_ns = group.iter().map(|label| label.bound_ns).min().unwrap_or(0);
            for unit in (0..self.graph.units()).filter(|unit| blocked >> unit & 1 == 0) {
                // Of units that can be exchanged the first free one stands for all.
                if self.graph.elders[unit] & !set != 0 {
                    continue;
                }
                if !work.take(1) {
                    let all_ns = kept.iter().map(|label| label.bound_ns).min();
                    self.open_ns = self.open_ns.min(all_ns.unwrap_or(NEVER_NS));
                    return Vec::new();
                }
                if let Some(label) = self.prefixes.extend(group, unit) {
                    // A bound on all plans through a set holds for those through a larger one.
                    next.push(Label {
                        bound_ns: least_ns,
                        ..label
                    });
                }
            }
        }
        next
    }

    /// The order of units that a label stands for.
    fn order(&self, level: usize, label: Label) -> Vec<usize> {
        let mut order = vec![label.last_unit()];
        let (mut label, mut end) = (label, self.graph.positions);
        for level in (0..level).rev() {
            let (via, begin) = self.prefixes.before(&label, level + 1, end);
            let set = label.set & !(1 << label.last_unit());
            let key = |first: u8| (set, first, u8::try_from(via).unwrap_or(ANY));
            let labels = &self.levels[level];
            let Ok(found) = labels.binary_search_by_key(&key(label.first), Label::key) else {
                break;
            };
            label = labels[found];
            end = begin;
            order.push(via);
        }
        order.reverse();
        order
    }
}

fn same_set(a: &Label, b: &Label) -> bool {
    (a.set, a.first) == (b.set, b.first)
}
