use super::*;
use crate::devices::Availability;
use crds::conditions;
use device::Backend;
use device::health::{Action, Fault, Health, Observation, Standing};
use device::kmsg::{Record, record};
use device::telemetry::Throttle;
use device::{Prior, Reach, xid};
use device::{Unverified, Verification};

fn gpu() -> GpuDevice {
    GpuDevice {
        vendor: "mesa".into(),
        model: "llvmpipe".into(),
        memory_total_bytes: 1000,
        memory_free_bytes: 900,
        memory_usable_bytes: 800,
        verification: Verification::Verified,
        measured: device::Measured {
            bandwidth_bytes_per_second: Some(figure(5)),
            launch_ns: Some(figure(700)),
            ..Default::default()
        },
        ..GpuDevice::new(Backend::Vulkan, 1, Kind::Software)
    }
}

fn figure(value: u64) -> Figure {
    Figure {
        value,
        samples: 2,
        measured_unix_s: 100,
    }
}

fn card() -> DeviceState {
    let device = GpuDevice {
        vendor: "nvidia".into(),
        model: "NVIDIA H100".into(),
        pci_address: Some("0000:01:00.0".into()),
        power_limit_watts: Some(700),
        clock_mhz: Some(1980),
        support: device::SupportLevel::Tried,
        prior: Some(Prior {
            bandwidth_bytes_per_second: 3_350_000_000_000,
            source: "data sheet".into(),
        }),
        also: [Backend::Vulkan, Backend::Vulkan]
            .map(|backend| Reach { backend, index: 0 })
            .into(),
        pool: Pool::Own,
        verification: Verification::Verified,
        memory_total_bytes: 1000,
        memory_free_bytes: 900,
        ..GpuDevice::new(Backend::Cuda, 0, Kind::Discrete)
    };
    DeviceState::new(device, Standing::Ready)
}

