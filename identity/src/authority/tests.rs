use rustls_pki_types::pem::PemObject;

use super::*;
use crate::spiffe::Role;
use crate::{Identity, KeyPair};

/// Of an RSA key, which rcgen does not make with ring.
const RSA_REQUEST_PEM: &str = "\
-----BEGIN CERTIFICATE REQUEST-----
MIICRTCCAS0CAQAwADCCASIwDQYJKoZIhvcNAQEBBQADggEPADCCAQoCggEBAOuD
LtWIYIesgVIGnCI2XwCVLToqir7IMaWcltnqUv0Ic1a+4w105uOswVdro7NG/4/s
bZBSJf4OlpsqIb+h1jOgcoF37OUww39GfKS9DmjTHW9Wm+4fw1ShL2Xqv/DTZ8GW
39WqqdnxTAW9IGbICRz0m2+/7itnidYb0BW/8XPkNubMzVmek8K/Dwz0MC0wlgwq
0YdWP6WSRLo+mMIMiWmHgjb5XW5qzMm3Bv3/fL3ur8V1QqClIKfhnd89BGu7KD8/
HRhwC+CqRWLCIsB2gJcBOuR1ZWCxVxkwM5+xK1a15E0Vfzdr18hJvASFYO+eap6a
f6gGpY2Lezpo5g8puKcCAwEAAaAAMA0GCSqGSIb3DQEBCwUAA4IBAQCMJc4S2fYQ
ZRI+xTF92fh6kH5BZB3p3wKIN1uaEHD90qTlrlJzX6gu/IScFlsoKACZ8v7EgABz
fQxW/yJYpYdJkD2vZPD0kyzLJk0k5v9+WRpq/QY9rau5y0W9vG5gbO5EbsP69o9Y
nGgrT2Ip22XPc43pRct0H9qhPSGvBnP5UjgUMVvBQ21ZSA2Nt7Nu0Qt7fAbrvbLw
UJKlNm06Uci0oOI0YzyGIw9vl7iaKhPBzR/alrpC1oi05terPHKKyIefRMFFECS+
/f91J5md242Rz7+H4+o2aFlggHq7+M14GRphJevLASEBK6BnhfZf9zMSGm60H3jY
gkFDjX/NM2ui
-----END CERTIFICATE REQUEST-----";

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn agent() -> SpiffeId {
    SpiffeId::new("shardwright", Role::Agent { node: "node-a".into() }).unwrap()
}

fn issue(authority: &Authority, id: &SpiffeId, lifetime: Duration) -> Result<Leaf, AuthorityError> {
    authority.issue(&KeyPair::generate().unwrap().csr_der, id, &[], lifetime, now())
}

fn identity(leaf: Leaf) -> Identity {
    Identity {
        certificate_chain_pem: leaf.certificate_chain_pem,
        key_pem: String::new(),
        bundle_pem: leaf.bundle_pem,
    }
}

/// A request as a hostile client would write it.
fn request(algorithm: &'static rcgen::SignatureAlgorithm, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
    let mut params = CertificateParams::default();
    change(&mut params);
    params.serialize_request(&key).unwrap().der().to_vec()
}

#[test]
fn a_leaf_carries_the_id_the_names_and_the_dates_it_was_issued_with() {
    let authority = Authority::generate("shardwright", now()).unwrap();
    let names = [
        "shardwright-operator.shardwright-system.svc".parse().unwrap(),
        "127.0.0.1".parse().unwrap(),
    ];
    let csr = KeyPair::generate().unwrap().csr_der;
    let leaf = authority
        .issue(&csr, &agent(), &names, DEFAULT_LEAF_LIFETIME, now())
        .unwrap();

    assert_eq!(leaf.not_after_unix_s, 1_800_000_000 + 24 * 3600);
    assert_eq!(leaf.bundle_pem, authority.bundle_pem());
    let identity = identity(leaf);
    assert_eq!(identity.spiffe_id().unwrap(), agent());
    assert_eq!(identity.not_after().unwrap(), now() + DEFAULT_LEAF_LIFETIME);
    let chain = certificate::chain(&identity.certificate_chain_pem).unwrap();
    let leaf = certificate::parse(&chain[0]).unwrap();
    assert_eq!(leaf.validity().not_before.timestamp(), 1_800_000_000 - 300);
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth && !leaf.is_ca());
    assert_eq!(
        leaf.subject_alternative_name()
            .unwrap()
            .unwrap()
            .value
            .general_names
            .len(),
        3
    );
}

