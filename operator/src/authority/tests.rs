use http::Method;
use serde_json::{Value, json};

use super::*;
use crate::fixture::port::within;
use crate::fixture::{self, Script, Step};

const SECRETS: &str = "/api/v1/namespaces/shardwright-system/secrets";
const AUTHORITY: &str = "/api/v1/namespaces/shardwright-system/secrets/shardwright-authority";
const SIGNER: &str = "/api/v1/namespaces/shardwright-system/secrets/shardwright-placement-key";
const TRUST: &str = "/api/v1/namespaces/shardwright-system/configmaps/shardwright-trust";

fn secret(name: &str, data: impl IntoIterator<Item = (&'static str, Vec<u8>)>) -> Value {
    let data: BTreeMap<String, ByteString> = data
        .into_iter()
        .map(|(key, value)| (key.to_owned(), ByteString(value)))
        .collect();
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "data": data })
}

fn authority_secret(authority: &Authority) -> Value {
    secret(
        "shardwright-authority",
        [
            ("tls.crt", authority.cert_pem().as_bytes().to_vec()),
            ("tls.key", authority.key_pem().into_bytes()),
        ],
    )
}

fn signer_secret(signer: &PlacementSigner) -> Value {
    secret("shardwright-placement-key", [("ed25519.pk8", signer.pkcs8().to_vec())])
}

fn absent(path: &str) -> Step {
    Step::fails(Method::GET, path, 404, "NotFound")
}

fn trust_applied() -> Step {
    Step::ok(
        Method::PATCH,
        TRUST,
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": {} }),
    )
}

#[tokio::test]
async fn keys_that_exist_are_used_and_never_written() {
    let keys = fixture::keys();
    let (client, script) = Script::client([
        Step::ok(Method::GET, AUTHORITY, authority_secret(&keys.authority.get())),
        Step::ok(Method::GET, SIGNER, signer_secret(&keys.signer)),
        trust_applied(),
    ]);
    let found = bootstrap(&client, &fixture::names()).await.unwrap();
    script.finished();
    assert_eq!(found.signer.public_key(), keys.signer.public_key());
    let published = &script.bodies(&format!("PATCH {TRUST}"))[0];
    assert_eq!(published["data"]["bundle.pem"], keys.authority.get().bundle_pem());
    assert_eq!(
        published["metadata"]["annotations"]["shardwright.dev/authority-phase"],
        "steady"
    );
}

#[tokio::test]
async fn keys_that_are_absent_are_made() {
    let keys = fixture::keys();
    // The server answers a create with what it stored.
    let (client, script) = Script::client([
        absent(AUTHORITY),
        Step::ok(Method::POST, SECRETS, authority_secret(&keys.authority.get())),
        absent(SIGNER),
        Step::ok(Method::POST, SECRETS, signer_secret(&keys.signer)),
        trust_applied(),
    ]);
    bootstrap(&client, &fixture::names()).await.unwrap();
    script.finished();
    let created = script.bodies(&format!("POST {SECRETS}"));
    assert_eq!(created[0]["type"], "kubernetes.io/tls");
    assert!(created[1]["data"]["ed25519.pub"].is_string());
}

#[tokio::test]
async fn of_two_replicas_that_start_together_the_later_takes_the_earlier_ones_keys() {
    let (first, signer) = (fixture::keys().authority.get(), fixture::keys().signer);
    let (client, script) = Script::client([
        absent(AUTHORITY),
        Step::fails(Method::POST, SECRETS, 409, "AlreadyExists"),
        Step::ok(Method::GET, AUTHORITY, authority_secret(&first)),
        Step::ok(Method::GET, SIGNER, signer_secret(&signer)),
        trust_applied(),
    ]);
    let keys = bootstrap(&client, &fixture::names()).await.unwrap();
    script.finished();
    assert_eq!(keys.authority.get().cert_pem(), first.cert_pem());
}

/// A new authority beside that of these keys.
fn prepared(keys: &Keys) -> Kept {
    let next = Authority::generate("shardwright", SystemTime::now()).unwrap();
    Kept::of(&keys.authority.get()).prepared(&next, None, SystemTime::now())
}

#[tokio::test]
async fn a_replica_that_starts_while_one_authority_takes_anothers_place_trusts_both_and_says_so() {
    let keys = fixture::keys();
    let kept = prepared(&keys);
    let mut stored = Secret::default();
    kept.write(&mut stored);
    let (client, script) = Script::client([
        Step::ok(Method::GET, AUTHORITY, serde_json::to_value(&stored).unwrap()),
        Step::ok(Method::GET, SIGNER, signer_secret(&keys.signer)),
        trust_applied(),
    ]);
    let found = bootstrap(&client, &fixture::names()).await.unwrap();
    script.finished();
    let both = kept.authority().unwrap();
    assert_eq!(found.authority.get().bundle_pem(), both.bundle_pem());
    assert_eq!(found.authority.get().fingerprint(), keys.authority.get().fingerprint());
    let published = &script.bodies(&format!("PATCH {TRUST}"))[0];
    assert_eq!(published["data"]["bundle.pem"], both.bundle_pem());
    assert_eq!(
        published["metadata"]["annotations"]["shardwright.dev/authority-phase"],
        "prepared"
    );
}

