mod checks;
mod starved;
mod temperatures;
mod ways;

use super::*;
use device::health::Standing;
use device::telemetry::{DeviceEvent, Reading};
use device::{Answer, Figure, Kind, Reach};

const START_MS: u64 = 1_700_000_000_000;
const CARD: &str = "uuid:GPU-0";

/// A node whose backends answer as the test says.
struct Node {
    decider: Decider,
    now_ms: u64,
    idle: bool,
    _state: tempfile::TempDir,
}

impl Node {
    fn with(backends: &[Backend]) -> Self {
        let state = tempfile::tempdir().unwrap();
        let (registry, _) = Registry::open(&state.path().join("devices.json"));
        let rules = Rules {
            backends: backends.to_vec(),
            memory_limit_bytes: None,
            boot_id: "boot-1".to_owned(),
            node: "node".to_owned(),
            proof_ages: ProofAges::default(),
        };
        let mut decider = Decider::new(rules, registry, START_MS);
        let ours = |number| (format!("uuid:GPU-{number}"), Availability::Ours);
        decider.neighbours(Some(Arc::new(Neighbours {
            claims: (0..3).map(ours).collect(),
            ..Neighbours::default()
        })));
        Self {
            decider,
            now_ms: START_MS,
            idle: true,
            _state: state,
        }
    }

    /// A node with cards that are verified, measured and ready.
    fn ready(cards: &[GpuDevice]) -> Self {
        let mut node = Self::with(&[Backend::Cuda]);
        assert_eq!(node.asked(), [(Backend::Cuda, 0)]);
        node.answer(Backend::Cuda, cards);
        assert_eq!(node.asked(), []);
        assert!(node.view().ready);
        node
    }

    fn later(&mut self, seconds: u64) -> &mut Self {
        self.now_ms += seconds * 1000;
        self
    }

    /// Whom it asks now, and for how many milliseconds of measuring.
    fn asked(&mut self) -> Vec<(Backend, u64)> {
        let asks = self.decider.due(self.idle, self.now_ms);
        asks.iter()
            .map(|ask| (ask.backend, ask.measure.as_millis() as u64))
            .collect()
    }

    /// The children of the first question.
    fn asked_parts(&mut self) -> Vec<Selection> {
        let asks = self.decider.due(self.idle, self.now_ms);
        asks.first().map(|ask| ask.parts.clone()).unwrap_or_default()
    }

    fn answer(&mut self, backend: Backend, devices: &[GpuDevice]) {
        let answer = Answer {
            backend,
            devices: devices.to_vec(),
            note: None,
        };
        self.parts(backend, &[(Selection::All, Ok(answer))]);
    }

    fn fault(&mut self, backend: Backend, fault: ProbeFault) {
        self.parts(backend, &[(Selection::All, Err(fault))]);
    }

    fn parts(&mut self, backend: Backend, parts: &[Part]) {
        self.decider.answered(backend, parts, self.idle, self.now_ms);
    }

    fn read(&mut self, reading: Reading) {
        self.decider.told(reading.backend, Told::Reading(reading), self.now_ms);
    }

    fn view(&self) -> Devices {
        self.decider.view(self.now_ms)
    }

    fn standing(&self, identity: &str) -> Standing {
        let view = self.view();
        let state = view.states.iter().find(|state| state.device.identity() == identity);
        state.unwrap().standing.clone()
    }

    /// The reason of the fault of a device that is in trouble.
    fn trouble(&self, identity: &str) -> Option<String> {
        match self.standing(identity) {
            Standing::Failed { fault } | Standing::HeldDown { fault, .. } | Standing::Recovering { fault, .. } => {
                Some(fault.reason)
            }
            Standing::Ready | Standing::Unproven { .. } => None,
        }
    }
}

fn figure(value: u64) -> Figure {
    Figure {
        value,
        samples: 3,
        measured_unix_s: 1,
    }
}

