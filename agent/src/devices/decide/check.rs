//! A device that is in order may begin to compute what is wrong and tell nobody. So it is verified once more beside the loading of layers
//! onto it, where its proof is old, and now and then while nothing is on it. Pure.
//!
//! * Nothing waits for a check. One that is answered wrongly fails the device as any verification does, and what was loaded there ends.
//! * Only what is due is touched, in one child: the neighbours compute on. What others were given or use is left alone.
//! * A check that cannot be made says nothing. One that hangs or crashes has the devices asked as after a hang of their reader, which
//!   condemns the one of several that does so again, and a backend's only one where it hangs.

use super::desk::Running;
use super::{Ask, Decider, Known, evidence};
use crate::discovery::report::object_name;
use device::child::parts::Part;
use device::child::probe::ProbeFault;
use device::{Answer, Backend, Kind, Selection, Verification};
use std::collections::BTreeSet;
use std::time::Duration;

/// How old the last verification of a device in order may be.
#[derive(Clone, Copy, Debug)]
pub struct ProofAges {
    /// When layers are loaded on it.
    pub loading: Duration,
    /// While nothing is on it.
    pub idle: Duration,
}

impl Default for ProofAges {
    /// A check takes a process that opens the driver: seldom enough to cost nothing, and layers that are loaded again and again do not
    /// have their device tested each time.
    fn default() -> Self {
        Self {
            loading: Duration::from_secs(180),
            idle: Duration::from_secs(600),
        }
    }
}

/// What this node's shards do with its devices, by name of the DeviceGPUState.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InUse {
    /// Layers are on them.
    pub held: BTreeSet<String>,
    /// Layers are about to be loaded on them, or are being loaded.
    pub loading: BTreeSet<String>,
    /// Layers are on them that are not wanted any more, and are about to go.
    pub leaving: BTreeSet<String>,
}

/// Why a device in order is verified once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Occasion {
    Loading,
    Idle,
}

impl Occasion {
    fn why(self) -> &'static str {
        match self {
            Self::Loading => "layers are loaded on a device that was verified a while ago",
            Self::Idle => "a device on which nothing is was verified a while ago",
        }
    }
}

impl Decider {
    /// What the node's shards do with its devices.
    pub fn in_use(&mut self, in_use: InUse) {
        // Another backend may lead to what nothing is on any more.
        self.remerge |= (&self.in_use.held, &self.in_use.leaving) != (&in_use.held, &in_use.leaving);
        self.in_use = in_use;
    }

    /// Checks that are due: at once where layers are loaded, and of one backend at a time where nothing is.
    pub(super) fn checks(&mut self, now_ms: u64) -> Vec<Ask> {
        let backends: Vec<Backend> = self.desks.iter().map(|(backend, _)| *backend).collect();
        let mut asks = Vec::new();
        for backend in &backends {
            asks.extend(self.check(*backend, Occasion::Loading, now_ms));
        }
        let is_quiet = self
            .desks
            .iter()
            .all(|(_, desk)| desk.running.is_none() && !desk.is_wanted());
        if is_quiet {
            let mut idle = backends.iter();
            asks.extend(idle.find_map(|backend| self.check(*backend, Occasion::Idle, now_ms)));
        }
        asks
    }

    fn check(&mut self, backend: Backend, occasion: Occasion, now_ms: u64) -> Option<Ask> {
        let places = self.due_places(backend, occasion, now_ms);
        let desk = self.desk(backend)?;
        if places.is_empty() || !desk.free(now_ms) || desk.is_wanted() {
            return None;
        }
        desk.running = Some(Running::Check);
        Some(Ask {
            backend,
            measure: Duration::ZERO,
            parts: vec![Selection::At(places)],
            why: occasion.why(),
        })
    }

    /// Where the backend's devices are plugged in that are to be checked.
    fn due_places(&self, backend: Backend, occasion: Occasion, now_ms: u64) -> BTreeSet<String> {
        let present = |known: &Known| known.device.backend == backend && known.gone_ms.is_none();
        let own = self.known.iter().filter(|(_, known)| present(known));
        let due = own
            .clone()
            .filter(|(identity, known)| self.is_due(identity, known, occasion, now_ms));
        let mut places: BTreeSet<String> = due.map(|(_, known)| known.device.place().to_owned()).collect();
        if occasion == Occasion::Idle && !places.is_empty() {
            // Slices of one card are touched together.
            for (_, known) in own.filter(|(identity, known)| self.is_left_alone(identity, known)) {
                places.remove(known.device.place());
            }
        }
        places
    }

