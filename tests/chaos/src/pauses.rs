//! PURE: how long answers paused around faults, and percentiles of it.
//!
//! A fault's pause in a stream is the longest time between two pieces of it that belongs to the fault: within which it struck, or which
//! began after it and before the next one. It is what the user saw, so it is never shorter than the recovery: a token that was on its
//! way when the fault struck ends no pause. Pieces that a client had already seen before it asked again count for nothing: its pause
//! lasts until there is more.
//!
//! Streams that go on elsewhere compute their prompts and all that they have said again, and they share one pipeline. What an idle pipeline
//! takes for that is no part of the recovery, which is the pause without it: for a stream's own tokens, and for those of the others that were
//! interrupted with it and had their next token no later. What it took for those that came after is not known, and counts as recovery.

use std::collections::BTreeMap;

use crate::history::{History, Kind, Moment, Operation};

/// What a fault cost a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// As the user saw it.
    pub lasted: Moment,
    /// Of that, without computing again what was known.
    pub recovery: Moment,
}

/// What a fault did to a stream.
struct Interrupted {
    lasted: Moment,
    until: Moment,
    /// What an idle pipeline takes for what this stream had to compute again.
    computing: Moment,
}

impl Interrupted {
    fn pause(&self, all: &[Self]) -> Pause {
        let before = all.iter().filter(|other| other.until <= self.until);
        let computing: Moment = before.map(|other| other.computing).sum();
        Pause {
            lasted: self.lasted,
            recovery: self.lasted.saturating_sub(computing),
        }
    }
}

/// A part that is silent is given up after this at the earliest: what pauses for less computes nothing again.
const SILENCE: Moment = Moment::from_secs(2);

/// Pauses that last as long had something to compute again.
fn computed_again_from(kind: Kind) -> Moment {
    match kind {
        // A move has loaded what it needs, but the caches.
        _ if kind.takes_a_stage() || kind == Kind::NodeCordoned => Moment::ZERO,
        Kind::WorkerFrozen | Kind::LinkCut | Kind::LinkOneWay => SILENCE,
        _ => Moment::MAX,
    }
}

/// Pauses by kind of fault, of all streams that were under way when a fault of that kind struck.
pub fn by_kind(history: &History) -> BTreeMap<Kind, Vec<Pause>> {
    let mut pauses: BTreeMap<Kind, Vec<Pause>> = BTreeMap::new();
    let progress: Vec<(usize, Vec<Moment>)> = history
        .operations
        .iter()
        .filter(|operation| {
            history
                .requests
                .get(operation.request)
                .is_some_and(|request| request.streamed)
        })
        .map(|operation| (operation.request, progress(operation)))
        .collect();
    let times: Vec<Moment> = history.faults.iter().map(|fault| fault.at).collect();
    for fault in &history.faults {
        pauses.entry(fault.kind).or_default();
    }
    let mut interrupted: BTreeMap<usize, Vec<Interrupted>> = BTreeMap::new();
    for (request, moments) in &progress {
        for (number, found) in longest(moments, &times) {
            let computing = match () {
                () if found.lasted < computed_again_from(history.faults[number].kind) => Moment::ZERO,
                () => history.prompts.computing(*request, found.answered),
            };
            let (lasted, until) = (found.lasted, found.until);
            interrupted.entry(number).or_default().push(Interrupted {
                lasted,
                until,
                computing,
            });
        }
    }
    for (number, streams) in interrupted {
        pauses
            .entry(history.faults[number].kind)
            .or_default()
            .extend(streams.iter().map(|stream| stream.pause(&streams)));
    }
    pauses
}

/// When a client saw more of its answer than ever before.
fn progress(operation: &Operation) -> Vec<Moment> {
    let mut moments = Vec::new();
    let mut furthest = 0;
    for attempt in &operation.attempts {
        let mut reached = attempt.from;
        for piece in &attempt.pieces {
            reached += piece.text.len();
            if reached > furthest {
                furthest = reached;
                moments.push(piece.at);
            }
        }
    }
    moments
}

/// A pause of one stream.
#[derive(Debug, Clone, Copy, Default)]
struct Longest {
    lasted: Moment,
    until: Moment,
    /// Pieces of the answer before it.
    answered: usize,
}

/// The longest pause of a stream for each fault that struck while it was under way, by the fault's number.
fn longest(moments: &[Moment], faults: &[Moment]) -> BTreeMap<usize, Longest> {
    let mut longest: BTreeMap<usize, Longest> = BTreeMap::new();
    let Some(begun) = moments.first() else {
        return longest;
    };
    for (answered, pair) in (1..).zip(moments.windows(2)) {
        let before = faults.partition_point(|fault| *fault <= pair[0]);
        let struck_within = faults.get(before).is_some_and(|fault| *fault <= pair[1]);
        let fault = if struck_within {
            Some(before)
        } else {
            before.checked_sub(1)
        };
        let Some(fault) = fault.filter(|fault| *begun <= faults[*fault]) else {
            continue;
        };
        let pause = longest.entry(fault).or_default();
        let lasted = pair[1].saturating_sub(pair[0]);
        if lasted > pause.lasted {
            *pause = Longest {
                lasted,
                until: pair[1],
                answered,
            };
        }
    }
    longest
}