fn unmeasured(number: u32) -> GpuDevice {
    GpuDevice {
        vendor: "nvidia".into(),
        uuid: Some(format!("GPU-{number}")),
        pci_address: Some(format!("0000:0{number}:00.0")),
        driver: Some("580.65".into()),
        memory_total_bytes: 80 << 30,
        memory_free_bytes: 79 << 30,
        verification: Verification::Verified,
        ..GpuDevice::new(Backend::Cuda, number, Kind::Discrete)
    }
}

fn card(number: u32) -> GpuDevice {
    let mut card = unmeasured(number);
    card.measured.bandwidth_bytes_per_second = Some(figure(3_000_000_000_000));
    card
}

fn processors() -> GpuDevice {
    GpuDevice {
        memory_total_bytes: 32 << 30,
        memory_free_bytes: 30 << 30,
        verification: Verification::Verified,
        ..GpuDevice::new(Backend::Cpu, 0, Kind::Cpu)
    }
}

fn measured(mut device: GpuDevice) -> GpuDevice {
    device.measured.bandwidth_bytes_per_second = Some(figure(20_000_000_000));
    device
}

fn failed(mut device: GpuDevice) -> GpuDevice {
    device.verification = Verification::Failed {
        reason: "byte 7 differs".into(),
    };
    device
}

fn sample(number: u32) -> Sample {
    Sample {
        device: format!("uuid:GPU-{number}"),
        temperature_celsius: Some(40.0),
        ..Sample::default()
    }
}

fn reading(samples: Vec<Sample>) -> Reading {
    Reading {
        backend: Backend::Cuda,
        samples,
        events: Vec::new(),
        kernel_faults: Vec::new(),
        spoofed: 0,
        fault: None,
    }
}

fn hung() -> ProbeFault {
    ProbeFault::Hung("it did not answer".into())
}

#[test]
fn at_the_start_every_backend_is_asked_at_once_and_measured_one_after_the_other() {
    let mut node = Node::with(&[Backend::Cpu, Backend::Vulkan, Backend::Cuda]);
    assert_eq!(
        node.asked(),
        [(Backend::Cuda, 0), (Backend::Vulkan, 0), (Backend::Cpu, 0)]
    );
    node.answer(Backend::Cuda, &[unmeasured(0)]);
    node.answer(Backend::Cpu, &[processors()]);
    assert_eq!(node.asked(), [], "a verification is under way still");
    node.answer(Backend::Vulkan, &[]);
    assert_eq!(node.asked(), [(Backend::Cuda, 1500)]);
    assert_eq!(node.asked(), []);
    assert!(!node.view().ready);
    node.now_ms += 600;
    node.answer(Backend::Cuda, &[card(0)]);
    assert_eq!(node.asked(), [(Backend::Cpu, 900)], "what is left of the time");
    node.answer(Backend::Cpu, &[measured(processors())]);
    assert_eq!(node.asked(), []);
    let view = node.view();
    assert!(view.ready && view.complete);
    assert_eq!(view.states.len(), 2);
    assert!(view.states.iter().all(DeviceState::takes_layers));
}

#[test]
fn figures_that_are_known_are_not_measured() {
    Node::ready(&[card(0)]);
}

#[test]
fn a_measurement_that_takes_too_long_does_not_hold_up_placement() {
    let mut node = Node::with(&[Backend::Cuda]);
    node.asked();
    node.answer(Backend::Cuda, &[unmeasured(0)]);
    assert_eq!(node.asked(), [(Backend::Cuda, 1500)]);
    node.now_ms += READY_LIMIT_MS;
    node.asked();
    assert!(node.view().ready);
}

#[test]
fn a_device_that_gives_no_figures_is_measured_a_few_times_and_no_more() {
    let mut node = Node::with(&[Backend::Cuda]);
    node.asked();
    node.answer(Backend::Cuda, &[unmeasured(0)]);
    let mut tries = 0;
    while node.later(60).asked().iter().any(|(_, measure)| *measure > 0) {
        tries += 1;
        node.answer(Backend::Cuda, &[unmeasured(0)]);
        assert!(tries < 10);
    }
    assert_eq!(tries, 3);
}

