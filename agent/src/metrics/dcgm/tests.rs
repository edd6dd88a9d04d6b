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

fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let prefix = format!("DCGM_FI_DEV_{name}{{");
    let mut found = text.lines().filter(|line| line.starts_with(&prefix));
    let value = found.next()?.rsplit_once(' ')?.1;
    assert_eq!(found.next(), None, "{name} is there twice");
    Some(value)
}

#[test]
fn a_card_of_nvidias_is_told_of_in_the_exporters_names_units_and_labels() {
    let text = scrape(&devices());
    for (name, expected) in [
        ("GPU_UTIL", "50"),
        ("FB_USED", "20480"),
        ("FB_FREE", "61440"),
        ("GPU_TEMP", "71"),
        ("MEMORY_TEMP", "80"),
        ("POWER_USAGE", "350"),
        ("TOTAL_ENERGY_CONSUMPTION", "12500"),
        ("SM_CLOCK", "1980"),
        ("MEM_CLOCK", "2619"),
        ("PCIE_REPLAY_COUNTER", "2"),
        ("ECC_SBE_VOL_TOTAL", "3"),
        ("ECC_DBE_VOL_TOTAL", "1"),
        ("XID_ERRORS", "79"),
    ] {
        assert_eq!(value(&text, name), Some(expected), "{name}\n{text}");
    }
    for label in [
        "gpu=\"0\"",
        "UUID=\"GPU-1\"",
        "pci_bus_id=\"00000000:0A:00.0\"",
        "device=\"nvidia0\"",
        "Hostname=\"node-a\"",
    ] {
        assert!(text.contains(label), "{label} is missing in\n{text}");
    }
    assert!(
        !text.contains("llvmpipe"),
        "NVIDIA's exporter knows NVIDIA's cards only"
    );
}

#[test]
fn the_last_event_is_that_of_the_last_fault_and_none_is_zero() {
    let told = |last_fault| {
        let states = vec![DeviceState { last_fault, ..card() }];
        let text = scrape(&Devices {
            states,
            ..Devices::default()
        });
        value(&text, "XID_ERRORS").map(str::to_owned)
    };
    assert_eq!(told(None).as_deref(), Some("0"));
    assert_eq!(told(Some(off_the_bus())).as_deref(), Some("79"));
}

#[test]
fn a_card_that_nobody_reads_has_no_readings() {
    let states = vec![DeviceState { sample: None, ..card() }];
    let text = scrape(&Devices {
        states,
        ..Devices::default()
    });
    assert_eq!(value(&text, "GPU_TEMP"), None, "no sentinel");
    assert_eq!(value(&text, "XID_ERRORS"), Some("0"));
}

#[test]
fn a_slice_is_told_by_its_size() {
    assert_eq!(slice_profile("NVIDIA A100-SXM4-40GB MIG 1g.5gb"), Some("1g.5gb"));
    assert_eq!(slice_profile("NVIDIA H100"), None);
}
