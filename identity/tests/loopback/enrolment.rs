//! The client's side of enrolment, against a server that knows one token.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::enrol::EnrolError;
use identity::tls::{ALPN_GRPC, TlsError, server_config_from_pem, server_config_open};
use identity::{
    Authority, DEFAULT_LEAF_LIFETIME, EnrolOptions, PlacementSigner, Role, SpiffeId, TlsListener, enrol, grpc_server,
};
use proto::control::v1::enrolment_server::{Enrolment, EnrolmentServer};
use proto::control::v1::{EnrolRequest, EnrolResponse, Role as EnrolRole};
use tonic::{Request, Response, Status};

use crate::fixture::{Installation, Server, installation, operator};

struct Office {
    authority: Authority,
    placement_key: Vec<u8>,
    /// Answers every request with this certificate instead.
    canned: Option<String>,
    flaw: Flaw,
}

/// What is wrong with an office.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Flaw {
    None,
    CannotAnswer,
    GivesNoLeaf,
    TakesAllForAgents,
    GivesHalfAKey,
}

#[tonic::async_trait]
impl Enrolment for Office {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolResponse>, Status> {
        let request = request.into_inner();
        if request.service_account_token != "token-1" {
            return Err(Status::unauthenticated("the token does not stand"));
        }
        if self.flaw == Flaw::CannotAnswer {
            return Err(Status::unavailable("the token cannot be checked now"));
        }
        let role = match request.role() {
            EnrolRole::Gateway if self.flaw != Flaw::TakesAllForAgents => Role::Gateway {
                pod: "gateway-0".into(),
            },
            _ => Role::Agent { node: "node-a".into() },
        };
        let id = SpiffeId::new("shardwright", role).unwrap();
        let issued = self
            .authority
            .issue(&request.csr_der, &id, &[], DEFAULT_LEAF_LIFETIME, SystemTime::now());
        let mut leaf = issued.map_err(|error| Status::invalid_argument(error.to_string()))?;
        if let Some(canned) = &self.canned {
            leaf.certificate_chain_pem.clone_from(canned);
        }
        let mut placement_key = self.placement_key.clone();
        if self.flaw == Flaw::GivesHalfAKey {
            placement_key.truncate(16);
        }
        Ok(Response::new(EnrolResponse {
            leaf: (self.flaw != Flaw::GivesNoLeaf).then(|| leaf.into()),
            placement_keys: vec![placement_key],
        }))
    }
}

/// Serves enrolment for the installation's authority; returns the endpoint.
async fn open(ours: &Installation, canned: Option<String>) -> String {
    open_flawed(ours, canned, Flaw::None).await
}

async fn open_flawed(ours: &Installation, canned: Option<String>, flaw: Flaw) -> String {
    let authority = Authority::from_pem(ours.authority.cert_pem(), &ours.authority.key_pem()).unwrap();
    let placement_key = PlacementSigner::generate().unwrap().public_key().to_vec();
    let config = server_config_open(&ours.credentials(&operator()), ALPN_GRPC);
    let listener = TlsListener::bind("127.0.0.1:0", Arc::clone(&config)).await.unwrap();
    let endpoint = listener.local_addr().to_string();
    let service = EnrolmentServer::new(Office {
        authority,
        placement_key,
        canned,
        flaw,
    });
    tokio::spawn(
        grpc_server()
            .add_service(service)
            .serve_with_incoming(listener.incoming()),
    );
    endpoint
}

fn options(ours: &Installation, endpoint: String, directory: &Path, role: EnrolRole) -> EnrolOptions {
    let token_path = directory.join("token");
    std::fs::write(&token_path, "token-1\n").unwrap();
    EnrolOptions {
        endpoint,
        bundle_pem: ours.authority.bundle_pem(),
        token_path,
        role,
    }
}

#[tokio::test]
async fn a_token_that_stands_becomes_an_identity_and_the_placement_keys() {
    let (ours, directory) = (installation(), tempfile::tempdir().unwrap());
    let endpoint = open(&ours, None).await;
    for (role, id) in [
        (EnrolRole::Agent, "agent/node-a"),
        (EnrolRole::Gateway, "gateway/gateway-0"),
    ] {
        let (identity, keys) = enrol(options(&ours, endpoint.clone(), directory.path(), role))
            .await
            .unwrap();
        assert_eq!(
            identity.spiffe_id().unwrap().to_string(),
            format!("spiffe://shardwright/{id}")
        );
        assert!(!identity.needs_renewal(SystemTime::now()));
        assert_eq!(keys[0].len(), 32);
    }
}