#[test]
fn a_backend_that_hangs_at_the_start_holds_up_nobody_else() {
    let mut node = Node::with(&[Backend::Cuda, Backend::Cpu]);
    node.asked();
    node.answer(Backend::Cpu, &[measured(processors())]);
    node.asked();
    assert!(!node.view().ready);
    node.now_ms += READY_LIMIT_MS;
    node.asked();
    let view = node.view();
    assert!(view.ready && !view.complete, "its devices may yet be found");
    node.fault(Backend::Cuda, hung());
    assert!(node.view().complete);
    assert_eq!(node.view().notes, [(Backend::Cuda, "it did not answer".to_owned())]);
}

#[test]
fn a_backend_without_devices_that_never_answers_is_left_alone_in_the_end() {
    let mut node = Node::with(&[Backend::Vulkan]);
    let mut questions = 0;
    for _ in 0..100 {
        if node.later(120).asked() == [(Backend::Vulkan, 0)] {
            questions += 1;
            node.fault(Backend::Vulkan, hung());
        }
    }
    assert_eq!(questions, 4);
}

#[test]
fn a_hung_reader_condemns_the_devices_of_its_backend_at_once() {
    let mut node = Node::ready(&[card(0)]);
    node.decider.told(Backend::Cuda, Told::Hung, node.now_ms);
    assert_eq!(node.trouble(CARD).as_deref(), Some("ProbeHung"));
    assert_eq!(node.view().counters.watchers_restarted[&Backend::Cuda], 1);
}

#[test]
fn a_reader_of_the_processors_that_is_starved_condemns_nothing() {
    let mut node = Node::with(&[Backend::Cpu]);
    node.asked();
    node.answer(Backend::Cpu, &[measured(processors())]);
    node.decider.told(Backend::Cpu, Told::Hung, node.now_ms);
    assert_eq!(node.standing("cpu:0"), Standing::Ready);
}

#[test]
fn a_reader_or_a_probe_that_crashes_condemns_nothing() {
    let mut node = Node::ready(&[card(0)]);
    node.decider
        .told(Backend::Cuda, Told::Broken("it crashed".into()), node.now_ms);
    node.decider.bus(BTreeSet::new(), node.now_ms);
    let plugged = Card {
        address: "0000:09:00.0".into(),
        vendor: "0x10de".into(),
    };
    node.decider.bus([plugged].into(), node.now_ms);
    assert_eq!(node.later(1).asked(), [(Backend::Cuda, 0)]);
    node.fault(Backend::Cuda, ProbeFault::Broken("it crashed".into()));
    assert_eq!(node.standing(CARD), Standing::Ready);
}

#[test]
fn a_device_that_comes_back_is_verified_again_and_watched_for_a_minute() {
    let mut node = Node::ready(&[card(0)]);
    node.decider.told(Backend::Cuda, Told::Hung, node.now_ms);
    assert_eq!(node.later(31).asked(), [(Backend::Cuda, 0)]);
    node.answer(Backend::Cuda, &[card(0)]);
    assert!(matches!(node.standing(CARD), Standing::Recovering { .. }));
    node.later(59).asked();
    assert!(matches!(node.standing(CARD), Standing::Recovering { .. }));
    node.later(2).asked();
    assert_eq!(node.standing(CARD), Standing::Ready);
}

#[test]
fn verifications_that_devices_want_are_made_one_backend_at_a_time() {
    let mut node = Node::with(&[Backend::Cuda, Backend::Cpu]);
    node.asked();
    node.answer(Backend::Cuda, &[failed(card(0))]);
    node.answer(Backend::Cpu, &[failed(measured(processors()))]);
    assert_eq!(node.asked(), []);
    assert_eq!(node.later(31).asked(), [(Backend::Cuda, 0)]);
    assert_eq!(node.later(31).asked(), [], "the first is not done");
    node.answer(Backend::Cuda, &[card(0)]);
    assert_eq!(node.later(1).asked(), [(Backend::Cpu, 0)]);
}

