//! Every order and every cut, one after the other. Shares nothing with the core but the problem's form.

use placement::core::{NEVER_NS, Objective, Problem};

/// The least cost of any plan, if there is one.
pub fn best_ns(problem: &Problem, objective: Objective) -> Option<u64> {
    let mut search = Search {
        problem,
        objective,
        best_ns: None,
        stages: Vec::new(),
    };
    search.descend(0);
    search.best_ns
}

/// Cost of a plan, stages as (unit, first, end); `None` if it breaks a rule.
pub fn cost_ns(problem: &Problem, objective: Objective, stages: &[(usize, usize, usize)]) -> Option<u64> {
    let units: Vec<usize> = stages.iter().map(|s| s.0).collect();
    let distinct = (0..units.len()).all(|i| !units[..i].contains(&units[i]));
    let excluded = units
        .iter()
        .any(|u| units.iter().any(|v| u != v && problem.units[*u].excludes >> v & 1 == 1));
    let count_holds = (problem.min_stages.max(1)..=problem.max_stages).contains(&stages.len());
    let joined = stages.windows(2).all(|pair| pair[0].2 == pair[1].1);
    let whole = stages.first()?.1 == 0 && stages.last()?.2 == problem.layers;
    let set = units.iter().fold(0_u64, |set, unit| set | 1 << unit);
    let counts = problem.forbidden != Some(set) && problem.needed.iter().all(|needed| needed & set != 0);
    if !distinct || excluded || !count_holds || !joined || !whole || !counts {
        return None;
    }
    let mut sum_ns = problem.units[units[0]].entry_ns + problem.units[*units.last()?].exit_ns;
    let mut busy_ns = 0;
    for (i, (u, first, end)) in stages.iter().enumerate() {
        let unit = &problem.units[*u];
        let allowed = *end == problem.layers || problem.cuts.contains(end);
        if first >= end || *end < unit.earliest[*first] || *end > unit.reach[*first] || !allowed {
            return None;
        }
        let head_ns = if *end == problem.layers { unit.head_ns } else { 0 };
        let own_ns = unit.launch_ns + unit.elapsed_ns[*end] - unit.elapsed_ns[*first] + head_ns;
        busy_ns = busy_ns.max(own_ns);
        sum_ns += own_ns;
        if let Some((next, _, _)) = stages.get(i + 1) {
            let way_ns = problem.way_ns[*u][*next];
            if way_ns >= NEVER_NS {
                return None;
            }
            busy_ns = busy_ns.max(problem.carry_ns[*u][*next]);
            sum_ns += way_ns;
        }
    }
    match objective {
        Objective::Sum { cap_ns } => (busy_ns <= cap_ns).then_some(sum_ns),
        Objective::Bottleneck => Some(busy_ns),
        Objective::Any => Some(sum_ns),
    }
    .filter(|ns| *ns < problem.below_ns)
}

struct Search<'p> {
    problem: &'p Problem,
    objective: Objective,
    best_ns: Option<u64>,
    stages: Vec<(usize, usize, usize)>,
}

impl Search<'_> {
    fn descend(&mut self, first: usize) {
        if first == self.problem.layers {
            let cost_ns = cost_ns(self.problem, self.objective, &self.stages);
            self.best_ns = self.best_ns.into_iter().chain(cost_ns).min();
            return;
        }
        for unit in 0..self.problem.units.len() {
            if self.stages.iter().any(|s| s.0 == unit) {
                continue;
            }
            for end in first + 1..=self.problem.units[unit].reach[first] {
                self.stages.push((unit, first, end));
                self.descend(end);
                self.stages.pop();
            }
        }
    }
}
