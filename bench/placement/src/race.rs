//! Every solver on every instance, in turns, and whether they agree.

use std::{collections::BTreeMap, time::Instant};

use placement::core::{Answer, Budget, Objective, Problem, Solved, solve};
use serde_json::{Value, json};

use crate::{
    BenchError,
    instance::Instance,
    peers::{PEERS, Peer, Theirs},
};

/// The best of so many runs counts, for everybody, where one is quick.
const RUNS: usize = 3;
const QUICK_MS: f64 = 500.0;
/// A step is about a microsecond, and may be several where there are many devices.
const STEPS_PER_SECOND: f64 = 1e6;
const PROBE_SHARE: f64 = 0.1;
/// Later steps may take longer than those that were timed.
const AIMED_SHARE: f64 = 0.9;
const ATTEMPTS: usize = 3;
/// The others' bounds are floating-point numbers.
const ROUNDING_US: f64 = 1.0;
const SEED: u64 = 1;

/// What the core found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ours {
    pub ms: f64,
    pub objective: Option<u64>,
    pub bound: u64,
    pub proved: bool,
    pub steps: u64,
}

impl Ours {
    /// How far the plan may be from the optimum, by its own account, in percent.
    pub fn gap_percent(&self) -> Option<f64> {
        let objective = self.objective? as f64;
        Some((objective / self.bound.max(1) as f64 - 1.0).max(0.0) * 100.0)
    }
}

/// One instance, solved.
#[derive(Clone, Debug)]
pub struct Outcome<'i> {
    pub instance: &'i Instance,
    pub ours: Ours,
    /// In the order of [`PEERS`]; `None` where one was not asked.
    pub theirs: [Option<Theirs>; 2],
}

/// The core alone, with a budget of steps.
pub fn ours(instance: &Instance, steps: u64) -> Ours {
    timed(&instance.problem(), Objective::LATENCY, steps)
}

/// A question to the core, with a budget of steps.
pub fn timed(problem: &Problem, objective: Objective, steps: u64) -> Ours {
    let mut best: Option<(f64, Solved)> = None;
    for _ in 0..RUNS {
        let begun = Instant::now();
        // An instance that was read has the form of a problem.
        let Ok(solved) = solve(problem, objective, Budget { steps, seed: SEED }) else {
            break;
        };
        let ms = begun.elapsed().as_secs_f64() * 1e3;
        if best.as_ref().is_none_or(|(least_ms, _)| ms < *least_ms) {
            best = Some((ms, solved));
        }
        if ms > QUICK_MS {
            break;
        }
    }
    let Some((ms, solved)) = best else {
        return Ours {
            ms: f64::NAN,
            objective: None,
            bound: 0,
            proved: false,
            steps: 0,
        };
    };
    Ours {
        ms,
        objective: solved.answer.route().map(|route| route.cost_ns),
        bound: solved.answer.bound_ns(),
        proved: matches!(solved.answer, Answer::Optimal(_) | Answer::Infeasible),
        steps: solved.steps,
    }
}

/// The core alone, in the time that everybody has. Its budgets are steps and not seconds, so that it is first seen how long a
/// step takes here; what took longer than allowed does not count.
fn ours_within(instance: &Instance, cap_s: f64) -> Ours {
    let cap_ms = cap_s * 1e3;
    let kept = ours(instance, (cap_s * STEPS_PER_SECOND * PROBE_SHARE) as u64);
    let mut ms_per_step = kept.ms / kept.steps.max(1) as f64;
    for _ in 0..ATTEMPTS {
        if kept.proved {
            break;
        }
        let longer = ours(instance, (cap_ms / ms_per_step * AIMED_SHARE) as u64);
        if longer.ms <= cap_ms {
            return longer;
        }
        ms_per_step = longer.ms / longer.steps.max(1) as f64;
    }
    kept
}

/// All solvers that are asked, on one instance.
///
/// # Errors
/// A peer that does not answer.
pub fn run<'i>(instance: &'i Instance, peers: &mut [Option<Peer>; 2], cap_s: f64) -> Result<Outcome<'i>, BenchError> {
    let ours = ours_within(instance, cap_s);
    let mut theirs = [None; 2];
    for (peer, answer) in peers.iter_mut().zip(&mut theirs) {
        if let Some(peer) = peer {
            *answer = Some(peer.solve(instance, cap_s)?);
        }
    }
    Ok(Outcome { instance, ours, theirs })
}

