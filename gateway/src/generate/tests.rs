use tonic::{Code, Status};

use super::error::{Failure, classify};

#[test]
fn a_status_decides_whether_to_ask_elsewhere() {
    for code in [
        Code::Unavailable,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::NotFound,
        Code::PermissionDenied,
    ] {
        assert!(
            matches!(classify(&Status::new(code, "x")), Failure::Lost(_)),
            "{code:?}"
        );
    }
    let full = classify(&Status::resource_exhausted("full"));
    assert!(
        matches!(&full, Failure::Busy { message, .. } if message == "full"),
        "{full:?}"
    );
    assert_eq!(
        classify(&Status::invalid_argument("too long")),
        Failure::Refused("too long".into())
    );
    assert!(matches!(classify(&Status::internal("x")), Failure::Internal(_)));
}

#[test]
fn a_full_head_says_when_to_ask_again_and_is_believed_within_bounds() {
    for (said, heard) in [
        (Some("17"), Some(17)),
        (Some("0"), Some(1)),
        (Some("86400"), Some(600)),
        (Some("soon"), None),
        (None, None),
    ] {
        let mut status = Status::resource_exhausted("full");
        if let Some(said) = said {
            status.metadata_mut().insert("retry-after", said.parse().unwrap());
        }
        let expected = Failure::Busy {
            message: "full".into(),
            retry_after_s: heard,
        };
        assert_eq!(classify(&status), expected);
    }
}

#[test]
fn a_broken_connection_is_a_lost_head_whatever_its_code() {
    let broken = Status::from_error(Box::new(std::io::Error::other("reset")));
    assert!(matches!(classify(&broken), Failure::Lost(_)), "{broken:?}");
}
