//! After an answer: which devices there are, and which there are no more.

use super::{Decider, Known, Temperatures, evidence};
use device::health::{Fault, Observation, Standing};
use device::{Answer, Backend, Figure, GpuDevice, Measured, Reach, merge};
use std::collections::{BTreeMap, BTreeSet};

impl Decider {
    /// Takes up the answers that came since the last time. At the start all are waited for, within reason: a card that
    /// two backends reach would else be one device first and then another.
    pub(super) fn settle(&mut self, idle: bool, now_ms: u64) {
        let complete = self.desks.iter().all(|(_, desk)| desk.answered);
        if self.unsettled.is_empty() || !(complete || self.ready || self.is_late(now_ms)) {
            return;
        }
        let asked = std::mem::take(&mut self.unsettled);
        let answers: Vec<Answer> = self.desks.iter().map(|(_, desk)| desk.answer.clone()).collect();
        let mut devices = merge::merge(&answers, self.rules.memory_limit_bytes);
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
            if self.became.contains_key(&identity) {
                // Another backend reaches it better now, and it goes by that one's name.
                self.known.remove(&identity);
            } else {
                self.missed(&identity, &asked, now_ms);
            }
        }
        for device in devices {
            self.found(device, &asked, now_ms);
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
        let verdict = self.verdicts.remove(&(device.backend, device.place().to_owned()));
        let seen = verdict.unwrap_or_else(|| evidence::of_verification(&device.verification));
        let verified = asked.contains(&device.backend);
        if let Some(known) = self.known.get_mut(&identity) {
            known.device = device;
            known.gone_ms = None;
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
        if verified {
            self.observe(&identity, &seen, now_ms);
        }
    }
}

/// What a new answer about a known device leaves as it was: figures that still hold, and, while this node holds layers,
/// the memory that shards may take, because what they took is theirs.
fn keep(known: &GpuDevice, device: &mut GpuDevice, idle: bool) {
    if !idle && known.memory_total_bytes == device.memory_total_bytes {
        device.memory_free_bytes = known.memory_free_bytes;
        device.memory_usable_bytes = known.memory_usable_bytes;
    }
    let of = |device: &GpuDevice| (device.driver.clone(), device.power_limit_watts);
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
