//! PURE: which faults come, in which order and after which pauses: all of it from the seed.

use std::time::Duration;

use crate::history::Kind;
use linkemu::random::Random;

/// How often each kind comes in one round. The loss of a stage is what this project promises most about.
const ROUND: [(Kind, usize); 14] = [
    (Kind::WorkerKilled, 4),
    (Kind::NodeKilled, 3),
    (Kind::AgentKilled, 2),
    (Kind::WorkerFrozen, 1),
    (Kind::AgentFrozen, 1),
    (Kind::OperatorKilled, 2),
    (Kind::ApiServerKilled, 1),
    (Kind::GatewayKilled, 2),
    (Kind::LinkCut, 2),
    (Kind::LinkOneWay, 1),
    (Kind::LinkLossy, 1),
    (Kind::LinkSlow, 1),
    (Kind::LinkJitter, 1),
    (Kind::NodeCordoned, 2),
];

/// Streams get on between two faults: long enough that each has begun, short enough for many faults.
const PAUSE_MS: (u64, u64) = (500, 4000);
/// How long a frozen process stands still, a killed API server stays away, a node is cordoned, or a link is as it should not be.
const LASTS_MS: (u64, u64) = (1000, 15_000);

/// A fault to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// How long to wait before it, from the moment at which the one before is over.
    pub after: Duration,
    /// Which kind.
    pub kind: Kind,
    /// Chooses among the victims that there are then.
    pub choice: u64,
    /// How long it lasts, where it lasts.
    pub lasts: Duration,
}

impl Planned {
    /// One of `0..count` victims; `None` where there are none.
    pub fn victim(&self, count: usize) -> Option<usize> {
        let count = u64::try_from(count).ok().filter(|count| *count > 0)?;
        usize::try_from(self.choice % count).ok()
    }
}

/// The faults of a seed, without end.
#[derive(Debug, Clone)]
pub struct Schedule {
    random: Random,
    kinds: Vec<Kind>,
    every: Option<Duration>,
    left: Vec<Kind>,
}

impl Schedule {
    /// All kinds in `kinds`, after pauses of random lengths, or of always `every`.
    pub fn new(seed: u64, kinds: &[Kind], every: Option<Duration>) -> Self {
        Self {
            random: Random::new(seed),
            kinds: kinds.to_vec(),
            every,
            left: Vec::new(),
        }
    }
}

impl Iterator for Schedule {
    type Item = Planned;

    fn next(&mut self) -> Option<Planned> {
        if self.left.is_empty() {
            let wanted = ROUND.iter().filter(|(kind, _)| self.kinds.contains(kind));
            self.left = wanted
                .flat_map(|(kind, times)| std::iter::repeat_n(*kind, *times))
                .collect();
            self.random.shuffle(&mut self.left);
        }
        let kind = self.left.pop()?;
        let pause = Duration::from_millis(self.random.between(PAUSE_MS.0, PAUSE_MS.1));
        Some(Planned {
            after: self.every.unwrap_or(pause),
            kind,
            choice: self.random.any(),
            lasts: Duration::from_millis(self.random.between(LASTS_MS.0, LASTS_MS.1)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{ROUND, Schedule};
    use crate::history::Kind;

    #[test]
    fn a_round_has_every_kind_as_often_as_it_says_and_a_seed_repeats_it() {
        let round: usize = ROUND.iter().map(|(_, times)| times).sum();
        let faults: Vec<_> = Schedule::new(3, &Kind::ALL, None).take(2 * round).collect();
        for (kind, times) in ROUND {
            assert_eq!(
                faults[..round].iter().filter(|fault| fault.kind == kind).count(),
                times,
                "{kind}"
            );
        }
        assert_eq!(
            faults,
            Schedule::new(3, &Kind::ALL, None).take(2 * round).collect::<Vec<_>>()
        );
        assert_ne!(
            faults,
            Schedule::new(4, &Kind::ALL, None).take(2 * round).collect::<Vec<_>>()
        );
    }

    #[test]
    fn only_the_wanted_kinds_come_at_the_wanted_distance() {
        let every = Duration::from_secs(30);
        let faults: Vec<_> = Schedule::new(1, &[Kind::WorkerKilled], Some(every)).take(9).collect();
        assert!(
            faults
                .iter()
                .all(|fault| fault.kind == Kind::WorkerKilled && fault.after == every)
        );
        assert_eq!(Schedule::new(1, &[], None).next(), None);
    }

    #[test]
    fn a_victim_is_one_of_those_that_there_are() {
        let fault = Schedule::new(1, &Kind::ALL, None).next().unwrap();
        assert_eq!(fault.victim(0), None);
        assert!(fault.victim(3).unwrap() < 3);
    }
}