#[test]
fn an_authority_read_back_from_its_own_text_issues_leaves_that_the_old_bundle_trusts() {
    let first = Authority::generate("shardwright", now()).unwrap();
    let again = Authority::from_pem(first.cert_pem(), &first.key_pem()).unwrap();
    assert_eq!(again.trust_domain(), "shardwright");
    assert_eq!(again.bundle_pem(), first.bundle_pem());
    let key = KeyPair::generate().unwrap();
    let leaf = again
        .issue(&key.csr_der, &agent(), &[], DEFAULT_LEAF_LIFETIME, now())
        .unwrap();
    let chain = certificate::chain(&leaf.certificate_chain_pem).unwrap();
    let root = certificate::chain(first.cert_pem()).unwrap();
    let issuer = certificate::parse(&root[0]).unwrap();
    certificate::parse(&chain[0])
        .unwrap()
        .verify_signature(Some(issuer.public_key()))
        .unwrap();
}

#[test]
fn names_and_rights_that_a_request_asks_for_are_ignored() {
    let authority = Authority::generate("shardwright", now()).unwrap();
    let csr = request(&rcgen::PKCS_ECDSA_P256_SHA256, |params| {
        params.subject_alt_names = vec![uri("spiffe://shardwright/operator/me").unwrap()];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    });
    let leaf = authority
        .issue(&csr, &agent(), &[], DEFAULT_LEAF_LIFETIME, now())
        .unwrap();
    let chain = certificate::chain(&leaf.certificate_chain_pem).unwrap();
    assert_eq!(certificate::spiffe_id(&chain[0]).unwrap(), agent());
    let parsed = certificate::parse(&chain[0]).unwrap();
    assert!(!parsed.is_ca());
    assert!(!parsed.key_usage().unwrap().unwrap().value.key_cert_sign());
}

#[test]
fn requests_that_do_not_stand_are_refused() {
    let authority = Authority::generate("shardwright", now()).unwrap();
    let refused = |csr: &[u8]| {
        authority
            .issue(csr, &agent(), &[], DEFAULT_LEAF_LIFETIME, now())
            .unwrap_err()
    };

    assert!(matches!(refused(b""), AuthorityError::Request { .. }));
    assert!(matches!(refused(&[0x30; 200]), AuthorityError::Request { .. }));
    assert!(matches!(
        refused(&vec![0x30; MAX_REQUEST_BYTES + 1]),
        AuthorityError::RequestTooLarge { .. }
    ));
    let mut forged = KeyPair::generate().unwrap().csr_der;
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert!(
        matches!(refused(&forged), AuthorityError::Request { .. }),
        "the signature does not stand"
    );
}

