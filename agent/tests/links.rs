//! Agents that measure the links to each other, over mutual TLS.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use agent::links::drive::{self, Lines, Setting};
use agent::links::earlier::Known;
use agent::links::gate::Gate;
use agent::links::history::Figures;
use agent::links::measure::{Effort, MeasureError, Measured, Peer, measure};
use agent::links::serve::Server;
use agent::links::{GLANCE, Named, Peers, Seen, Standing, Wishes};
use identity::{
    Authority, ConnectOptions, Credentials, Expected, Identity, KeyPair, Role, SpiffeId, TlsListener, connect,
    grpc_server, tls,
};
use proto::control::v1::links_client::LinksClient;
use proto::control::v1::{Download, LinkPayload, MeasureRequest, MeasureResponse, measure_request, measure_response};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

/// Longer than anything on loopback takes.
const LIMIT: Duration = Duration::from_secs(60);

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, what).await.expect("it happens in time")
}

fn credentials(authority: &Authority, role: Role) -> Credentials {
    let id = SpiffeId::new("shardwright", role).unwrap();
    let KeyPair { key_pem, csr_der } = KeyPair::generate().unwrap();
    let leaf = authority
        .issue(&csr_der, &id, &[], Duration::from_secs(3600), SystemTime::now())
        .unwrap();
    Credentials::new(Identity {
        certificate_chain_pem: leaf.certificate_chain_pem,
        key_pem,
        bundle_pem: leaf.bundle_pem,
    })
    .unwrap()
}

fn role(node: &str) -> Role {
    Role::Agent { node: node.into() }
}

/// A node that answers rounds.
struct Node {
    gate: Arc<Gate>,
    credentials: Credentials,
    endpoint: String,
}

impl Node {
    async fn new(authority: &Authority, node: &str) -> Self {
        let credentials = credentials(authority, role(node));
        let listener = TlsListener::bind("127.0.0.1:0", tls::server_config(&credentials))
            .await
            .unwrap();
        let endpoint = listener.local_addr().to_string();
        let gate = Arc::new(Gate::default());
        let service = Server::new(Arc::clone(&gate)).into_service();
        tokio::spawn(
            grpc_server()
                .add_service(service)
                .serve_with_incoming(listener.incoming()),
        );
        Self {
            gate,
            credentials,
            endpoint,
        }
    }

    async fn measure(&self, node: &str, endpoint: &str) -> Result<Measured, MeasureError> {
        self.look(node, endpoint, Effort::Round).await
    }

    async fn look(&self, node: &str, endpoint: &str, effort: Effort) -> Result<Measured, MeasureError> {
        let peer = Peer {
            node,
            endpoint,
            trust_domain: "shardwright",
        };
        within(measure(peer, effort, &self.credentials)).await
    }
}

