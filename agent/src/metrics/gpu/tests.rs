use super::super::fixture::{card, devices, off_the_bus};
use super::*;
use prometheus::{Encoder, TextEncoder};

fn scrape(devices: &Devices) -> String {
    let registry = Registry::new();
    collect(&registry, "node-a", devices).unwrap();
    let mut bytes = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// Value of the one series of a family whose labels have all these.
fn value<'a>(text: &'a str, family: &str, labels: &[&str]) -> Option<&'a str> {
    let mut found = text.lines().filter(|line| {
        line.strip_prefix("shardwright_gpu_")
            .and_then(|line| line.strip_prefix(family))
            .is_some_and(|line| line.starts_with('{'))
            && labels.iter().all(|label| line.contains(label))
    });
    let value = found.next()?.rsplit_once(' ')?.1;
    assert_eq!(found.next(), None, "{family} {labels:?} is there twice");
    Some(value)
}

#[test]
fn a_card_tells_everything_in_base_units() {
    let text = scrape(&devices());
    let card = "device=\"node-a-cuda0\"";
    for (family, label, expected) in [
        ("utilization_ratio", "", "0.5"),
        ("memory_utilization_ratio", "", "0.25"),
        ("memory_used_bytes", "", "21474836480"),
        ("memory_total_bytes", "", "85899345920"),
        ("memory_usable_bytes", "", "75161927680"),
        ("temperature_celsius", "", "71"),
        ("memory_temperature_celsius", "", "80"),
        ("power_watts", "", "350"),
        ("power_limit_watts", "", "600"),
        ("energy_joules_total", "", "12.5"),
        ("pcie_replays_total", "", "2"),
        ("clock_hertz", "clock=\"sm\"", "1980000000"),
        ("clock_hertz", "clock=\"memory\"", "2619000000"),
        ("throttled", "reason=\"Thermal\"", "1"),
        ("throttled", "reason=\"Power\"", "0"),
        ("ecc_errors_total", "kind=\"corrected\"", "3"),
        ("ecc_errors_total", "kind=\"uncorrected\"", "1"),
        ("xid_events_total", "xid=\"79\"", "4"),
        ("healthy", "", "1"),
        ("verified", "", "1"),
        ("ready", "", "1"),
    ] {
        assert_eq!(
            value(&text, family, &[card, label]),
            Some(expected),
            "{family} {label}\n{text}"
        );
    }
    for label in [
        "node=\"node-a\"",
        "gpu_uuid=\"GPU-1\"",
        "pci_bus_id=\"0000:0a:00.0\"",
        "vendor=\"nvidia\"",
        "backend=\"cuda\"",
    ] {
        assert!(
            value(&text, "temperature_celsius", &[label]).is_some(),
            "{label} is missing in\n{text}"
        );
    }
}

#[test]
fn how_often_what_computes_on_a_device_was_started_again_is_counted() {
    let mut devices = devices();
    devices.states[2].restart_shards = 2;
    let text = scrape(&devices);
    let restarts = |device: &str| value(&text, "shard_restarts_total", &[device]);
    assert_eq!(restarts("device=\"node-a-cuda0\""), Some("2"));
    assert_eq!(restarts("device=\"node-a-vulkan0\""), Some("0"));
}

#[test]
fn what_a_device_does_not_say_is_absent() {
    let text = scrape(&devices());
    let renderer = "device=\"node-a-vulkan0\"";
    for family in [
        "utilization_ratio",
        "memory_used_bytes",
        "temperature_celsius",
        "power_watts",
        "power_limit_watts",
        "energy_joules_total",
        "clock_hertz",
        "throttled",
        "ecc_errors_total",
        "xid_events_total",
    ] {
        assert_eq!(value(&text, family, &[renderer]), None, "{family}");
    }
    assert_eq!(value(&text, "memory_total_bytes", &[renderer]), Some("17179869184"));
    assert_eq!(value(&text, "verified", &[renderer]), Some("0"));
    assert_eq!(value(&text, "ready", &[renderer]), Some("0"));
    let nobody = scrape(&Devices::default());
    assert_eq!(nobody, "", "a node without devices has no families without series");
}

#[test]
fn a_reading_that_is_no_number_is_absent() {
    let mut devices = devices();
    let sample = devices.states[2].sample.as_mut().unwrap();
    sample.temperature_celsius = Some(f32::NAN);
    sample.energy_joules = Some(-1.0);
    let text = scrape(&devices);
    assert_eq!(value(&text, "temperature_celsius", &["cuda"]), None);
    assert_eq!(value(&text, "energy_joules_total", &["cuda"]), None);
}

#[test]
fn a_device_in_trouble_is_neither_healthy_nor_ready() {
    let told = |standing| {
        let state = DeviceState { standing, ..card() };
        let devices = Devices {
            states: vec![state],
            ..Devices::default()
        };
        let text = scrape(&devices);
        let of = |family| value(&text, family, &[]).unwrap().to_owned();
        (of("healthy"), of("ready"))
    };
    let fault = off_the_bus();
    let (yes, no) = ("1".to_owned(), "0".to_owned());
    assert_eq!(told(Standing::Ready), (yes.clone(), yes.clone()));
    assert_eq!(
        told(Standing::Failed { fault: fault.clone() }),
        (no.clone(), no.clone())
    );
    let recovering = Standing::Recovering { fault, ready_at_ms: 1 };
    assert_eq!(told(recovering), (no.clone(), no.clone()));
    let unproven = Standing::Unproven { reason: "busy".into() };
    assert_eq!(told(unproven), (yes, no));
}