#[tokio::test]
async fn a_secret_that_makes_no_sense_stops_the_start_and_names_the_remedy() {
    let other_key = fixture::keys().authority.get().key_pem();
    let cert = fixture::keys().authority.get().cert_pem().as_bytes().to_vec();
    let pasted = [cert.as_slice(), other_key.as_bytes()].concat();
    for (data, cause) in [
        (secret("s", []), "tls.crt is missing"),
        (
            secret("s", [("tls.crt", cert), ("tls.key", other_key.clone().into_bytes())]),
            "does not belong to its certificate",
        ),
        (
            secret("s", [("tls.crt", pasted), ("tls.key", other_key.into_bytes())]),
            "key tls.crt has more than certificates",
        ),
    ] {
        let (client, _) = Script::client([Step::ok(Method::GET, AUTHORITY, data)]);
        let error = bootstrap(&client, &fixture::names()).await.unwrap_err();
        assert!(!error.is_transient());
        let message = error.to_string();
        assert!(
            message.contains(cause) && message.contains("shardwright-system/shardwright-authority"),
            "{message}"
        );
        assert!(
            message.contains("Restore it from a backup; or delete it and restart"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn an_api_server_that_fails_is_told_by_what_was_asked_of_it_and_waiting_may_help() {
    let (client, _) = Script::client([Step::fails(Method::GET, AUTHORITY, 500, "InternalError")]);
    let error = bootstrap(&client, &fixture::names()).await.unwrap_err();
    assert!(matches!(error, KeysError::Call(_)) && error.is_transient(), "{error}");
    let asked = "get Secret shardwright-system/shardwright-authority: ";
    assert!(error.to_string().starts_with(asked), "{error}");
}

#[test]
fn an_operator_of_another_trust_domain_than_its_authority_gets_no_leaf() {
    let names = Names {
        trust_domain: "elsewhere".into(),
        ..fixture::names()
    };
    let error = own_identity(&fixture::keys(), &names, SystemTime::now()).unwrap_err();
    assert!(matches!(error, KeysError::Make(_)) && !error.is_transient(), "{error}");
    assert_eq!(
        error.to_string(),
        "cannot make a key: spiffe://elsewhere/operator/operator-0 is not in trust domain \"shardwright\""
    );
}

#[tokio::test]
async fn an_authority_of_another_trust_domain_is_refused() {
    let foreign = Authority::generate("elsewhere", SystemTime::now()).unwrap();
    let (client, _) = Script::client([Step::ok(Method::GET, AUTHORITY, authority_secret(&foreign))]);
    let message = bootstrap(&client, &fixture::names()).await.unwrap_err().to_string();
    assert!(
        message.contains("\"elsewhere\"") && message.contains("--trust-domain"),
        "{message}"
    );
}

#[test]
fn the_operators_own_leaf_has_its_pods_name() {
    let identity = own_identity(&fixture::keys(), &fixture::names(), SystemTime::now()).unwrap();
    assert_eq!(
        identity.spiffe_id().unwrap().to_string(),
        "spiffe://shardwright/operator/operator-0"
    );
}

#[tokio::test]
async fn the_own_certificate_is_renewed_from_half_life_and_what_is_left_of_it_and_of_the_authoritys_is_told() {
    let (keys, names) = (fixture::keys(), Arc::new(fixture::names()));
    let earlier = SystemTime::now() - DEFAULT_LEAF_LIFETIME * 3 / 4;
    let credentials = Credentials::new(own_identity(&keys, &names, earlier).unwrap()).unwrap();
    let (before, metrics, stop) = (credentials.not_after(), Metrics::new(), CancellationToken::new());
    let renewing = renew(keys, names, credentials.clone(), metrics.clone(), stop.clone());
    let renewing = tokio::spawn(renewing);
    let left_s = |certificate: &str| metrics.certificate_remaining.with_label_values(&[certificate]).get();
    let half_s = (DEFAULT_LEAF_LIFETIME / 2).as_secs().cast_signed();
    within(async {
        while left_s("own") <= half_s {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(credentials.not_after() > before);
    let nine_years_s = 9 * 365 * 24 * 3600;
    assert!(left_s("authority") > nine_years_s);
    stop.cancel();
    within(renewing).await.unwrap();
}

#[tokio::test]
async fn the_own_certificate_is_another_as_soon_as_the_authority_is_and_what_is_left_of_both_authorities_is_told() {
    let (keys, names) = (fixture::keys(), Arc::new(fixture::names()));
    let kept = prepared(&keys);
    let credentials = Credentials::new(own_identity(&keys, &names, SystemTime::now()).unwrap()).unwrap();
    let (metrics, stop) = (Metrics::new(), CancellationToken::new());
    let renewing = renew(keys.clone(), names, credentials.clone(), metrics.clone(), stop.clone());
    let renewing = tokio::spawn(renewing);
    let is_wanted = || {
        let wanted = Wanted::of(&keys.authority.get(), Duration::ZERO);
        Held::of(&credentials.identity()).unwrap().is(&wanted)
    };
    let told = || String::from_utf8(metrics.exposition()).unwrap();
    for (phase, others) in [
        (kept.clone(), true),
        (kept.activated(SystemTime::now()), true),
        (kept.activated(SystemTime::now()).finished(SystemTime::now()), false),
    ] {
        keys.authority.replace(phase.authority().unwrap());
        within(async {
            while !is_wanted() || told().contains("certificate=\"other_authority\"") != others {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
    stop.cancel();
    within(renewing).await.unwrap();
}