impl Outcome<'_> {
    /// The best plan anybody else found.
    pub fn best_other(&self) -> Option<u64> {
        self.theirs.iter().flatten().filter_map(|theirs| theirs.objective).min()
    }

    /// The best value known, from whoever.
    pub fn best(&self) -> Option<u64> {
        [self.ours.objective, self.best_other(), self.instance.best_known_us]
            .into_iter()
            .flatten()
            .min()
    }

    /// How much longer a peer took to its proof, if we have one; for a peer without proof, at least that much longer.
    pub fn times_faster_than(&self, peer: usize) -> Option<f64> {
        let theirs = self.theirs[peer]?;
        self.ours.proved.then(|| theirs.ms / self.ours.ms)
    }

    /// Everything that cannot be true of all answers together.
    pub fn contradictions(&self) -> Vec<String> {
        let ours = &self.ours;
        let mut found = Vec::new();
        let mut hold = |holds: bool, what: String| {
            if !holds {
                found.push(format!("{}: {what}", self.instance.name));
            }
        };
        if let Some(best) = self.instance.best_known_us.filter(|_| self.instance.is_proved) {
            hold(
                ours.bound <= best,
                format!("our bound {} is above the optimum {best}", ours.bound),
            );
            let objective = ours.objective.unwrap_or(u64::MAX);
            hold(
                objective >= best,
                format!("our {objective} is below the optimum {best}"),
            );
        }
        for (index, theirs) in self.theirs.iter().enumerate() {
            let (Some(theirs), name) = (theirs, PEERS[index].0) else {
                continue;
            };
            if let Some(objective) = theirs.objective {
                let bound = ours.bound;
                hold(
                    bound <= objective,
                    format!("our bound {bound} is above {name}'s plan of {objective}"),
                );
            }
            if ours.proved && theirs.is_proved() {
                let (a, b) = (ours.objective, theirs.objective);
                hold(a == b, format!("we prove {a:?} and {name} {b:?}"));
            }
            if let (Some(objective), Some(bound)) = (ours.objective, theirs.bound) {
                let holds = bound <= objective as f64 + ROUNDING_US;
                hold(
                    holds,
                    format!("{name}'s bound {bound} is above our plan of {objective}"),
                );
            }
        }
        found
    }

    /// What others did better here.
    pub fn losses(&self) -> Vec<String> {
        let name = &self.instance.name;
        let mut losses = Vec::new();
        for (theirs, (peer, _)) in self.theirs.iter().zip(PEERS) {
            let Some(theirs) = theirs else { continue };
            match (self.ours.objective, theirs.objective) {
                (None, Some(objective)) => {
                    losses.push(format!("{name}: {peer} has a plan of {objective}, we have none"))
                }
                (Some(ours), Some(objective)) if objective < ours => {
                    losses.push(format!(
                        "{name}: {peer}'s plan of {objective} is better than our {ours}"
                    ));
                }
                _ => {}
            }
            if theirs.is_proved() && !self.ours.proved {
                losses.push(format!(
                    "{name}: {peer} proves in {:.0} ms what we do not in {:.0}",
                    theirs.ms, self.ours.ms
                ));
            } else if theirs.is_proved() && theirs.ms < self.ours.ms {
                losses.push(format!(
                    "{name}: {peer} proves in {:.1} ms, we in {:.1}",
                    theirs.ms, self.ours.ms
                ));
            }
        }
        losses
    }

    pub fn to_json(&self) -> Value {
        let instance = self.instance;
        let [cpsat, highs] = self.theirs;
        let ms = |theirs: Option<Theirs>| theirs.map(|theirs| theirs.ms);
        json!({
            "name": instance.name,
            "family": instance.family,
            "rho": instance.rho,
            "devices": instance.devices(),
            "layers": instance.layers,
            "ours": {
                "ms": self.ours.ms,
                "objective": self.ours.objective,
                "proved": self.ours.proved,
                "gap": self.ours.gap_percent().map(|percent| percent / 100.0),
                "bound": self.ours.bound,
                "steps": self.ours.steps,
            },
            "best_other_objective": self.best_other(),
            "cpsat_ms": ms(cpsat),
            "highs_ms": ms(highs),
            "cpsat": cpsat,
            "highs": highs,
        })
    }
}

/// Outcomes by size, family and tightness, and all families and tightnesses of a size together.
pub fn cells<'o, 'i>(outcomes: &'o [Outcome<'i>]) -> BTreeMap<(usize, String, String), Vec<&'o Outcome<'i>>> {
    let mut cells: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for outcome in outcomes {
        let Instance { family, rho, .. } = outcome.instance;
        for (family, rho) in [(family.as_str(), rho.as_str()), ("~all", rho), ("~all", "~all")] {
            let key = (outcome.instance.devices(), family.to_owned(), rho.to_owned());
            cells.entry(key).or_default().push(outcome);
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::{Ours, Outcome, ours};
    use crate::{
        instance::tests::two_cards,
        peers::{Status, Theirs},
    };

    fn theirs(objective: u64, bound: f64, status: Status) -> Option<Theirs> {
        Some(Theirs {
            status,
            objective: Some(objective),
            bound: Some(bound),
            ms: 10.0,
        })
    }

    #[test]
    fn the_core_finds_the_optimum_of_two_cards() {
        let found = ours(&two_cards(), 10_000);
        assert_eq!((found.objective, found.bound, found.proved), (Some(175), 175, true));
        assert_eq!(found.gap_percent(), Some(0.0));
    }

    #[test]
    fn answers_that_cannot_all_be_true_are_told() {
        let instance = two_cards();
        let ours = Ours {
            ms: 1.0,
            ..ours(&instance, 10_000)
        };
        let outcome = |other| Outcome {
            instance: &instance,
            ours,
            theirs: [other, None],
        };
        assert_eq!(outcome(theirs(175, 175.0, Status::Optimal)).contradictions(), [""; 0]);
        assert_eq!(outcome(theirs(180, 170.0, Status::Feasible)).contradictions(), [""; 0]);
        assert_eq!(outcome(theirs(174, 174.0, Status::Optimal)).contradictions().len(), 2);
        assert_eq!(outcome(theirs(180, 178.0, Status::Feasible)).contradictions().len(), 1);
    }

    #[test]
    fn what_others_do_better_is_a_loss() {
        let instance = two_cards();
        let open = Ours {
            ms: 20.0,
            objective: Some(180),
            bound: 170,
            proved: false,
            steps: 1,
        };
        let outcome = Outcome {
            instance: &instance,
            ours: open,
            theirs: [theirs(175, 175.0, Status::Optimal), None],
        };
        assert_eq!(outcome.losses().len(), 2, "{:?}", outcome.losses());
        assert_eq!(
            outcome.times_faster_than(0),
            None,
            "without a proof there is no time to it"
        );
        assert_eq!(outcome.best(), Some(175));
    }
}
