//! Whether one device may hold layers, told from what was seen of it. Pure: the next state follows from the state, one
//! observation and the time, so a history can be played again.
//!
//! ```text
//!              Verified                      fault                Verified            60 s, hold-down over
//!  Unproven ────────────▶ Ready ──────────────────────▶ Failed ───────────▶ Recovering ──────────────────▶ Ready
//!                                                          ▲   (HeldDown     │ fault: a relapse, the
//!                                                          └── first)◀───────┘ hold-down doubles
//! ```
//!
//! * A device returns after a passed verification, [`STABLE_MS`] without a fault, and the end of its hold-down. The first
//!   fault has none; the first relapse one of [`HOLD_DOWN_MS`], and each further one twice that of the one before, at most
//!   [`HOLD_DOWN_CAP_MS`]. Relapses are forgiven after [`CALM_MS`] without a fault.
//! * What [`crate::xid`] says cannot be trusted before a reset stays failed until [`Observation::Reset`] or another boot,
//!   whatever a verification says.
//! * From a fault on that makes what the device computes doubtful until it is ready again, [`Health::spoiled_by`] says so: what
//!   computes on it must end.
//! * Each device has its own [`Health`]; an event that names no device only asks each to be verified again.
//!
//! Times are milliseconds of the caller's clock since the Unix epoch. A clock that jumps back costs time, never saves it.

mod clock;
mod fault;

pub use fault::{Action, Fault, Observation, Standing, Transition};

use crate::xid;
use clock::Clock;
use fault::Gravity;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Without a fault, after a passed verification, before a device holds layers again.
pub const STABLE_MS: u64 = 60_000;
/// How long the first relapse keeps a device away at least.
pub const HOLD_DOWN_MS: u64 = 60_000;
/// How long any relapse keeps a device away at most.
pub const HOLD_DOWN_CAP_MS: u64 = 3_600_000;
/// Without a fault, after which relapses are forgiven: several times the longest hold-down, or a device that fails
/// whenever it returns would be forgiven while it is away.
pub const CALM_MS: u64 = 6 * HOLD_DOWN_CAP_MS;
/// This many application faults within [`APPLICATION_WINDOW_MS`] are the device's fault.
pub const APPLICATION_FAULTS: usize = 3;
/// See [`APPLICATION_FAULTS`].
pub const APPLICATION_WINDOW_MS: u64 = 600_000;
/// One crash makes the driver write many lines, each with a number; within this long they are one fault.
pub const APPLICATION_BURST_MS: u64 = 10_000;
/// How long the last good value of a sensor stands for one that cannot be believed.
pub const SENSOR_GRACE_MS: u64 = 10_000;
/// Between two verifications of a device that has not passed.
pub const VERIFY_AGAIN_MS: u64 = 30_000;
/// Between two verifications of a device that an event nearby casts doubt on.
pub const DOUBT_AGAIN_MS: u64 = 5_000;
/// Corrected memory errors within [`ECC_WINDOW_MS`] that are worth a note.
pub const ECC_TREND: u64 = 100;
/// See [`ECC_TREND`].
pub const ECC_WINDOW_MS: u64 = 3_600_000;
/// Unknown event numbers that are told of once each; further ones are not told of.
const NOTED_LIMIT: usize = 32;

/// What is known of one device. It serialises for the registry, all but the proof: after a restart of the agent a device
/// is verified again before it holds layers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Health {
    clock: Clock,
    boot_id: Option<String>,
    trouble: Option<Trouble>,
    /// Faults since the device last was calm, less the first.
    relapses: u32,
    /// Of the last fault; nothing when it is forgiven.
    last_fault_ms: Option<u64>,
    application_ms: Vec<u64>,
    restarts: u32,
    note: Option<Note>,
    noted: BTreeSet<u32>,
    #[serde(skip)]
    ecc: Option<EccTrend>,
    #[serde(skip)]
    proof: Proof,
    #[serde(skip)]
    sensor: Option<SensorTrouble>,
}