fn sampled(sample: Sample) -> DeviceState {
    DeviceState {
        sample: Some(sample),
        ..card()
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn seen<'a>(state: &'a DeviceState, holdings: &'a [Holding]) -> Seen<'a> {
    Seen {
        state,
        spec: None,
        host_free_bytes: Some(500),
        holdings,
        rates: None,
    }
}

fn told(state: &DeviceState) -> DeviceGPUStateStatus {
    status("node-a", &seen(state, &[]), None, Some(1), at(7))
}

fn condition(status: &DeviceGPUStateStatus, kind: &str) -> (String, String) {
    let found = conditions::find(&status.conditions, kind).unwrap();
    (found.status.clone(), found.reason.clone())
}

fn says(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

fn message(status: &DeviceGPUStateStatus, kind: &str) -> String {
    conditions::find(&status.conditions, kind).unwrap().message.clone()
}

fn off_the_bus() -> Fault {
    Fault {
        xid: Some(79),
        ..Fault::new("FellOffBus", "the GPU has fallen off the bus", Action::RebootNode)
    }
}

#[test]
fn a_verified_device_is_ready_and_shares_its_hosts_memory() {
    let state = DeviceState::new(gpu(), Standing::Ready);
    let status = told(&state);
    assert_eq!(object_name("node-a", &state.device), "node-a-vulkan1");
    assert_eq!(status.memory_pool, "node-a-host");
    assert_eq!(condition(&status, "Ready"), says("True", "Available"));
    assert_eq!(condition(&status, "Healthy"), says("True", "NoFault"));
    assert_eq!(condition(&status, "Verified"), says("True", "SelfTestPassed"));
    assert_eq!(condition(&status, "Throttled"), says("Unknown", "NotReported"));
    assert_eq!(status.bandwidth_bytes_per_second.unwrap().samples, 2);
    assert_eq!(status.launch_ns.unwrap().value, 700);
    assert_eq!(status.memory_free_bytes, 500, "what the host has");
}

#[test]
fn a_card_has_a_pool_of_its_own_and_what_a_table_says_is_marked_as_such() {
    let status = told(&card());
    assert_eq!(status.memory_pool, "node-a-cuda0");
    assert_eq!(status.backends, ["cuda", "vulkan"]);
    assert_eq!(status.support_level, Some(SupportLevel::Tried));
    assert_eq!((status.clock_mhz, status.power_limit_watts), (Some(1980), Some(700)));
    assert_eq!(status.bandwidth_bytes_per_second, None, "nothing was measured");
    assert_eq!(status.bandwidth_prior.unwrap().source, "data sheet");
}

#[test]
fn readings_are_whole_numbers_and_what_is_not_said_or_not_to_be_believed_is_absent() {
    let status = told(&sampled(Sample {
        memory_used_bytes: Some(300),
        temperature_celsius: Some(71.4),
        power_watts: Some(350.6),
        power_limit_watts: Some(600.0),
        utilisation_ratio: Some(0.987),
        throttled_by: Some(vec![Throttle::Power, Throttle::Thermal, Throttle::Power]),
        ecc_uncorrected: Some(2),
        ..Sample::default()
    }));
    assert_eq!(status.temperature_celsius, Some(71));
    assert_eq!((status.power_watts, status.power_limit_watts), (Some(351), Some(600)));
    assert_eq!(
        (status.utilisation_percent, status.ecc_uncorrected),
        (Some(99), Some(2))
    );
    assert_eq!(status.throttle_reasons, ["Thermal", "Power"]);
    assert_eq!(status.memory_free_bytes, 700);
    let status = told(&sampled(Sample {
        temperature_celsius: Some(f32::NAN),
        power_watts: Some(-1.0),
        utilisation_ratio: Some(3.0),
        ..Sample::default()
    }));
    assert_eq!((status.temperature_celsius, status.power_watts), (None, None));
    assert_eq!((status.utilisation_percent, status.ecc_uncorrected), (None, None));
    assert_eq!((status.memory_used_by_us_bytes, status.memory_free_bytes), (None, 900));
}

#[test]
fn a_fault_is_told_with_its_number_its_place_and_its_remedy() {
    let lost = DeviceState {
        standing: Standing::Failed { fault: off_the_bus() },
        ..card()
    };
    let status = told(&lost);
    assert_eq!(condition(&status, "Healthy"), says("False", "FellOffBus"));
    assert_eq!(condition(&status, "Ready"), says("False", "FellOffBus"));
    assert_eq!(
        message(&status, "Ready"),
        "Xid 79 at 0000:01:00.0: the GPU has fallen off the bus (RebootNode: restart the node)"
    );
}

/// A card that was in order until the kernel's log had this number of it.
fn struck_by(number: u32) -> DeviceState {
    let line = format!("4,1,1,-;NVRM: Xid (PCI:0000:01:00): {number}, pid=1, name=python3\n");
    let Record::Xid(event) = record(line.as_bytes()) else {
        panic!("{line}");
    };
    let seen = Observation::Xid {
        xid: event.xid,
        text: event.text,
    };
    let mut health = Health::new();
    health.observe(&Observation::Verified, 1);
    health.observe(&seen, 2);
    DeviceState {
        standing: health.standing(2),
        note: health.note().cloned(),
        ..card()
    }
}

fn times(text: &str, wanted: &str) -> usize {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric());
    words.filter(|word| *word == wanted).count()
}

#[test]
fn every_number_that_fails_a_device_is_told_once_with_its_place_the_catalogues_words_and_the_remedy() {
    let fails = |row: &&xid::Row| matches!(row.class, xid::Class::Fatal | xid::Class::UntilReset);
    let rows: Vec<&xid::Row> = xid::table().iter().filter(fails).collect();
    assert!(rows.len() >= 20, "{}", rows.len());
    for row in rows {
        let status = told(&struck_by(row.xid));
        assert_eq!(condition(&status, "Ready"), says("False", row.reason));
        let said = message(&status, "Ready");
        let (number, words, remedy) = (row.xid, row.text, row.action);
        let expected = format!("Xid {number} at 0000:01:00.0: {words}: pid=1, name=python3 ({remedy:?}: ");
        assert!(said.starts_with(&expected) && said.ends_with(')'), "{said}");
        assert_eq!(times(&said, &number.to_string()), 1, "{said}");
        assert_eq!(said.matches("0000:01:00").count(), 1, "{said}");
    }
}

#[test]
fn a_number_that_is_in_no_table_is_told_once_too() {
    let said = message(&told(&struck_by(9999)), "Healthy");
    assert_eq!(
        said,
        "it stays in use: Xid 9999 at 0000:01:00.0: its number is in no table: pid=1, name=python3"
    );
}

#[test]
fn a_device_that_comes_back_is_watched_first_and_one_that_flaps_is_held_down() {
    let standing = |standing| told(&DeviceState { standing, ..card() });
    let recovering = standing(Standing::Recovering {
        fault: off_the_bus(),
        ready_at_ms: 60_999,
    });
    assert_eq!(condition(&recovering, "Ready"), says("False", "Recovering"));
    assert_eq!(condition(&recovering, "Verified"), says("True", "SelfTestPassed"));
    let text = message(&recovering, "Healthy");
    assert!(
        text.contains("FellOffBus") && text.contains("1970-01-01T00:01:00Z"),
        "{text}"
    );
    let held_down = standing(Standing::HeldDown {
        fault: off_the_bus(),
        until_ms: u64::MAX,
    });
    assert_eq!(condition(&held_down, "Healthy"), says("False", "HeldDown"));
}

#[test]
fn a_device_that_failed_its_test_is_sick_and_one_that_could_not_be_asked_is_unknown() {
    let verification = |standing, verification| {
        let mut state = DeviceState { standing, ..card() };
        state.device.verification = verification;
        told(&state)
    };
    let failed = Verification::Failed {
        reason: "changed".into(),
    };
    let status = verification(Standing::Ready, failed);
    assert_eq!(condition(&status, "Healthy"), says("False", "SelfTestFailed"));
    assert_eq!(condition(&status, "Ready"), says("False", "SelfTestFailed"));
    let unproven = || Standing::Unproven { reason: "busy".into() };
    let silent = Verification::CouldNotMeasure { reason: "busy".into() };
    let status = verification(unproven(), silent);
    assert_eq!(condition(&status, "Verified"), says("Unknown", "CouldNotMeasure"));
    assert_eq!(condition(&status, "Healthy"), says("Unknown", "Unproven"));
    assert_eq!(condition(&status, "Ready"), says("False", "NotVerified"));
    let status = verification(unproven(), Verification::Verified);
    assert_eq!(
        condition(&status, "Ready"),
        says("False", "NotVerified"),
        "of another life"
    );
}

#[test]
fn a_card_that_computes_by_way_of_one_backend_takes_layers_and_says_which_other_failed_and_why() {
    let mut state = card();
    state.device.unverified = vec![
        Unverified {
            backend: Backend::Rocm,
            verification: Verification::Failed {
                reason: "byte 7 differs".into(),
            },
        },
        Unverified {
            backend: Backend::Vulkan,
            verification: Verification::CouldNotMeasure {
                reason: "libvulkan.so.1 is missing".into(),
            },
        },
    ];
    let status = told(&state);
    assert_eq!(condition(&status, "Ready"), says("True", "Available"));
    assert_eq!(condition(&status, "Verified"), says("True", "SelfTestPassed"));
    assert_eq!(
        message(&status, "Verified"),
        "1 MiB came back unchanged, and what the device computed was right; by way of rocm it failed: byte 7 differs; by way of \
         vulkan it could not be tested: libvulkan.so.1 is missing"
    );
}

#[test]
fn a_sensor_that_cannot_be_believed_counts_as_hot() {
    let status = told(&DeviceState {
        standing: Standing::Unproven {
            reason: "SensorInvalid: the sensor says -40 °C".into(),
        },
        ..card()
    });
    assert_eq!(condition(&status, "Healthy"), says("Unknown", "SensorInvalid"));
    assert_eq!(condition(&status, "Ready"), says("False", "SensorInvalid"));
    assert!(message(&status, "Ready").contains("-40 °C"));
}

#[test]
fn a_device_of_somebody_elses_is_healthy_and_not_ready() {
    let available = |availability| told(&DeviceState { availability, ..card() });
    let foreign = available(Availability::Foreign {
        by: "team/train".into(),
    });
    assert_eq!(condition(&foreign, "Ready"), says("False", "Foreign"));
    assert_eq!(condition(&foreign, "Healthy"), says("True", "NoFault"));
    assert!(message(&foreign, "Ready").contains("team/train"));
    assert_eq!(
        condition(
            &available(Availability::Unclaimed {
                reason: "given to nobody".into()
            }),
            "Ready"
        ),
        says("False", "Unclaimed")
    );
    assert_eq!(
        condition(&available(Availability::Shared), "Ready"),
        says("True", "Available")
    );
}

#[test]
fn a_strangers_memory_is_told_and_takes_no_device_away() {
    let status = told(&DeviceState {
        stranger: Some("pid 42 uses 3 GiB".into()),
        ..card()
    });
    assert_eq!(condition(&status, "Ready"), says("True", "Available"));
    assert_eq!(message(&status, "Ready"), "the device takes layers; pid 42 uses 3 GiB");
}

#[test]
fn what_a_person_should_know_of_a_device_in_use_is_told_without_taking_it_out_of_use() {
    let note = Fault::new("UnknownXid", "nobody knows 9999", Action::None);
    let status = told(&DeviceState {
        note: Some(note),
        ..card()
    });
    assert_eq!(condition(&status, "Healthy"), says("True", "UnknownXid"));
    assert_eq!(condition(&status, "Ready"), says("True", "Available"));
    let status = told(&DeviceState {
        last_fault: Some(off_the_bus()),
        ..card()
    });
    assert_eq!(condition(&status, "Healthy"), says("True", "NoFault"));
    assert!(message(&status, "Healthy").contains("Xid 79"));
}

#[test]
fn a_reason_that_is_no_word_never_reaches_the_api_server() {
    let fault = Fault::new("no word: \"x\"", "m", Action::None);
    let status = told(&DeviceState {
        standing: Standing::Failed { fault },
        ..card()
    });
    assert_eq!(condition(&status, "Healthy"), says("False", "Fault"));
}

#[test]
fn heat_throttles_and_the_devices_own_limits_do_not() {
    let throttled = |by: Option<Vec<Throttle>>| {
        let status = told(&sampled(Sample {
            throttled_by: by,
            ..Sample::default()
        }));
        condition(&status, "Throttled")
    };
    assert_eq!(throttled(None), says("Unknown", "NotReported"));
    assert_eq!(throttled(Some(vec![])), says("False", "FullSpeed"));
    assert_eq!(throttled(Some(vec![Throttle::Power])), says("False", "WithinLimits"));
    let hot = vec![Throttle::Power, Throttle::ThermalHardware];
    assert_eq!(throttled(Some(hot)), says("True", "ThermalHardware"));
}

#[test]
fn a_power_limit_above_what_is_wished_is_told() {
    let spec = DeviceGPUStateSpec {
        power_limit_watts: Some(500),
        ..Default::default()
    };
    let ready = |state: &DeviceState, spec: &DeviceGPUStateSpec| {
        let seen = Seen {
            spec: Some(spec),
            ..seen(state, &[])
        };
        message(&status("n", &seen, None, None, at(1)), "Ready")
    };
    assert!(ready(&card(), &spec).contains("limit is 700 W"));
    let unlimited = DeviceGPUStateSpec::default();
    assert!(!ready(&card(), &unlimited).contains(" W"));
    let lower = sampled(Sample {
        power_limit_watts: Some(500.0),
        ..Sample::default()
    });
    assert!(!ready(&lower, &spec).contains(" W"));
}

#[test]
fn only_shards_on_the_device_are_shown_and_counted() {
    let holding = |device: &str| Holding {
        device: device.into(),
        namespace: "ns".into(),
        model: "m".into(),
        layers: "0-9".into(),
        memory_bytes: 300,
    };
    let holdings = [holding("n-cuda0"), holding("n-cpu0")];
    let used = |used: u64| {
        let state = sampled(Sample {
            memory_used_bytes: Some(used),
            ..Sample::default()
        });
        let status = status("n", &seen(&state, &holdings), None, None, at(1));
        assert_eq!(status.shards.len(), 1);
        (status.memory_used_by_us_bytes, status.memory_used_by_others_bytes)
    };
    assert_eq!(used(700), (Some(300), Some(400)));
    assert_eq!(used(200), (Some(200), Some(0)), "a budget is not a use");
}

#[test]
fn of_a_shard_on_a_group_each_device_shows_its_part() {
    let holdings = [Holding {
        device: "n-cuda0+n-cuda1".into(),
        namespace: "ns".into(),
        model: "m".into(),
        layers: "0-9".into(),
        memory_bytes: 601,
    }];
    let state = sampled(Sample {
        memory_used_bytes: Some(700),
        ..Sample::default()
    });
    let status = status("n", &seen(&state, &holdings), None, None, at(1));
    assert_eq!(
        (status.shards[0].layers.as_str(), status.shards[0].memory_bytes),
        ("0-9", 301)
    );
    assert_eq!(status.memory_used_by_us_bytes, Some(301));
}

#[test]
fn conditions_keep_the_time_of_their_last_transition() {
    let before = told(&card());
    let again = status("node-a", &seen(&card(), &[]), Some(&before), Some(1), at(90));
    assert_eq!(again, before);
    let lost = DeviceState {
        standing: Standing::Failed { fault: off_the_bus() },
        ..card()
    };
    let after = status("node-a", &seen(&lost, &[]), Some(&before), Some(1), at(90));
    let since = |kind: &str| {
        conditions::find(&after.conditions, kind)
            .unwrap()
            .last_transition_time
            .0
    };
    assert_eq!((since("Ready"), since("Verified")), (at(90), at(7)));
}
