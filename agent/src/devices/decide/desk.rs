//! What is known of one backend: its last answer, whether it is being asked, and when it may be asked again. Pure.

use device::child::probe::ProbeFault;
use device::{Answer, Backend, GpuDevice};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Between two questions to a backend that answers.
const GAP_MS: u64 = 1_000;
/// After a question that was not answered; doubles.
const AFTER_FAULT_MS: u64 = 5_000;
const AFTER_FAULT_CAP_MS: u64 = 60_000;
/// A backend that has no devices and does not answer is asked so often, and then only when there is a reason.
const FAULTS_WITHOUT_DEVICES_MAX: u32 = 4;
/// A driver may take its time to take up a card that was plugged in.
const LOOK_AGAIN_MS: u64 = 10_000;
/// A device that has no figures after so many tries has none to give.
const MEASURE_TRIES_MAX: u32 = 3;

/// What a backend is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Running {
    Verify,
    Measure(Duration),
    /// Some of its devices, once more: its last answer stays.
    Check,
}

#[derive(Debug)]
pub(super) struct Desk {
    /// The last one that came.
    pub(super) answer: Answer,
    /// Whether one came, or a fault in its place.
    pub(super) answered: bool,
    pub(super) running: Option<Running>,
    /// Why the last question has no answer.
    pub(super) probe_fault: Option<String>,
    /// Where devices are plugged in that hang or crash: they are asked apart from the others.
    pub(super) apart: BTreeSet<String>,
    /// The next question goes to each place alone.
    pub(super) divided: bool,
    /// Why there are no readings.
    pub(super) watch_fault: Option<String>,
    /// Identities in the last reading, as the backend's reader names them; nothing before the first.
    pub(super) listed: Option<BTreeSet<String>>,
    /// The same when the backend was asked last.
    listed_when_asked: Option<BTreeSet<String>>,
    wanted: Option<&'static str>,
    look_again_ms: Option<u64>,
    not_before_ms: u64,
    gap_until_ms: u64,
    faults: u32,
    measure_tries: BTreeMap<String, u32>,
}

impl Desk {
    pub(super) fn new(backend: Backend) -> Self {
        Self {
            answer: Answer {
                backend,
                devices: Vec::new(),
                note: None,
            },
            answered: false,
            running: None,
            probe_fault: None,
            apart: BTreeSet::new(),
            divided: false,
            watch_fault: None,
            listed: None,
            listed_when_asked: None,
            wanted: Some("the agent starts"),
            look_again_ms: None,
            not_before_ms: 0,
            gap_until_ms: 0,
            faults: 0,
            measure_tries: BTreeMap::new(),
        }
    }

    /// The backend is to be asked as soon as it may be.
    pub(super) fn want(&mut self, why: &'static str) {
        self.wanted = Some(why);
    }

    /// As [`Desk::want`], and once more a while later.
    pub(super) fn want_twice(&mut self, why: &'static str, now_ms: u64) {
        self.want(why);
        self.faults = 0;
        self.look_again_ms = Some(now_ms + LOOK_AGAIN_MS);
    }

    /// The next question goes to each place alone.
    pub(super) fn want_divided(&mut self, why: &'static str) {
        self.want(why);
        self.divided = true;
    }

    /// The question was not answered, and is asked again at once: of each place alone.
    pub(super) fn divide(&mut self, fault: &ProbeFault) {
        self.running = None;
        self.probe_fault = Some(fault.to_string());
        self.want_divided("a card of several hangs or crashes");
        (self.not_before_ms, self.gap_until_ms) = (0, 0);
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.is_some()
    }

