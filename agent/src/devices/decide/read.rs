//! After a reading: what it says of the devices.

use super::{DEVICES_MAX, Decider, evidence};
use device::health::Observation;
use device::telemetry::{DeviceEvent, KernelFault, Reading, Sample};
use device::{Backend, GpuDevice};

/// Events in one reading; a log that is flooded says nothing more.
const EVENTS_MAX: usize = 256;

impl Decider {
    pub(super) fn read(&mut self, backend: Backend, reading: Reading, now_ms: u64) {
        self.counters.readings += 1;
        let Some(desk) = self.desk(backend) else {
            return;
        };
        let before = std::mem::replace(&mut desk.watch_fault, reading.fault.as_deref().map(evidence::cut));
        if let Some(reason) = reading.fault {
            // Before the first list it only says what is missing for reading.
            if desk.listed.is_some() || reason.to_lowercase().contains("mismatch") {
                for identity in self.of_backend(backend) {
                    let reason = reason.clone();
                    self.observe(&identity, &Observation::DriverMismatch { reason }, now_ms);
                }
            }
        } else {
            if before.is_some() {
                desk.want("its reader reads again");
            }
            let samples = reading.samples.into_iter().take(DEVICES_MAX);
            self.sampled(backend, samples.collect(), now_ms);
        }
        for event in reading.events.iter().take(EVENTS_MAX) {
            self.event(backend, event, now_ms);
        }
        for fault in reading.kernel_faults.iter().take(EVENTS_MAX) {
            self.kernel_fault(backend, fault, now_ms);
        }
        self.counters.spoofed_events += reading.spoofed;
    }

    fn sampled(&mut self, backend: Backend, samples: Vec<Sample>, now_ms: u64) {
        let listed = samples.iter().map(|sample| sample.device.clone()).collect();
        let gone = self.desk(backend).map(|desk| desk.listed(listed)).unwrap_or_default();
        for identity in gone {
            if let Some(identity) = self.became.get(&identity).cloned() {
                self.missed(&identity, &[backend].into(), now_ms);
            }
        }
        for sample in samples {
            if let Some(identity) = self.became.get(&sample.device).cloned() {
                self.sample(backend, &identity, evidence::tidy(sample), now_ms);
            }
        }
    }

    fn sample(&mut self, backend: Backend, identity: &str, sample: Sample, now_ms: u64) {
        let Some(known) = self.known.get_mut(identity) else {
            return;
        };
        let before = known.sample.take().map(|(before, _)| before);
        let limit = |sample: &Sample| sample.power_limit_watts.map(|watts| watts.round() as u32);
        let was = before.as_ref().map_or(known.device.power_limit_watts, limit);
        let limit_set = was.is_some() && limit(&sample).is_some() && limit(&sample) != was;
        let seen = evidence::of_sample(backend, &sample, before.as_ref());
        known.temperatures.keep(&sample, now_ms);
        known.sample = Some((sample, now_ms));
        if limit_set && let Some(desk) = self.desk(backend) {
            desk.want("a power limit was set");
        }
        for seen in seen {
            self.observe(identity, &seen, now_ms);
        }
    }

    fn event(&mut self, backend: Backend, event: &DeviceEvent, now_ms: u64) {
        let seen = evidence::of_event(event);
        let named = self.named(backend, event.pci_address.as_deref());
        let counted = match &event.pci_address {
            Some(_) => named.first().cloned().unwrap_or_default(),
            None => String::new(),
        };
        *self.counters.xids.entry((counted, event.xid)).or_default() += 1;
        for identity in named {
            self.observe(&identity, &seen, now_ms);
        }
    }

    fn kernel_fault(&mut self, backend: Backend, fault: &KernelFault, now_ms: u64) {
        for identity in self.named(backend, fault.pci_address.as_deref()) {
            for seen in evidence::of_kernel_fault(fault) {
                self.observe(&identity, &seen, now_ms);
            }
        }
    }

    /// The devices that the backend reaches and that are at the address; all that it reaches where there is none.
    fn named(&self, backend: Backend, address: Option<&str>) -> Vec<String> {
        let reached =
            |device: &GpuDevice| device.backend == backend || device.also.iter().any(|reach| reach.backend == backend);
        let at = |device: &GpuDevice| match (address, &device.pci_address) {
            (None, _) => true,
            (Some(address), Some(own)) => evidence::same_address(own, address),
            (Some(_), None) => false,
        };
        self.known
            .iter()
            .filter(|(_, known)| reached(&known.device) && at(&known.device))
            .map(|(identity, _)| identity.clone())
            .collect()
    }
}
