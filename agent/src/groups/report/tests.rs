use super::*;
use crate::rates::{Rates, Reading};
use device::Backend;

fn rates(samples: u32, measured_unix_s: u64) -> Rates {
    Rates {
        step_ns: 90_000,
        layer_ns: 21_000,
        reading: vec![Reading {
            bits: 5,
            bytes_per_second: 800_000_000_000,
        }],
        samples,
        measured_unix_s,
        ..Rates::default()
    }
}

fn seen(measured: Option<Result<Rates, Failed>>) -> Seen {
    Seen {
        devices: vec!["n-cuda0".to_owned(), "n-cuda1".to_owned()],
        backend: Backend::Cuda,
        measured,
    }
}

fn failed(cause: &str) -> Option<Result<Rates, Failed>> {
    Some(Err(Failed {
        cause: cause.to_owned(),
        at_unix_s: 70,
    }))
}

fn said(measured: Option<Result<Rates, Failed>>) -> DeviceGroup {
    told(Some(&[seen(measured)]), None).remove(0)
}

fn second(at: Option<&Time>) -> Option<i64> {
    at.map(|at| at.0.as_second())
}

#[test]
fn a_group_is_told_with_its_figures_with_its_error_or_with_neither() {
    let measured = said(Some(Ok(rates(60, 50))));
    assert_eq!(measured.devices, ["n-cuda0", "n-cuda1"]);
    assert_eq!(measured.backend, "cuda");
    let figures = measured.step_rates.as_ref().unwrap();
    assert_eq!((figures.step_ns, figures.samples), (90_000, 60));
    assert_eq!(
        (measured.error, second(measured.measured_at.as_ref())),
        (None, Some(50))
    );
    let unfit = said(failed("exit status: 69: unknown architecture"));
    assert_eq!(unfit.error.as_deref(), Some("exit status: 69: unknown architecture"));
    assert_eq!((unfit.step_rates, second(unfit.measured_at.as_ref())), (None, Some(70)));
    let unknown = said(None);
    assert_eq!(
        (unknown.step_rates, unknown.error, unknown.measured_at),
        (None, None, None)
    );
}

#[test]
fn whatever_a_worker_wrote_last_the_api_accepts_it() {
    let long = format!("a\u{1b}[31m{}", "é".repeat(2000));
    let mut object = crds::NodeLinkState::new("n", crds::NodeLinkStateSpec::default());
    object.status = Some(NodeLinkStateStatus {
        node: "n".to_owned(),
        groups: vec![said(failed(&long))],
        ..NodeLinkStateStatus::default()
    });
    object.validate_cel().expect("admitted");
    let error = said(failed(&long)).error.unwrap();
    assert_eq!(error.chars().count(), 512);
    assert!(error.starts_with("a [31mé"), "{error}");
}

#[test]
fn until_it_is_known_which_groups_there_are_what_was_written_stays() {
    let written = NodeLinkStateStatus {
        groups: vec![said(None)],
        ..NodeLinkStateStatus::default()
    };
    assert_eq!(told(None, Some(&written)), written.groups);
    assert!(told(None, None).is_empty());
    assert!(told(Some(&[]), Some(&written)).is_empty(), "there are none any more");
}

#[test]
fn that_a_group_was_measured_once_more_and_found_as_it_was_is_no_news_and_a_faster_one_is() {
    let written = [said(Some(Ok(rates(60, 50))))];
    let again = |now: DeviceGroup| {
        let mut now = [now];
        calm(&mut now, &written);
        now == written
    };
    assert!(again(said(Some(Ok(rates(90, 99))))));
    let faster = Rates {
        step_ns: 80_000,
        ..rates(90, 99)
    };
    assert!(!again(said(Some(Ok(faster)))));
    assert!(!again(said(failed("exit status: 69"))));
    assert!(!again(DeviceGroup {
        devices: vec!["n-cuda2".to_owned(), "n-cuda3".to_owned()],
        ..said(Some(Ok(rates(60, 50))))
    }));
}

#[test]
fn what_placement_waits_for_is_whether_a_group_can_be_used_and_not_how_fast_it_is() {
    let measured = [said(Some(Ok(rates(60, 50))))];
    let faster = [said(Some(Ok(Rates {
        step_ns: 1,
        ..rates(60, 50)
    })))];
    assert_eq!(standing(&measured), standing(&faster));
    assert_ne!(standing(&measured), standing(&[said(None)]));
    assert_ne!(standing(&[said(None)]), standing(&[said(failed("no"))]));
    assert_ne!(standing(&measured), standing(&[]));
}