    /// Why the backend is to be asked now, if it is.
    pub(super) fn due(&mut self, now_ms: u64) -> Option<&'static str> {
        if self.look_again_ms.take_if(|at| *at <= now_ms).is_some() {
            self.want("it is time to look once more");
        }
        self.wanted.filter(|_| self.free(now_ms) && now_ms >= self.gap_until_ms)
    }

    /// The node had no time for what was asked last, or for some of it: it is asked once more, and nothing else waits for that.
    pub(super) fn was_starved(&mut self, now_ms: u64) {
        self.look_again_ms = Some(self.not_before_ms.max(now_ms + LOOK_AGAIN_MS));
    }

    /// Whether it may be asked, for the first time after an answer.
    pub(super) fn free(&self, now_ms: u64) -> bool {
        self.running.is_none() && now_ms >= self.not_before_ms
    }

    pub(super) fn begin(&mut self, running: Running) {
        self.running = Some(running);
        self.wanted = None;
        self.divided = false;
        self.listed_when_asked.clone_from(&self.listed);
        if running != Running::Verify {
            for key in self.answer.devices.iter().map(measure_key) {
                *self.measure_tries.entry(key).or_default() += 1;
            }
        }
    }

    pub(super) fn took(&mut self, answer: Answer, now_ms: u64) {
        self.end();
        self.faults = 0;
        self.gap_until_ms = now_ms + GAP_MS;
        self.probe_fault = None;
        self.answer = answer;
    }

    pub(super) fn failed(&mut self, fault: &ProbeFault, now_ms: u64) {
        self.end();
        // Of whom nothing was asked nothing new is known.
        if matches!(fault, ProbeFault::Hung(_) | ProbeFault::Crashed(_)) {
            self.apart.clear();
        }
        self.faults += 1;
        let wait_ms = AFTER_FAULT_MS << (self.faults - 1).min(8);
        self.not_before_ms = now_ms + wait_ms.min(AFTER_FAULT_CAP_MS);
        self.probe_fault = Some(fault.to_string());
        if matches!(fault, ProbeFault::Starved(_)) {
            self.was_starved(now_ms);
        }
        if self.answer.devices.is_empty() && self.faults < FAULTS_WITHOUT_DEVICES_MAX {
            self.want("it did not answer");
        }
    }

    fn end(&mut self) {
        self.running = None;
        self.answered = true;
    }

    /// Takes up which devices a reading lists: the ones that it listed before and does not any more. When the list is
    /// neither what the backend answered nor what it was when it was asked, the backend is wanted.
    pub(super) fn listed(&mut self, mut now: BTreeSet<String>) -> Vec<String> {
        // What is asked apart is not read: it is no less there than when it was read last.
        let unread = self
            .answer
            .devices
            .iter()
            .filter(|device| self.apart.contains(device.place()));
        now.extend(unread.map(GpuDevice::identity));
        let gone = match &self.listed {
            Some(before) => before.difference(&now).cloned().collect(),
            None => Vec::new(),
        };
        let answered: BTreeSet<String> = self.answer.devices.iter().map(GpuDevice::identity).collect();
        if self.answered && now != answered && self.listed_when_asked.as_ref() != Some(&now) {
            self.want("its reader lists other devices");
            self.look_again_ms = None;
        }
        self.listed = Some(now);
        gone
    }

    /// Whether figures are missing that another try may give.
    pub(super) fn lacks_figures(&self, device: &GpuDevice) -> bool {
        let tries = self.measure_tries.get(&measure_key(device)).copied().unwrap_or(0);
        device.backend.holds_layers()
            && device.verification == device::Verification::Verified
            && device.measured.bandwidth_bytes_per_second.is_none()
            && tries < MEASURE_TRIES_MAX
    }

    pub(super) fn notes(&self) -> impl Iterator<Item = String> {
        [&self.answer.note, &self.probe_fault, &self.watch_fault]
            .into_iter()
            .flatten()
            .map(|note| super::evidence::cut(note))
    }
}

/// Figures are of a device under a driver and a power limit.
fn measure_key(device: &GpuDevice) -> String {
    format!(
        "{} {:?} {:?}",
        device.identity(),
        device.driver,
        device.power_limit_watts
    )
}
