use identity::{PlacementSigner, PlacementVerifier};
use proto::control::v1::{ModelRoute, RouteTable};
use proto::placement::v1::{Pipeline, Placement, Runtime, Source, Stage};

use super::{Found, ModelState, Table};

struct Operator {
    signer: PlacementSigner,
    verifier: PlacementVerifier,
}

impl Operator {
    fn new() -> Self {
        let signer = PlacementSigner::generate().unwrap();
        let verifier = PlacementVerifier::new([signer.public_key()]).unwrap();
        Self { signer, verifier }
    }

    fn verify(&self, models: Vec<ModelRoute>, previous: &Table) -> Table {
        Table::verified(RouteTable { models }, previous, &self.verifier, "shardwright")
    }

    fn first(&self, models: Vec<ModelRoute>) -> Table {
        self.verify(models, &Table::default())
    }

    fn route(&self, namespace: &str, name: &str, epoch: u64) -> ModelRoute {
        self.signed(&placement(namespace, name, epoch))
    }

    fn signed(&self, placement: &Placement) -> ModelRoute {
        ModelRoute {
            model_uid: placement.model_uid.clone(),
            namespace: placement.namespace.clone(),
            name: placement.name.clone(),
            envelope: Some(self.signer.sign(placement)),
            head_endpoints: placement
                .pipelines
                .iter()
                .map(|_| "127.0.0.1:7000".to_owned())
                .collect(),
            ready: true,
            vocabulary_sha256: vec![7; 32],
            created_unix_s: 1,
            ..ModelRoute::default()
        }
    }
}

fn placement(namespace: &str, name: &str, epoch: u64) -> Placement {
    let stage = |node: &str| Stage {
        node: node.into(),
        ..Stage::default()
    };
    Placement {
        epoch,
        model_uid: format!("uid-{namespace}-{name}"),
        namespace: namespace.into(),
        name: name.into(),
        source: Some(Source {
            index_sha256: vec![3; 32],
            ..Source::default()
        }),
        runtime: Some(Runtime {
            context_length: 512,
            ..Runtime::default()
        }),
        pipelines: vec![Pipeline {
            stages: vec![stage("node-a"), stage("node-b")],
            ..Pipeline::default()
        }],
        ..Placement::default()
    }
}

fn epoch(table: &Table) -> u64 {
    match &table.models()[0].state {
        ModelState::Ready(route) => route.epoch,
        ModelState::NotReady { message, .. } => panic!("not ready: {message}"),
    }
}

fn reason(table: &Table) -> String {
    match &table.models()[0].state {
        ModelState::Ready(_) => panic!("ready"),
        ModelState::NotReady { message, .. } => message.clone(),
    }
}

#[test]
fn a_signed_and_ready_model_is_asked_at_the_worker_of_its_first_stage() {
    let operator = Operator::new();
    let table = operator.first(vec![operator.route("default", "chat", 3)]);
    let ModelState::Ready(route) = &table.models()[0].state else {
        panic!("not ready")
    };
    assert_eq!((route.epoch, route.context_length), (3, 512));
    assert_eq!(route.heads[0].endpoint, "127.0.0.1:7000");
    assert_eq!(
        route.heads[0].worker.to_string(),
        "spiffe://shardwright/worker/node-a/uid-default-chat"
    );
}

#[test]
fn a_model_signed_by_someone_else_is_listed_but_never_asked() {
    let (operator, stranger) = (Operator::new(), Operator::new());
    let table = operator.first(vec![stranger.route("default", "chat", 3)]);
    assert!(reason(&table).contains("cannot be verified"));
}

#[test]
fn a_placement_of_another_model_is_refused() {
    let operator = Operator::new();
    let mut route = operator.route("default", "chat", 3);
    route.envelope = operator.route("default", "other", 3).envelope;
    assert!(reason(&operator.first(vec![route])).contains("cannot be verified"));
}

#[test]
fn an_older_epoch_or_a_bad_signature_changes_nothing() {
    let operator = Operator::new();
    let present = operator.first(vec![operator.route("default", "chat", 3)]);
    assert_eq!(
        epoch(&operator.verify(vec![operator.route("default", "chat", 2)], &present)),
        3
    );
    assert_eq!(
        epoch(&operator.verify(vec![Operator::new().route("default", "chat", 9)], &present)),
        3
    );
    assert_eq!(
        epoch(&operator.verify(vec![operator.route("default", "chat", 4)], &present)),
        4
    );
}

