use super::*;

fn full() -> Raw {
    Raw {
        memory: Some((80 << 30, 79 << 30)),
        utilisation: Some((37, 12)),
        temperature: Some(41),
        memory_temperature: Some(52),
        power_mw: Some(71_530),
        power_limit_mw: Some(700_000),
        energy_mj: Some(1_234_567),
        clock_mhz: Some(1980),
        memory_clock_mhz: Some(2619),
        throttle: Some(0),
        ecc_corrected: Some(3),
        ecc_uncorrected: Some(0),
        pcie_replays: Some(7),
        processes: vec![RawProcess {
            pid: 4121,
            memory_bytes: 512 << 20,
        }],
    }
}

#[test]
fn a_card_that_tells_all_is_shown_in_base_units() {
    let sample = sample("uuid:GPU-1", &full());
    assert_eq!(sample.device, "uuid:GPU-1");
    assert_eq!(sample.memory_total_bytes, Some(80 << 30));
    assert_eq!(sample.memory_used_bytes, Some(1 << 30));
    assert_eq!(sample.utilisation_ratio, Some(0.37));
    assert_eq!(sample.memory_utilisation_ratio, Some(0.12));
    assert_eq!(sample.temperature_celsius, Some(41.0));
    assert_eq!(sample.memory_temperature_celsius, Some(52.0));
    assert_eq!(sample.power_watts, Some(71.53));
    assert_eq!(sample.power_limit_watts, Some(700.0));
    assert_eq!(sample.energy_joules, Some(1234.567));
    assert_eq!((sample.clock_mhz, sample.memory_clock_mhz), (Some(1980), Some(2619)));
    assert_eq!(sample.throttled_by, Some(Vec::new()));
    assert_eq!((sample.ecc_corrected, sample.ecc_uncorrected), (Some(3), Some(0)));
    assert_eq!(sample.pcie_replays, Some(7));
    assert_eq!(sample.processes[0].memory_bytes, Some(512 << 20));
}

#[test]
fn what_a_card_does_not_tell_is_absent() {
    let sample = sample("pci:0000:01:00.0", &Raw::default());
    let expected = Sample {
        device: "pci:0000:01:00.0".to_owned(),
        ..Sample::default()
    };
    assert_eq!(sample, expected);
}

#[test]
fn sentinels_are_absent() {
    let raw = Raw {
        memory: Some((u64::MAX, 0)),
        utilisation: Some((u32::MAX, 255)),
        temperature: Some(u32::MAX),
        memory_temperature: Some(0),
        power_mw: Some(u32::MAX),
        power_limit_mw: Some(0),
        energy_mj: Some(9_223_372_036_854_775_794),
        clock_mhz: Some(u32::MAX),
        memory_clock_mhz: Some(0x7fff_fff2),
        throttle: None,
        ecc_corrected: Some(u64::MAX),
        ecc_uncorrected: Some(9_223_372_036_854_775_792),
        pcie_replays: Some(u32::MAX),
        processes: vec![RawProcess {
            pid: 1,
            memory_bytes: u64::MAX,
        }],
    };
    let sample = sample("d", &raw);
    let expected = Sample {
        device: "d".to_owned(),
        sensor_fault: Some("the sensor says -1 °C".to_owned()),
        processes: vec![ProcessMemory {
            pid: 1,
            memory_bytes: None,
        }],
        ..Sample::default()
    };
    assert_eq!(sample, expected);
}

#[test]
fn a_temperature_that_cannot_be_is_a_fault_of_the_sensor() {
    for (wrong, said) in [(0u32, "0"), (255, "255"), (-40i32 as u32, "-40")] {
        let raw = Raw {
            temperature: Some(wrong),
            ..Raw::default()
        };
        let sample = sample("d", &raw);
        assert_eq!(sample.temperature_celsius, None);
        assert_eq!(sample.sensor_fault, Some(format!("the sensor says {said} °C")));
    }
}

#[test]
fn more_free_than_there_is_is_no_memory() {
    let raw = Raw {
        memory: Some((10, 11)),
        ..Raw::default()
    };
    assert_eq!(sample("d", &raw).memory_used_bytes, None);
}

#[test]
fn reasons_to_run_slower_are_told_by_their_bits() {
    assert_eq!(throttles(0), []);
    assert_eq!(throttles(0x1), []);
    assert_eq!(throttles(0x4), [Throttle::Power]);
    assert_eq!(throttles(0x2 | 0x100), [Throttle::Setting]);
    assert_eq!(throttles(0x8 | 0x40), [Throttle::ThermalHardware]);
    assert_eq!(throttles(0x8 | 0x80), [Throttle::PowerBrake]);
    assert_eq!(throttles(0x8), [Throttle::Other]);
    assert_eq!(throttles(0x20 | 0x4), [Throttle::Thermal, Throttle::Power]);
    assert_eq!(throttles(1 << 40), [Throttle::Other]);
}

#[test]
fn a_slice_has_its_own_memory_and_its_cards_sensors_but_no_power() {
    let slice = Raw {
        memory: Some((10 << 30, 9 << 30)),
        ..Raw::default()
    };
    let both = slice.with_sensors_of(&full());
    assert_eq!(both.memory, Some((10 << 30, 9 << 30)));
    assert_eq!(both.temperature, Some(41));
    assert_eq!((both.power_mw, both.energy_mj, both.utilisation), (None, None, None));
    assert!(both.processes.is_empty());
}
