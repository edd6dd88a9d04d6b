//! The gateway's end of the data plane, and anyone else who tries to speak there.

use std::error::Error as _;

use identity::{ConnectOptions, Credentials, Expected, connect, tls};
use proto::shard::v1 as wire;
use proto::shard::v1::generate_event::Event;
use proto::shard::v1::head_client::HeadClient;
use proto::shard::v1::stage_client::StageClient;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::realm::{MODEL, Realm, gateway_id};
use super::wait_for;

/// What a stream said in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub tokens: Vec<i32>,
    pub finished: wire::Finished,
}

pub async fn channel(credentials: &Credentials, endpoint: &str, expected: identity::SpiffeId) -> Channel {
    let config = tls::client_config(credentials);
    let options = ConnectOptions::default();
    connect(endpoint, config, Expected::Exactly(expected), options)
        .await
        .unwrap()
}

#[derive(Clone)]
pub struct Gateway {
    client: HeadClient<Channel>,
}

pub fn request(epoch: u64, prompt: &[i32], max_tokens: u32) -> wire::GenerateRequest {
    wire::GenerateRequest {
        model_uid: MODEL.to_owned(),
        epoch,
        request_id: "test".to_owned(),
        prompt_tokens: prompt.to_vec(),
        max_tokens,
        sampling: None,
        stop_tokens: Vec::new(),
        max_wait_ms: 0,
        prefix_scope: Vec::new(),
        resumed: false,
    }
}

impl Gateway {
    pub async fn dial(realm: &Realm, stage: usize, endpoint: &str) -> Self {
        Self::dial_as(realm, &gateway_id(), stage, endpoint).await
    }

    pub async fn dial_as(realm: &Realm, id: &identity::SpiffeId, stage: usize, endpoint: &str) -> Self {
        Self::dial_with(&realm.credentials(id), realm, stage, endpoint).await
    }

    /// With an identity that it has already.
    pub async fn dial_with(credentials: &Credentials, realm: &Realm, stage: usize, endpoint: &str) -> Self {
        let channel = channel(credentials, endpoint, realm.worker_id(stage)).await;
        Self {
            client: HeadClient::new(channel),
        }
    }

    pub async fn start(&self, request: wire::GenerateRequest) -> Result<Streaming<wire::GenerateEvent>, Status> {
        Ok(self.client.clone().generate(request).await?.into_inner())
    }

    pub async fn generate(&self, request: wire::GenerateRequest) -> Result<Reply, Status> {
        let mut stream = self.start(request).await?;
        let (tokens, end) = rest(&mut stream).await;
        end.map(|finished| Reply { tokens, finished })
    }

    /// As `generate`, once the pipeline stands.
    pub async fn generate_when_ready(&self, request: wire::GenerateRequest) -> Reply {
        wait_for("the pipeline stands", || async {
            match self.generate(request.clone()).await {
                Ok(reply) => Some(reply),
                Err(status) if status.code() == Code::Unavailable => None,
                // The connection of before ended while this was handed to it: the next one is over another.
                Err(status) if status.code() == Code::Cancelled && status.source().is_some() => None,
                Err(status) => panic!("{status:?}"),
            }
        })
        .await
    }

    pub async fn ready(&self, epoch: u64) {
        self.generate_when_ready(request(epoch, &[1], 1)).await;
    }
}

/// The next event; the end of the stream is an error.
pub async fn next(stream: &mut Streaming<wire::GenerateEvent>) -> Result<Event, Status> {
    let event = stream.message().await?.and_then(|event| event.event);
    event.ok_or_else(|| Status::unknown("the stream ended without a last word"))
}

/// The tokens that are still to come, and how the stream ends.
pub async fn rest(stream: &mut Streaming<wire::GenerateEvent>) -> (Vec<i32>, Result<wire::Finished, Status>) {
    let mut tokens = Vec::new();
    loop {
        match next(stream).await {
            Ok(Event::Token(token)) => tokens.push(token.id),
            Ok(Event::Finished(finished)) => return (tokens, Ok(finished)),
            Err(status) => return (tokens, Err(status)),
        }
    }
}

/// A client of `Stage.Carry`, whoever that is.
pub async fn carrier(realm: &Realm, id: &identity::SpiffeId, stage: usize, endpoint: &str) -> StageClient<Channel> {
    StageClient::new(channel(&realm.credentials(id), endpoint, realm.worker_id(stage)).await)
}
