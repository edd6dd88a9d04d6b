use super::*;
use identity::{Authority, DEFAULT_LEAF_LIFETIME, KeyPair, PlacementSigner};
use scarcity::disk::Disk;

/// Of a node that keeps its identity in `directory`; nobody can be asked.
fn enrolment(directory: PathBuf) -> Enrolment {
    let role = Role::Agent {
        node: "node-a".to_owned(),
    };
    Enrolment {
        endpoint: String::new(),
        trust_bundle: PathBuf::new(),
        token: PathBuf::new(),
        directory,
        expected: SpiffeId::new("shardwright", role).unwrap(),
        doubt: Notify::new(),
        trust: Trust::default(),
    }
}

/// What an operator issues.
fn issued(id: &SpiffeId) -> Identity {
    let authority = Authority::generate("shardwright", SystemTime::now()).unwrap();
    let KeyPair { key_pem, csr_der } = KeyPair::generate().unwrap();
    let leaf = authority.issue(&csr_der, id, &[], DEFAULT_LEAF_LIFETIME, SystemTime::now());
    let leaf = leaf.unwrap();
    Identity {
        certificate_chain_pem: leaf.certificate_chain_pem,
        key_pem,
        bundle_pem: leaf.bundle_pem,
    }
}

#[test]
fn an_identity_that_a_full_disk_does_not_take_is_used_all_the_same_and_kept_once_there_is_room() {
    let Some(disk) = Disk::of(1 << 20) else { return };
    let enrolment = enrolment(disk.path().join("identity"));
    let identity = issued(&enrolment.expected);
    let signer = PlacementSigner::generate().unwrap();
    let placement_keys = vec![signer.public_key().to_vec()];
    let keys = PlacementKeys::default();
    let take = || enrolment.take(identity.clone(), placement_keys.clone(), &keys);

    disk.fill_but(0).unwrap();
    assert_eq!(take().unwrap(), identity);
    assert_eq!(keys.get(), placement_keys);
    assert!(enrolment.held().is_none());

    disk.make_room().unwrap();
    take().unwrap();
    let (credentials, held_keys) = enrolment.held().unwrap();
    assert_eq!((credentials.identity(), held_keys), (identity, placement_keys));
}
