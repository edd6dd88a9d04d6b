use super::*;
use crate::Figure;
use crate::fake::{Fake, Fault};

fn figures(value: u64) -> Measured {
    let figure = Some(Figure {
        value,
        samples: 1,
        measured_unix_s: 1,
    });
    Measured {
        bandwidth_bytes_per_second: figure,
        f32_flops_per_second: figure,
        to_device_bytes_per_second: figure,
        from_device_bytes_per_second: figure,
        launch_ns: figure,
        ..Measured::default()
    }
}

fn known(device: &GpuDevice) -> GpuDevice {
    GpuDevice {
        measured: figures(77),
        index: 5,
        ..device.clone()
    }
}

fn asked(fake: &mut Fake, measure_budget: Duration, known: Vec<GpuDevice>) -> Vec<GpuDevice> {
    let request = ProbeRequest {
        measure_budget,
        known,
        only: Selection::All,
    };
    ask(fake, &request, 9).unwrap()
}

#[test]
fn every_device_is_verified_and_none_is_measured_without_a_budget() {
    let mut fake = Fake::new(3);
    let answer = asked(&mut fake, Duration::ZERO, Vec::new());
    assert_eq!(answer.len(), 3);
    for device in &answer {
        assert_eq!(device.verification, Verification::Verified);
        assert_eq!(device.measured, Measured::default());
    }
}

#[test]
fn figures_of_the_same_device_driver_and_limit_are_kept_as_they_are() {
    let mut fake = Fake::new(1);
    let before = known(&fake.found[0]);
    let answer = asked(&mut fake, Duration::from_secs(60), vec![before]);
    assert_eq!(answer[0].measured, figures(77));
    assert_eq!(fake.products, 1, "the golden one alone");
}

#[test]
fn another_driver_limit_or_card_voids_them() {
    type Change = fn(&mut GpuDevice);
    let changes: [Change; 4] = [
        |device| device.driver = Some("2.0".to_owned()),
        |device| device.power_limit_watts = Some(200),
        |device| device.uuid = Some("card-9".to_owned()),
        |device| device.model = "Another".to_owned(),
    ];
    for change in changes {
        let mut fake = Fake::new(1);
        let before = known(&fake.found[0]);
        change(&mut fake.found[0]);
        let answer = asked(&mut fake, Duration::ZERO, vec![before]);
        assert_eq!(answer[0].measured, Measured::default());
    }
}

#[test]
fn a_device_that_failed_is_neither_measured_nor_does_it_stop_its_neighbours() {
    let mut fake = Fake::new(2);
    let reason = "UnsupportedCPU".to_owned();
    fake.found[0].verification = Verification::Failed { reason: reason.clone() };
    let before = known(&fake.found[1]);
    let answer = asked(&mut fake, Duration::from_secs(60), vec![before]);
    assert_eq!(answer[0].verification, Verification::Failed { reason });
    assert_eq!(answer[0].measured, Measured::default());
    assert_eq!(answer[1].verification, Verification::Verified);
    assert_eq!(answer[1].measured, figures(77));
}

#[test]
fn one_sick_device_never_condemns_the_next() {
    let mut fake = Fake::new(2);
    fake.fault = Fault::FailsAt(4);
    let answer = asked(&mut fake, Duration::ZERO, Vec::new());
    assert!(matches!(answer[0].verification, Verification::CouldNotMeasure { .. }));
    assert_eq!(answer[1].verification, Verification::Verified);
}

#[test]
fn a_new_neighbour_is_measured_and_old_figures_stay() {
    let mut fake = Fake::new(2);
    let before = fake.found.iter().map(known).collect();
    let answer = asked(&mut fake, Duration::from_secs(60), before);
    for device in &answer {
        let own = Measured {
            peers: Vec::new(),
            ..device.measured.clone()
        };
        assert_eq!(own, figures(77));
        assert_eq!(device.measured.peers.len(), 1);
        assert_eq!(device.measured.peers[0].bytes_per_second.measured_unix_s, 9);
    }
}

#[test]
fn a_driver_without_devices_says_so() {
    let answer = asked(&mut Fake::new(0), Duration::ZERO, Vec::new());
    assert!(answer.is_empty());
}
