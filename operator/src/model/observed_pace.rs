//! PURE: what was predicted of stages beside what they measured, and how often people are shown that.

use std::time::{Duration, Instant};

use crds::{ObservedPace, PlacementStatus, StageStatus};
use proto::control::v1 as wire;

use super::stages::StageSight;

/// What moves is shown once a minute: every change of it is a write to the API server.
const SHOWN_EVERY: Duration = Duration::from_secs(60);
/// Of a prompt, in what prefill times are told.
pub const PREFILL_TOKENS: u64 = 1000;

/// What is shown of one model at present.
#[derive(Debug, Default)]
pub struct Shown {
    epoch: u64,
    stages: Vec<Option<wire::ObservedPace>>,
    at: Option<Instant>,
    behind: bool,
}

impl Shown {
    /// Puts into the sights what is to be shown of them now, and says whether that is more, or something else, than before.
    /// A stage's first figures are shown at once; what a stage no longer tells stays as it was.
    pub fn show(&mut self, epoch: u64, sights: &mut [StageSight], now: Instant) -> bool {
        if self.epoch != epoch || self.stages.len() != sights.len() {
            *self = Self {
                epoch,
                stages: vec![None; sights.len()],
                ..Self::default()
            };
        }
        let pairs = || self.stages.iter().zip(sights.iter());
        let new = pairs().any(|(shown, sight)| shown.is_none() && sight.pace.is_some());
        let moved = pairs().any(|(shown, sight)| sight.pace.is_some() && *shown != sight.pace);
        let rested = self
            .at
            .is_none_or(|at| now.saturating_duration_since(at) >= SHOWN_EVERY);
        let due = new || (moved && rested);
        self.behind = moved && !due;
        if due {
            self.at = Some(now);
            for (shown, sight) in self.stages.iter_mut().zip(sights.iter()) {
                *shown = sight.pace.or(*shown);
            }
        }
        for (shown, sight) in self.stages.iter().zip(sights) {
            sight.pace = *shown;
        }
        due
    }

    /// When what is held back is shown.
    #[must_use]
    pub fn wakes_at(&self) -> Option<Instant> {
        self.at.filter(|_| self.behind).map(|at| at + SHOWN_EVERY)
    }
}

/// A stage's figures as the status has them.
#[must_use]
pub fn view(pace: &wire::ObservedPace) -> ObservedPace {
    let us = |ns: u64, samples: u64| (samples > 0).then(|| signed(ns.div_ceil(1000)));
    let prefill_ns = pace.prefill_row_ns.saturating_mul(PREFILL_TOKENS);
    ObservedPace {
        us_per_token: us(pace.decode_token_ns, pace.decode_samples),
        tokens: (pace.decode_samples > 0).then(|| signed(pace.decode_samples)),
        // Nobody decodes without a context: an agent of before says nothing of it.
        context: (pace.decode_context > 0).then(|| signed(pace.decode_context)),
        expected_us_per_token: None,
        prefill_us: us(prefill_ns, pace.prefill_samples),
        hops_us: us(pace.hops_token_ns, pace.hops_samples),
    }
}

/// Puts beside what was measured of a stage what was predicted for the context that its tokens met: `reckoned` is that of the
/// prediction. Where either context is not known, it is the prediction as it is.
pub fn expect(stage: &mut StageStatus, reckoned: Option<i32>) {
    let (predicted, growing) = (stage.predicted_us_per_token, stage.predicted_context_us);
    let Some(observed) = &mut stage.observed else { return };
    let scaled = match (growing, observed.context, reckoned) {
        (Some(growing), Some(context), Some(reckoned)) if reckoned > 0 => {
            let of_these = i128::from(growing) * i128::from(context) / i128::from(reckoned);
            i64::try_from(of_these).unwrap_or(i64::MAX).saturating_sub(growing)
        }
        _ => 0,
    };
    observed.expected_us_per_token = observed.us_per_token.map(|_| predicted.saturating_add(scaled).max(1));
}

/// What was predicted of one token for the contexts that were met, hops included, of several replicas the mean; `None` until
/// every stage measured.
#[must_use]
pub fn expected_us(view: &PlacementStatus) -> Option<i64> {
    let stage = |stage: &StageStatus| Some(stage.observed?.expected_us_per_token? + stage.hop_us.unwrap_or(0));
    let all: Option<Vec<i64>> = view.stages.iter().map(stage).collect();
    let replicas = view.stages.chunk_by(|a, b| a.pipeline == b.pipeline).count();
    let sum = all?.iter().fold(0_i64, |sum, us| sum.saturating_add(*us));
    (replicas > 0).then(|| sum / i64::try_from(replicas).unwrap_or(i64::MAX))
}

/// One token through all stages and hops as measured, of several replicas the mean; `None` until every part of it is.
#[must_use]
pub fn total_us(view: &PlacementStatus) -> Option<i64> {
    let replicas: Option<Vec<i64>> = view
        .stages
        .chunk_by(|a, b| a.pipeline == b.pipeline)
        .map(replica_us)
        .collect();
    let replicas = replicas.filter(|replicas| !replicas.is_empty())?;
    let sum = replicas.iter().fold(0_i64, |sum, us| sum.saturating_add(*us));
    Some(sum / i64::try_from(replicas.len()).unwrap_or(i64::MAX))
}

/// The same of one replica.
fn replica_us(stages: &[StageStatus]) -> Option<i64> {
    let times: Option<Vec<i64>> = stages.iter().map(|stage| stage.observed?.us_per_token).collect();
    let hops = match stages {
        [_] => Some(0),
        [head, ..] => head.observed?.hops_us,
        [] => None,
    };
    Some(times?.iter().fold(hops?, |sum, us| sum.saturating_add(*us)))
}

