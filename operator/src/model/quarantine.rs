//! PURE: how many devices are left within minutes on nobody's word but that of machines.
//!
//! A fault that every device reports at once is seldom a fault of the devices: a threshold was set wrongly, a vendor's library
//! is broken, a driver was rolled out everywhere. To leave them all would end what still serves. So of the devices in service at most
//! half are left or lost within [`WINDOW`], of all together and of each backend; others are *held*: what serves on them stays, and
//! gets nothing new. What is no judgement is never held: a node whose agent is gone, a stage that no longer serves, a device that
//! a person cordons or that the cluster gave to another pod.
//!
//! Time alone releases nothing. A hold ends when the device recovers or its stage ends, when all devices that are judged at present
//! are no more than the limit allows, or when a person cordons the device or raises the limit. Another leader finds holds in the
//! statuses of models, and when a device was judged in the conditions of its object, or some minutes later, as clocks differ; devices
//! that were left and have recovered are forgotten with their leader.

pub mod sight;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Devices that were left within so long are counted together.
pub const WINDOW: Duration = Duration::from_secs(300);

/// What part of the devices may be left within [`WINDOW`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Of the devices in service; 100 holds nothing, 0 leaves nothing.
    pub percent: u32,
}

impl Default for Limit {
    fn default() -> Self {
        Self { percent: 50 }
    }
}

impl Limit {
    /// Devices out of so many: at least one, so that the only device of its kind can be left.
    fn of(self, devices: usize) -> usize {
        let share = devices.saturating_mul(self.percent as usize) / 100;
        share.max(usize::from(self.percent > 0))
    }
}

/// A device that counts: neither cordoned nor somebody else's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen<'s> {
    /// Its name.
    pub device: &'s str,
    /// What computes on it: one library, one driver.
    pub backend: &'s str,
    /// Whether it should be left.
    pub state: State<'s>,
}

/// Whether a device should be left, and on whose word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State<'s> {
    /// It should not.
    Sound,
    /// Its node's agent is not attached.
    Lost,
    /// Its agent says what makes it unfit, and nothing serves on it.
    Idle {
        /// For so long, by the agent's clock.
        stood: Duration,
    },
    /// Its agent says what makes it unfit, and every stage of a pipeline on it serves.
    Serving {
        /// For so long, by the agent's clock.
        stood: Duration,
        /// What: reads on after the device's name.
        why: &'s str,
        /// A model's status says that it is held.
        was_held: bool,
    },
}

/// A device that is not left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What its agent says of it: reads on after its name.
    pub why: String,
    /// Devices that had been left or lost when it should have been.
    pub out: usize,
    /// Of so many.
    pub of: usize,
    /// All of this backend, where the limit of a backend was reached.
    pub backend: Option<String>,
}

/// A device that was left or lost.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Out {
    /// `None`: before anybody looked.
    since: Option<Instant>,
    /// It still is.
    stands: bool,
    /// Its agent went. One that comes back was restarted, and does not count any more.
    is_loss: bool,
}

impl Out {
    fn is_within(&self, at: Instant) -> bool {
        let lately = |since| since <= at && at.saturating_duration_since(since) < WINDOW;
        self.since.is_some_and(lately)
    }

    /// It was out at that time, and had been for longer than counts.
    fn is_old(&self, at: Instant) -> bool {
        self.stands && self.since.is_none_or(|since| since <= at) && !self.is_within(at)
    }
}

/// What is remembered of devices that were left, and which are held.
#[derive(Debug, Default)]
pub struct Quarantine {
    /// The first look finds what stood before.
    looked: bool,
    out: BTreeMap<String, Out>,
    held: BTreeMap<String, Held>,
}

