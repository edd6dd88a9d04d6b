//! Certificates that end while an agent runs, and renewed ones that take their place: the executable, and an operator that issues them
//! for seconds.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod lonely;
mod office;

use agent::leaves::{Ends, OperatorLeaves, PlacementKeys, WorkerLeaves};
use agent::trust::Trust;
use identity::tls::client_config;
use identity::{Authority, ConnectOptions, DEFAULT_LEAF_LIFETIME, Expected, Held, Identity, connect};
use lonely::{LIMIT, Lonely, Way, agent_of};
use office::{NODE, Office, agent_role};
use proto::control::v1::TrustWanted;
use std::path::Path;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// Of a certificate: time enough to attach with it.
const SHORT: Duration = Duration::from_secs(4);
/// Of one that is looked at before and after half of its life: time enough in each, on a machine that has much else to do.
const LONGER: Duration = Duration::from_secs(20);
/// As the agent's log has it; that it is not attached is told in other words.
const ATTACHED: &str = "attached to the operator operator=";

/// Waits for a condition, while the office is at work.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let waited = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(LIMIT, waited).await;
    waited.unwrap_or_else(|_| panic!("{what} did not come about in time"));
}

/// Waits until nobody takes a certificate that ends then: dates are judged by whole seconds.
async fn ended(end: SystemTime) {
    until("its end", || SystemTime::now() >= end + Duration::from_secs(1)).await;
}

fn start(office: &Office, state_dir: &Path) -> Lonely {
    let way = Way {
        enrol: &office.enrol,
        control: &office.control,
        bundle: &office.bundle,
        token: &office.token,
    };
    Lonely::run(agent_of(state_dir, &way))
}

/// The line of the log that has this in it, once there is one.
fn line(agent: &mut Lonely, text: &str) -> String {
    agent.until(text).pop().unwrap()
}

/// Where the agent tells how it is: probes and scrapes do not ask who it is.
struct Admin {
    http: reqwest::Client,
    address: String,
}