#[tokio::test]
async fn a_token_that_does_not_stand_is_refused_in_the_operators_words() {
    let (ours, directory) = (installation(), tempfile::tempdir().unwrap());
    let options = options(&ours, open(&ours, None).await, directory.path(), EnrolRole::Agent);
    std::fs::write(&options.token_path, "token-2").unwrap();
    let refused = enrol(options.clone()).await.unwrap_err();
    assert!(
        matches!(&refused, EnrolError::Refused { message } if message == "the token does not stand"),
        "{refused}"
    );
    std::fs::remove_file(&options.token_path).unwrap();
    assert!(matches!(enrol(options).await, Err(EnrolError::Token(_))));
}

#[tokio::test]
async fn what_an_operator_cannot_do_or_does_wrong_is_told_and_nothing_of_it_is_taken_into_use() {
    let (ours, directory) = (installation(), tempfile::tempdir().unwrap());
    for (flaw, told) in [
        (
            Flaw::CannotAnswer,
            "enrolment failed: Unavailable: the token cannot be checked now",
        ),
        (Flaw::GivesNoLeaf, "the operator's answer has no leaf"),
        (
            Flaw::TakesAllForAgents,
            "asked to be Gateway, became spiffe://shardwright/agent/node-a",
        ),
        (Flaw::GivesHalfAKey, "placement key has 16 bytes, an Ed25519 key has 32"),
    ] {
        let endpoint = open_flawed(&ours, None, flaw).await;
        let refused = enrol(options(&ours, endpoint, directory.path(), EnrolRole::Gateway)).await;
        let error = refused.unwrap_err();
        let expected = match flaw {
            Flaw::CannotAnswer => matches!(error, EnrolError::Failed { .. }),
            Flaw::GivesNoLeaf => matches!(error, EnrolError::NoLeaf),
            Flaw::TakesAllForAgents => matches!(error, EnrolError::WrongRole { .. }),
            _ => matches!(error, EnrolError::Keys(_)),
        };
        assert!(expected && error.to_string() == told, "{flaw:?}: {error}");
    }
}

#[tokio::test]
async fn the_token_is_not_sent_to_a_server_of_another_authority_or_name() {
    let (ours, theirs, directory) = (installation(), installation(), tempfile::tempdir().unwrap());
    let endpoint = open(&theirs, None).await;
    let refused = enrol(options(&ours, endpoint.clone(), directory.path(), EnrolRole::Agent))
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, EnrolError::Connect(_)) && refused.to_string().contains("UnknownIssuer"),
        "{refused}"
    );
    let by_another_name = endpoint.replace("127.0.0.1", "localhost");
    let refused = enrol(options(&theirs, by_another_name, directory.path(), EnrolRole::Agent))
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("not valid for name"), "{refused}");
    let trusting_nobody = EnrolOptions {
        bundle_pem: String::new(),
        ..options(&theirs, endpoint, directory.path(), EnrolRole::Agent)
    };
    assert!(matches!(
        enrol(trusting_nobody).await,
        Err(EnrolError::Tls(TlsError::Bundle { .. }))
    ));
}

#[tokio::test]
async fn an_operator_whose_certificate_begins_later_or_has_ended_is_told_with_the_clocks_to_check() {
    let (ours, directory) = (installation(), tempfile::tempdir().unwrap());
    let now = SystemTime::now();
    let early = ours.forge(|params| params.not_before = (now + Duration::from_secs(1800)).into());
    let late = ours.forge(|params| params.not_after = (now - Duration::from_secs(30)).into());
    for (shown, words) in [(early, "certificate not valid yet"), (late, "certificate expired")] {
        let config = server_config_from_pem(&shown.certificate_chain_pem, &shown.key_pem).unwrap();
        let server = Server::start(config).await;
        let options = options(&ours, server.address.to_string(), directory.path(), EnrolRole::Agent);
        let refused = enrol(options).await.unwrap_err().to_string();
        assert!(
            refused.contains(words) && refused.contains("check the time"),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn a_leaf_for_another_key_is_not_taken_into_use() {
    let (ours, directory) = (installation(), tempfile::tempdir().unwrap());
    let other = ours.identity(&SpiffeId::new("shardwright", Role::Agent { node: "node-a".into() }).unwrap());
    let endpoint = open(&ours, Some(other.certificate_chain_pem)).await;
    let refused = enrol(options(&ours, endpoint, directory.path(), EnrolRole::Agent)).await;
    assert!(matches!(refused, Err(EnrolError::Tls(TlsError::Key { .. }))));
}
