//! Gateways over real TLS, against the service as it is served.

use proto::control::v1::routes_client::RoutesClient;
use proto::control::v1::{ModelRoute, VocabularyRequest, WatchRequest};
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
