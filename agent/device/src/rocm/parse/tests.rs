use super::*;

#[test]
fn a_node_of_a_card_is_read_with_its_address_and_architecture() {
    let text = include_str!("../../../fixtures/sysfs/rx7900xtx/sys/class/kfd/kfd/topology/nodes/1/properties");
    let node = node(text, 1).unwrap();
    assert_eq!(node.architecture.as_deref(), Some("gfx1100"));
    assert_eq!(node.pci_address, "0000:03:00.0");
    assert_eq!(node.compute_units, Some(96));
    assert_eq!(node.clock_mhz, Some(2482));
    assert_eq!(node.hive, None);
}

#[test]
fn a_processors_node_has_no_architecture() {
    let node = node(
        "cpu_cores_count 16\nsimd_count 0\nlocation_id 0\ngfx_target_version 0\n",
        0,
    )
    .unwrap();
    assert_eq!((node.architecture, node.compute_units), (None, None));
}

#[test]
fn architectures_are_written_in_hexadecimal() {
    for (version, name) in [
        (90_000, "gfx900"),
        (90_008, "gfx908"),
        (90_010, "gfx90a"),
        (90_012, "gfx90c"),
        (90_402, "gfx942"),
        (90_500, "gfx950"),
        (100_306, "gfx1036"),
        (110_501, "gfx1151"),
        (120_001, "gfx1201"),
    ] {
        assert_eq!(architecture(version).as_deref(), Some(name));
    }
    for nonsense in [0, 9, 1_000_000, 110_099, u64::MAX] {
        assert_eq!(architecture(nonsense), None, "{nonsense}");
    }
}

#[test]
fn an_architectures_features_are_left_out_and_nonsense_is_refused() {
    assert_eq!(architecture_name("gfx90a:sramecc+:xnack-").as_deref(), Some("gfx90a"));
    assert_eq!(architecture_name("gfx1100\0junk").as_deref(), Some("gfx1100"));
    for nonsense in ["", "gfx", "sm_90", "gfxzzz", "gfx123456", "\u{1b}[31mgfx900"] {
        assert_eq!(architecture_name(nonsense), None, "{nonsense:?}");
    }
}

#[test]
fn the_present_clock_is_the_one_with_the_star() {
    let levels = "0: 500Mhz \n1: 1733Mhz *\n2: 2482Mhz \n";
    assert_eq!(present_clock_mhz(levels), Some(1733));
    assert_eq!(highest_clock_mhz(levels), Some(2482));
    // A card in deep sleep marks a level "S" of 0 or some MHz.
    assert_eq!(present_clock_mhz("S: 23Mhz *\n0: 500Mhz \n"), Some(23));
    for nothing in [
        "",
        "0: 500Mhz \n",
        "1: 0Mhz *\n",
        "*",
        ": *",
        "1: 99999999999999999999Mhz *\n",
    ] {
        assert_eq!(present_clock_mhz(nothing), None, "{nothing:?}");
    }
}

#[test]
fn error_counts_need_both_lines() {
    let both = Errors {
        corrected: 12,
        uncorrected: 1,
    };
    assert_eq!(errors("ue: 1\nce: 12\n"), Some(both));
    for less in ["", "ue: 1\n", "ue: x\nce: 1\n", "ue: -1\nce: 1\n"] {
        assert_eq!(errors(less), None, "{less:?}");
    }
}

fn table(format: u8, content: u8, status: u64) -> Vec<u8> {
    let mut table = vec![0xFF; 120];
    table[..4].copy_from_slice(&[120, 0, format, content]);
    table[112..].copy_from_slice(&status.to_le_bytes());
    table
}

#[test]
fn throttling_is_told_by_its_cause() {
    assert_eq!(throttles(&table(1, 3, 0)), Some(vec![]));
    assert_eq!(throttles(&table(1, 3, 1 << 36)), Some(vec![Throttle::Thermal]));
    assert_eq!(throttles(&table(1, 3, 1 << 47)), Some(vec![Throttle::ThermalHardware]));
    assert_eq!(
        throttles(&table(1, 3, 1 | 1 << 16 | 1 << 57)),
        Some(vec![Throttle::Power, Throttle::PowerBrake, Throttle::Other])
    );
}

#[test]
fn tables_that_say_nothing_of_throttling_or_are_cut_short_are_absent() {
    for (format, content) in [(1, 0), (1, 2), (1, 5), (2, 2), (3, 0)] {
        assert_eq!(throttles(&table(format, content, 1)), None);
    }
    assert_eq!(throttles(&table(1, 3, u64::MAX)), None);
    for length in 0..120 {
        assert_eq!(throttles(&table(1, 3, 0)[..length]), None, "{length}");
    }
}
