use std::time::Duration;

use identity::{Held, KeyPair, Role, SpiffeId, Wanted};

use super::*;

const WISH: &str = "2026-05-01T10:00:00Z";

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn authority() -> Authority {
    Authority::generate("shardwright", now()).unwrap()
}

fn stored(kept: &Kept) -> Secret {
    let mut secret = Secret::default();
    kept.write(&mut secret);
    secret
}

fn keys(secret: &Secret) -> Vec<&str> {
    secret.data.iter().flatten().map(|(key, _)| key.as_str()).collect()
}

fn put(secret: &mut Secret, key: &str, bytes: &[u8]) {
    let data = secret.data.get_or_insert_default();
    data.insert(key.to_owned(), ByteString(bytes.to_vec()));
}

fn forget(secret: &mut Secret, key: &str) {
    secret.data.get_or_insert_default().remove(key);
}

#[test]
fn a_rotation_goes_through_its_phases_and_leaves_nothing_of_the_old_authority() {
    let (old, new) = (authority(), authority());
    let steady = Kept::of(&old);
    let prepared = steady.prepared(&new, Some(WISH), now());
    let active = prepared.activated(now());
    let finished = active.finished(now());
    let phases = [&steady, &prepared, &active, &finished].map(Kept::phase);
    assert_eq!(phases, [Phase::Steady, Phase::Prepared, Phase::Active, Phase::Steady]);
    let issues = |kept: &Kept| kept.authority().unwrap().fingerprint();
    assert_eq!([&steady, &prepared].map(issues), [old.fingerprint(); 2]);
    assert_eq!([&active, &finished].map(issues), [new.fingerprint(); 2]);
    let trusted = |kept: &Kept| kept.authority().unwrap().trusted().len();
    assert_eq!([&steady, &prepared, &active, &finished].map(trusted), [1, 2, 2, 1]);
    assert!(!keys(&stored(&active)).contains(&names::NEXT_KEY_KEY));
    assert_eq!(
        keys(&stored(&active)),
        [names::PREVIOUS_CERT_KEY, names::TLS_CERT_KEY, names::TLS_KEY_KEY]
    );
    assert_eq!(keys(&stored(&finished)), [names::TLS_CERT_KEY, names::TLS_KEY_KEY]);
}

#[test]
fn what_was_written_is_read_again_and_replaces_all_of_before() {
    let prepared = Kept::of(&authority()).prepared(&authority(), Some(WISH), now());
    let mut secret = Secret::default();
    for kept in [
        &prepared,
        &prepared.activated(now()),
        &prepared.activated(now()).finished(now()),
    ] {
        kept.write(&mut secret);
        assert_eq!(Kept::read(&secret).as_ref(), Ok(kept));
    }
}

#[test]
fn a_secret_of_before_there_were_phases_is_steady_and_knows_of_no_date_and_no_wish() {
    let old = authority();
    let data = [
        (names::TLS_CERT_KEY, old.cert_pem().to_owned()),
        (names::TLS_KEY_KEY, old.key_pem()),
    ];
    let data = data.map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())));
    let secret = Secret {
        data: Some(BTreeMap::from(data)),
        ..Secret::default()
    };
    let kept = Kept::read(&secret).unwrap();
    assert_eq!(kept, Kept::of(&old));
    assert_eq!((kept.phase(), kept.since, &kept.honoured), (Phase::Steady, None, &None));
}

#[test]
fn a_secret_that_no_step_leads_to_is_refused_with_what_is_wrong() {
    let prepared = Kept::of(&authority()).prepared(&authority(), None, now());
    type Spoil = fn(&mut Secret);
    let spoils: [(Spoil, &str); 4] = [
        (|secret| forget(secret, names::NEXT_KEY_KEY), "key next.key is missing"),
        (|secret| forget(secret, names::NEXT_CERT_KEY), "key next.crt is missing"),
        (
            |secret| put(secret, names::PREVIOUS_CERT_KEY, b"PEM"),
            "both next.crt and previous.crt",
        ),
        (
            |secret| put(secret, names::TLS_CERT_KEY, &[0xff]),
            "key tls.crt is not text",
        ),
    ];
    for (spoil, cause) in spoils {
        let mut secret = stored(&prepared);
        spoil(&mut secret);
        let refused = Kept::read(&secret).unwrap_err();
        assert!(refused.contains(cause), "{refused}");
    }
    let garbled = Kept {
        next: Some(Pair {
            key_pem: authority().key_pem(),
            ..Pair::of(&authority())
        }),
        ..prepared
    };
    assert!(matches!(garbled.authority(), Err(AuthorityError::KeyMismatch)));
}