#[test]
fn a_model_that_does_not_serve_says_why() {
    let operator = Operator::new();
    let mut route = operator.route("default", "chat", 3);
    route.ready = false;
    route.message = "2 of 3 stages serve".into();
    assert_eq!(reason(&operator.first(vec![route.clone()])), "2 of 3 stages serve");
    route.envelope = None;
    assert_eq!(reason(&operator.first(vec![route])), "2 of 3 stages serve");
}

#[test]
fn only_heads_that_serve_and_may_speak_are_asked() {
    let operator = Operator::new();
    let mut placement = placement("default", "chat", 3);
    let pipeline = |node: &str| Pipeline {
        stages: vec![Stage {
            node: node.into(),
            ..Stage::default()
        }],
        ..Pipeline::default()
    };
    placement.pipelines = vec![pipeline("a"), pipeline("b"), pipeline("c")];
    placement.denied = vec!["spiffe://shardwright/worker/b/uid-default-chat".into()];
    let mut route = operator.signed(&placement);
    route.head_endpoints = vec![String::new(), "b:1".into(), "c:1".into()];
    let table = operator.first(vec![route.clone()]);
    let endpoints: Vec<String> = table.heads().into_iter().map(|head| head.endpoint).collect();
    assert_eq!(endpoints, ["c:1"]);
    route.head_endpoints.pop();
    assert!(reason(&operator.first(vec![route])).contains("cannot be verified"));
}

#[test]
fn every_head_is_asked_in_the_epoch_of_its_pipeline() {
    let operator = Operator::new();
    let mut placement = placement("default", "chat", 5);
    let pipeline = |node: &str, epoch: u64| Pipeline {
        stages: vec![Stage {
            node: node.into(),
            ..Stage::default()
        }],
        epoch,
    };
    placement.pipelines = vec![pipeline("a", 2), pipeline("b", 3), pipeline("c", 5), pipeline("d", 0)];
    let mut route = operator.signed(&placement);
    route.head_endpoints = vec![String::new(), "b:1".into(), "c:1".into(), "d:1".into()];
    let table = operator.first(vec![route]);
    let ModelState::Ready(route) = &table.models()[0].state else {
        panic!("not ready")
    };
    let epochs: Vec<u64> = route.heads.iter().map(|head| route.epoch_of(head)).collect();
    assert_eq!((route.epoch, epochs), (5, vec![3, 5, 5]));
}

#[test]
fn a_name_is_an_id_where_it_is_unique() {
    let operator = Operator::new();
    let table = operator.first(vec![
        operator.route("a", "chat", 1),
        operator.route("b", "chat", 1),
        operator.route("b", "code", 1),
    ]);
    assert!(matches!(table.find("code"), Found::Model(model) if model.namespace == "b"));
    assert!(matches!(table.find("a/chat"), Found::Model(model) if model.namespace == "a"));
    assert_eq!(table.find("chat"), Found::Ambiguous);
    for unknown in ["", "a", "a/", "c/chat", "chat/a"] {
        assert_eq!(table.find(unknown), Found::None, "{unknown:?}");
    }
    let ids: Vec<String> = table.models().iter().map(|model| table.public_id(model)).collect();
    assert_eq!(ids, ["a/chat", "b/chat", "code"]);
    assert_eq!(table.vocabularies(), [[7; 32]]);
}

#[tokio::test]
async fn a_stored_table_is_read_back_and_a_damaged_one_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    assert!(super::disk::load(directory.path()).await.unwrap().is_none());
    let table = RouteTable {
        models: vec![Operator::new().route("default", "chat", 1)],
    };
    super::disk::store(directory.path(), &table).await.unwrap();
    assert_eq!(super::disk::load(directory.path()).await.unwrap(), Some(table));
    std::fs::write(super::disk::path(directory.path()), b"no table").unwrap();
    assert!(super::disk::load(directory.path()).await.is_err());
}

#[test]
fn a_model_that_is_placed_nowhere_any_more_is_not_ready_and_still_refuses_older_placements() {
    let operator = Operator::new();
    let ready = operator.first(vec![operator.route("default", "m", 5)]);
    let unplaced = ModelRoute {
        envelope: None,
        head_endpoints: Vec::new(),
        ready: false,
        message: "2.1 GiB short".to_owned(),
        ..operator.route("default", "m", 5)
    };
    let table = operator.verify(vec![unplaced], &ready);
    assert_eq!(reason(&table), "2.1 GiB short");
    let older = operator.verify(vec![operator.route("default", "m", 4)], &table);
    assert_eq!(reason(&older), "2.1 GiB short");
    assert_eq!(
        epoch(&operator.verify(vec![operator.route("default", "m", 6)], &older)),
        6
    );
}