#[test]
fn a_request_with_a_key_of_another_kind_is_refused_with_the_kinds_to_use() {
    let authority = Authority::generate("shardwright", now()).unwrap();
    let csr = CertificateSigningRequestDer::from_pem_slice(RSA_REQUEST_PEM.as_bytes()).unwrap();
    let error = authority
        .issue(&csr, &agent(), &[], DEFAULT_LEAF_LIFETIME, now())
        .unwrap_err();
    assert!(matches!(error, AuthorityError::KeyType { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "key type PKCS_RSA_SHA256 is not allowed; use ECDSA P-256, P-384 or Ed25519"
    );
}

#[test]
fn a_name_that_no_certificate_can_carry_is_refused_when_it_is_read_and_when_it_is_issued() {
    let read = "two words".parse::<SubjectName>().unwrap_err();
    let authority = Authority::generate("shardwright", now()).unwrap();
    let csr = KeyPair::generate().unwrap().csr_der;
    let names = [SubjectName::Dns("kn\u{f6}ten".into())];
    let issued = authority
        .issue(&csr, &agent(), &names, DEFAULT_LEAF_LIFETIME, now())
        .unwrap_err();
    for error in [read, issued] {
        assert!(matches!(error, AuthorityError::Issue(_)), "{error}");
        assert!(error.to_string().starts_with("certificate cannot be made: "), "{error}");
    }
}

#[test]
fn a_leaf_is_never_issued_for_another_trust_domain_or_a_name_that_is_none() {
    let authority = Authority::generate("shardwright", now()).unwrap();
    let foreign = SpiffeId::new("elsewhere", Role::Agent { node: "node-a".into() }).unwrap();
    assert!(matches!(
        issue(&authority, &foreign, DEFAULT_LEAF_LIFETIME),
        Err(AuthorityError::ForeignTrustDomain { .. })
    ));
    let broken = SpiffeId {
        trust_domain: "shardwright".into(),
        role: Role::Agent { node: "a/../b".into() },
    };
    assert!(matches!(
        issue(&authority, &broken, DEFAULT_LEAF_LIFETIME),
        Err(AuthorityError::SpiffeId(_))
    ));
}

#[test]
fn a_leaf_never_outlives_the_authority() {
    let authority = Authority::generate("shardwright", now()).unwrap();
    let leaf = issue(&authority, &agent(), AUTHORITY_LIFETIME * 2).unwrap();
    assert_eq!(leaf.not_after_unix_s, unix_s(now() + AUTHORITY_LIFETIME));
}

#[test]
fn no_two_leaves_share_a_serial_number() {
    let authority = Authority::generate("shardwright", now()).unwrap();
    let csr = KeyPair::generate().unwrap().csr_der;
    let serial = || {
        let leaf = authority
            .issue(&csr, &agent(), &[], DEFAULT_LEAF_LIFETIME, now())
            .unwrap();
        let chain = certificate::chain(&leaf.certificate_chain_pem).unwrap();
        certificate::parse(&chain[0]).unwrap().raw_serial().to_vec()
    };
    assert_ne!(serial(), serial());
}

#[test]
fn an_authority_is_not_put_together_from_parts_that_do_not_fit() {
    let (one, other) = (
        Authority::generate("one", now()).unwrap(),
        Authority::generate("other", now()).unwrap(),
    );
    assert!(matches!(
        Authority::from_pem(one.cert_pem(), &other.key_pem()),
        Err(AuthorityError::KeyMismatch)
    ));
    assert!(matches!(
        Authority::from_pem("", &one.key_pem()),
        Err(AuthorityError::Certificate(_))
    ));
    let damaged = Authority::from_pem(one.cert_pem(), "")
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(
        damaged.starts_with("the authority's key is none ") && damaged.ends_with("from the same backup"),
        "{damaged}"
    );
    let leaf = authority_leaf(&one);
    assert!(matches!(
        Authority::from_pem(&leaf, &one.key_pem()),
        Err(AuthorityError::NotAuthority { .. })
    ));
    assert!(matches!(
        Authority::generate("No Domain", now()),
        Err(AuthorityError::SpiffeId(_))
    ));
}

fn authority_leaf(authority: &Authority) -> String {
    let id = SpiffeId::new(authority.trust_domain(), Role::Agent { node: "a".into() }).unwrap();
    issue(authority, &id, DEFAULT_LEAF_LIFETIME)
        .unwrap()
        .certificate_chain_pem
}

#[test]
fn debug_output_never_shows_a_key() {
    let authority = Authority::generate("shardwright", now()).unwrap();
    let key = KeyPair::generate().unwrap();
    let secret = key.key_pem.lines().nth(1).unwrap().to_owned();
    let leaf = authority
        .issue(&key.csr_der, &agent(), &[], DEFAULT_LEAF_LIFETIME, now())
        .unwrap();
    let identity = Identity {
        key_pem: key.key_pem.clone(),
        ..identity(leaf)
    };
    let shown = format!("{authority:?} {key:?} {identity:?}");
    assert!(!shown.contains(&secret) && !shown.contains("PRIVATE KEY"), "{shown}");
    assert!(shown.contains("spiffe://shardwright/agent/node-a"));
}
