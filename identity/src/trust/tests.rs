use std::time::SystemTime;

use super::*;
use crate::authority::AuthorityError;
use crate::{DEFAULT_LEAF_LIFETIME, KeyPair, Role};

fn authority() -> Authority {
    Authority::generate("shardwright", SystemTime::now()).unwrap()
}

fn beside(authority: &Authority, other: &Authority) -> Authority {
    let again = Authority::from_pem(authority.cert_pem(), &authority.key_pem()).unwrap();
    again.beside(other.cert_pem()).unwrap()
}

fn agent(node: &str) -> SpiffeId {
    SpiffeId::new("shardwright", Role::Agent { node: node.into() }).unwrap()
}

fn identity(authority: &Authority) -> Identity {
    let KeyPair { key_pem, csr_der } = KeyPair::generate().unwrap();
    let leaf = authority
        .issue(
            &csr_der,
            &agent("node-a"),
            &[],
            DEFAULT_LEAF_LIFETIME,
            SystemTime::now(),
        )
        .unwrap();
    Identity {
        certificate_chain_pem: leaf.certificate_chain_pem,
        key_pem,
        bundle_pem: leaf.bundle_pem,
    }
}

fn held(authority: &Authority) -> Held {
    Held::of(&identity(authority)).unwrap()
}

fn wanted(authority: &Authority) -> Wanted {
    Wanted::of(authority, Duration::from_secs(10))
}

#[test]
fn what_a_process_holds_are_all_that_it_trusts_and_the_one_that_issued_its_leaf() {
    let (old, new) = (authority(), authority());
    let (prepared, active) = (beside(&old, &new), beside(&new, &old));
    let both = BTreeSet::from([old.fingerprint(), new.fingerprint()]);
    assert_eq!(held(&old).authorities, BTreeSet::from([old.fingerprint()]));
    assert_eq!(held(&prepared).authorities, both);
    assert_eq!(held(&active).authorities, both);
    assert_eq!(held(&prepared).issuers, BTreeSet::from([old.fingerprint()]));
    assert_eq!(held(&active).issuers, BTreeSet::from([new.fingerprint()]));
}

#[test]
fn an_identity_is_as_wanted_in_the_phase_that_it_was_issued_in_and_in_no_other() {
    let (old, new) = (authority(), authority());
    let phases = [beside(&old, &new), beside(&new, &old), old, new];
    for (at, of) in phases.iter().enumerate() {
        for (other, phase) in phases.iter().enumerate() {
            assert_eq!(held(of).is(&wanted(phase)), at == other, "{at} {other}");
        }
    }
}

#[test]
fn a_leaf_of_nobody_who_is_trusted_is_a_strangers() {
    let (old, new) = (authority(), authority());
    let mixed = Identity {
        bundle_pem: new.bundle_pem(),
        ..identity(&old)
    };
    let held = Held::of(&mixed).unwrap();
    assert_eq!(held.issuers, BTreeSet::from([Fingerprint::STRANGER]));
    assert!(!held.is(&wanted(&new)));
}

#[test]
fn several_processes_trust_whom_each_of_them_trusts_and_use_the_leaves_of_all() {
    let (old, new) = (authority(), authority());
    let (prepared, active) = (held(&beside(&old, &new)), held(&beside(&new, &old)));
    let together = prepared.clone().and(&active);
    assert_eq!(together.authorities, prepared.authorities);
    assert_eq!(together.issuers, BTreeSet::from([old.fingerprint(), new.fingerprint()]));
    assert!(!together.is(&wanted(&beside(&new, &old))));
    let late = prepared.and(&held(&old));
    assert_eq!(late.authorities, BTreeSet::from([old.fingerprint()]));
}

#[test]
fn messages_are_read_as_they_were_meant_and_what_is_no_digest_is_left_out() {
    let both = beside(&authority(), &authority());
    let (held, wanted) = (held(&both), wanted(&both));
    assert_eq!(Held::from(TrustHeld::from(&held)), held);
    assert_eq!(Wanted::read(&TrustWanted::from(&wanted)), Some(wanted.clone()));
    let mut torn = TrustHeld::from(&held);
    torn.authorities.push(vec![1; 31]);
    assert_eq!(Held::from(torn), held);
    let many = TrustHeld {
        authorities: (0..100).map(|number| vec![number; 32]).collect(),
        issuers: Vec::new(),
    };
    assert_eq!(Held::from(many).authorities.len(), AUTHORITIES_MAX);
    let message = TrustWanted::from(&wanted);
    let nobody = TrustWanted {
        authorities: Vec::new(),
        ..message.clone()
    };
    let no_issuer = TrustWanted {
        issuer: Vec::new(),
        ..message
    };
    assert_eq!([Wanted::read(&nobody), Wanted::read(&no_issuer)], [None, None]);
}