#[test]
fn one_card_that_fails_its_verification_leaves_its_neighbour_ready() {
    let node = Node::ready(&[failed(card(0)), card(1)]);
    assert_eq!(node.trouble(CARD).as_deref(), Some("SelfTestFailed"));
    assert_eq!(node.standing("uuid:GPU-1"), Standing::Ready);
}

#[test]
fn a_card_that_its_reader_lists_for_the_first_time_is_probed_at_once_and_once() {
    let mut node = Node::ready(&[card(0)]);
    node.read(reading(vec![sample(0)]));
    assert_eq!(node.later(2).asked(), []);
    node.read(reading(vec![sample(0), sample(1)]));
    assert_eq!(node.asked(), [(Backend::Cuda, 0)]);
    node.answer(Backend::Cuda, &[card(0), card(1)]);
    node.read(reading(vec![sample(0), sample(1)]));
    assert_eq!(node.later(2).asked(), []);
    assert_eq!(node.view().states.len(), 2);
    assert_eq!(node.standing("uuid:GPU-1"), Standing::Ready);
}

#[test]
fn a_card_that_only_the_reader_knows_is_probed_once_and_not_for_ever() {
    let mut node = Node::ready(&[card(0)]);
    node.read(reading(vec![sample(0), sample(7)]));
    assert_eq!(node.later(2).asked(), [(Backend::Cuda, 0)]);
    node.answer(Backend::Cuda, &[card(0)]);
    for _ in 0..5 {
        node.read(reading(vec![sample(0), sample(7)]));
        assert_eq!(node.later(2).asked(), []);
    }
}

#[test]
fn a_card_that_is_not_read_any_more_is_gone_at_once_and_asked_for() {
    let mut node = Node::ready(&[card(0), card(1)]);
    node.read(reading(vec![sample(0), sample(1)]));
    node.later(2).read(reading(vec![sample(1)]));
    assert_eq!(node.trouble(CARD).as_deref(), Some("Gone"));
    assert_eq!(node.standing("uuid:GPU-1"), Standing::Ready);
    assert_eq!(node.asked(), [(Backend::Cuda, 0)]);
    node.answer(Backend::Cuda, &[card(1)]);
    assert_eq!(node.view().states.len(), 2, "people shall see that it is gone");
    node.later(601).asked();
    assert_eq!(node.view().states.len(), 1);
}

#[test]
fn a_card_that_is_plugged_in_again_proves_itself_first() {
    let mut node = Node::ready(&[card(0)]);
    node.read(reading(vec![sample(0)]));
    node.later(2).read(reading(vec![]));
    node.asked();
    node.answer(Backend::Cuda, &[]);
    node.later(10).read(reading(vec![sample(0)]));
    assert_eq!(node.asked(), [(Backend::Cuda, 0)]);
    node.answer(Backend::Cuda, &[card(0)]);
    assert!(matches!(node.standing(CARD), Standing::Recovering { .. }));
}

#[test]
fn a_card_on_the_bus_has_every_backend_asked_but_the_processors_and_again_when_its_driver_had_time() {
    let mut node = Node::with(&[Backend::Cuda, Backend::Cpu]);
    node.asked();
    node.answer(Backend::Cuda, &[]);
    node.answer(Backend::Cpu, &[measured(processors())]);
    assert!(
        !node.decider.bus(BTreeSet::new(), node.now_ms),
        "the first look is no change"
    );
    let card = Card {
        address: "0000:01:00.0".into(),
        vendor: "0x10de".into(),
    };
    node.later(5);
    assert!(node.decider.bus([card].into(), node.now_ms));
    assert_eq!(node.asked(), [(Backend::Cuda, 0)]);
    node.answer(Backend::Cuda, &[]);
    assert_eq!(node.later(11).asked(), [(Backend::Cuda, 0)]);
}

