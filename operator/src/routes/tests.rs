//! Gateways over real TLS, against the service as it is served.

use std::collections::BTreeSet;
use std::time::Duration;

use identity::{Held, Wanted};
use proto::control::v1::routes_client::RoutesClient;
use proto::control::v1::trust_client::TrustClient;
use proto::control::v1::{ModelRoute, TrustHeld, TrustWanted, VocabularyRequest, WatchRequest};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::*;
use crate::fixture::port::{Port, agent, gateway, within};

fn table(name: &str) -> RouteTable {
    RouteTable {
        models: vec![ModelRoute {
            name: name.into(),
            ..Default::default()
        }],
    }
}

#[tokio::test]
async fn a_gateway_hears_nothing_before_the_first_decision_and_then_every_change() {
    let port = Port::serve(true).await;
    let mut client = RoutesClient::new(port.connect(gateway()).await);
    let mut stream = within(client.watch(WatchRequest {})).await.unwrap().into_inner();
    port.routes.publish(table("one"));
    assert_eq!(within(stream.message()).await.unwrap(), Some(table("one")));
    port.routes.publish(table("one"));
    port.routes.publish(table("two"));
    assert_eq!(
        within(stream.message()).await.unwrap(),
        Some(table("two")),
        "a repetition is not sent"
    );
    let mut late = within(client.watch(WatchRequest {})).await.unwrap().into_inner();
    assert_eq!(within(late.message()).await.unwrap(), Some(table("two")));
    port.leading.send_replace(false);
    assert_eq!(within(stream.message()).await.unwrap_err().message(), "not the leader");
}

#[tokio::test]
async fn a_gateway_hears_whom_it_shall_trust_and_says_whom_it_does_and_one_that_only_watches_is_known_by_name() {
    let port = Port::serve(true).await;
    let channel = port.connect(gateway()).await;
    let mut watching = RoutesClient::new(channel.clone());
    let _table = within(watching.watch(WatchRequest {})).await.unwrap();
    let holders = || port.context.holders.list(crate::clock::now());
    let mut changes = port.context.holders.changes();
    within(async {
        while holders().is_empty() {
            changes.changed().await.unwrap();
        }
    })
    .await;
    assert_eq!(
        (holders()[0].name.as_str(), &holders()[0].held),
        ("gateway gateway-0", &None)
    );

    let wanted = Wanted::of(&port.context.keys.authority.get(), Duration::from_secs(2));
    port.context.holders.want(Some(&wanted));
    let (say, said) = tokio::sync::mpsc::channel(1);
    let mut client = TrustClient::new(channel);
    let mut wishes = within(client.follow(ReceiverStream::new(said)))
        .await
        .unwrap()
        .into_inner();
    let told = within(wishes.message()).await.unwrap();
    assert_eq!(told, Some(TrustWanted::from(&wanted)));
    let held = Held {
        authorities: wanted.authorities.clone(),
        issuers: BTreeSet::from([wanted.issuer]),
    };
    say.send(TrustHeld::from(&held)).await.unwrap();
    within(async {
        while holders()[0].held.as_ref() != Some(&held) {
            changes.changed().await.unwrap();
        }
    })
    .await;
    assert_eq!(holders().len(), 1, "both streams are of one gateway");
    port.leading.send_replace(false);
    assert_eq!(within(wishes.message()).await.unwrap_err().message(), "not the leader");
}

#[tokio::test]
async fn only_gateways_say_whom_they_trust_by_a_call_of_its_own() {
    let port = Port::serve(true).await;
    let (_say, said) = tokio::sync::mpsc::channel(1);
    let mut agent = TrustClient::new(port.connect(agent("a")).await);
    let refused = within(agent.follow(ReceiverStream::new(said))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn only_gateways_watch_and_only_of_the_leader() {
    let port = Port::serve(true).await;
    let mut agent = RoutesClient::new(port.connect(agent("a")).await);
    assert_eq!(
        within(agent.watch(WatchRequest {})).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    port.leading.send_replace(false);
    let mut gateway = RoutesClient::new(port.connect(gateway()).await);
    assert_eq!(
        within(gateway.watch(WatchRequest {})).await.unwrap_err().code(),
        Code::Unavailable
    );
}

#[tokio::test]
async fn a_vocabulary_arrives_in_pieces_and_whole() {
    let port = Port::serve(true).await;
    let data: Vec<u8> = (0..3_000_000_u32).map(|at| at as u8).collect();
    port.routes.vocabularies.insert([5; 32], data.clone().into());
    let mut client = RoutesClient::new(port.connect(gateway()).await);
    let mut stream = within(client.vocabulary(VocabularyRequest { sha256: vec![5; 32] }))
        .await
        .unwrap()
        .into_inner();
    let mut received = Vec::new();
    while let Some(piece) = within(stream.message()).await.unwrap() {
        received.extend(piece.data);
    }
    assert!(received == data);
    let unknown = within(client.vocabulary(VocabularyRequest { sha256: vec![6; 32] }))
        .await
        .unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let nonsense = within(client.vocabulary(VocabularyRequest { sha256: vec![6; 31] }))
        .await
        .unwrap_err();
    assert_eq!(nonsense.code(), Code::InvalidArgument);
}
