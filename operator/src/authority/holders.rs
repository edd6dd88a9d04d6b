//! Who is connected to the leader, and whom each says that it trusts; and what all of them are told to trust.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use identity::{Held, Wanted};
use proto::control::v1::{TrustHeld, TrustWanted};
use tokio::sync::watch;

use super::decide::LAGGARD_MAX;
use crate::clock;

/// One that went is counted for so long: a node that is started again is away for minutes.
const BACK_WITHIN: Duration = LAGGARD_MAX;

/// One process, or a node with its workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// For people.
    pub name: String,
    /// What it said last. An older version says nothing.
    pub held: Option<Held>,
}

#[derive(Debug, Default)]
struct Entry {
    places: BTreeSet<u64>,
    held: Option<Held>,
    /// When the last of its places was left.
    left: Option<Instant>,
}

#[derive(Debug, Default)]
struct Inner {
    places: u64,
    entries: BTreeMap<String, Entry>,
}

/// All that are connected to this replica.
#[derive(Debug, Default)]
pub struct Holders {
    wanted: watch::Sender<Option<Arc<TrustWanted>>>,
    changed: watch::Sender<u64>,
    inner: Mutex<Inner>,
}

/// One stream of a process; it is left when this is dropped.
#[derive(Debug)]
pub struct Place {
    holders: Arc<Holders>,
    name: String,
    number: u64,
}

impl Place {
    /// The process says so.
    pub fn says(&self, held: TrustHeld) {
        let held = Held::from(held);
        let changed = self.holders.with(&self.name, |entry| {
            let changed = entry.held.as_ref() != Some(&held);
            entry.held = Some(held);
            changed
        });
        if changed == Some(true) {
            self.holders.touch();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.holders.with(&self.name, |entry| {
            entry.places.remove(&self.number);
            if entry.places.is_empty() {
                entry.left = Some(clock::now());
            }
        });
        self.holders.touch();
    }
}

impl Holders {
    /// A process opens a stream.
    #[must_use]
    pub fn enter(self: &Arc<Self>, name: String) -> Place {
        let number = {
            let mut inner = self.lock();
            inner.places += 1;
            let number = inner.places;
            let entry = inner.entries.entry(name.clone()).or_default();
            entry.places.insert(number);
            entry.left = None;
            number
        };
        self.touch();
        Place {
            holders: Arc::clone(self),
            name,
            number,
        }
    }

    /// All that are connected at `now`, or were not long ago.
    #[must_use]
    pub fn list(&self, now: Instant) -> Vec<Holder> {
        let mut inner = self.lock();
        inner.entries.retain(|_, entry| {
            let away = entry.left.map(|left| now.saturating_duration_since(left));
            away.is_none_or(|away| away < BACK_WITHIN)
        });
        let holder = |(name, entry): (&String, &Entry)| Holder {
            name: name.clone(),
            held: entry.held.clone(),
        };
        inner.entries.iter().map(holder).collect()
    }

    /// After which time the next of those who went is counted no more: nobody says so then.
    #[must_use]
    pub fn forgets_in(&self, now: Instant) -> Option<Duration> {
        let first = self.lock().entries.values().filter_map(|entry| entry.left).min()?;
        Some(BACK_WITHIN.saturating_sub(now.saturating_duration_since(first)))
    }

    /// How many these are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().entries.len()
    }

    /// Tells all of them whom they shall trust, where that is something else than before.
    pub fn want(&self, wanted: Option<&Wanted>) {
        self.wanted.send_if_modified(|told| {
            let before = told.as_deref().and_then(Wanted::read);
            let same = match (&before, wanted) {
                (Some(before), Some(wanted)) => before.is_same(wanted),
                (before, wanted) => before.is_none() && wanted.is_none(),
            };
            if !same {
                *told = wanted.map(|wanted| Arc::new(TrustWanted::from(wanted)));
            }
            !same
        });
    }

    /// What they are told, once there is anything, and every change.
    #[must_use]
    pub fn wanted(&self) -> watch::Receiver<Option<Arc<TrustWanted>>> {
        let mut wanted = self.wanted.subscribe();
        wanted.mark_changed();
        wanted
    }

    /// Wakes when somebody comes, goes, or says something else.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn with<T>(&self, name: &str, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        self.lock().entries.get_mut(name).map(change)
    }

    fn touch(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is complete before anything can panic, so a poisoned map is still a sound one.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use identity::Authority;

    use super::*;

    fn wanted() -> Wanted {
        let authority = Authority::generate("shardwright", std::time::SystemTime::now()).unwrap();
        Wanted::of(&authority, Duration::from_secs(2))
    }

    fn saying(wanted: &Wanted) -> TrustHeld {
        TrustHeld::from(&Held {
            authorities: wanted.authorities.clone(),
            issuers: BTreeSet::from([wanted.issuer]),
        })
    }

    fn names(holders: &Holders, now: Instant) -> Vec<String> {
        holders.list(now).into_iter().map(|holder| holder.name).collect()
    }

    #[test]
    fn one_that_went_is_counted_for_ten_minutes_and_what_it_said_still_holds() {
        let holders = Arc::<Holders>::default();
        let place = holders.enter("agent a".into());
        let other = holders.enter("agent b".into());
        let wanted = wanted();
        place.says(saying(&wanted));
        assert_eq!(holders.forgets_in(clock::now()), None, "nobody went");
        drop(place);
        let now = clock::now();
        assert_eq!(names(&holders, now), ["agent a", "agent b"]);
        assert!(holders.list(now)[0].held.as_ref().is_some_and(|held| held.is(&wanted)));
        assert_eq!(holders.list(now)[1].held, None, "it said nothing");
        let minutes = Duration::from_secs(9 * 60);
        assert_eq!(names(&holders, now + minutes), ["agent a", "agent b"]);
        let rest = holders.forgets_in(now + minutes);
        assert!(rest.is_some_and(|rest| rest <= Duration::from_secs(60)), "{rest:?}");
        assert_eq!(holders.forgets_in(now + BACK_WITHIN), Some(Duration::ZERO));
        assert_eq!(names(&holders, now + BACK_WITHIN), ["agent b"]);
        assert_eq!(holders.forgets_in(now + BACK_WITHIN), None);
        drop(other);
    }

    #[test]
    fn an_older_stream_that_ends_after_a_newer_one_began_takes_nobody_away() {
        let holders = Arc::<Holders>::default();
        let older = holders.enter("agent a".into());
        let newer = holders.enter("agent a".into());
        drop(older);
        assert_eq!(names(&holders, clock::now() + BACK_WITHIN * 2), ["agent a"]);
        drop(newer);
        assert!(names(&holders, clock::now() + BACK_WITHIN * 2).is_empty());
    }

    #[test]
    fn all_are_told_once_of_each_wish_however_renewals_are_spread() {
        let holders = Arc::<Holders>::default();
        let mut told = holders.wanted();
        told.mark_unchanged();
        let one = wanted();
        holders.want(Some(&one));
        assert!(told.has_changed().unwrap());
        told.mark_unchanged();
        let slower = Wanted {
            spread: Duration::from_secs(9),
            ..one
        };
        holders.want(Some(&slower));
        assert!(!told.has_changed().unwrap());
        holders.want(Some(&wanted()));
        assert!(told.has_changed().unwrap());
        told.mark_unchanged();
        holders.want(None);
        assert!(told.borrow_and_update().is_none());
        holders.want(None);
        assert!(!told.has_changed().unwrap());
    }
}
