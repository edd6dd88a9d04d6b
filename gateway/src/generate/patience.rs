//! PURE: how long a request looks for a head, and how often a lost one is replaced.

use std::time::Duration;

use tokio::time::Instant;

use super::memory::RequestMemory;
use crate::routes::ModelState;

/// How long a request that has no token yet looks for another head: a placement moves within seconds, and its client has lost
/// nothing when it is told to ask again.
pub const RETRY_LIMIT: Duration = Duration::from_secs(5);

/// How long an answer in progress waits for a pipeline that is being moved or loaded: the weights of a large stage are read
/// within minutes.
pub const RESUME_LIMIT: Duration = Duration::from_secs(600);

/// How long an answer in progress waits where nothing is left that could hold the model: a process that crashed is started again
/// within seconds, and a node that reboots takes longer than a client waits.
pub const CAPACITY_LIMIT: Duration = Duration::from_secs(20);

/// How often an answer is taken on without a token in between: a request that breaks whatever computes it must not break
/// everything.
pub const BARREN_RESUMES_MAX: u32 = 8;

/// How often an answer is taken on in all. A fault every few seconds for the longest of answers stays below.
pub const RESUMES_MAX: u32 = 256;

/// How long to look for a head, from when the search began.
pub(super) fn limit(state: &ModelState, lost: bool, begun: bool) -> Duration {
    match state {
        // Nothing was begun, and the client can be told why at once.
        ModelState::NotReady { .. } if !lost => Duration::ZERO,
        _ if !begun => RETRY_LIMIT,
        ModelState::NotReady { recovering: false, .. } => CAPACITY_LIMIT,
        ModelState::Ready(_) | ModelState::NotReady { .. } => RESUME_LIMIT,
    }
}

/// How long the request may wait in the queue of a head.
pub(super) fn seat(memory: &RequestMemory, since: Instant, now: Instant) -> Duration {
    let until = if memory.begun() {
        since + RESUME_LIMIT
    } else {
        memory.wait_until
    };
    until.saturating_duration_since(now)
}

/// Counts how often an answer was taken on.
#[derive(Debug, Default)]
pub(super) struct Resumes {
    barren: u32,
    all: u32,
}

impl Resumes {
    /// A head was lost; whether another one may be asked.
    pub(super) fn lost(&mut self) -> bool {
        self.barren += 1;
        self.all += 1;
        self.barren <= BARREN_RESUMES_MAX && self.all <= RESUMES_MAX
    }

    /// A token came.
    pub(super) fn progressed(&mut self) {
        self.barren = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn not_ready(recovering: bool) -> ModelState {
        ModelState::NotReady {
            epoch: 1,
            message: "why".into(),
            recovering,
        }
    }

    #[test]
    fn who_has_not_begun_is_told_at_once_and_who_has_waits_for_what_can_be_expected() {
        assert_eq!(limit(&not_ready(true), false, false), Duration::ZERO);
        assert_eq!(limit(&not_ready(true), true, false), RETRY_LIMIT);
        assert_eq!(limit(&not_ready(true), true, true), RESUME_LIMIT);
        assert_eq!(limit(&not_ready(false), true, true), CAPACITY_LIMIT);
    }

    #[test]
    fn an_answer_that_breaks_every_head_is_given_up_and_one_that_goes_on_is_not() {
        let mut barren = Resumes::default();
        let taken = (0..100).take_while(|_| barren.lost()).count();
        assert_eq!(taken, BARREN_RESUMES_MAX as usize);
        let mut steady = Resumes::default();
        let taken = (0..1000)
            .take_while(|_| {
                let goes_on = steady.lost();
                steady.progressed();
                goes_on
            })
            .count();
        assert_eq!(taken, RESUMES_MAX as usize);
    }
}
