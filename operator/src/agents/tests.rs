//! Agents over real TLS, against the service as it is served.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use identity::{Held, KeyPair, Wanted};
use proto::control::v1::agent_control_client::AgentControlClient;
use proto::control::v1::{
    AgentMessage, Assignment, Assignments, Hello, Inspect, Inspection, IssueWorkerLeafRequest, LinkPeer, LinkPeers,
    ModelIndexRequest, OperatorMessage, ShardReport, TrustHeld, TrustWanted, agent_message, operator_message,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::*;
use crate::fixture::port::{Port, agent, gateway, within};

/// One attached stream, as an agent holds it.
struct Stream {
    up: mpsc::Sender<AgentMessage>,
    down: Streaming<OperatorMessage>,
}

impl Stream {
    async fn open(channel: &Channel) -> Result<Self, Status> {
        let (up, messages) = mpsc::channel(4);
        let down = within(AgentControlClient::new(channel.clone()).attach(ReceiverStream::new(messages))).await?;
        Ok(Self {
            up,
            down: down.into_inner(),
        })
    }

    async fn say(&self, message: agent_message::Message) {
        self.up.send(AgentMessage { message: Some(message) }).await.unwrap();
    }

    async fn hello(&self) {
        self.say(agent_message::Message::Hello(Hello::default())).await;
    }

    async fn hear(&mut self) -> Result<operator_message::Message, Status> {
        within(self.down.message())
            .await
            .map(|message| message.expect("the stream goes on").message.unwrap())
    }
}

/// Waits until the registry looks like that.
async fn until(port: &Port, condition: impl Fn(&BTreeMap<String, AgentView>) -> bool) {
    let mut changes = port.agents.changes();
    within(async {
        while !condition(&port.agents.snapshot().nodes) {
            changes.changed().await.unwrap();
        }
    })
    .await;
}

fn holding(model_uid: &str) -> BTreeMap<String, NodeAssignments> {
    let message = Assignments {
        assignments: vec![Assignment::default()],
        leave_now: false,
    };
    BTreeMap::from([(
        "a".to_owned(),
        NodeAssignments {
            message,
            models: BTreeSet::from([model_uid.to_owned()]),
        },
    )])
}

#[tokio::test]
async fn an_agent_reports_is_asked_and_is_told_what_to_hold_and_is_gone_when_its_stream_ends() {
    let port = Port::serve(true).await;
    let mut stream = Stream::open(&port.connect(agent("a")).await).await.unwrap();
    stream.hello().await;
    until(&port, |nodes| nodes.contains_key("a")).await;
    stream.say(agent_message::Message::Shards(ShardReport::default())).await;
    until(&port, |nodes| nodes["a"].reported).await;

    assert!(port.agents.inspect(
        "a",
        Inspect {
            uri: "file:///m.gguf".into(),
            ..Default::default()
        }
    ));
    assert!(
        matches!(stream.hear().await, Ok(operator_message::Message::Inspect(inspect)) if inspect.uri == "file:///m.gguf")
    );
    port.agents.assign(&holding("m"));
    assert!(
        matches!(stream.hear().await, Ok(operator_message::Message::Assignments(wanted)) if wanted.assignments.len() == 1)
    );

    drop(stream);
    until(&port, BTreeMap::is_empty).await;
}

#[tokio::test]
async fn an_agent_is_told_to_whom_it_measures_links_whenever_that_changes() {
    let port = Port::serve(true).await;
    let mut stream = Stream::open(&port.connect(agent("a")).await).await.unwrap();
    stream.hello().await;
    until(&port, |nodes| nodes.contains_key("a")).await;
    let peers = |nodes: &[&str]| {
        let peer = |node: &&str| LinkPeer {
            node: node.to_string(),
            endpoint: format!("{node}:9445"),
            neighbour: false,
        };
        std::sync::Arc::new(LinkPeers {
            peers: nodes.iter().map(peer).collect(),
        })
    };
    for named in [peers(&["b"]), peers(&["b", "c"])] {
        port.agents
            .name_peers(&BTreeMap::from([("a".to_owned(), named.clone())]));
        // The same once more says nothing.
        port.agents
            .name_peers(&BTreeMap::from([("a".to_owned(), named.clone())]));
        assert!(matches!(stream.hear().await, Ok(operator_message::Message::Peers(told)) if told == *named));
    }
    port.agents.name_peers(&BTreeMap::new());
    assert!(matches!(stream.hear().await, Ok(operator_message::Message::Peers(told)) if told.peers.is_empty()));
}

#[tokio::test]
async fn an_agent_hears_whom_it_shall_trust_and_says_whom_it_does_and_one_that_says_nothing_is_known_by_name() {
    let port = Port::serve(true).await;
    let wanted = Wanted::of(&port.context.keys.authority.get(), Duration::from_secs(2));
    let (channel, older) = (port.connect(agent("a")).await, port.connect(agent("b")).await);
    let mut stream = Stream::open(&channel).await.unwrap();
    let silent = Stream::open(&older).await.unwrap();
    stream.hello().await;
    silent.hello().await;
    port.context.holders.want(Some(&wanted));
    assert!(
        matches!(stream.hear().await, Ok(operator_message::Message::Trust(told)) if told == TrustWanted::from(&wanted))
    );
    let held = Held {
        authorities: wanted.authorities.clone(),
        issuers: BTreeSet::from([wanted.issuer]),
    };
    stream.say(agent_message::Message::Trust(TrustHeld::from(&held))).await;
    let expected = [("agent a", Some(&held)), ("agent b", None)];
    let mut changes = port.context.holders.changes();
    within(async {
        loop {
            let holders = port.context.holders.list(crate::clock::now());
            let known = holders
                .iter()
                .map(|holder| (holder.name.as_str(), holder.held.as_ref()));
            if known.eq(expected) {
                return;
            }
            changes.changed().await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn an_agent_whose_connection_breaks_is_gone_at_once() {
    let port = Port::serve(true).await;
    let channel = port.connect(agent("a")).await;
    let stream = Stream::open(&channel).await.unwrap();
    stream.hello().await;
    until(&port, |nodes| nodes.contains_key("a")).await;
    drop((channel, stream));
    until(&port, BTreeMap::is_empty).await;
}

#[tokio::test]
async fn a_newer_stream_ends_the_older_and_says_so() {
    let port = Port::serve(true).await;
    let channel = port.connect(agent("a")).await;
    let mut older = Stream::open(&channel).await.unwrap();
    older.hello().await;
    until(&port, |nodes| nodes.contains_key("a")).await;
    let newer = Stream::open(&channel).await.unwrap();
    newer.hello().await;
    let ended = older.hear().await.unwrap_err();
    assert_eq!(
        (ended.code(), ended.message()),
        (Code::Aborted, "a newer stream of this node took over")
    );
    until(&port, |nodes| nodes.contains_key("a")).await;
}

#[tokio::test]
async fn the_first_message_must_be_hello_and_come_once() {
    let port = Port::serve(true).await;
    let channel = port.connect(agent("a")).await;
    let mut stream = Stream::open(&channel).await.unwrap();
    stream.say(agent_message::Message::Shards(ShardReport::default())).await;
    assert_eq!(stream.hear().await.unwrap_err().code(), Code::InvalidArgument);
    let mut stream = Stream::open(&channel).await.unwrap();
    stream.hello().await;
    stream.hello().await;
    assert_eq!(stream.hear().await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn only_agents_attach() {
    let port = Port::serve(true).await;
    let refused = Stream::open(&port.connect(gateway()).await).await.err().unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(
        refused.message().contains("gateway/gateway-0 is not an agent"),
        "{}",
        refused.message()
    );
}

#[tokio::test]
async fn a_replica_that_does_not_lead_refuses_and_one_that_stops_leading_ends_its_streams() {
    let port = Port::serve(false).await;
    let channel = port.connect(agent("a")).await;
    let refused = Stream::open(&channel).await.err().unwrap();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::Unavailable, "not the leader")
    );
    port.leading.send_replace(true);
    let mut stream = Stream::open(&channel).await.unwrap();
    stream.hello().await;
    until(&port, |nodes| nodes.contains_key("a")).await;
    port.leading.send_replace(false);
    assert_eq!(stream.hear().await.unwrap_err().message(), "not the leader");
    until(&port, BTreeMap::is_empty).await;
}

#[tokio::test]
async fn a_worker_gets_a_leaf_only_for_a_model_that_its_node_is_to_hold() {
    let port = Port::serve(true).await;
    let channel = port.connect(agent("a")).await;
    let stream = Stream::open(&channel).await.unwrap();
    stream.hello().await;
    until(&port, |nodes| nodes.contains_key("a")).await;
    let ask = |model_uid: &str| {
        let request = IssueWorkerLeafRequest {
            csr_der: KeyPair::generate().unwrap().csr_der,
            model_uid: model_uid.into(),
        };
        let mut client = AgentControlClient::new(channel.clone());
        async move { within(client.issue_worker_leaf(request)).await }
    };
    assert_eq!(ask("m").await.unwrap_err().code(), Code::PermissionDenied);
    port.agents.assign(&holding("m"));
    let leaf = ask("m").await.unwrap().into_inner().leaf.unwrap();
    let identity = identity::Identity {
        certificate_chain_pem: leaf.certificate_chain_pem,
        key_pem: String::new(),
        bundle_pem: leaf.bundle_pem,
    };
    assert_eq!(
        identity.spiffe_id().unwrap().to_string(),
        "spiffe://shardwright/worker/a/m"
    );
    assert_eq!(ask("other").await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(ask("../x").await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn an_agent_fetches_a_weight_index_in_pieces_and_nobody_else_does() {
    let port = Port::serve(true).await;
    let data: Vec<u8> = (0..3_000_000_u32).map(|at| at as u8).collect();
    port.agents.indexes.insert([5; 32], data.clone().into());
    let client = AgentControlClient::new(port.connect(agent("a")).await);
    let ask = |sha256: Vec<u8>| {
        let mut client = client.clone();
        async move { within(client.model_index(ModelIndexRequest { sha256 })).await }
    };
    let mut stream = ask(vec![5; 32]).await.unwrap().into_inner();
    let mut received = Vec::new();
    while let Some(piece) = within(stream.message()).await.unwrap() {
        assert!(piece.data.len() <= 1 << 20);
        received.extend(piece.data);
    }
    assert!(received == data);
    assert_eq!(ask(vec![6; 32]).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(ask(vec![6; 31]).await.unwrap_err().code(), Code::InvalidArgument);
    let mut client = AgentControlClient::new(port.connect(gateway()).await);
    let refused = within(client.model_index(ModelIndexRequest { sha256: vec![5; 32] })).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn an_inspection_is_answered_by_a_call_of_its_own_and_by_whoever_was_asked_alone() {
    let port = Port::serve(true).await;
    let (asked, other) = (port.connect(agent("a")).await, port.connect(agent("b")).await);
    let mut stream = Stream::open(&asked).await.unwrap();
    stream.hello().await;
    until(&port, |nodes| nodes.contains_key("a")).await;
    let answer = Inspection {
        model_uid: "m".into(),
        ..Default::default()
    };
    let say = |channel: &Channel| {
        let (mut client, answer) = (AgentControlClient::new(channel.clone()), answer.clone());
        async move { within(client.inspected(answer)).await }
    };
    let question = Inspect {
        model_uid: "m".into(),
        ..Default::default()
    };
    assert!(port.agents.inspect("a", question));
    assert!(matches!(stream.hear().await, Ok(operator_message::Message::Inspect(_))));
    say(&other).await.unwrap();
    assert!(port.agents.snapshot().inspected.is_empty(), "it was not asked");
    let stranger = port.connect(gateway()).await;
    assert_eq!(say(&stranger).await.unwrap_err().code(), Code::PermissionDenied);
    say(&asked).await.unwrap();
    let inspected = port.agents.snapshot().inspected;
    assert_eq!(inspected.len(), 1);
    assert_eq!((inspected[0].node.as_str(), &inspected[0].inspection), ("a", &answer));
}
