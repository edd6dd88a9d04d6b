//! A card that hangs, or takes its driver down, is asked apart from the others from then on, so that it condemns none of
//! them. Pure.
//!
//! ```text
//!  all in one child ──hangs──▶ each place in a child of its own ──some answer──▶ the well together, each sick one alone
//!        ▲                                   └──none answers──▶ the driver hangs: all are condemned       │
//!        └───────────────────────── no sick one is left ◀─────────────────────────────────────────────────┘
//! ```

use super::Decider;
use device::child::parts::{self, Part};
use device::child::probe::ProbeFault;
use device::health::Observation;
use device::{Answer, Backend, GpuDevice, Kind, Selection, UNPLUGGED, Verification};
use std::collections::{BTreeMap, BTreeSet};

/// What became of a question.
#[derive(Debug)]
pub(super) enum Weighed {
    /// Some of its devices hang or crash, and which is to be found out.
    Divide(ProbeFault),
    /// Nobody answered.
    Failed(ProbeFault),
    /// Some answered.
    Took(Taken),
}

/// An answer, and what is missing in it.
#[derive(Debug)]
pub(super) struct Taken {
    /// With the devices that did not answer, as they were known.
    pub(super) answer: Answer,
    /// Places that are to be asked apart from now on.
    pub(super) apart: BTreeSet<String>,
    /// What is to be told of the devices at a place, instead of what the answer says of them.
    pub(super) verdicts: BTreeMap<String, Observation>,
    /// For people.
    pub(super) note: Option<String>,
}

impl Decider {
    /// Where devices of the backend are plugged in, as far as the bus and its last answer tell.
    pub(super) fn places(&self, backend: Backend) -> BTreeSet<String> {
        let on_bus = self.bus.iter().flatten().filter(|card| card.is_for(backend));
        let mut places: BTreeSet<String> = on_bus.map(|card| card.address.clone()).collect();
        if let Some(desk) = self.desk_of(backend) {
            places.extend(desk.answer.devices.iter().map(|device| device.place().to_owned()));
        }
        if backend == Backend::Vulkan {
            // Renderers on the processors.
            places.insert(UNPLUGGED.to_owned());
        }
        places
    }

    /// The children that the backend's next question takes. Only the well are measured.
    pub(super) fn parts(&self, backend: Backend, measure: bool) -> Vec<Selection> {
        let Some(desk) = self.desk_of(backend) else {
            return Vec::new();
        };
        if desk.divided {
            return self.places(backend).iter().map(|place| Selection::one(place)).collect();
        }
        let well = std::iter::once(self.watched(backend));
        let sick = desk
            .apart
            .iter()
            .filter(|_| !measure)
            .map(|place| Selection::one(place));
        well.chain(sick).collect()
    }

    /// Which of the backend's devices may be touched together.
    pub fn watched(&self, backend: Backend) -> Selection {
        match self.desk_of(backend) {
            Some(desk) if !desk.apart.is_empty() => {
                let mut well: BTreeSet<String> = self.places(backend).difference(&desk.apart).cloned().collect();
                if well.is_empty() {
                    // A selection has a place; this one has no card at it.
                    well.insert(UNPLUGGED.to_owned());
                }
                Selection::At(well)
            }
            _ => Selection::All,
        }
    }

    /// Whether a fault of the backend may be one device's, and its neighbours none the worse.
    pub(super) fn divisible(&self, backend: Backend) -> bool {
        backend != Backend::Cpu && self.places(backend).len() > 1
    }

    pub(super) fn weigh(&self, backend: Backend, parts: &[Part]) -> Weighed {
        let fault_of_many = parts.iter().find_map(|(only, outcome)| match outcome {
            Err(fault @ (ProbeFault::Hung(_) | ProbeFault::Crashed(_))) if only.alone().is_none() => Some(fault),
            _ => None,
        });
        if let Some(fault) = fault_of_many
            && self.divisible(backend)
        {
            return Weighed::Divide(fault.clone());
        }
        // Those that were to be asked together, and were not, are no less there than before.
        let unasked = parts
            .iter()
            .find_map(|(only, outcome)| outcome.as_ref().err().filter(|_| only.alone().is_none()));
        if let Some(fault) = unasked {
            return Weighed::Failed(fault.clone());
        }
        if parts.iter().all(|(_, outcome)| outcome.is_err()) {
            let mut faults = parts.iter().filter_map(|(_, outcome)| outcome.as_ref().err());
            // Where the node had no time for one, the others had little.
            let starved = faults.clone().find(|fault| matches!(fault, ProbeFault::Starved(_)));
            let hung = faults.clone().find(|fault| matches!(fault, ProbeFault::Hung(_)));
            let nothing = || ProbeFault::Broken("nothing was asked".to_owned());
            let worst = starved.or(hung).or_else(|| faults.next());
            return Weighed::Failed(worst.cloned().unwrap_or_else(nothing));
        }
        Weighed::Took(self.taken(backend, parts))
    }