#[test]
fn each_process_has_its_own_turn_within_the_time_that_all_have_and_keeps_it() {
    let wanted = wanted(&authority());
    let turns: Vec<Duration> = (0..1000)
        .map(|number| wanted.turn(&agent(&format!("node-{number}"))))
        .collect();
    assert!(turns.iter().all(|turn| *turn <= wanted.spread));
    let tenth = wanted.spread / 10;
    let within = |from: u32| {
        turns
            .iter()
            .filter(|turn| (tenth * from..tenth * (from + 1)).contains(*turn))
            .count()
    };
    assert!((0..10).map(within).all(|count| count > 20), "all at once");
    assert_eq!(wanted.turn(&agent("node-0")), turns[0]);
}

#[test]
fn a_bundle_lacks_what_only_another_one_has() {
    let (old, new) = (authority(), authority());
    let [old, both, new] = [old.bundle_pem(), beside(&old, &new).bundle_pem(), new.bundle_pem()];
    assert!(lacks(&old, &both) && lacks(&old, &new) && lacks("", &old));
    assert!(!lacks(&both, &old) && !lacks(&both, &new) && !lacks(&old, &old) && !lacks(&old, "no certificate"));
}

#[test]
fn a_bundle_disowns_a_leaf_whose_authority_it_lacks_whomever_else_the_leafs_process_trusts() {
    let (old, new) = (authority(), authority());
    let (prepared, active) = (beside(&old, &new), beside(&new, &old));
    let leaf = identity(&prepared);
    assert!(disowns(&new.bundle_pem(), &leaf) && !lacks(&leaf.bundle_pem, &new.bundle_pem()));
    assert!(!disowns(&old.bundle_pem(), &leaf) && !disowns(&active.bundle_pem(), &leaf));
    assert!(!disowns("no certificate", &leaf));
}

#[test]
fn bundles_overlap_where_they_share_an_authority() {
    let (old, new) = (authority(), authority());
    let both = beside(&old, &new).bundle_pem();
    assert!(overlap(&both, &old.bundle_pem()) && overlap(&new.bundle_pem(), &both));
    assert!(!overlap(&old.bundle_pem(), &new.bundle_pem()));
    assert!(!overlap("no certificate", &old.bundle_pem()));
}

#[test]
fn nothing_is_wished_for_while_nobody_is_heard_and_only_then_is_what_is_mounted_all_that_counts() {
    let (old, new) = (authority(), authority());
    let (identity, wishes) = (identity(&beside(&old, &new)), Wishes::default());
    let mounted = || old.bundle_pem();
    assert_eq!(wishes.differ_from(&identity), None);
    assert_eq!(wishes.roots(mounted(), Some(&identity)), mounted());
    wishes.tell(Some(wanted(&beside(&old, &new))));
    assert_eq!(wishes.differ_from(&identity), Some(false));
    wishes.tell(Some(wanted(&beside(&new, &old))));
    assert_eq!(wishes.differ_from(&identity), Some(true));
    assert!(overlap(&wishes.roots(mounted(), Some(&identity)), &new.bundle_pem()));
    assert_eq!(wishes.roots(mounted(), None), mounted());
    wishes.tell(None);
    assert_eq!(wishes.differ_from(&identity), None);
}

#[tokio::test]
async fn whoever_has_what_is_wished_for_waits_for_no_turn_and_others_do() {
    let (old, new) = (authority(), authority());
    let (identity, wishes) = (identity(&old), Wishes::default());
    for (told, waits) in [
        (None, false),
        (Some(wanted(&old)), false),
        (Some(wanted(&beside(&old, &new))), true),
    ] {
        wishes.tell(told);
        let mut turn = std::pin::pin!(wishes.turn(&identity));
        assert_eq!(futures::poll!(turn.as_mut()).is_pending(), waits);
    }
}

#[test]
fn an_authority_is_put_beside_no_other_trust_domains_and_beside_no_leaf() {
    let [ours, elsewhere] = ["shardwright", "elsewhere"].map(|of| Authority::generate(of, SystemTime::now()).unwrap());
    let leaf = identity(&ours).certificate_chain_pem;
    let refused = |other_pem: &str| {
        let again = Authority::from_pem(ours.cert_pem(), &ours.key_pem()).unwrap();
        again.beside(other_pem).unwrap_err()
    };
    assert!(matches!(
        refused(elsewhere.cert_pem()),
        AuthorityError::ForeignAuthority { .. }
    ));
    assert!(matches!(refused(&leaf), AuthorityError::NotAuthority { .. }));
    assert!(matches!(refused(""), AuthorityError::Certificate(_)));
}