#[test]
fn a_reading_that_says_lost_fails_that_device_alone() {
    let mut node = Node::ready(&[card(0), card(1)]);
    let lost = Sample {
        lost: Some("GPU is lost".into()),
        ..sample(0)
    };
    node.read(reading(vec![lost, sample(1)]));
    assert_eq!(node.trouble(CARD).as_deref(), Some("FellOffBus"));
    assert_eq!(node.standing("uuid:GPU-1"), Standing::Ready);
    let turn = node.view().turns.last().cloned().unwrap();
    assert_eq!((turn.identity.as_str(), turn.unix_ms), (CARD, node.now_ms));
    assert!(matches!(turn.transition, Transition::Failed { .. }));
}

#[test]
fn an_event_condemns_the_card_that_it_names_and_one_without_a_name_none() {
    let mut node = Node::ready(&[card(0), card(1)]);
    let event = |pci_address: Option<&str>| DeviceEvent {
        pci_address: pci_address.map(str::to_owned),
        xid: 79,
        text: "GPU has fallen off the bus.".into(),
    };
    let with = |event| Reading {
        events: vec![event],
        ..reading(vec![sample(0), sample(1)])
    };
    node.read(with(event(None)));
    assert_eq!((node.trouble(CARD), node.trouble("uuid:GPU-1")), (None, None));
    assert_eq!(node.later(10).asked(), [(Backend::Cuda, 0)], "each proves itself");
    node.answer(Backend::Cuda, &[card(0), card(1)]);
    node.read(with(event(Some("0000:01:00"))));
    assert_eq!(node.trouble(CARD), None);
    assert_eq!(node.trouble("uuid:GPU-1").as_deref(), Some("FellOffBus"));
    let counted = node.view().counters.xids;
    assert_eq!(counted[&("uuid:GPU-1".to_owned(), 79)], 1);
    assert_eq!(counted[&(String::new(), 79)], 1);
}

#[test]
fn a_driver_that_was_exchanged_condemns_its_devices_and_a_library_that_was_never_there_does_not() {
    let fault = |text: &str| Reading {
        fault: Some(text.to_owned()),
        ..reading(vec![])
    };
    let mut node = Node::ready(&[card(0)]);
    node.read(fault("libnvidia-ml.so.1 is missing"));
    assert_eq!(node.standing(CARD), Standing::Ready);
    node.read(reading(vec![sample(0)]));
    node.read(fault("the library has vanished"));
    assert_eq!(node.trouble(CARD).as_deref(), Some("DriverMismatch"));
    node.later(5).read(reading(vec![sample(0)]));
    assert_eq!(node.asked(), [(Backend::Cuda, 0)], "it reads again");
}

#[test]
fn a_driver_that_was_exchanged_under_the_cards_condemns_them_and_not_the_processors() {
    let mut node = Node::with(&[Backend::Cuda, Backend::Cpu]);
    assert_eq!(node.asked(), [(Backend::Cuda, 0), (Backend::Cpu, 0)]);
    node.answer(Backend::Cuda, &[card(0), card(1)]);
    node.answer(Backend::Cpu, &[measured(processors())]);
    assert_eq!(node.asked(), []);
    node.read(reading(vec![sample(0), sample(1)]));
    let cpu = processors().identity();
    for identity in [CARD, "uuid:GPU-1", cpu.as_str()] {
        assert_eq!(node.standing(identity), Standing::Ready, "{identity}");
    }
    node.read(Reading {
        fault: Some("NVML_ERROR_LIB_RM_VERSION_MISMATCH (DriverMismatch)".to_owned()),
        ..reading(vec![])
    });
    for identity in [CARD, "uuid:GPU-1"] {
        assert_eq!(node.trouble(identity).as_deref(), Some("DriverMismatch"), "{identity}");
    }
    assert_eq!(node.standing(&cpu), Standing::Ready);
    assert_eq!(node.view().states.len(), 3);
}