impl Admin {
    fn of(agent: &mut Lonely) -> Self {
        // Fails only when a provider is installed already, which is then the one we want.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let told = line(agent, "health and metrics are served");
        let (_, address) = told.split_once("address=").unwrap();
        Self {
            http: reqwest::Client::builder()
                .tls_danger_accept_invalid_certs(true)
                .no_proxy()
                .build()
                .unwrap(),
            address: address.split_whitespace().next().unwrap().to_owned(),
        }
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let url = format!("https://{}/{path}", self.address);
        let response = self.http.get(url).timeout(LIMIT).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// What is left of the agent's own certificate, as it says.
    async fn remaining_s(&self) -> i64 {
        let (_, metrics) = self.get("metrics").await;
        let name = "shardwright_agent_certificate_remaining_seconds{certificate=\"own\"} ";
        let value = metrics.lines().find_map(|line| line.strip_prefix(name));
        value
            .unwrap_or_else(|| panic!("no {name}in {metrics}"))
            .parse()
            .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_seconds_is_renewed_again_and_again_under_a_stream_that_stands_and_the_next_shows_the_newest()
{
    let (office, state_dir) = (Office::open(SHORT).await, tempfile::tempdir().unwrap());
    let mut agent = start(&office, state_dir.path());
    line(&mut agent, ATTACHED);
    let first = office.ends()[0];
    until("a certificate of after the first one's end", || {
        office.ends().last().is_some_and(|last| *last > first + SHORT)
    })
    .await;
    assert_eq!(office.streams(), (1, 1), "the stream under the first one stands");
    office.end_streams();
    line(&mut agent, ATTACHED);
    assert_eq!(office.streams(), (2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_certificate_ends_keeps_its_stream_says_why_the_next_one_fails_and_comes_back_by_itself() {
    let (office, state_dir) = (Office::open(SHORT).await, tempfile::tempdir().unwrap());
    let mut agent = start(&office, state_dir.path());
    let admin = Admin::of(&mut agent);
    line(&mut agent, ATTACHED);
    office.issues(None);
    let told = line(&mut agent, "the identity is not renewed");
    assert!(
        told.contains("no leaf is issued today") && told.contains("remaining_s="),
        "{told}"
    );
    ended(*office.ends().last().unwrap()).await;
    assert_eq!(office.streams(), (1, 1), "what stands is not judged again");
    assert_eq!(admin.get("readyz").await, (200, "ready\n".to_owned()));
    assert!(admin.remaining_s().await < 0);

    office.end_streams();
    let told = line(&mut agent, "fatal alert: CertificateExpired");
    assert!(
        told.contains("not attached to the operator") && told.contains("check the time"),
        "{told}"
    );
    let (status, told) = admin.get("readyz").await;
    assert!(
        status == 503 && told.contains("the certificate ended"),
        "{status} {told}"
    );
    assert_eq!(office.streams(), (1, 0));

    office.issues(Some(DEFAULT_LEAF_LIFETIME));
    line(&mut agent, ATTACHED);
    assert_eq!(office.streams(), (2, 1));
    assert!(admin.remaining_s().await > 3600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_starts_anew_after_the_end_of_its_certificate_waits_for_nobody_and_attaches_once_it_has_another()
{
    let (office, state_dir) = (Office::open(SHORT).await, tempfile::tempdir().unwrap());
    let mut agent = start(&office, state_dir.path());
    line(&mut agent, ATTACHED);
    assert!(agent.terminated().success());
    ended(*office.ends().last().unwrap()).await;
    office.issues(None);

    let mut agent = start(&office, state_dir.path());
    let told = line(&mut agent, "identity taken from disk");
    assert!(told.contains("remaining_s=-"), "{told}");
    line(&mut agent, "the identity is not renewed");
    line(&mut agent, "fatal alert: CertificateExpired");
    office.issues(Some(DEFAULT_LEAF_LIFETIME));
    line(&mut agent, ATTACHED);
}

/// Leaves for workers, over a connection of the agent's own.
async fn leaves(office: &Office, ends: &Ends) -> OperatorLeaves {
    let credentials = office.credentials(agent_role());
    let config = client_config(&credentials);
    let channel = connect(&office.control, config, Expected::Operator, ConnectOptions::default());
    let channel = watch::Sender::new(Some(channel.await.unwrap()));
    let keys = PlacementKeys::default();
    keys.replace(office.placement_keys());
    OperatorLeaves {
        node: NODE.to_owned(),
        credentials,
        keys,
        channel: channel.subscribe(),
        ends: ends.clone(),
        trust: Trust::default(),
    }
}

#[tokio::test]
async fn a_workers_leaf_is_renewed_from_half_of_its_life_kept_while_none_is_issued_and_issued_anew_after_its_end() {
    let (office, directory) = (Office::open(LONGER).await, tempfile::tempdir().unwrap());
    let ends = Ends::default();
    let leaves = leaves(&office, &ends).await;
    let held = || Identity::load(directory.path()).unwrap();
    let ensure = || leaves.ensure("uid", directory.path());

    ensure().await.unwrap();
    let first = held();
    let id = format!("spiffe://shardwright/worker/{NODE}/uid");
    assert_eq!(first.spiffe_id().unwrap().to_string(), id);
    assert_eq!(ends.first(), first.not_after().ok());
    ensure().await.unwrap();
    assert_eq!(held(), first, "nothing is due yet");

    until("half of its life", || first.needs_renewal(SystemTime::now())).await;
    office.issues(None);
    ensure().await.unwrap();
    assert_eq!(held(), first, "it stands");
    office.issues(Some(SHORT));
    ensure().await.unwrap();
    let second = held();
    assert_ne!(second, first);

    office.issues(None);
    ended(second.not_after().unwrap()).await;
    let fault = ensure().await.unwrap_err();
    assert_eq!(fault.reason, "NoIdentity");
    assert!(fault.message.contains("no leaf is issued today"), "{}", fault.message);
    assert!(ends.first().is_some_and(|end| end < SystemTime::now()));
    office.issues(Some(DEFAULT_LEAF_LIFETIME));
    ensure().await.unwrap();
    assert!(ends.first().is_some_and(|end| end > SystemTime::now()));
}

/// What issues in the three steps from this authority to another one.
fn steps(old: &Authority) -> [Authority; 3] {
    let new = Authority::generate("shardwright", SystemTime::now()).unwrap();
    let again = |of: &Authority| Authority::from_pem(of.cert_pem(), &of.key_pem()).unwrap();
    let prepared = again(old).beside(new.cert_pem()).unwrap();
    let active = again(&new).beside(old.cert_pem()).unwrap();
    [prepared, active, new]
}

/// Whether the agent says that it trusts whom it is told to, and has the leaf that it is told to have.
fn says(office: &Office, wanted: &TrustWanted) -> bool {
    let held = office.held();
    held.authorities == wanted.authorities && held.issuers == [wanted.issuer.clone()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_told_whom_to_trust_has_such_a_leaf_at_once_says_so_and_stays_attached_whatever_is_mounted() {
    let (office, state_dir) = (Office::open(DEFAULT_LEAF_LIFETIME).await, tempfile::tempdir().unwrap());
    let mut agent = start(&office, state_dir.path());
    line(&mut agent, ATTACHED);
    let first = office.wanted();
    until("it says whom it trusts", || says(&office, &first)).await;
    for authority in steps(&office.authority()) {
        let wanted = office.turn_to(authority);
        office.tell(&wanted).await;
        until("it trusts whom it is told to", || says(&office, &wanted)).await;
    }
    assert_eq!(office.streams(), (1, 1), "the first stream stands");
    assert_eq!(office.ends().len(), 4, "one leaf for each step");
    office.mount();
    office.end_streams();
    line(&mut agent, ATTACHED);
    assert_eq!(office.streams(), (2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_starts_anew_while_what_is_mounted_is_behind_attaches_with_the_leaf_that_it_has() {
    let (office, state_dir) = (Office::open(DEFAULT_LEAF_LIFETIME).await, tempfile::tempdir().unwrap());
    let mut agent = start(&office, state_dir.path());
    line(&mut agent, ATTACHED);
    for authority in steps(&office.authority()).into_iter().take(2) {
        let wanted = office.turn_to(authority);
        office.tell(&wanted).await;
        until("it trusts whom it is told to", || says(&office, &wanted)).await;
    }
    assert!(agent.terminated().success());
    let issued = office.ends().len();
    let mut agent = start(&office, state_dir.path());
    line(&mut agent, "identity taken from disk");
    line(&mut agent, ATTACHED);
    assert_eq!(office.ends().len(), issued);
}

#[tokio::test]
async fn a_workers_leaf_trusts_whom_the_agents_own_does_and_is_of_the_same_authority() {
    let (office, directory) = (Office::open(DEFAULT_LEAF_LIFETIME).await, tempfile::tempdir().unwrap());
    let leaves = leaves(&office, &Ends::default()).await;
    let held = || Identity::load(directory.path()).unwrap();
    let ensure = || leaves.ensure("uid", directory.path());
    ensure().await.unwrap();
    for authority in steps(&office.authority()) {
        office.turn_to(authority);
        let before = held();
        ensure().await.unwrap();
        assert_eq!(held(), before, "the agent's own is not another yet");
        leaves.credentials.replace(office.identity(agent_role())).unwrap();
        ensure().await.unwrap();
        let own = leaves.credentials.identity();
        assert_eq!(Held::of(&held()).unwrap(), Held::of(&own).unwrap());
    }
}
