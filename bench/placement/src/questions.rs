//! Other questions that the core answers and the other solvers are not asked: how soon, on the same instances.

use placement::core::{Objective, Problem};

use crate::{instance::Instance, race, stats};

/// Larger ones would take most of the run.
const MAX_DEVICES: usize = 32;
const STEPS: u64 = 500_000;
/// Of unequal layers every sixth counts for this many, in time and in room.
const LARGE_LAYER: usize = 3;
const LARGE_EVERY: usize = 6;

pub const QUESTIONS: [(&str, Question); 2] = [
    ("slowest part", |instance| (instance.problem(), Objective::Bottleneck)),
    ("latency, unequal layers", |instance| {
        (unequal(instance), Objective::LATENCY)
    }),
];

type Question = fn(&Instance) -> (Problem, Objective);

/// One question about all instances of one size.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Row {
    pub question: &'static str,
    pub size: String,
    pub instances: usize,
    pub proved: usize,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub max_ms: f64,
}

pub fn measure(instances: &[Instance]) -> Vec<Row> {
    let asked = || instances.iter().filter(|instance| instance.devices() <= MAX_DEVICES);
    let mut sizes: Vec<(usize, &str)> = asked().map(|i| (i.devices(), i.size.as_str())).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let mut rows = Vec::new();
    for (question, ask) in QUESTIONS {
        for (_, size) in &sizes {
            let of_size = asked().filter(|instance| instance.size == *size);
            let answers: Vec<race::Ours> = of_size
                .map(|instance| {
                    let (problem, objective) = ask(instance);
                    race::timed(&problem, objective, STEPS)
                })
                .collect();
            let ms: Vec<f64> = answers.iter().map(|answer| answer.ms).collect();
            rows.push(Row {
                question,
                size: (*size).to_owned(),
                instances: answers.len(),
                proved: answers.iter().filter(|answer| answer.proved).count(),
                p50_ms: stats::percentile(&ms, 0.5),
                p90_ms: stats::percentile(&ms, 0.9),
                max_ms: stats::largest(&ms),
            });
        }
    }
    rows
}

/// Every sixth layer takes more time and more room, the devices' room in layers the same in sum.
fn unequal(instance: &Instance) -> Problem {
    let weight = |layer: usize| {
        if layer.is_multiple_of(LARGE_EVERY) {
            LARGE_LAYER
        } else {
            1
        }
    };
    let mut problem = instance.problem();
    let layers = problem.layers;
    let total: usize = (0..layers).map(weight).sum();
    for (device, unit) in problem.units.iter_mut().enumerate() {
        let room = instance.capacity[device] * total / layers;
        for end in 1..=layers {
            let count = u64::try_from(weight(end - 1)).unwrap_or(1);
            unit.elapsed_ns[end] = unit.elapsed_ns[end - 1] + instance.layer_us[device] * count;
        }
        for first in 0..layers {
            let fits = |end: &usize| (first..*end).map(weight).sum::<usize>() <= room;
            unit.reach[first] = (first + 1..=layers).take_while(fits).last().unwrap_or(first);
        }
    }
    problem
}

#[cfg(test)]
mod tests {
    use super::{measure, unequal};
    use crate::instance::tests::two_cards;

    #[test]
    fn unequal_layers_take_more_time_and_more_room() {
        let problem = unequal(&two_cards());
        assert_eq!(problem.units[0].elapsed_ns, [0, 30, 40, 50, 60]);
        // Six layers' worth on two cards of three layers in four: room for four each, the first of which counts for three.
        assert_eq!(problem.units[0].reach, [2, 4, 4, 4]);
        assert_eq!(problem.validate(), Ok(()));
    }

    #[test]
    fn every_question_is_asked_about_every_size() {
        let rows = measure(&[two_cards()]);
        let asked: Vec<_> = rows.iter().map(|row| (row.question, row.proved)).collect();
        assert_eq!(asked, [("slowest part", 1), ("latency, unequal layers", 1)]);
    }
}