/// The value below which a share (0 to 1) of the values lie: the nearest rank. `None` of none.
pub fn percentile(values: &[Moment], share: f64) -> Option<Moment> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Pause, by_kind, percentile};
    use crate::history::{Attempt, End, Fault, History, Kind, Operation, Piece, Prompts, Request};

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn attempt(at_ms: &[u64]) -> Attempt {
        let piece = |at: &u64| Piece {
            at: ms(*at),
            text: "a".to_owned(),
        };
        Attempt {
            gateway: 0,
            from: 0,
            asked: ms(0),
            pieces: at_ms.iter().map(piece).collect(),
            ended: ms(*at_ms.last().unwrap_or(&0)),
            end: End::Silent,
        }
    }

    fn fault(kind: Kind, at_ms: u64) -> Fault {
        Fault {
            kind,
            target: String::new(),
            gateway: None,
            at: ms(at_ms),
            whole: None,
        }
    }

    fn history(attempts: Vec<Attempt>, faults: Vec<Fault>) -> History {
        History {
            requests: vec![Request {
                prompt: String::new(),
                max_tokens: 9,
                temperature: 0.0,
                seed: 0,
                streamed: true,
                choices: 1,
            }],
            operations: vec![Operation {
                id: 0,
                request: 0,
                deadline: ms(0),
                attempts,
            }],
            faults,
            ..History::default()
        }
    }

    fn lasted(pauses: &[Pause]) -> Vec<Duration> {
        pauses.iter().map(|pause| pause.lasted).collect()
    }

    #[test]
    fn what_is_computed_again_is_no_part_of_the_recovery() {
        let mut run = history(vec![attempt(&[100, 200, 2200])], vec![fault(Kind::NodeKilled, 300)]);
        let pause = by_kind(&run)[&Kind::NodeKilled][0];
        assert_eq!((pause.lasted, pause.recovery), (ms(2000), ms(2000)), "nothing is known");
        run.prompts = Prompts {
            tokens: vec![298],
            tokens_per_second: Some(400.0),
        };
        let pause = by_kind(&run)[&Kind::NodeKilled][0];
        assert_eq!((pause.lasted, pause.recovery), (ms(2000), ms(1250)), "298 tokens and 2");
    }

    #[test]
    fn what_was_computed_again_for_others_before_is_no_part_of_it_either() {
        let mut run = history(vec![attempt(&[100, 200, 2200])], vec![fault(Kind::WorkerKilled, 300)]);
        let other = |at_ms: &[u64]| Operation {
            attempts: vec![attempt(at_ms)],
            ..run.operations[0].clone()
        };
        let (sooner, later) = (other(&[100, 1200]), other(&[100, 3200]));
        run.operations.extend([sooner, later]);
        run.prompts = Prompts {
            tokens: vec![199],
            tokens_per_second: Some(400.0),
        };
        let recoveries =
            |run: &History, kind| -> Vec<Duration> { by_kind(run)[&kind].iter().map(|pause| pause.recovery).collect() };
        let us = Duration::from_micros;
        assert_eq!(
            recoveries(&run, Kind::WorkerKilled),
            [
                us(2_000_000 - 502_500 - 500_000),
                ms(600),
                us(3_100_000 - 502_500 - 2 * 500_000)
            ]
        );
        run.faults[0].kind = Kind::LinkCut;
        assert_eq!(
            recoveries(&run, Kind::LinkCut),
            [us(2_000_000 - 502_500), ms(1100), us(3_100_000 - 502_500 - 500_000)],
            "the second paused for less than a silent part is waited for"
        );
        run.faults[0].kind = Kind::OperatorKilled;
        assert_eq!(recoveries(&run, Kind::OperatorKilled), [ms(2000), ms(1100), ms(3100)]);
    }

    #[test]
    fn a_token_that_was_under_way_when_the_fault_struck_does_not_end_the_pause() {
        let found = by_kind(&history(
            vec![attempt(&[100, 200, 301, 1500, 1600])],
            vec![fault(Kind::WorkerKilled, 300)],
        ));
        assert_eq!(lasted(&found[&Kind::WorkerKilled]), [ms(1199)]);
    }

    #[test]
    fn a_pause_belongs_to_the_fault_within_it_and_streams_that_had_not_begun_have_none() {
        let faults = vec![
            fault(Kind::WorkerKilled, 50),
            fault(Kind::NodeKilled, 150),
            fault(Kind::OperatorKilled, 1000),
            fault(Kind::AgentFrozen, 1250),
        ];
        let found = by_kind(&history(vec![attempt(&[100, 200, 900, 950, 1150, 1200])], faults));
        assert!(found[&Kind::WorkerKilled].is_empty());
        assert_eq!(lasted(&found[&Kind::NodeKilled]), [ms(700)]);
        assert_eq!(lasted(&found[&Kind::OperatorKilled]), [ms(200)]);
        assert!(found[&Kind::AgentFrozen].is_empty());
    }

    #[test]
    fn what_a_client_has_seen_already_is_no_progress_when_it_asks_again() {
        let found = by_kind(&history(
            vec![attempt(&[100, 200, 300]), attempt(&[500, 600, 700, 800])],
            vec![fault(Kind::GatewayKilled, 350)],
        ));
        assert_eq!(lasted(&found[&Kind::GatewayKilled]), [ms(500)]);
    }

    #[test]
    fn percentiles_are_values_by_nearest_rank() {
        let values: Vec<Duration> = (1..=100).rev().map(ms).collect();
        assert_eq!(percentile(&values, 0.5), Some(ms(50)));
        assert_eq!(percentile(&values, 0.99), Some(ms(99)));
        assert_eq!(percentile(&[], 0.99), None);
    }
}
