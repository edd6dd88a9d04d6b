use std::time::Duration;

use super::*;
use crate::{Authority, Role};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn identity() -> Identity {
    let authority = Authority::generate("shardwright", now()).unwrap();
    let id = SpiffeId::new(
        "shardwright",
        Role::Gateway {
            pod: "gateway-0".into(),
        },
    )
    .unwrap();
    let KeyPair { key_pem, csr_der } = KeyPair::generate().unwrap();
    let leaf = authority.issue(&csr_der, &id, &[], DAY, now()).unwrap();
    Identity {
        certificate_chain_pem: leaf.certificate_chain_pem,
        key_pem,
        bundle_pem: leaf.bundle_pem,
    }
}

#[test]
fn an_identity_is_read_back_as_it_was_stored() {
    let directory = tempfile::tempdir().unwrap();
    let identity = identity();
    identity.store(directory.path()).unwrap();
    assert_eq!(Identity::load(directory.path()).unwrap(), identity);
}

#[test]
fn an_incomplete_or_foreign_directory_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    identity().store(directory.path()).unwrap();
    std::fs::write(directory.path().join(LEAF_FILE), "not a certificate").unwrap();
    assert!(matches!(
        Identity::load(directory.path()),
        Err(LeafError::Certificate(CertificateError::Empty))
    ));
    std::fs::remove_file(directory.path().join(KEY_FILE)).unwrap();
    let message = Identity::load(directory.path()).unwrap_err().to_string();
    assert!(message.contains("key.pem"), "{message}");
}

#[test]
fn a_leaf_is_renewed_from_half_life_on() {
    let identity = identity();
    let half = now() + DAY / 2;
    assert!(!identity.needs_renewal(now()));
    assert!(!identity.needs_renewal(half - Duration::from_secs(1)));
    assert!(identity.needs_renewal(half));
    assert!(identity.needs_renewal(now() + DAY * 2));
}

#[test]
fn a_renewal_is_looked_for_no_later_than_it_is_due_and_never_without_a_pause() {
    let (identity, minute) = (identity(), Duration::from_secs(60));
    let half = now() + DAY / 2;
    assert_eq!(identity.next_look(now(), minute), minute);
    assert_eq!(identity.next_look(half - minute / 2, minute), minute / 2);
    for due in [half, now() + DAY * 2] {
        assert_eq!(identity.next_look(due, minute), SHORTEST_LOOK);
    }
}

#[test]
fn what_is_left_of_a_leaf_is_below_zero_once_it_has_ended() {
    let end = identity().not_after().unwrap();
    assert_eq!(seconds_until(end, now()), 24 * 3600);
    assert_eq!(seconds_until(end, end), 0);
    assert_eq!(seconds_until(end, end + Duration::from_millis(14_900)), -14);
}

#[test]
fn a_leaf_that_cannot_be_read_wants_renewal() {
    let broken = Identity {
        certificate_chain_pem: "garbage".into(),
        key_pem: String::new(),
        bundle_pem: String::new(),
    };
    assert!(broken.needs_renewal(now()));
}