#[test]
fn a_reading_is_shown_until_it_is_too_old() {
    let mut node = Node::ready(&[card(0)]);
    node.read(reading(vec![sample(0)]));
    let state = node.later(10).view().states.remove(0);
    assert_eq!(state.sample.unwrap().temperature_celsius, Some(40.0));
    assert_eq!(state.sampled_unix_ms, START_MS);
    let state = node.later(10).view().states.remove(0);
    assert_eq!((state.sample, state.sampled_unix_ms), (None, 0));
}

#[test]
fn a_reading_finds_the_device_though_another_backend_leads_it() {
    let mut node = Node::with(&[Backend::Vulkan, Backend::Rocm]);
    node.asked();
    let described = GpuDevice {
        vendor: "amd".into(),
        uuid: Some("sysfs".into()),
        pci_address: Some("0000:03:00.0".into()),
        ..GpuDevice::new(Backend::Rocm, 4, Kind::Discrete)
    };
    let reached = GpuDevice {
        uuid: Some("vulkan".into()),
        verification: Verification::Verified,
        also: vec![Reach {
            backend: Backend::Rocm,
            index: 4,
        }],
        ..measured(GpuDevice {
            backend: Backend::Vulkan,
            index: 0,
            ..described.clone()
        })
    };
    node.answer(Backend::Vulkan, &[reached]);
    assert!(node.view().states.is_empty(), "another may reach it better");
    node.answer(Backend::Rocm, &[described]);
    node.read(Reading {
        backend: Backend::Rocm,
        ..reading(vec![Sample {
            device: "uuid:sysfs".into(),
            ..sample(0)
        }])
    });
    let view = node.view();
    assert_eq!(view.states.len(), 1);
    assert!(view.states[0].sample.is_some());
}

#[test]
fn a_card_that_a_better_backend_finds_late_is_one_device_still() {
    let mut node = Node::with(&[Backend::Cuda, Backend::Vulkan]);
    let by_vulkan = GpuDevice {
        backend: Backend::Vulkan,
        index: 0,
        uuid: Some("vulkan".into()),
        ..card(0)
    };
    node.asked();
    node.answer(Backend::Vulkan, &[by_vulkan]);
    node.now_ms += READY_LIMIT_MS;
    node.asked();
    assert_eq!(node.view().states.len(), 1);
    node.answer(Backend::Cuda, &[card(0)]);
    let states = node.view().states;
    assert_eq!(states.len(), 1, "{states:#?}");
    assert_eq!(states[0].device.backend, Backend::Cuda);
}

#[test]
fn while_layers_are_held_the_memory_that_they_took_stays_theirs() {
    let mut node = Node::ready(&[card(0)]);
    let before = node.view().states[0].device.memory_usable_bytes;
    let taken = GpuDevice {
        memory_free_bytes: 1 << 30,
        ..card(0)
    };
    node.idle = false;
    node.answer(Backend::Cuda, std::slice::from_ref(&taken));
    assert_eq!(node.view().states[0].device.memory_usable_bytes, before);
    node.idle = true;
    node.answer(Backend::Cuda, &[taken]);
    assert!(node.view().states[0].device.memory_usable_bytes < 1 << 30);
}

#[test]
fn what_shares_memory_is_not_measured_while_layers_are_held() {
    let mut node = Node::with(&[Backend::Cpu]);
    node.idle = false;
    node.asked();
    node.answer(Backend::Cpu, &[processors()]);
    assert_eq!(node.asked(), []);
    node.idle = true;
    assert_eq!(node.asked().len(), 1);
}

#[test]
fn a_power_limit_that_is_set_has_the_figures_made_anew() {
    let at = |watts, device: GpuDevice| GpuDevice {
        power_limit_watts: Some(watts),
        ..device
    };
    let limited = |watts| {
        reading(vec![Sample {
            power_limit_watts: Some(watts),
            ..sample(0)
        }])
    };
    let mut node = Node::ready(&[at(700, card(0))]);
    node.read(limited(700.2));
    assert_eq!(node.later(2).asked(), []);
    node.read(limited(400.0));
    assert_eq!(node.asked(), [(Backend::Cuda, 0)]);
    node.answer(Backend::Cuda, &[at(400, unmeasured(0))]);
    assert_eq!(node.asked(), [(Backend::Cuda, 10_000)], "the old figures do not hold");
}

