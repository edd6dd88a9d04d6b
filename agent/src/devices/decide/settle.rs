//! After an answer: which devices there are, and which there are no more.

use super::{Decider, Known, Temperatures, evidence};
use device::health::{Fault, Observation, Standing};
use device::{Answer, Backend, Figure, GpuDevice, Measured, Reach, merge};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

impl Decider {
    /// Takes up the answers that came since the last time. At the start all are waited for, within reason: a card that
    /// two backends reach would else be one device first and then another.
    pub(super) fn settle(&mut self, idle: bool, now_ms: u64) {
        let complete = self.desks.iter().all(|(_, desk)| desk.answered);
        let is_due = !self.unsettled.is_empty() || self.remerge;
        if !is_due || !(complete || self.ready || self.is_late(now_ms)) {
            return;
        }
        self.remerge = false;
        let asked = std::mem::take(&mut self.unsettled);
        // An earlier answer does not know what memory is free now.
        let idle = idle && !asked.is_empty();
        let answers: Vec<Answer> = self.desks.iter().map(|(_, desk)| desk.answer.clone()).collect();
        let limit_bytes = self.rules.memory_limit_bytes;
        let mut devices = merge::merge_keeping(&answers, limit_bytes, |view| self.leads_in_use(view));
        self.recognise(&devices);
        self.registry.assign_ordinals(&mut devices);
        self.registry.recall(&mut devices);
        for device in &mut devices {
            if let Some(known) = self.known.get(&device.identity()) {
                keep(&known.device, device, idle);
            }
        }
        self.registry.remember(&devices);
        self.became = became(&answers, &devices);
        let present: BTreeSet<String> = devices.iter().map(GpuDevice::identity).collect();
        let absent: Vec<String> = self
            .known
            .keys()
            .filter(|identity| !present.contains(*identity))
            .cloned()
            .collect();
        for identity in absent {
            match self.became.get(&identity).cloned() {
                // Another backend reaches it better now.
                Some(name) => self.goes_by(&identity, name),
                None => self.missed(&identity, &asked, now_ms),
            }
        }
        for device in devices {
            self.found(device, &asked, now_ms);
        }
        self.verdicts.clear();
    }

    /// Whether a view is of the backend that leads to a device on which layers are: what is on it goes by that one's name, and is told
    /// by it when it must go.
    fn leads_in_use(&self, view: &GpuDevice) -> bool {
        let identity = self.became.get(&view.identity());
        let known = identity.and_then(|identity| self.known.get(identity));
        known.is_some_and(|known| {
            let is_it = known.gone_ms.is_none() && known.device.backend == view.backend;
            let name = self.name(known);
            is_it && (self.in_use.held.contains(&name) || self.in_use.leaving.contains(&name))
        })
    }

    /// The same card is known by the identity that another backend gives it.
    fn goes_by(&mut self, before: &str, now: String) {
        let Some(known) = self.known.remove(before) else {
            return;
        };
        if let Entry::Vacant(place) = self.known.entry(now) {
            self.registry.set_health(place.key(), &known.health);
            place.insert(known);
        }
    }

    /// A card that hung when it was first asked is known by its address alone. Once it tells who it is, it is no other card.
    fn recognise(&mut self, devices: &[GpuDevice]) {
        for device in devices {
            let (Some(address), identity) = (&device.pci_address, device.identity()) else {
                continue;
            };
            let bare = format!("pci:{address}");
            // Slices of one card have one address.
            let alone = devices.iter().filter(|other| other.pci_address == device.pci_address);
            if identity == bare || alone.count() > 1 {
                continue;
            }
            self.registry.rename(&bare, &identity);
            if let Some(known) = self.known.remove(&bare) {
                self.known.entry(identity).or_insert(known);
            }
        }
    }

    /// A known device that no backend lists any more.
    pub(super) fn missed(&mut self, identity: &str, asked: &BTreeSet<Backend>, now_ms: u64) {
        let Some(known) = self.known.get_mut(identity) else {
            return;
        };
        let of_asked = asked.contains(&known.device.backend);
        if known.gone_ms.is_none() {
            known.gone_ms = Some(now_ms);
            (known.sample, known.temperatures) = (None, Temperatures::default());
            self.observe(identity, &Observation::Gone, now_ms);
        } else if of_asked {
            let reason = "it is not listed".to_owned();
            self.observe(identity, &Observation::CouldNotMeasure { reason }, now_ms);
        }
    }

