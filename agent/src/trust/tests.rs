use super::*;
use identity::{Authority, DEFAULT_LEAF_LIFETIME, KeyPair, Role, SpiffeId};
use std::time::SystemTime;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;

fn authority() -> Authority {
    Authority::generate("shardwright", SystemTime::now()).unwrap()
}

fn beside(authority: &Authority, other: &Authority) -> Authority {
    let again = Authority::from_pem(authority.cert_pem(), &authority.key_pem()).unwrap();
    again.beside(other.cert_pem()).unwrap()
}

fn identity(authority: &Authority) -> Identity {
    let KeyPair { key_pem, csr_der } = KeyPair::generate().unwrap();
    let id = SpiffeId::new("shardwright", Role::Agent { node: "a".into() }).unwrap();
    let leaf = authority.issue(&csr_der, &id, &[], DEFAULT_LEAF_LIFETIME, SystemTime::now());
    let leaf = leaf.unwrap();
    Identity {
        certificate_chain_pem: leaf.certificate_chain_pem,
        key_pem,
        bundle_pem: leaf.bundle_pem,
    }
}

fn held(identity: &Identity) -> TrustHeld {
    TrustHeld::from(&Held::of(identity).unwrap())
}

/// A worker's places, with a leaf of this authority in them.
fn places(folder: &Path, name: &str, authority: &Authority) -> Places {
    let directory = folder.join(name);
    let places = Places {
        identity: directory.join("identity"),
        socket: directory.join("w.sock"),
        directory,
    };
    std::fs::create_dir_all(&places.identity).unwrap();
    identity(authority).store(&places.identity).unwrap();
    places
}

/// A worker that answers every request so.
fn worker(places: &Places, answer: &'static str) -> tokio::task::JoinHandle<()> {
    let listener = UnixListener::bind(&places.socket).unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let mut asked = String::new();
            stream.read_line(&mut asked).await.unwrap();
            assert_eq!(asked.trim(), r#"{"op":"renew"}"#);
            stream.get_mut().write_all(answer.as_bytes()).await.unwrap();
        }
    })
}

const YES: &str = "{\"ok\":true}\n";
/// Of one that does not know the request.
const NO: &str = "{\"ok\":false,\"reason\":\"BadRequest\",\"message\":\"the request cannot be read\"}\n";

#[test]
fn a_node_without_workers_trusts_whom_its_agent_does() {
    let own = identity(&beside(&authority(), &authority()));
    let trust = Trust::default();
    trust.keep(std::iter::empty());
    assert_eq!(trust.held(&own), held(&own));
    let garbled = Identity {
        bundle_pem: String::new(),
        ..own
    };
    assert_eq!(trust.held(&garbled), TrustHeld::default());
}

#[tokio::test]
async fn nothing_is_said_of_a_node_before_its_workers_are_known_and_each_of_them_has_been_asked() {
    let (folder, trust, old) = (tempfile::tempdir().unwrap(), Trust::default(), authority());
    let own = identity(&old);
    let places = places(folder.path(), "worker", &old);
    let answering = worker(&places, YES);
    let mut changes = trust.changes();
    assert_eq!(trust.held(&own), TrustHeld::default(), "some may run");
    trust.keep(std::iter::once(places.identity.as_path()));
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    assert_eq!(trust.held(&own), TrustHeld::default(), "it was not asked yet");
    trust.keep(std::iter::once(places.identity.as_path()));
    assert!(!changes.has_changed().unwrap(), "that is known");
    trust.hand_over(&places).await;
    assert!(changes.has_changed().unwrap());
    assert_eq!(trust.held(&own), held(&own));
    answering.abort();
}

#[tokio::test]
async fn a_node_trusts_another_authority_once_its_workers_have_taken_leaves_that_do() {
    let (folder, trust) = (tempfile::tempdir().unwrap(), Trust::default());
    let (old, new) = (authority(), authority());
    let both = beside(&old, &new);
    let places = places(folder.path(), "worker", &old);
    let answering = worker(&places, YES);
    let own = identity(&both);
    let mut changes = trust.changes();
    trust.hand_over(&places).await;
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    assert_eq!(trust.held(&own), held(&identity(&old)));

    identity(&both).store(&places.identity).unwrap();
    assert_eq!(trust.held(&own), held(&identity(&old)), "it has not taken it yet");
    trust.hand_over(&places).await;
    assert!(changes.has_changed().unwrap());
    assert_eq!(trust.held(&own), held(&own));

    let wanted = identity(&beside(&new, &old));
    let together = Held::from(trust.held(&wanted));
    assert_eq!(
        together.issuers.len(),
        2,
        "the worker still uses the old authority's leaf"
    );
    answering.abort();
}

#[tokio::test]
async fn of_a_worker_that_took_no_leaf_nothing_is_known_until_it_is_gone() {
    let (folder, trust) = (tempfile::tempdir().unwrap(), Trust::default());
    let old = authority();
    let own = identity(&old);
    let (deaf, older) = (
        places(folder.path(), "deaf", &old),
        places(folder.path(), "older", &old),
    );
    let answering = worker(&older, NO);
    for places in [&deaf, &older] {
        trust.hand_over(places).await;
        assert_eq!(trust.held(&own), TrustHeld::default());
        trust.keep(std::iter::empty());
        assert_eq!(trust.held(&own), held(&own));
    }
    answering.abort();
}

#[tokio::test]
async fn a_worker_that_takes_no_other_leaf_has_the_one_of_before() {
    let (folder, trust) = (tempfile::tempdir().unwrap(), Trust::default());
    let (old, new) = (authority(), authority());
    let places = places(folder.path(), "worker", &old);
    let answering = worker(&places, YES);
    trust.hand_over(&places).await;
    answering.abort();
    let _ended = answering.await;
    std::fs::remove_file(&places.socket).unwrap();
    let both = beside(&old, &new);
    identity(&both).store(&places.identity).unwrap();
    trust.hand_over(&places).await;
    assert_eq!(trust.held(&identity(&both)), held(&identity(&old)));
    trust.keep(std::iter::once(places.identity.as_path()));
    assert_eq!(trust.held(&identity(&both)), held(&identity(&old)));
}