#[test]
fn a_device_of_a_maker_takes_no_layers_before_it_is_known_who_holds_it() {
    let mut node = Node::with(&[Backend::Cuda, Backend::Cpu]);
    node.decider.neighbours(None);
    node.asked();
    node.answer(Backend::Cuda, &[card(0)]);
    node.answer(Backend::Cpu, &[measured(processors())]);
    node.asked();
    let view = node.view();
    assert!(!view.ready, "the neighbours are asked still");
    let takes = view.states.iter().map(DeviceState::takes_layers).collect::<Vec<_>>();
    assert_eq!(takes, [true, false]);
    let neighbours = Neighbours {
        claims: [(CARD.to_owned(), Availability::Ours)].into(),
        ..Neighbours::default()
    };
    node.decider.neighbours(Some(Arc::new(neighbours)));
    node.asked();
    assert!(node.view().ready && node.view().states[1].takes_layers());
}

fn broken(number: u32) -> (Selection, Result<Answer, ProbeFault>) {
    (Selection::one(&format!("0000:0{number}:00.0")), Err(hung()))
}

fn alone(number: u32) -> (Selection, Result<Answer, ProbeFault>) {
    let answer = Answer {
        backend: Backend::Cuda,
        devices: vec![card(number)],
        note: None,
    };
    (Selection::one(&format!("0000:0{number}:00.0")), Ok(answer))
}

/// A node of two cards whose question of both was not answered, and what is asked then.
fn divided() -> (Node, Vec<Selection>) {
    let mut node = Node::ready(&[card(0), card(1)]);
    node.decider.told(Backend::Cuda, Told::Hung, node.now_ms);
    let parts = node.later(1).asked_parts();
    (node, parts)
}

#[test]
fn a_reader_of_several_cards_that_hangs_has_each_asked_alone_and_condemns_none_by_itself() {
    let (node, parts) = divided();
    assert_eq!(parts, [alone(0).0, alone(1).0]);
    assert_eq!((node.trouble(CARD), node.trouble("uuid:GPU-1")), (None, None));
}

#[test]
fn a_card_that_hangs_alone_is_failed_and_asked_and_read_apart_until_it_answers() {
    let (mut node, _) = divided();
    node.parts(Backend::Cuda, &[broken(0), alone(1)]);
    assert_eq!(node.trouble(CARD).as_deref(), Some("ProbeHung"));
    assert_eq!(node.standing("uuid:GPU-1"), Standing::Ready);
    assert_eq!(node.decider.watched(Backend::Cuda), alone(1).0);
    node.read(reading(vec![sample(1)]));
    assert_eq!(
        node.trouble(CARD).as_deref(),
        Some("ProbeHung"),
        "it is not gone, it is not read"
    );
    assert_eq!(node.later(31).asked_parts(), [alone(1).0, alone(0).0]);
    node.parts(Backend::Cuda, &[alone(1), alone(0)]);
    assert!(matches!(node.standing(CARD), Standing::Recovering { .. }));
    assert_eq!(node.decider.watched(Backend::Cuda), Selection::All);
}

#[test]
fn cards_of_which_none_answers_alone_are_all_failed() {
    let (mut node, _) = divided();
    node.parts(Backend::Cuda, &[broken(0), broken(1)]);
    assert_eq!(node.trouble(CARD).as_deref(), Some("ProbeHung"));
    assert_eq!(node.trouble("uuid:GPU-1").as_deref(), Some("ProbeHung"));
}

#[test]
fn a_card_that_was_not_asked_because_no_process_could_be_made_is_not_condemned() {
    let (mut node, _) = divided();
    let not_made = Err(ProbeFault::Broken("no more processes".into()));
    node.parts(Backend::Cuda, &[(alone(0).0, not_made), alone(1)]);
    assert_eq!(node.standing(CARD), Standing::Ready);
    assert_eq!(node.view().states.len(), 2);
}
