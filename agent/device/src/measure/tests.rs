use super::*;
use crate::MemoryInfo;
use crate::fake::{Fake, Fault};

/// Long enough for everything on any machine; the fakes take milliseconds.
const PLENTY: Duration = Duration::from_secs(60);

#[test]
fn what_a_device_has_is_measured_and_what_it_has_not_is_absent_and_all_is_given_back() {
    let mut fake = Fake::new(1);
    // A first product costs a real one; sizes stay small by a budget that lasts for few.
    let measured = measure_within(&mut fake, 0, Duration::from_millis(400), 11);
    assert!(fake.blocks.is_empty());
    assert_eq!(measured.f16_flops_per_second, None);
    assert!(measured.peers.is_empty());
    for figure in [measured.bandwidth_bytes_per_second, measured.launch_ns] {
        let figure = figure.expect("measured first");
        assert!(figure.value > 0 && figure.samples > 0);
        assert_eq!(figure.measured_unix_s, 11);
    }
}

#[test]
fn operations_are_counted_twice_per_multiplication_and_over_all_repeats() {
    let mut fake = Fake::new(1);
    // Nothing is left of the budget: the smallest product alone. 2·128³ operations in 100 ms.
    let samples = flops(&mut fake, 0, Precision::F32, Instant::now()).unwrap();
    assert_eq!(samples, [2.0 * 128_f64.powi(3) / 0.1]);
    assert_eq!(fake.products, 2, "one to warm up, one to time");
}

#[test]
fn a_spent_budget_measures_nothing() {
    let mut fake = Fake::new(2);
    assert_eq!(measure_within(&mut fake, 0, Duration::ZERO, 0), Measured::default());
    let all = fake.found.clone();
    assert_eq!(peers(&mut fake, 0, &all, Duration::ZERO, 0), []);
}

#[test]
fn memory_too_short_for_its_caches_to_be_left_has_no_bandwidth() {
    let mut fake = Fake::new(1);
    fake.memory = MemoryInfo {
        total_bytes: 128 << 20,
        free_bytes: COPY_BYTES_MIN * FREE_SHARE - 1,
    };
    assert_eq!(bandwidth(&mut fake, 0, Instant::now() + PLENTY), None);
    fake.memory.free_bytes += 1;
    assert!(bandwidth(&mut fake, 0, Instant::now()).is_some());
}

#[test]
fn a_copy_that_fails_gives_no_figure_and_its_memory_back() {
    let mut fake = Fake::new(1);
    fake.fault = Fault::FailsAt(3);
    assert_eq!(bandwidth(&mut fake, 0, Instant::now() + PLENTY), None);
    assert!(fake.blocks.is_empty());
}

#[test]
fn copies_to_every_other_device_are_named_by_identity_and_way() {
    let mut fake = Fake::new(3);
    let all = fake.found.clone();
    let peers = peers(&mut fake, 0, &all, PLENTY, 5);
    let ways: Vec<_> = peers.iter().map(|peer| (peer.to.as_str(), peer.direct)).collect();
    assert_eq!(ways, [("uuid:card-1", true), ("uuid:card-2", false)]);
    assert!(peers.iter().all(|peer| peer.bytes_per_second.value > 0));
    assert!(fake.blocks.is_empty());
}

#[test]
fn a_figure_is_the_median_and_never_zero_or_endless() {
    let value = |samples: &[f64]| figure(samples.to_vec(), 0).map(|figure| (figure.value, figure.samples));
    assert_eq!(value(&[9.0, 1.0, 5.0]), Some((5, 3)));
    assert_eq!(value(&[]), None);
    assert_eq!(value(&[0.3]), None);
    assert_eq!(value(&[f64::INFINITY]), None);
    assert_eq!(value(&[f64::NAN]), None);
}