/// How far a measured time is from what was predicted for its context: 0.3 is 30 % slower. `None` where either is not known.
#[must_use]
pub fn error_ratio(stage: &StageStatus) -> Option<f64> {
    let observed = stage.observed?;
    let (expected, measured) = (observed.expected_us_per_token?, observed.us_per_token?);
    (expected > 0).then(|| measured as f64 / expected as f64 - 1.0)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proto::control::v1::ShardPhase;

    use super::*;
    use crate::model::{fixture, stages};

    fn pace(us: u64) -> wire::ObservedPace {
        wire::ObservedPace {
            decode_token_ns: us * 1000,
            decode_samples: 200,
            ..Default::default()
        }
    }

    /// Two stages with these figures; whether they were news, and what is shown of them.
    fn shown(shown: &mut Shown, of: [Option<u64>; 2], now: Instant) -> (bool, [Option<u64>; 2]) {
        let in_force = fixture::in_force(1, &["a", "b"]);
        let mut agents = fixture::agents(&["a", "b"]);
        fixture::report(&mut agents, "a", 1, 0, ShardPhase::Serving);
        fixture::report(&mut agents, "b", 1, 1, ShardPhase::Serving);
        let mut sights = stages::look(&in_force, &agents);
        for (sight, us) in sights.iter_mut().zip(of) {
            sight.pace = us.map(pace);
        }
        let news = shown.show(1, &mut sights, now);
        let told = |at: usize| sights[at].pace.map(|pace| pace.decode_token_ns / 1000);
        (news, [told(0), told(1)])
    }

    #[test]
    fn first_figures_are_shown_at_once_and_what_moves_once_a_minute() {
        let (mut state, start) = (Shown::default(), Instant::now());
        assert_eq!(shown(&mut state, [None, None], start), (false, [None, None]));
        assert_eq!(shown(&mut state, [Some(10), None], start), (true, [Some(10), None]));
        assert_eq!(
            shown(&mut state, [Some(10), Some(7)], start),
            (true, [Some(10), Some(7)])
        );
        assert_eq!(
            shown(&mut state, [Some(12), Some(7)], start),
            (false, [Some(10), Some(7)])
        );
        assert_eq!(state.wakes_at(), Some(start + SHOWN_EVERY));
        let later = start + SHOWN_EVERY;
        assert_eq!(
            shown(&mut state, [Some(12), Some(7)], later),
            (true, [Some(12), Some(7)])
        );
        assert_eq!(state.wakes_at(), None);
        assert_eq!(
            shown(&mut state, [Some(12), Some(7)], later),
            (false, [Some(12), Some(7)])
        );
    }

    #[test]
    fn an_hour_of_figures_that_move_with_every_report_is_shown_sixty_times() {
        let (mut state, start) = (Shown::default(), Instant::now());
        let news = (0..3600).filter(|second| {
            let now = start + Duration::from_secs(*second);
            shown(&mut state, [Some(10 + second), Some(20 + second)], now).0
        });
        assert_eq!(news.count(), 60);
    }

    #[test]
    fn what_a_worker_that_began_anew_does_not_tell_yet_stays() {
        let (mut state, start) = (Shown::default(), Instant::now());
        shown(&mut state, [Some(10), Some(7)], start);
        assert_eq!(shown(&mut state, [None, Some(7)], start), (false, [Some(10), Some(7)]));
    }

    #[test]
    fn the_error_is_relative_and_unknown_where_nothing_was_measured() {
        let mut stage = fixture::in_force(1, &["a"]).view.stages.remove(0);
        assert_eq!(error_ratio(&stage), None);
        stage.observed = Some(view(&pace(130)));
        expect(&mut stage, None);
        let error = error_ratio(&stage).unwrap();
        assert!((error - 0.3).abs() < 1e-9, "{error}");
        stage.observed = Some(view(&wire::ObservedPace::default()));
        expect(&mut stage, None);
        assert_eq!(error_ratio(&stage), None, "no sample is not no time");
    }

    #[test]
    fn what_is_expected_follows_the_context_that_was_met() {
        let mut stage = fixture::in_force(1, &["a"]).view.stages.remove(0);
        stage.predicted_context_us = Some(40);
        let mut expected = |context: u64, reckoned| {
            stage.observed = Some(view(&wire::ObservedPace {
                decode_context: context,
                ..pace(100)
            }));
            expect(&mut stage, reckoned);
            stage.observed.unwrap().expected_us_per_token
        };
        // 60 us whatever the context, and 40 at 200 positions.
        assert_eq!(expected(200, Some(200)), Some(100));
        assert_eq!(expected(50, Some(200)), Some(70));
        assert_eq!(expected(400, Some(200)), Some(140));
        assert_eq!(expected(400, None), Some(100));
        assert_eq!(expected(0, Some(200)), Some(100), "a context that nobody told");
    }

    #[test]
    fn the_total_needs_every_stage_and_the_hops() {
        let mut view_of = fixture::in_force(1, &["a", "b"]).view;
        assert_eq!(total_us(&view_of), None);
        for stage in &mut view_of.stages {
            stage.observed = Some(view(&pace(100)));
        }
        assert_eq!(total_us(&view_of), None, "the hops are not known");
        let head = wire::ObservedPace {
            hops_token_ns: 50_000,
            hops_samples: 200,
            ..pace(100)
        };
        view_of.stages[0].observed = Some(view(&head));
        assert_eq!(total_us(&view_of), Some(250));
        let mut one = fixture::in_force(1, &["a"]).view;
        one.stages[0].observed = Some(view(&pace(100)));
        assert_eq!(total_us(&one), Some(100), "one stage has no hop");
    }
}
