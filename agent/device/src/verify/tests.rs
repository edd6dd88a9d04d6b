use super::*;
use crate::fake::{Fake, Fault};

fn verdict(fault: Fault) -> (Verification, usize) {
    let mut fake = Fake::new(1);
    fake.fault = fault;
    let verdict = verify(&mut fake, 0);
    (verdict, fake.blocks.len())
}

fn failed(fault: Fault) -> String {
    match verdict(fault) {
        (Verification::Failed { reason }, 0) => reason,
        other => panic!("{other:?}"),
    }
}

fn unmeasured(fault: Fault) -> String {
    match verdict(fault) {
        (Verification::CouldNotMeasure { reason }, 0) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_device_that_keeps_and_computes_what_it_is_given_is_verified() {
    assert_eq!(verdict(Fault::None), (Verification::Verified, 0));
}

#[test]
fn one_changed_bit_of_a_mebibyte_fails_and_is_named_with_what_was_expected_and_got() {
    let pattern = verification_pattern();
    let reason = failed(Fault::FlipsBit(700_001));
    let expected = pattern[700_001];
    assert!(reason.contains("1 bytes changed; byte 700001"), "{reason}");
    assert!(
        reason.contains(&format!("expected {expected:#04x}, got {:#04x}", expected ^ 1)),
        "{reason}"
    );
}

#[test]
fn a_copy_that_does_nothing_is_seen_even_on_memory_that_an_earlier_verification_filled() {
    assert!(failed(Fault::CopiesNothing).contains("1048576 bytes changed"));
}

#[test]
fn wrong_products_fail() {
    for fault in [
        Fault::AddsToFirst(0.001),
        Fault::AddsToFirst(f32::NAN),
        Fault::Transposes,
        Fault::RoundsToHalf,
    ] {
        let reason = failed(fault);
        assert!(
            reason.contains("of 16384 numbers of a 128x128 product are wrong; row "),
            "{reason}"
        );
    }
    assert!(failed(Fault::GivesNoNumbers).contains("came back with 0 numbers"));
}

#[test]
fn sums_in_another_order_are_within_the_tolerance() {
    assert_eq!(verdict(Fault::SumsBackwards).0, Verification::Verified);
}

#[test]
fn a_call_that_fails_is_named_and_nothing_stays_allocated_wherever_it_happens() {
    for (call, step) in [
        (0, "allocating the first mebibyte"),
        (1, "allocating the second mebibyte"),
        (2, "copying 1 MiB in"),
        (3, "copying 1 MiB in"),
        (4, "copying 1 MiB within"),
        (5, "waiting for the device"),
        (6, "copying 1 MiB out"),
        (7, "multiplying 128x128"),
    ] {
        let reason = unmeasured(Fault::FailsAt(call));
        assert!(reason.starts_with(step), "{call}: {reason}");
        assert!(reason.contains("the card is gone"), "{reason}");
    }
}

#[test]
fn the_golden_numbers_are_the_same_on_every_machine() {
    let numbers = numbers(1);
    assert_eq!(numbers.len(), GOLDEN_SIZE * GOLDEN_SIZE);
    assert!(numbers.iter().all(|number| (-1.0..1.0).contains(number)));
    let mean: f32 = numbers.iter().sum::<f32>() / numbers.len() as f32;
    assert!(mean.abs() < 0.02, "{mean}");
    assert_ne!(numbers, super::numbers(2));
}
