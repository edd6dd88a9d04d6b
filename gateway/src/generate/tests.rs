use std::time::Duration;

use proto::shard::v1::Sampling;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::RequestMemory;
use super::error::{Failure, classify};

fn memory(emitted: Vec<i32>, now: Instant) -> RequestMemory {
    RequestMemory {
        model_uid: "uid".into(),
        request_id: "req".into(),
        prompt: vec![1, 2],
        emitted,
        max_tokens: 10,
        sampling: Sampling {
            temperature: 0.5,
            top_p: 0.9,
            top_k: 0,
            seed: 7,
        },
        stop_tokens: vec![9],
        wait_until: now + Duration::from_secs(30),
        prefix_scope: vec![5; 16],
    }
}

#[test]
fn a_memory_asks_for_what_is_still_missing() {
    let now = Instant::now();
    let fresh = memory(vec![], now).request(3, now);
    assert_eq!(
        (fresh.epoch, fresh.prompt_tokens, fresh.max_tokens),
        (3, vec![1, 2], 10)
    );
    assert_eq!((fresh.max_wait_ms, fresh.prefix_scope), (30_000, vec![5; 16]));
    let resumed = memory(vec![3, 4, 5], now).request(4, now + Duration::from_secs(12));
    assert_eq!(
        (resumed.epoch, resumed.prompt_tokens, resumed.max_tokens),
        (4, vec![1, 2, 3, 4, 5], 7)
    );
    assert_eq!((resumed.sampling.unwrap().seed, resumed.max_wait_ms), (7, 18_000));
    let late = memory(vec![], now).request(4, now + Duration::from_secs(31));
    assert_eq!(late.max_wait_ms, 1, "0 would mean any time");
}

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