/// A fault that the device has not come back from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Trouble {
    fault: Fault,
    held_until_ms: u64,
    awaits_reset: bool,
    /// See [`Health::spoiled_by`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spoiled_by: Option<Fault>,
    /// When a verification passed since the last fault. A restart forgets it: nobody looked meanwhile.
    #[serde(skip)]
    passed_ms: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Proof {
    verified: bool,
    /// Why not.
    reason: Option<String>,
    asked_ms: Option<u64>,
    /// Something happened nearby that could have been this device's.
    doubted: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct SensorTrouble {
    reason: String,
    since_ms: u64,
    told: bool,
}

/// Something that a person should know of a device that stays in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Note {
    fault: Fault,
    at_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct EccTrend {
    from_total: u64,
    from_ms: u64,
    told: bool,
}

impl Health {
    /// Of a device that nothing is known of.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one observation in. What it changed, if that is worth telling.
    pub fn observe(&mut self, seen: &Observation, now_ms: u64) -> Option<Transition> {
        let now = self.clock.advance(now_ms);
        let recovered = self.recover(now);
        self.forgive(now);
        let told = match seen {
            Observation::Verified => self.verified(now, now_ms),
            Observation::CouldNotMeasure { reason } => self.not_measured(reason, now),
            Observation::Xid { xid, text } => self.xid(*xid, text, now),
            Observation::UnplacedEvent { .. } => self.doubt(),
            Observation::SensorInvalid { reason } => self.sensor_invalid(reason, now),
            Observation::SensorFine => self.sensor_fine(),
            Observation::EccCorrected { total } => self.corrected(*total, now),
            Observation::Booted { boot_id } => self.booted(boot_id),
            Observation::Reset => self.reset(),
            Observation::VerificationFailed { .. }
            | Observation::Lost { .. }
            | Observation::Unread { .. }
            | Observation::FellOffBus { .. }
            | Observation::UncorrectedMemory { .. }
            | Observation::ProbeCrashed { .. }
            | Observation::ProbeHung
            | Observation::DriverMismatch { .. }
            | Observation::Gone => {
                if matches!(
                    seen,
                    Observation::VerificationFailed { .. } | Observation::ProbeCrashed { .. } | Observation::ProbeHung
                ) {
                    self.proof.asked_ms = Some(now);
                }
                let (fault, gravity) = fault::of(seen)?;
                self.fail(fault, gravity, now)
            }
        };
        told.or(recovered)
    }

    /// What placement must know at `now_ms`.
    pub fn standing(&self, now_ms: u64) -> Standing {
        let now = self.clock.at(now_ms);
        if let Some(trouble) = &self.trouble
            && let Some(standing) = trouble.standing(now, |moment| self.clock.for_caller(moment, now_ms))
        {
            return standing;
        }
        if !self.proof.verified {
            let reason = self.proof.reason.as_deref();
            return Standing::Unproven {
                reason: reason
                    .unwrap_or("it was not verified since the agent's start")
                    .to_owned(),
            };
        }
        match &self.sensor {
            Some(sensor) if now >= sensor.since_ms.saturating_add(SENSOR_GRACE_MS) => Standing::Unproven {
                reason: format!("SensorInvalid: {}", sensor.reason),
            },
            _ => Standing::Ready,
        }
    }

    /// Whether the device should be verified now. A verification whose outcome is observed answers it; without an answer
    /// it stays true.
    pub fn wants_verification(&self, now_ms: u64) -> bool {
        let now = self.clock.at(now_ms);
        let rested = |gap_ms: u64| {
            let asked = self.proof.asked_ms;
            asked.is_none_or(|asked| now >= asked.saturating_add(gap_ms))
        };
        match &self.trouble {
            Some(trouble) if trouble.awaits_reset => false,
            // So early that what comes after the hold-down is only what is left of it.
            Some(trouble) if trouble.passed_ms.is_none() => {
                now.saturating_add(STABLE_MS) >= trouble.held_until_ms && rested(VERIFY_AGAIN_MS)
            }
            _ if self.proof.doubted => rested(DOUBT_AGAIN_MS),
            _ => !self.proof.verified && rested(VERIFY_AGAIN_MS),
        }
    }

    /// Whether a device in order was verified, or was tried to be, that long ago.
    pub fn proof_is_old(&self, age_ms: u64, now_ms: u64) -> bool {
        let now = self.clock.at(now_ms);
        let is_past = |asked: u64| now >= asked.saturating_add(age_ms);
        self.proof.verified
            && self.trouble.as_ref().is_none_or(|trouble| trouble.over(now))
            && self.proof.asked_ms.is_none_or(is_past)
    }

    /// How often what computes on the device had to be started again, since the device is known.
    pub fn restart_shards(&self) -> u32 {
        self.restarts
    }

    /// Faults after the first, since the device last was calm.
    pub fn relapses(&self) -> u32 {
        self.relapses
    }

    /// What a person should know of a device that stays in use: the condition `Degraded`.
    pub fn note(&self) -> Option<&Fault> {
        self.note.as_ref().map(|note| &note.fault)
    }

    /// The fault since which nothing that the device computes can be trusted, until it is ready again.
    pub fn spoiled_by(&self, now_ms: u64) -> Option<&Fault> {
        let now = self.clock.at(now_ms);
        let trouble = self.trouble.as_ref().filter(|trouble| !trouble.over(now))?;
        trouble.spoiled_by.as_ref()
    }

    /// Whether nothing but time passed between the two: the registry need not be written.
    pub fn same_story(&self, other: &Self) -> bool {
        // What is not written, and the clock.
        let timeless = |health: &Self| Self {
            clock: Clock::default(),
            ecc: None,
            proof: Proof::default(),
            sensor: None,
            trouble: health.trouble.clone().map(|trouble| Trouble {
                passed_ms: None,
                ..trouble
            }),
            ..health.clone()
        };
        timeless(self) == timeless(other)
    }

    fn recover(&mut self, now: u64) -> Option<Transition> {
        let trouble = self.trouble.take_if(|trouble| trouble.over(now))?;
        Some(Transition::Recovered { fault: trouble.fault })
    }

    fn forgive(&mut self, now: u64) {
        let calm = |since: u64| now >= since.saturating_add(CALM_MS);
        if self.trouble.is_none() && self.last_fault_ms.is_some_and(calm) {
            self.relapses = 0;
            self.last_fault_ms = None;
        }
        if self.note.take_if(|note| calm(note.at_ms)).is_some() {
            self.noted.clear();
        }
    }

    fn verified(&mut self, now: u64, now_ms: u64) -> Option<Transition> {
        self.proof.asked_ms = Some(now);
        self.proof.doubted = false;
        let Some(trouble) = &mut self.trouble else {
            let first = !std::mem::replace(&mut self.proof.verified, true);
            return first.then_some(Transition::Proven);
        };
        if trouble.awaits_reset || trouble.passed_ms.is_some() {
            return None;
        }
        self.proof.verified = true;
        trouble.passed_ms = Some(now);
        Some(Transition::Passed {
            ready_at_ms: self.clock.for_caller(trouble.ready_at(now), now_ms),
        })
    }

    fn not_measured(&mut self, reason: &str, now: u64) -> Option<Transition> {
        self.proof.asked_ms = Some(now);
        self.proof.doubted = false;
        self.proof.reason = Some(fault::tidy(reason));
        None
    }

    fn fail(&mut self, fault: Fault, gravity: Gravity, now: u64) -> Option<Transition> {
        let awaits_reset = gravity == Gravity::SpoilsUntilReset;
        let spoiled_by = (gravity >= Gravity::Spoils).then(|| fault.clone());
        self.proof.verified = false;
        self.proof.doubted = false;
        let came_back = self.trouble.as_ref().is_none_or(|trouble| trouble.passed_ms.is_some());
        if came_back && self.last_fault_ms.is_some() {
            self.relapses = self.relapses.saturating_add(1);
        }
        self.last_fault_ms = Some(now);
        let held_until_ms = now.saturating_add(hold_down_ms(self.relapses));
        if let Some(trouble) = &mut self.trouble {
            trouble.passed_ms = None;
            trouble.held_until_ms = trouble.held_until_ms.max(held_until_ms);
            // The graver one is told: a card off the bus is soon also gone.
            if came_back || fault.action >= trouble.fault.action {
                trouble.fault = fault.clone();
            }
            trouble.awaits_reset |= awaits_reset;
            trouble.spoiled_by = trouble.spoiled_by.take().or(spoiled_by);
        } else {
            self.trouble = Some(Trouble {
                fault: fault.clone(),
                held_until_ms,
                awaits_reset,
                spoiled_by,
                passed_ms: None,
            });
        }
        came_back.then_some(Transition::Failed {
            fault,
            relapses: self.relapses,
        })
    }

    fn xid(&mut self, xid: u32, text: &str, now: u64) -> Option<Transition> {
        let Some(row) = xid::lookup(xid) else {
            let message = fault::joined("its number is in no table", text);
            return self.tell_once(Fault::new("UnknownXid", message, Action::None).with_xid(xid), now);
        };
        let fault = Fault::new(row.reason, fault::joined(row.text, text), row.action).with_xid(xid);
        match row.class {
            xid::Class::Note => self.tell_once(fault, now),
            xid::Class::Application => self.application(fault, now),
            xid::Class::Fatal => self.fail(fault, Gravity::Stops, now),
            xid::Class::UntilReset => self.fail(fault, Gravity::SpoilsUntilReset, now),
        }
    }

    fn tell_once(&mut self, fault: Fault, now: u64) -> Option<Transition> {
        let number = fault.xid.unwrap_or_default();
        if self.noted.len() >= NOTED_LIMIT || !self.noted.insert(number) {
            return None;
        }
        self.note = Some(Note {
            fault: fault.clone(),
            at_ms: now,
        });
        Some(Transition::Noted { fault })
    }

    fn application(&mut self, fault: Fault, now: u64) -> Option<Transition> {
        self.application_ms
            .retain(|at| now < at.saturating_add(APPLICATION_WINDOW_MS));
        let last = self.application_ms.last().copied();
        if self.trouble.is_some() || last.is_some_and(|last| now < last.saturating_add(APPLICATION_BURST_MS)) {
            return None;
        }
        self.restarts = self.restarts.saturating_add(1);
        self.application_ms.push(now);
        if self.application_ms.len() < APPLICATION_FAULTS {
            return Some(Transition::RestartShards { fault });
        }
        self.application_ms.clear();
        let minutes = APPLICATION_WINDOW_MS / 60_000;
        let message = format!(
            "{APPLICATION_FAULTS} applications failed within {minutes} min; the last one: {}",
            fault.message
        );
        let mut repeated = Fault::new("ApplicationFaults", message, Action::ResetDevice);
        repeated.xid = fault.xid;
        self.fail(repeated, Gravity::Stops, now)
    }

    fn doubt(&mut self) -> Option<Transition> {
        self.proof.doubted = true;
        None
    }

    fn sensor_invalid(&mut self, reason: &str, now: u64) -> Option<Transition> {
        let sensor = self.sensor.get_or_insert_with(|| SensorTrouble {
            reason: fault::tidy(reason),
            since_ms: now,
            told: false,
        });
        let lasting = now >= sensor.since_ms.saturating_add(SENSOR_GRACE_MS);
        if !lasting || std::mem::replace(&mut sensor.told, true) {
            return None;
        }
        let fault = Fault::new("SensorInvalid", &sensor.reason, Action::None);
        Some(Transition::Noted { fault })
    }

    fn sensor_fine(&mut self) -> Option<Transition> {
        self.sensor = None;
        None
    }

    fn corrected(&mut self, total: u64, now: u64) -> Option<Transition> {
        let fresh = EccTrend {
            from_total: total,
            from_ms: now,
            told: false,
        };
        let trend = self.ecc.get_or_insert(fresh);
        // Less than before: the driver was loaded again and counts anew.
        if total < trend.from_total || now >= trend.from_ms.saturating_add(ECC_WINDOW_MS) {
            *trend = fresh;
        }
        let mended = total - trend.from_total;
        if mended < ECC_TREND || std::mem::replace(&mut trend.told, true) {
            return None;
        }
        let message = format!("{mended} memory errors were mended within an hour; the memory may be wearing out");
        let fault = Fault::new("EccTrend", message, Action::None);
        self.note = Some(Note {
            fault: fault.clone(),
            at_ms: now,
        });
        Some(Transition::Noted { fault })
    }

    fn booted(&mut self, boot_id: &str) -> Option<Transition> {
        let boot_id = fault::tidy(boot_id);
        let before = self.boot_id.replace(boot_id.clone());
        if before.is_some_and(|before| before != boot_id) {
            self.reset();
        }
        None
    }

    fn reset(&mut self) -> Option<Transition> {
        if let Some(trouble) = &mut self.trouble {
            trouble.awaits_reset = false;
        }
        None
    }
}

impl Trouble {
    fn ready_at(&self, passed_ms: u64) -> u64 {
        self.held_until_ms.max(passed_ms.saturating_add(STABLE_MS))
    }

    fn over(&self, now: u64) -> bool {
        self.passed_ms.is_some_and(|passed| now >= self.ready_at(passed))
    }

    /// Nothing when it is over.
    fn standing(&self, now: u64, for_caller: impl Fn(u64) -> u64) -> Option<Standing> {
        let fault = self.fault.clone();
        if self.awaits_reset {
            return Some(Standing::Failed { fault });
        }
        if now < self.held_until_ms {
            return Some(Standing::HeldDown {
                fault,
                until_ms: for_caller(self.held_until_ms),
            });
        }
        let Some(passed) = self.passed_ms else {
            return Some(Standing::Failed { fault });
        };
        (!self.over(now)).then(|| Standing::Recovering {
            fault,
            ready_at_ms: for_caller(self.ready_at(passed)),
        })
    }
}

fn hold_down_ms(relapses: u32) -> u64 {
    match relapses.checked_sub(1) {
        None => 0,
        Some(doublings) => HOLD_DOWN_MS
            .saturating_mul(1 << doublings.min(32))
            .min(HOLD_DOWN_CAP_MS),
    }
}

#[cfg(test)]
mod tests;