    fn taken(&self, backend: Backend, parts: &[Part]) -> Taken {
        let mut taken = Taken {
            answer: parts::join(backend, parts),
            apart: self.desk_of(backend).map(|desk| desk.apart.clone()).unwrap_or_default(),
            verdicts: BTreeMap::new(),
            note: None,
        };
        let mut notes = Vec::new();
        let mut faults = BTreeMap::new();
        for (only, outcome) in parts {
            match (only, outcome) {
                (Selection::All, Ok(_)) => taken.apart.clear(),
                (Selection::At(places), Ok(_)) => taken.apart.retain(|place| !places.contains(place)),
                (only, Err(fault)) => {
                    let Some(place) = only.alone() else { continue };
                    notes.push(format!("{place}: {fault}"));
                    faults.insert(place.to_owned(), fault);
                    if let Some(verdict) = verdict(fault) {
                        taken.apart.insert(place.to_owned());
                        taken.verdicts.insert(place.to_owned(), verdict);
                    }
                }
            }
        }
        // A card that was pulled out is no concern any more, unless it was asked for just now.
        let places = self.places(backend);
        taken.apart.retain(|place| places.contains(place));
        let unanswered: BTreeSet<&String> = taken.apart.iter().chain(faults.keys()).collect();
        for place in unanswered {
            let reason = faults.get(place).map(ToString::to_string);
            self.remember_at(place, reason.as_deref(), &mut taken.answer);
        }
        taken.note = (!notes.is_empty()).then(|| notes.join("; "));
        taken
    }

    /// Adds the devices at a place that did not answer, as they were in the last answer, or in an earlier life of the
    /// agent; of a card that nobody knows yet there is only where it is plugged in.
    fn remember_at(&self, place: &str, reason: Option<&str>, answer: &mut Answer) {
        let backend = answer.backend;
        let here = |device: &GpuDevice| device.backend == backend && device.place() == place;
        let last = self.desk_of(backend).map(|desk| desk.answer.devices.clone());
        let mut devices: Vec<GpuDevice> = last
            .unwrap_or_default()
            .into_iter()
            .filter(|known| here(known))
            .collect();
        if devices.is_empty() {
            devices = self.registry.known().into_iter().filter(|known| here(known)).collect();
        }
        if devices.is_empty() && place != UNPLUGGED {
            devices.push(GpuDevice {
                vendor: maker(backend).to_owned(),
                pci_address: Some(place.to_owned()),
                ..GpuDevice::new(backend, 0, Kind::Discrete)
            });
        }
        for mut device in devices {
            if let Some(reason) = reason {
                device.verification = Verification::CouldNotMeasure {
                    reason: reason.to_owned(),
                };
            }
            if answer.devices.iter().any(|other| other.index == device.index) {
                let last = answer.devices.iter().map(|other| other.index).max();
                device.index = last.map_or(0, |last| last.saturating_add(1));
            }
            answer.devices.push(device);
        }
    }
}

/// What follows for a device that was asked alone while a neighbour answered; nothing where the child was not made, had no
/// processor, or was ended by somebody else.
fn verdict(fault: &ProbeFault) -> Option<Observation> {
    match fault {
        ProbeFault::Hung(_) => Some(Observation::ProbeHung),
        ProbeFault::Crashed(reason) => Some(Observation::ProbeCrashed { reason: reason.clone() }),
        ProbeFault::Starved(_) | ProbeFault::Broken(_) => None,
    }
}

fn maker(backend: Backend) -> &'static str {
    match backend {
        Backend::Cuda => "nvidia",
        Backend::Rocm => "amd",
        Backend::Intel => "intel",
        Backend::Vulkan | Backend::Cpu => "unknown",
    }
}