async fn pair() -> (Authority, Node, Node) {
    let authority = Authority::generate("shardwright", SystemTime::now()).unwrap();
    let (a, b) = (Node::new(&authority, "a").await, Node::new(&authority, "b").await);
    (authority, a, b)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_finds_latency_and_both_rates_and_both_ends_are_charged() {
    let (_, a, b) = pair().await;
    let Measured { round, link_us } = a.measure("b", &b.endpoint).await.unwrap();
    assert!(round.round_trips_us.len() >= 8, "{} echoes", round.round_trips_us.len());
    assert!(round.round_trips_us.iter().all(|trip_us| *trip_us > 0));
    for rate in [round.send_bytes_per_second, round.receive_bytes_per_second] {
        assert!((100_000..100_000_000_000).contains(&rate), "{rate} B/s");
    }
    assert!(link_us > 0);
    // Once its turn is free, the other end has counted.
    drop(within(b.gate.begin()).await);
    let (began_us, answered_us) = b.gate.spent_us();
    assert!(began_us == 0 && answered_us > 0, "{answered_us} µs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_serves_measures_or_is_told_to_rest_puts_a_round_off() {
    let (_, a, b) = pair().await;
    let put_off = |outcome: Result<Measured, MeasureError>, why: &str| {
        assert!(
            matches!(&outcome, Err(MeasureError::PutOff(text)) if text.contains(why)),
            "{outcome:?}"
        );
    };
    b.gate.serves().send_replace(true);
    put_off(a.measure("b", &b.endpoint).await, "computes");
    b.gate.serves().send_replace(false);
    b.gate.wishes().send_replace(Wishes {
        paused: true,
        ..Wishes::default()
    });
    put_off(a.measure("b", &b.endpoint).await, "paused");
    b.gate.wishes().send_replace(Wishes::default());
    let turn = within(b.gate.begin()).await;
    put_off(a.measure("b", &b.endpoint).await, "measuring already");
    drop(turn);
    b.gate.answered(60_000_000);
    put_off(a.measure("b", &b.endpoint).await, "share");
}

/// At a link that carried next to nothing: whatever is found is more.
const GLANCE_AT_A_SLOW_LINK: Effort = Effort::Glance {
    send_bytes_per_second: 1000,
    receive_bytes_per_second: 1000,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_serves_answers_a_glance_and_is_charged_for_it() {
    let (_, a, b) = pair().await;
    b.gate.serves().send_replace(true);
    let Measured { round, .. } = a.look("b", &b.endpoint, GLANCE_AT_A_SLOW_LINK).await.unwrap();
    assert!(round.is_glance);
    for rate in [round.send_bytes_per_second, round.receive_bytes_per_second] {
        assert!((100_000..100_000_000_000).contains(&rate), "{rate} B/s");
    }
    drop(within(b.gate.begin()).await);
    let (_, answered_us) = b.gate.spent_us();
    assert!(answered_us > 0, "{answered_us} µs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_measured_to_another_node_than_the_one_that_was_meant() {
    let (_, a, b) = pair().await;
    let stranger = a.measure("c", &b.endpoint).await;
    assert!(matches!(&stranger, Err(MeasureError::Failed(_))), "{stranger:?}");
    let nobody = a.measure("b", "127.0.0.1:1").await;
    assert!(matches!(&nobody, Err(MeasureError::Failed(_))), "{nobody:?}");
}

/// One stream whose requests are given at once; its first refusal, or what it answered.
async fn ask(
    own: &Credentials,
    endpoint: &str,
    requests: Vec<measure_request::Request>,
) -> Result<Vec<MeasureResponse>, Status> {
    ask_as(false, own, endpoint, requests).await
}

/// The same of a glance.
async fn ask_as(
    is_glance: bool,
    own: &Credentials,
    endpoint: &str,
    requests: Vec<measure_request::Request>,
) -> Result<Vec<MeasureResponse>, Status> {
    let options = ConnectOptions::default();
    let channel = connect(endpoint, tls::client_config(own), Expected::Agent, options)
        .await
        .unwrap();
    let requests = requests
        .into_iter()
        .map(|request| MeasureRequest { request: Some(request) });
    let mut stream = Request::new(tokio_stream::iter(requests.collect::<Vec<_>>()));
    if is_glance {
        stream.metadata_mut().insert(GLANCE, MetadataValue::from_static("1"));
    }
    let mut responses = within(LinksClient::new(channel).measure(stream)).await?.into_inner();
    let mut heard = Vec::new();
    while let Some(response) = within(responses.message()).await? {
        heard.push(response);
    }
    Ok(heard)
}

fn echo(bytes: usize) -> measure_request::Request {
    measure_request::Request::Echo(LinkPayload {
        data: vec![1; bytes].into(),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rounds_are_for_agents_alone_and_have_limits() {
    let (authority, a, b) = pair().await;
    let gateway = credentials(&authority, Role::Gateway { pod: "pod".into() });
    let refused = ask(&gateway, &b.endpoint, vec![echo(1)]).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);

    let heard = ask(&a.credentials, &b.endpoint, vec![echo(5)]).await.unwrap();
    assert!(matches!(&heard[0].response, Some(measure_response::Response::Echo(echo)) if echo.data.len() == 5));
    let everything = measure_request::Request::Download(Download { bytes: u64::MAX });
    for (requests, what) in [
        (vec![everything], "more bytes than a round has"),
        (vec![echo(1); 65], "more echoes than a round has"),
        (vec![echo(100_000)], "a longer echo than there is"),
    ] {
        drop(within(b.gate.begin()).await);
        let refused = ask(&a.credentials, &b.endpoint, requests).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}: {refused:?}");
    }
    drop(within(b.gate.begin()).await);
    let more = measure_request::Request::Download(Download { bytes: 17 << 20 });
    let refused = ask_as(true, &a.credentials, &b.endpoint, vec![more]).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "a glance is short: {refused:?}");
    drop(within(b.gate.begin()).await);
    let long = ask(&a.credentials, &b.endpoint, vec![echo(1 << 20)]).await.unwrap_err();
    assert_eq!(long.code(), Code::OutOfRange, "a message that is never read: {long:?}");
}

fn setting(node: &str) -> Setting {
    Setting {
        node: node.into(),
        trust_domain: "shardwright".into(),
        advertise_ip: "127.0.0.1".parse().unwrap(),
        root: "/".into(),
    }
}

fn start(node: &str, at: &Node, peers: Peers) -> (watch::Receiver<Arc<Seen>>, watch::Sender<Option<Arc<Peers>>>) {
    let told = watch::Sender::new(Some(Arc::new(peers)));
    let seen = watch::Sender::new(Arc::default());
    let heard = seen.subscribe();
    let lines = Lines {
        peers: told.subscribe(),
        seen,
    };
    tokio::spawn(drive::run(
        setting(node),
        at.credentials.clone(),
        Arc::clone(&at.gate),
        lines,
    ));
    (heard, told)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_that_are_told_of_each_other_come_to_know_their_links() {
    let (_, a, b) = pair().await;
    let named = |endpoint: &str| Named {
        endpoint: endpoint.to_owned(),
        is_neighbour: true,
    };
    let peers = |node: &str, of: &Node| Peers::from([(node.to_owned(), named(&of.endpoint))]);
    let mut to_both = peers("b", &b);
    to_both.insert("gone".into(), named("127.0.0.1:1"));
    let (mut of_a, _peers_a) = start("a", &a, to_both);
    let (mut of_b, _peers_b) = start("b", &b, peers("a", &a));
    let measured = |seen: &Arc<Seen>, node: &str| {
        let link = seen.links.get(node);
        link.is_some_and(|link| link.standing == Standing::Measured && link.figures.is_some())
    };
    let failed = |seen: &Arc<Seen>| seen.tally.failed > 0;
    let of_a = within(of_a.wait_for(|seen| measured(seen, "b") && failed(seen)))
        .await
        .unwrap()
        .clone();
    let of_b = within(of_b.wait_for(|seen| measured(seen, "a"))).await.unwrap().clone();
    assert_eq!(of_a.links["gone"].figures, None, "unknown is not zero");
    assert_eq!(of_a.links["gone"].standing, Standing::Pending, "once is not gone");
    assert_eq!(of_b.links["a"].kind, crds::LinkKind::Loopback);
    assert!(of_a.tally.began_us > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_an_earlier_life_knew_is_known_at_once_and_glanced_at_while_a_shard_computes() {
    let (_, a, b) = pair().await;
    a.gate.serves().send_replace(true);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let figures = Figures {
        latency_p50_us: 100,
        latency_p99_us: 200,
        // Next to nothing: whatever a glance finds is another link, which one look does not settle.
        send_bytes_per_second: 1000,
        receive_bytes_per_second: 1000,
        samples: 3,
        unix_s: i64::try_from(now.as_secs()).unwrap(),
    };
    let known = Known {
        kind: crds::LinkKind::Loopback,
        figures,
        before: None,
    };
    let named = Named {
        endpoint: b.endpoint.clone(),
        is_neighbour: true,
    };
    let (mut of_a, _peers) = start("a", &a, Peers::from([("b".to_owned(), named)]));
    let pending = within(of_a.wait_for(|seen| seen.told)).await.unwrap().clone();
    assert_eq!(
        pending.links["b"].standing,
        Standing::Pending,
        "nothing is measured beside a shard"
    );
    // Read later than the operator's first word.
    let earlier = BTreeMap::from([("b".to_owned(), known)]);
    a.gate.earlier().send_replace(Some(Arc::new(earlier)));
    let seen = within(of_a.wait_for(|seen| seen.tally.measured > 0))
        .await
        .unwrap()
        .clone();
    assert_eq!(seen.links["b"].standing, Standing::Measured);
    assert_eq!(seen.links["b"].figures, Some(figures));
}
