use super::*;
use std::collections::BTreeSet;

#[test]
fn every_line_of_the_table_is_read_and_no_number_is_there_twice() {
    let lines = include_str!("table.tsv").lines().filter(|line| !line.starts_with('#'));
    assert_eq!(table().len(), lines.count());
    let numbers: BTreeSet<u32> = table().iter().map(|row| row.xid).collect();
    assert_eq!(numbers.len(), table().len());
    assert!(table().len() >= 40);
}

#[test]
fn the_numbers_that_matter_are_of_the_class_that_they_must_be() {
    let class = |xid| lookup(xid).map(|row| row.class);
    for xid in [13, 31, 43, 45, 94] {
        assert_eq!(class(xid), Some(Class::Application), "{xid}");
    }
    for xid in [48, 64, 79, 95] {
        assert_eq!(class(xid), Some(Class::UntilReset), "{xid}");
    }
    for xid in [74, 119, 120] {
        assert_eq!(class(xid), Some(Class::Fatal), "{xid}");
    }
    assert_eq!(class(63), Some(Class::Note));
    assert_eq!(class(9999), None);
}

#[test]
fn a_card_off_the_bus_needs_its_node_restarted() {
    let row = lookup(79).unwrap();
    assert_eq!((row.reason, row.action), ("FellOffBus", Action::RebootNode));
}

#[test]
fn reasons_are_single_camel_case_words_and_every_row_has_text_and_source() {
    for row in table() {
        assert!(
            row.reason.starts_with(|first: char| first.is_ascii_uppercase()),
            "{row:?}"
        );
        assert!(row.reason.chars().all(|c| c.is_ascii_alphanumeric()), "{row:?}");
        assert!(!row.text.is_empty() && row.source.starts_with("catalog: "), "{row:?}");
    }
}

#[test]
fn what_restarts_a_shard_is_never_a_device_s_fault_and_the_other_way_round() {
    for row in table() {
        let restarts = row.action == Action::RestartShard;
        assert_eq!(restarts, row.class == Class::Application, "{row:?}");
    }
}