#[test]
fn what_is_no_certificate_beside_one_is_refused_by_its_key_and_not_told() {
    let prepared = Kept::of(&authority()).prepared(&authority(), None, now());
    let (certificate_pem, key_pem) = (authority().cert_pem().to_owned(), authority().key_pem());
    let private = key_pem.lines().nth(1).unwrap();
    for (kept, key) in [
        (&prepared, names::TLS_CERT_KEY),
        (&prepared, names::NEXT_CERT_KEY),
        (&prepared.activated(now()), names::PREVIOUS_CERT_KEY),
    ] {
        for pasted in [
            format!("{certificate_pem}\n{key_pem}"),
            format!("{key_pem}\n{certificate_pem}"),
            format!("{certificate_pem}\n{private}\n"),
            format!("-----BEGIN CERTIFICATE-----\n{key_pem}\n{certificate_pem}"),
        ] {
            let mut secret = stored(kept);
            put(&mut secret, key, pasted.as_bytes());
            let refused = Kept::read(&secret).unwrap_err();
            let cause = format!("key {key} has more than certificates (line ");
            assert!(refused.starts_with(&cause) && !refused.contains(private), "{refused}");
        }
        let mut secret = stored(kept);
        let spaced = format!("\r\n{}\r\n \n", certificate_pem.trim_end().replace('\n', "\r\n"));
        put(&mut secret, key, spaced.as_bytes());
        assert!(Kept::read(&secret).is_ok(), "{spaced}");
    }
}

#[test]
fn leaves_of_each_phase_are_what_the_operator_wants_of_everybody_in_it() {
    let prepared = Kept::of(&authority()).prepared(&authority(), None, now());
    for kept in [
        &prepared,
        &prepared.activated(now()),
        &prepared.activated(now()).finished(now()),
    ] {
        let authority = kept.authority().unwrap();
        let KeyPair { key_pem, csr_der } = KeyPair::generate().unwrap();
        let id = SpiffeId::new("shardwright", Role::Agent { node: "a".into() }).unwrap();
        let leaf = authority
            .issue(&csr_der, &id, &[], Duration::from_secs(60), now())
            .unwrap();
        let identity = identity::Identity {
            certificate_chain_pem: leaf.certificate_chain_pem,
            key_pem,
            bundle_pem: leaf.bundle_pem,
        };
        let wanted = Wanted::of(&authority, Duration::ZERO);
        assert!(Held::of(&identity).unwrap().is(&wanted));
    }
}

#[test]
fn what_is_published_tells_the_phase_since_when_for_which_wish_and_for_whom_it_waits() {
    let prepared = Kept::of(&authority()).prepared(&authority(), Some(WISH), now());
    let map = trust_map(&prepared, "PEM".into(), "agent a");
    let annotations = map.metadata.annotations.as_ref().unwrap();
    let told = |name: &str| annotations.get(name).map(String::as_str);
    assert_eq!(told("shardwright.dev/authority-phase"), Some("prepared"));
    assert_eq!(
        told("shardwright.dev/authority-phase-since"),
        Some("2027-01-15T08:00:00Z")
    );
    assert_eq!(told("shardwright.dev/authority-rotated-for"), Some(WISH));
    assert_eq!(told("shardwright.dev/authority-waits-for"), Some("agent a"));
    assert_eq!(bundle(&map), Some("PEM"));

    let steady = trust_map(&Kept::of(&authority()), "PEM".into(), "");
    let annotations = steady.metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations.len(), 1, "{annotations:?}");
}

#[test]
fn a_published_map_differs_in_its_state_in_whom_is_waited_for_or_not_and_what_people_set_is_theirs() {
    let prepared = Kept::of(&authority()).prepared(&authority(), None, now());
    let map = |kept: &Kept, bundle_pem: &str, waits_for: &str| trust_map(kept, bundle_pem.into(), waits_for);
    let wanted = map(&prepared, "PEM", "agent a");
    let mut published = wanted.clone();
    let annotations = published.metadata.annotations.get_or_insert_default();
    annotations.insert(names::ROTATE_AUTHORITY.to_owned(), WISH.to_owned());
    assert_eq!(difference(Some(&published), &wanted), Difference::None);
    assert_eq!(wish(&published), Some(WISH));
    assert_eq!(
        difference(Some(&published), &map(&prepared, "PEM", "")),
        Difference::WaitsFor
    );
    assert_eq!(
        difference(Some(&published), &map(&prepared, "OTHER", "agent a")),
        Difference::State
    );
    let later = Kept {
        since: Some(now() + Duration::from_secs(1)),
        ..prepared.clone()
    };
    assert_eq!(
        difference(Some(&published), &map(&later, "PEM", "agent a")),
        Difference::State
    );
    assert_eq!(difference(None, &wanted), Difference::State);
}

#[test]
fn no_debug_output_shows_a_key() {
    let old = authority();
    let shown = format!("{:?}", Kept::of(&old));
    assert!(!shown.contains("PRIVATE KEY"), "{shown}");
}
