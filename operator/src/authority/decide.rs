//! PURE: what the next step of a rotation is, and for whom it waits.
//!
//! ```text
//!  steady ──asked for, or near its end──▶ prepared ──all trust both──▶ active ──all use the new one's leaves──▶ steady
//!                                          a new one is trusted         it issues; the old one is trusted still
//! ```
//!
//! Whoever is one phase ahead of others or behind them is understood by all; whoever is two is not. So the next phase begins only when
//! all have come to the present one, but for those who let everybody wait for too long.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use identity::{DEFAULT_LEAF_LIFETIME, Fingerprint};

use super::holders::Holder;
use super::kept::Phase;

/// A new authority is trusted for so long before it issues: by then kubelets have brought it to whoever starts.
pub const PREPARED_MIN: Duration = Duration::from_secs(90);
/// Leaves of both are good for so long: other replicas of the operator, who are not asked, have theirs within seconds; what missed its
/// turn is looked at again every 30 s, and needs time to take its leaf up.
pub const ACTIVE_MIN: Duration = Duration::from_secs(45);
/// Somebody who does not say that it trusts the new authority is waited for this long, and so is whoever went.
pub const LAGGARD_MAX: Duration = Duration::from_secs(600);
/// Within this time of a new leader's begin all are attached to it.
pub const ATTACHED_WITHIN: Duration = Duration::from_secs(30);
/// Another authority takes the place of one of whose life less than this part is left.
const LAST_PART: u32 = 6;
/// Dates that are years away are looked at again this often: clocks are set.
const LOOK_MAX: Duration = Duration::from_secs(24 * 3600);
/// Renewals a second over all: half of what enrolment lets through in the long run.
const RENEWALS_PER_SECOND: usize = 20;
/// Renewals are spread over this time at least.
const SPREAD_MIN: Duration = Duration::from_secs(2);

/// What is known.
#[derive(Debug, Clone)]
pub struct Seen<'a> {
    /// As the Secret says.
    pub phase: Phase,
    /// Since when, as the Secret says: by the clock of whoever led then.
    pub since: Option<SystemTime>,
    /// For how long this replica knows of it, by a clock that nobody sets.
    pub known_for: Duration,
    /// A wish for another authority that was not honoured yet.
    pub is_asked: bool,
    /// When the certificate of the authority that issues ends.
    pub ends: SystemTime,
    /// How long it lives in all.
    pub lifetime: Duration,
    /// Whose leaves are good.
    pub authorities: &'a BTreeSet<Fingerprint>,
    /// The one that issues.
    pub issuer: Fingerprint,
    /// Who is there.
    pub holders: &'a [Holder],
    /// For how long this replica leads.
    pub led_for: Duration,
    /// What date it is.
    pub now: SystemTime,
}

/// Why another authority is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Somebody asked for it.
    Asked,
    /// The present one ends before long.
    Ends,
}

/// What is next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing is, before so much time has passed or somebody says something else.
    Wait {
        /// Time alone may change that after this.
        wake: Duration,
        /// Who has not come to the present phase.
        waits_for: Vec<String>,
        /// Nothing else is waited for.
        overdue: bool,
    },
    /// Make a new authority, to be trusted by all.
    Prepare(Why),
    /// Have the new one issue, though these do not trust it.
    Activate(Vec<String>),
    /// Trust the new one alone, though these use the old one's leaves.
    Finish(Vec<String>),
}

/// The next step.
#[must_use]
pub fn decide(seen: &Seen<'_>) -> Step {
    let (least, most) = match seen.phase {
        Phase::Steady => return steady(seen),
        Phase::Prepared => (PREPARED_MIN, LAGGARD_MAX),
        // No leaf of the old one is good any more by then.
        Phase::Active => (ACTIVE_MIN, DEFAULT_LEAF_LIFETIME),
    };
    // Where clocks differ, or stand still, it began no later than this replica knows of it. That alone counts for the least time, which
    // a clock that is set forward must not shorten.
    let by_date = seen.since.and_then(|since| seen.now.duration_since(since).ok());
    let passed = by_date.unwrap_or_default().max(seen.known_for);
    let waits_for: Vec<String> = seen
        .holders
        .iter()
        .filter(|holder| !has_come(seen, holder))
        .map(|holder| holder.name.clone())
        .collect();
    // A leader that has just begun does not know yet who is there.
    let unknown = ATTACHED_WITHIN.saturating_sub(seen.led_for);
    let early = least.saturating_sub(seen.known_for).max(unknown);
    let late = most.saturating_sub(passed).max(unknown);
    let wake = match (early.is_zero(), waits_for.is_empty()) {
        (false, _) => early,
        (true, false) => late,
        (true, true) => Duration::ZERO,
    };
    if wake.is_zero() {
        return match seen.phase {
            Phase::Prepared => Step::Activate(waits_for),
            _ => Step::Finish(waits_for),
        };
    }
    Step::Wait {
        wake: wake.min(LOOK_MAX),
        overdue: early.is_zero(),
        waits_for,
    }
}

fn steady(seen: &Seen<'_>) -> Step {
    if seen.is_asked {
        return Step::Prepare(Why::Asked);
    }
    let left = seen.ends.duration_since(seen.now).unwrap_or_default();
    match left.checked_sub(seen.lifetime / LAST_PART) {
        Some(wake) if !wake.is_zero() => Step::Wait {
            wake: wake.min(LOOK_MAX),
            waits_for: Vec::new(),
            overdue: false,
        },
        _ => Step::Prepare(Why::Ends),
    }
}

/// Whether the next phase may begin for its sake.
fn has_come(seen: &Seen<'_>, holder: &Holder) -> bool {
    let Some(held) = &holder.held else { return false };
    match seen.phase {
        Phase::Prepared => held.authorities.is_superset(seen.authorities),
        _ => held.issuers.iter().eq([&seen.issuer]),
    }
}

/// Over which time so many processes renew, all of which are told at once.
#[must_use]
pub fn spread(processes: usize) -> Duration {
    let seconds = processes.div_ceil(RENEWALS_PER_SECOND);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX)).max(SPREAD_MIN)
}

#[cfg(test)]
mod tests;