    fn found(&mut self, device: GpuDevice, asked: &BTreeSet<Backend>, now_ms: u64) {
        let identity = device.identity();
        let led_by = self.known.get(&identity).map(|known| known.device.backend);
        let left = led_by.filter(|led_by| *led_by != device.backend);
        let of = |backend: &Backend| {
            let was_asked = asked.contains(backend);
            was_asked.then(|| self.outcome(*backend, &device)).flatten()
        };
        // That the way by which it was used fails counts, though another one is better now.
        let (of_left, of_leader) = (left.as_ref().and_then(of), of(&device.backend));
        if let Some(known) = self.known.get_mut(&identity) {
            if asked.contains(&device.backend) {
                known.gone_ms = None;
            }
            known.device = device;
        } else {
            let health = self.registry.health(&identity).unwrap_or_default();
            let known = Known {
                last_fault: fault_of(&health.standing(now_ms)),
                device,
                gone_ms: None,
                health,
                sample: None,
                temperatures: Temperatures::default(),
            };
            self.known.insert(identity.clone(), known);
            let boot_id = self.rules.boot_id.clone();
            if !boot_id.is_empty() {
                self.observe(&identity, &Observation::Booted { boot_id }, now_ms);
            }
        }
        let has_proof = of_leader.is_some();
        for seen in [of_left, of_leader].into_iter().flatten() {
            self.observe(&identity, &seen, now_ms);
        }
        if left.is_some() && !has_proof {
            // What was proved of it was proved of another way.
            let text = "another backend leads to it".to_owned();
            self.observe(&identity, &Observation::UnplacedEvent { text }, now_ms);
        }
    }

    /// What came of asking the backend for the device.
    fn outcome(&self, backend: Backend, device: &GpuDevice) -> Option<Observation> {
        let verdict = self.verdicts.get(&(backend, device.place().to_owned()));
        let verification = if backend == device.backend {
            Some(&device.verification)
        } else {
            let mut others = device.unverified.iter();
            others
                .find(|other| other.backend == backend)
                .map(|other| &other.verification)
        };
        verdict.cloned().or_else(|| verification.map(evidence::of_verification))
    }
}

/// What a new answer about a known device leaves as it was: figures that still hold, and, while this node holds layers,
/// the memory that shards may take, because what they took is theirs.
fn keep(known: &GpuDevice, device: &mut GpuDevice, idle: bool) {
    if !idle && known.memory_total_bytes == device.memory_total_bytes {
        device.memory_free_bytes = known.memory_free_bytes;
        device.memory_usable_bytes = known.memory_usable_bytes;
    }
    let of = |device: &GpuDevice| (device.backend, device.driver.clone(), device.power_limit_watts);
    if of(known) == of(device) {
        fill(&mut device.measured, &known.measured);
    }
}

fn fill(measured: &mut Measured, before: &Measured) {
    let fill = |figure: &mut Option<Figure>, before: Option<Figure>| *figure = figure.or(before);
    fill(
        &mut measured.bandwidth_bytes_per_second,
        before.bandwidth_bytes_per_second,
    );
    fill(&mut measured.f32_flops_per_second, before.f32_flops_per_second);
    fill(&mut measured.f16_flops_per_second, before.f16_flops_per_second);
    fill(
        &mut measured.to_device_bytes_per_second,
        before.to_device_bytes_per_second,
    );
    fill(
        &mut measured.from_device_bytes_per_second,
        before.from_device_bytes_per_second,
    );
    fill(&mut measured.launch_ns, before.launch_ns);
    if measured.peers.is_empty() {
        measured.peers.clone_from(&before.peers);
    }
}

/// Which device of the node each device of an answer became.
fn became(answers: &[Answer], devices: &[GpuDevice]) -> BTreeMap<String, String> {
    let mut became = BTreeMap::new();
    for raw in answers.iter().flat_map(|answer| &answer.devices) {
        let reach = Reach {
            backend: raw.backend,
            index: raw.index,
        };
        let is_reached = |device: &&GpuDevice| {
            (device.backend, device.index) == (raw.backend, raw.index) || device.also.contains(&reach)
        };
        // Slices of one card have one address.
        let is_there = |device: &&GpuDevice| device.pci_address.is_some() && device.pci_address == raw.pci_address;
        let reached = devices.iter().find(is_reached);
        if let Some(device) = reached.or_else(|| devices.iter().find(is_there)) {
            became.insert(raw.identity(), device.identity());
        }
    }
    became
}

/// What a standing is about.
fn fault_of(standing: &Standing) -> Option<Fault> {
    match standing {
        Standing::Failed { fault } | Standing::Recovering { fault, .. } | Standing::HeldDown { fault, .. } => {
            Some(fault.clone())
        }
        Standing::Ready | Standing::Unproven { .. } => None,
    }
}
