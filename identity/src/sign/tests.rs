use proptest::prelude::*;

use super::*;

fn placement(epoch: u64) -> Placement {
    Placement {
        epoch,
        model_uid: "uid-1".into(),
        name: "smol".into(),
        ..Placement::default()
    }
}

fn verifier(signers: &[&PlacementSigner]) -> PlacementVerifier {
    PlacementVerifier::new(signers.iter().map(|signer| signer.public_key())).unwrap()
}

#[test]
fn a_signed_placement_is_read_back_by_whoever_knows_the_key() {
    let signer = PlacementSigner::generate().unwrap();
    let envelope = signer.sign(&placement(7));
    assert_eq!(verifier(&[&signer]).verify(&envelope).unwrap(), placement(7));
}

#[test]
fn a_stored_key_signs_as_before() {
    let signer = PlacementSigner::generate().unwrap();
    let again = PlacementSigner::from_pkcs8(signer.pkcs8()).unwrap();
    assert_eq!(again.sign(&placement(1)), signer.sign(&placement(1)));
    assert!(matches!(
        PlacementSigner::from_pkcs8(b"no key"),
        Err(SignerError::Malformed { .. })
    ));
}

#[test]
fn while_keys_change_either_is_accepted() {
    let (old, new) = (
        PlacementSigner::generate().unwrap(),
        PlacementSigner::generate().unwrap(),
    );
    let verifier = verifier(&[&old, &new]);
    assert!(verifier.verify(&old.sign(&placement(1))).is_ok());
    assert!(verifier.verify(&new.sign(&placement(2))).is_ok());
}

#[test]
fn a_key_that_nobody_vouched_for_is_refused() {
    let (ours, theirs) = (
        PlacementSigner::generate().unwrap(),
        PlacementSigner::generate().unwrap(),
    );
    let mut envelope = theirs.sign(&placement(1));
    assert!(matches!(
        verifier(&[&ours]).verify(&envelope),
        Err(VerifyError::UnknownKey { known: 1, .. })
    ));
    envelope.key_id = key_id(ours.public_key());
    assert!(matches!(
        verifier(&[&ours]).verify(&envelope),
        Err(VerifyError::BadSignature)
    ));
    assert!(matches!(
        verifier(&[]).verify(&envelope),
        Err(VerifyError::UnknownKey { known: 0, .. })
    ));
}

#[test]
fn a_signature_on_the_bare_payload_does_not_pass_for_one_on_a_placement() {
    let signer = PlacementSigner::generate().unwrap();
    let mut envelope = signer.sign(&placement(1));
    envelope.signature = signer.key.sign(&envelope.payload).as_ref().to_vec();
    assert!(matches!(
        verifier(&[&signer]).verify(&envelope),
        Err(VerifyError::BadSignature)
    ));
}

#[test]
fn the_largest_envelope_passes_and_one_byte_more_does_not() {
    let signer = PlacementSigner::generate().unwrap();
    let of_size = |filler: usize| {
        let denied = vec!["x".repeat(filler)];
        signer.sign(&Placement { denied, ..placement(1) })
    };
    let overhead = of_size(60_000).encoded_len() - 60_000;
    let largest = of_size(MAX_ENVELOPE_BYTES - overhead);
    assert_eq!(largest.encoded_len(), MAX_ENVELOPE_BYTES);
    assert!(verifier(&[&signer]).verify(&largest).is_ok());
    let larger = of_size(MAX_ENVELOPE_BYTES - overhead + 1);
    assert!(matches!(
        verifier(&[&signer]).verify(&larger),
        Err(VerifyError::TooLarge { .. })
    ));
}

#[test]
fn a_signed_payload_that_is_no_placement_is_refused() {
    let signer = PlacementSigner::generate().unwrap();
    let payload = vec![0xff; 16];
    let signature = signer.key.sign(&signed_bytes(&payload)).as_ref().to_vec();
    let envelope = Envelope {
        payload,
        signature,
        key_id: key_id(signer.public_key()),
    };
    assert!(matches!(
        verifier(&[&signer]).verify(&envelope),
        Err(VerifyError::Malformed(_))
    ));
}

#[test]
fn keys_survive_the_round_trip_through_their_file() {
    let directory = tempfile::tempdir().unwrap();
    let signers = [
        PlacementSigner::generate().unwrap(),
        PlacementSigner::generate().unwrap(),
    ];
    let keys: Vec<Vec<u8>> = signers.iter().map(|signer| signer.public_key().to_vec()).collect();
    store_keys(directory.path(), &keys).unwrap();
    assert_eq!(load_keys(directory.path()).unwrap(), keys);
    let verifier = PlacementVerifier::load(directory.path()).unwrap();
    assert!(verifier.verify(&signers[1].sign(&placement(1))).is_ok());
}

#[test]
fn keys_whose_file_is_missing_or_too_large_are_refused_by_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(PLACEMENT_KEYS_FILE);
    let refused = || PlacementVerifier::load(directory.path()).unwrap_err();
    let error = refused();
    assert!(matches!(error, VerifyError::Store(StoreError::Io { .. })), "{error}");
    let named = format!("cannot read {}: ", path.display());
    assert!(error.to_string().starts_with(&named), "{error}");
    std::fs::write(&path, "A".repeat(MAX_KEYS_FILE_BYTES + 1)).unwrap();
    let error = refused();
    assert!(
        matches!(error, VerifyError::Store(StoreError::TooLarge { .. })),
        "{error}"
    );
    let told = format!("{} has more than 4096 bytes, the most that is read", path.display());
    assert_eq!(error.to_string(), told);
}

#[test]
fn keys_that_are_none_are_refused() {
    assert!(matches!(
        PlacementVerifier::new([[0; 31]]),
        Err(VerifyError::KeyLength { length: 31 })
    ));
    let many = (0..=MAX_KEYS).map(|index| [u8::try_from(index).unwrap(); 32]);
    assert!(matches!(PlacementVerifier::new(many), Err(VerifyError::TooManyKeys)));
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join(PLACEMENT_KEYS_FILE), "\n*** no key ***\n").unwrap();
    assert!(matches!(
        PlacementVerifier::load(directory.path()),
        Err(VerifyError::KeyText { line: 2 })
    ));
}

proptest! {
    #[test]
    fn no_changed_byte_of_an_envelope_goes_unnoticed(index in any::<prop::sample::Index>(), flip in 1_u8..) {
        let signer = PlacementSigner::generate().unwrap();
        let verifier = verifier(&[&signer]);
        let envelope = signer.sign(&placement(3));
        for field in 0..3 {
            let mut changed = envelope.clone();
            let bytes = [&mut changed.payload, &mut changed.signature, &mut changed.key_id].into_iter().nth(field).unwrap();
            let at = index.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(verifier.verify(&changed).is_err());
        }
    }

    #[test]
    fn arbitrary_envelopes_are_refused_without_a_panic(
        payload in prop::collection::vec(any::<u8>(), 0..200),
        signature in prop::collection::vec(any::<u8>(), 0..100),
        known_key in any::<bool>(),
    ) {
        let signer = PlacementSigner::generate().unwrap();
        let key_id = if known_key { key_id(signer.public_key()) } else { payload.clone() };
        let envelope = Envelope { payload, signature, key_id };
        prop_assert!(verifier(&[&signer]).verify(&envelope).is_err());
    }
}