    /// Whether there are layers on it, or others were given it or use it.
    fn is_left_alone(&self, identity: &str, known: &Known) -> bool {
        let neighbours = self.neighbours.as_ref();
        self.in_use.held.contains(&self.name(known))
            || neighbours.is_some_and(|all| all.strangers.contains_key(identity))
            || !self.availability(identity, &known.device).allows_layers()
    }

    fn is_due(&self, identity: &str, known: &Known, occasion: Occasion, now_ms: u64) -> bool {
        let ages = self.rules.proof_ages;
        let age = match occasion {
            Occasion::Loading => ages.loading,
            Occasion::Idle => ages.idle,
        };
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        known.device.backend.holds_layers()
            && known.health.proof_is_old(age_ms, now_ms)
            && self.availability(identity, &known.device).allows_layers()
            && (occasion == Occasion::Idle || self.in_use.loading.contains(&self.name(known)))
    }

    pub(super) fn name(&self, known: &Known) -> String {
        object_name(&self.rules.node, &known.device)
    }

    /// What came of a check.
    pub(super) fn checked(&mut self, backend: Backend, parts: &[Part], now_ms: u64) {
        if let Some(desk) = self.desk(backend) {
            desk.running = None;
        }
        for (only, outcome) in parts {
            for identity in self.of_backend(backend) {
                if let Some(verification) = self.found_at(&identity, only, outcome) {
                    self.verified_again(&identity, &verification, now_ms);
                }
            }
            let is_of_driver = match outcome {
                Err(ProbeFault::Hung(_)) => self.is_of_cards(backend, only),
                Err(ProbeFault::Crashed(_)) => backend != Backend::Cpu,
                Err(ProbeFault::Starved(_) | ProbeFault::Broken(_)) | Ok(_) => false,
            };
            if is_of_driver {
                self.want_culprit(backend, "a device that was checked hangs or crashes");
            }
        }
    }

    /// Whether something was asked for that does not compute on the processors. Those do not hang; a machine that is starved does.
    fn is_of_cards(&self, backend: Backend, only: &Selection) -> bool {
        let own = self.known.values().map(|known| &known.device);
        own.filter(|device| device.backend == backend && only.picks(device.place()))
            .any(|device| !matches!(device.kind, Kind::Cpu | Kind::Software))
    }

    /// What was found of a device that was checked; nothing of one that was not.
    fn found_at(&self, identity: &str, only: &Selection, outcome: &Result<Answer, ProbeFault>) -> Option<Verification> {
        let known = self.known.get(identity)?;
        if known.gone_ms.is_some() || !only.picks(known.device.place()) {
            return None;
        }
        let unknown = |reason: String| Verification::CouldNotMeasure { reason };
        Some(match outcome {
            Ok(answer) => {
                let is_it = |raw: &str| self.became.get(raw).is_some_and(|became| became == identity);
                let found = answer.devices.iter().find(|device| is_it(&device.identity()));
                found.map_or_else(
                    || unknown("it was not listed when it was checked".to_owned()),
                    |device| device.verification.clone(),
                )
            }
            Err(fault) => unknown(fault.to_string()),
        })
    }

    /// What could not be told leaves what is shown of the last verification.
    fn verified_again(&mut self, identity: &str, verification: &Verification, now_ms: u64) {
        let seen = evidence::of_verification(verification);
        if !matches!(verification, Verification::CouldNotMeasure { .. }) {
            self.show(identity, verification);
            self.remerge = true;
        }
        self.observe(identity, &seen, now_ms);
    }

    /// In the backend's last answer as well: that is taken up once more with the next one of another backend.
    fn show(&mut self, identity: &str, verification: &Verification) {
        let Some(known) = self.known.get_mut(identity) else {
            return;
        };
        known.device.verification = verification.clone();
        let backend = known.device.backend;
        let Some((_, desk)) = self.desks.iter_mut().find(|(of, _)| *of == backend) else {
            return;
        };
        for device in &mut desk.answer.devices {
            if self
                .became
                .get(&device.identity())
                .is_some_and(|became| became == identity)
            {
                device.verification = verification.clone();
            }
        }
    }
}
