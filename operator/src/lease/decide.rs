//! PURE: what a candidate does about the lease it sees.
//!
//! Clocks of two machines are never compared. A candidate measures, on its own clock, how long the record has stood
//! unchanged; only a record unchanged for its whole duration is taken over.

use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;

/// A clock that is no more than this behind the last renewal's date is taken to stand still.
const STANDS_US: i64 = 1_000_000;

/// The part of a Lease that the election reads. Any renewal changes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; empty when it was released.
    pub holder: String,
    /// How long it holds without renewal.
    pub duration: Duration,
    /// The holder's own time stamp, compared for equality only.
    pub renewed: String,
}

/// A record, and since when (on our clock) it has looked like that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// What was seen.
    pub record: Record,
    /// When it was first seen so.
    pub since: Instant,
}

impl Sighting {
    /// Keeps `since` where the record has not changed.
    #[must_use]
    pub fn update(previous: Option<&Sighting>, record: Record, now: Instant) -> Sighting {
        match previous {
            Some(seen) if seen.record == record => seen.clone(),
            _ => Sighting { record, since: now },
        }
    }
}

/// What to do about the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// There is none: create it.
    Create,
    /// It is free or has lapsed: write our name into it.
    Take,
    /// It is ours: renew it.
    Renew,
    /// Another holds it, for at least this long.
    Wait(Duration),
}

/// The next move of candidate `me`.
#[must_use]
pub fn decide(me: &str, seen: Option<&Sighting>, now: Instant) -> Move {
    let Some(Sighting { record, since }) = seen else {
        return Move::Create;
    };
    if record.holder == me {
        return Move::Renew;
    }
    if record.holder.is_empty() {
        return Move::Take;
    }
    let stood = now.saturating_duration_since(*since);
    match record.duration.checked_sub(stood) {
        Some(left) if !left.is_zero() => Move::Wait(left),
        _ => Move::Take,
    }
}

/// Until when a leader may act after a renewal that began at `renewed`: a third of the lease before any other may take
/// it, so that two never act at once.
#[must_use]
pub fn acts_until(renewed: Instant, lease: Duration) -> Instant {
    renewed + lease * 2 / 3
}

/// The date of a renewal; `before`: that of our last one. Others see a renewal by its change alone, and the API server makes none of a
/// write that changes nothing: a clock that stands still must not cost the lease.
#[must_use]
pub fn renewed_at(date: Timestamp, before: Option<Timestamp>) -> Timestamp {
    let Some(last_us) = before.map(Timestamp::as_microsecond) else {
        return date;
    };
    match last_us.saturating_sub(date.as_microsecond()) {
        0..=STANDS_US => Timestamp::from_microsecond(last_us + 1).unwrap_or(date),
        _ => date,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(15);

    fn record(holder: &str, renewed: &str) -> Record {
        Record {
            holder: holder.into(),
            duration: LEASE,
            renewed: renewed.into(),
        }
    }

    #[test]
    fn the_decision_table() {
        let start = Instant::now();
        let seen = |holder| {
            Some(Sighting {
                record: record(holder, "1"),
                since: start,
            })
        };
        let after = |seconds| start + Duration::from_secs(seconds);
        for (case, sighting, now, expected) in [
            ("no lease", None, start, Move::Create),
            ("released", seen(""), start, Move::Take),
            ("ours", seen("me"), start, Move::Renew),
            (
                "ours and long lapsed, nobody took it",
                seen("me"),
                after(100),
                Move::Renew,
            ),
            ("another's, fresh", seen("other"), start, Move::Wait(LEASE)),
            (
                "another's, near its end",
                seen("other"),
                after(14),
                Move::Wait(Duration::from_secs(1)),
            ),
            ("another's, lapsed to the second", seen("other"), after(15), Move::Take),
            ("another's, long lapsed", seen("other"), after(60), Move::Take),
        ] {
            assert_eq!(decide("me", sighting.as_ref(), now), expected, "{case}");
        }
    }

    #[test]
    fn a_renewal_by_the_other_starts_the_wait_anew() {
        let start = Instant::now();
        let first = Sighting::update(None, record("other", "1"), start);
        let same = Sighting::update(Some(&first), record("other", "1"), start + Duration::from_secs(9));
        assert_eq!(same.since, start);
        let renewed = Sighting::update(Some(&same), record("other", "2"), start + Duration::from_secs(10));
        assert_eq!(
            decide("me", Some(&renewed), start + Duration::from_secs(16)),
            Move::Wait(Duration::from_secs(9))
        );
    }

    #[test]
    fn a_leader_stops_acting_before_another_may_begin() {
        let renewed = Instant::now();
        let other_sees = Sighting::update(None, record("me", "1"), renewed);
        let stops = acts_until(renewed, LEASE);
        assert_eq!(decide("other", Some(&other_sees), stops), Move::Wait(LEASE / 3));
    }

    #[test]
    fn every_renewal_has_another_date_than_the_one_before_also_where_the_clock_stands_still() {
        let at = |nanosecond| Timestamp::from_nanosecond(nanosecond).unwrap();
        let (date, us) = (1_800_000_000_000_000_700_i128, 1000);
        assert_eq!(renewed_at(at(date), None), at(date), "the first");
        // As it is read again, in whole microseconds.
        let written = at(date - 700);
        let mut last = written;
        for renewal in 1..=3 {
            last = renewed_at(at(date), Some(last));
            assert_eq!(last, at(date - 700 + renewal * us));
        }
        for ahead in [us, 5_000_000_000, -5_000_000_000] {
            let set = at(date - 700 + ahead);
            assert_eq!(renewed_at(set, Some(written)), set, "a clock that goes, or was set");
        }
    }

    #[test]
    fn a_clock_that_seems_to_run_backwards_only_waits_longer() {
        let start = Instant::now() + Duration::from_secs(60);
        let seen = Sighting {
            record: record("other", "1"),
            since: start,
        };
        assert_eq!(
            decide("me", Some(&seen), start - Duration::from_secs(5)),
            Move::Wait(LEASE)
        );
    }
}