impl Quarantine {
    /// Takes over what the devices are like now. `seen`: each once.
    pub fn look(&mut self, seen: &[Seen<'_>], limit: Limit, now: Instant) {
        let present: BTreeSet<&str> = seen.iter().map(|seen| seen.device).collect();
        self.out.retain(|device, _| present.contains(device.as_str()));
        self.held.retain(|device, _| present.contains(device.as_str()));
        // Facts first: what is gone leaves less for judgement.
        for seen in seen {
            match seen.state {
                State::Sound => self.recovered(seen.device),
                State::Lost => {
                    let since = self.looked.then_some(now);
                    self.leave(seen.device, since, true);
                }
                State::Idle { stood } => self.leave(seen.device, self.began(stood, now), false),
                State::Serving { .. } => {}
            }
        }
        self.judge(seen, limit, now);
        self.release(seen, limit, now);
        self.out.retain(|_, out| out.stands || out.is_within(now));
        self.looked = true;
    }

    /// The devices that are not left, by name.
    #[must_use]
    pub fn held(&self) -> &BTreeMap<String, Held> {
        &self.held
    }

    /// Whether anybody looked before: only the first look asks what stood before it.
    #[must_use]
    pub fn has_looked(&self) -> bool {
        self.looked
    }

    /// When a judgement began. Agents' clocks are asked only about what nobody saw begin.
    fn began(&self, stood: Duration, now: Instant) -> Option<Instant> {
        match self.looked {
            true => Some(now),
            false => now.checked_sub(stood),
        }
    }

    fn recovered(&mut self, device: &str) {
        self.held.remove(device);
        match self.out.get_mut(device) {
            Some(out) if out.is_loss => drop(self.out.remove(device)),
            Some(out) => out.stands = false,
            None => {}
        }
    }

    fn leave(&mut self, device: &str, since: Option<Instant>, is_loss: bool) {
        self.held.remove(device);
        let out = self.out.get_mut(device).filter(|out| out.stands);
        match out {
            Some(out) => out.is_loss &= is_loss,
            None => {
                let out = Out {
                    since,
                    stands: true,
                    is_loss,
                };
                self.out.insert(device.to_owned(), out);
            }
        }
    }

    /// Leaves or holds what serves and is judged for the first time, in the order in which it was.
    fn judge(&mut self, seen: &[Seen<'_>], limit: Limit, now: Instant) {
        let mut new = Vec::new();
        for seen in seen {
            let State::Serving { stood, why, was_held } = seen.state else {
                continue;
            };
            if let Some(held) = self.held.get_mut(seen.device) {
                why.clone_into(&mut held.why);
            } else if !self.out.get(seen.device).is_some_and(|out| out.stands) {
                let was_held = was_held && !self.looked;
                new.push((was_held, self.began(stood, now), seen, why));
            }
        }
        // What was held is in service still.
        new.sort_by_key(|(was_held, since, seen, _)| (*was_held, *since, seen.device));
        for (was_held, since, of, why) in new {
            match self.reached(seen, of, limit, since.unwrap_or(now)) {
                Some((out, count, backend)) => self.hold(of.device, why, (out, count, backend)),
                None if was_held => {
                    let (out, count) = self.counts(seen, None, now);
                    self.hold(of.device, why, (out, count, None));
                }
                None => self.leave(of.device, since, false),
            }
        }
    }

    fn hold(&mut self, device: &str, why: &str, (out, of, backend): (usize, usize, Option<&str>)) {
        tracing::warn!(
            device,
            why,
            out,
            of,
            backend,
            "held: too many devices were left within minutes"
        );
        let held = Held {
            why: why.to_owned(),
            out,
            of,
            backend: backend.map(str::to_owned),
        };
        self.held.insert(device.to_owned(), held);
    }

    /// Lets what is held go once all devices that are judged, with it, are within the limit.
    fn release(&mut self, seen: &[Seen<'_>], limit: Limit, now: Instant) {
        let held: Vec<&Seen<'_>> = seen.iter().filter(|seen| self.held.contains_key(seen.device)).collect();
        for of in held {
            let few = |backend: Option<&str>| {
                let counted = seen.iter().filter(|seen| is_of(seen, backend));
                let (mut unfit, mut all) = (0, 0);
                for seen in counted {
                    let lost_lately = self.out.get(seen.device).is_some_and(|out| out.is_within(now));
                    match seen.state {
                        State::Lost if !lost_lately => continue,
                        State::Sound => {}
                        _ => unfit += 1,
                    }
                    all += 1;
                }
                unfit <= limit.of(all)
            };
            if few(None) && few(Some(of.backend)) && self.reached(seen, of, limit, now).is_none() {
                tracing::info!(
                    device = of.device,
                    "no longer held: few devices are judged unfit by now"
                );
                self.leave(of.device, Some(now), false);
            }
        }
    }

    /// Whether one more device is too many: how many are out, of how many, of which backend. One that was left within the window
    /// counts already.
    fn reached<'b>(
        &self,
        seen: &[Seen<'_>],
        next: &Seen<'b>,
        limit: Limit,
        at: Instant,
    ) -> Option<(usize, usize, Option<&'b str>)> {
        if limit.percent > 0 && self.out.get(next.device).is_some_and(|out| out.is_within(at)) {
            return None;
        }
        [None, Some(next.backend)].into_iter().find_map(|backend| {
            let (out, of) = self.counts(seen, backend, at);
            (out >= limit.of(of)).then_some((out, of, backend))
        })
    }

    /// Devices that were left or lost within the window before `at`, and all that were in service within it.
    fn counts(&self, seen: &[Seen<'_>], backend: Option<&str>, at: Instant) -> (usize, usize) {
        let (mut left, mut all) = (0, 0);
        for seen in seen.iter().filter(|seen| is_of(seen, backend)) {
            match self.out.get(seen.device) {
                Some(out) if out.is_within(at) => left += 1,
                // It has been out for long, and is no part of what is in service.
                Some(out) if out.is_old(at) => continue,
                _ => {}
            }
            all += 1;
        }
        (left, all)
    }
}

fn is_of(seen: &Seen<'_>, backend: Option<&str>) -> bool {
    backend.is_none_or(|backend| backend == seen.backend)
}

#[cfg(test)]
mod tests;
