//! Who may install what, and who may speak to whom.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use identity::{PlacementSigner, Role, SpiffeId};
use prost::Message as _;
use proto::placement::v1::{Placement, Stage};
use proto::shard::v1 as wire;
use proto::shard::v1::carry_message::Message;
use rig::fake::{Fake, LAYERS, WIDTH};
use rig::gateway::{Gateway, carrier, request};
use rig::head::Head;
use rig::local::{Chain, LocalWorker, within_limit};
use rig::realm::{Realm, TRUST_DOMAIN, gateway_id, unix_s, worker_id};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use worker::compute::LoadError;
use worker::control::{Answer, Phase};
use worker::run::Exit;
use worker::stage::activations;
use worker::step::{Row, Step};

async fn start(realm: &Realm, stage: usize, incarnation: &str) -> LocalWorker {
    let at = &realm.stages[stage];
    let fake = Fake::new(at.first_layer, at.end_layer);
    LocalWorker::start(realm.config(stage, incarnation), fake.loader()).await
}

async fn refusal(worker: &LocalWorker, envelope: &[u8]) -> String {
    worker.agent.install(envelope, None).await.unwrap_err().0
}

#[tokio::test]
async fn a_placement_is_installed_only_when_it_is_signed_fresh_and_about_this_worker() {
    let realm = Realm::new(&[3, LAYERS]);
    let worker = start(&realm, 1, "").await;
    let change = |change: &dyn Fn(&mut Placement)| {
        let mut placement = realm.placement(7);
        change(&mut placement);
        realm.sign(&placement)
    };
    let stranger = PlacementSigner::generate()
        .unwrap()
        .sign(&realm.placement(7))
        .encode_to_vec();
    let refused = [
        (stranger, "BadSignature"),
        (b"no envelope".to_vec(), "BadSignature"),
        (change(&|p| p.not_after_unix_s = unix_s() - 5), "Expired"),
        (change(&|p| p.model_uid = "other".into()), "NotMine"),
        (change(&|p| p.pipelines.clear()), "NotMine"),
        (change(&|p| p.runtime = None), "NotMine"),
        (change(&|p| p.runtime.as_mut().unwrap().context_length = 8), "NotMine"),
        (change(&|p| p.runtime.as_mut().unwrap().max_step_rows = 9), "NotMine"),
        (change(&|p| p.pipelines[0].stages.truncate(1)), "NotMine"),
        (change(&|p| drop(p.pipelines[0].stages.remove(0))), "NotMine"),
        (change(&|p| p.pipelines[0].stages.push(Stage::default())), "NotMine"),
        (change(&|p| p.pipelines[0].stages[1].node = "other".into()), "NotMine"),
        (change(&|p| p.pipelines[0].stages[1].device = "other".into()), "NotMine"),
        (change(&|p| p.pipelines[0].stages[1].first_layer = 2), "NotMine"),
        (change(&|p| p.denied.push(worker_id("node-1").to_string())), "NotMine"),
    ];
    for (envelope, reason) in refused {
        assert_eq!(refusal(&worker, &envelope).await, reason);
        assert_eq!(worker.agent.status().await.unwrap().epoch, None);
    }
    worker.agent.install(&realm.envelope(7), None).await.unwrap();
    assert_eq!(worker.agent.status().await.unwrap().epoch, Some(7));
}

#[tokio::test]
async fn lower_epochs_are_refused_even_after_a_restart() {
    let realm = Realm::new(&[LAYERS]);
    let mut worker = start(&realm, 0, "").await;
    let seven = realm.envelope(7);
    worker.agent.install(&seven, None).await.unwrap();
    worker.agent.install(&seven, None).await.unwrap();
    assert_eq!(refusal(&worker, &realm.envelope(6)).await, "StaleEpoch");
    let mut other = realm.placement(7);
    other.generation = 2;
    assert_eq!(refusal(&worker, &realm.sign(&other)).await, "StaleEpoch");
    worker.kill();
    let worker = start(&realm, 0, "").await;
    assert_eq!(refusal(&worker, &realm.envelope(6)).await, "StaleEpoch");
    worker.agent.install(&seven, None).await.unwrap();
}

#[tokio::test]
async fn a_placement_whose_epoch_cannot_be_kept_is_refused_by_the_name_of_the_file_until_it_can() {
    let realm = Realm::new(&[LAYERS]);
    let config = realm.config(0, "");
    let in_the_way = config.epoch_file();
    let worker = LocalWorker::start(config, Fake::new(0, LAYERS).loader()).await;
    std::fs::create_dir(&in_the_way).unwrap();
    let (reason, message) = worker.agent.install(&realm.envelope(7), None).await.unwrap_err();
    assert_eq!(reason, "Unwritable");
    let named = format!("cannot write {}: Is a directory", in_the_way.display());
    assert!(
        message.contains(&named) && message.contains("needs room and belongs to the agent's user"),
        "{message}"
    );
    assert_eq!(worker.agent.status().await.unwrap().epoch, None);
    std::fs::remove_dir(&in_the_way).unwrap();
    worker.agent.install(&realm.envelope(7), None).await.unwrap();
    assert_eq!(worker.agent.status().await.unwrap().epoch, Some(7));
}

#[tokio::test]
async fn a_placement_in_force_outlives_its_time_to_be_installed() {
    let realm = Realm::new(&[3, LAYERS]);
    let worker = start(&realm, 0, "").await;
    let mut placement = realm.placement(1);
    placement.not_after_unix_s = unix_s() + 5;
    let envelope = realm.sign(&placement);
    worker.agent.install(&envelope, None).await.unwrap();
    rig::wait_for("the placement expires", || async {
        (unix_s() > placement.not_after_unix_s).then_some(())
    })
    .await;
    worker.agent.install(&envelope, Some("127.0.0.1:1")).await.unwrap();
}

#[tokio::test]
async fn a_prolonged_placement_of_the_same_epoch_is_no_other_one_and_renews_the_next_endpoint() {
    let realm = Realm::new(&[3, LAYERS]);
    let worker = start(&realm, 0, "").await;
    let mut placement = realm.placement(7);
    worker.agent.install(&realm.sign(&placement), None).await.unwrap();
    placement.not_after_unix_s += 3600;
    let prolonged = realm.sign(&placement);
    worker.agent.install(&prolonged, Some("127.0.0.1:1")).await.unwrap();
    placement.generation += 1;
    assert_eq!(refusal(&worker, &realm.sign(&placement)).await, "StaleEpoch");
}

#[tokio::test]
async fn only_gateways_may_generate_and_only_on_the_head() {
    let chain = Chain::start(Realm::new(&[3, LAYERS])).await;
    chain.gateway(1).await;
    let (head, tail) = (chain.endpoint(0).await, chain.endpoint(1).await);
    let agent = SpiffeId::new(TRUST_DOMAIN, Role::Agent { node: "node-0".into() }).unwrap();
    let cases = [
        (gateway_id(), 1, &tail, "not the head"),
        (agent, 0, &head, "is not a gateway"),
        (worker_id("node-1"), 0, &head, "is not a gateway"),
    ];
    for (id, stage, endpoint, part) in cases {
        let caller = Gateway::dial_as(&chain.realm, &id, stage, endpoint).await;
        let status = caller.generate(request(1, &[1], 1)).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
        assert!(status.message().contains(part), "{status:?}");
    }
    let mut placement = chain.realm.placement(2);
    placement.denied.push(gateway_id().to_string());
    chain.install_envelope(&chain.realm.sign(&placement)).await;
    let denied = Gateway::dial(&chain.realm, 0, &head).await;
    let status = denied.generate(request(2, &[1], 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(
        status.message().contains("denied by the placement of epoch 2"),
        "{status:?}"
    );
}

#[tokio::test]
async fn a_request_far_larger_than_the_context_is_not_even_read() {
    let chain = Chain::start(Realm::new(&[LAYERS])).await;
    let gateway = chain.gateway(1).await;
    let status = gateway.generate(request(1, &vec![1; 1 << 20], 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
}

#[tokio::test]
async fn before_a_placement_nobody_is_served() {
    let realm = Realm::new(&[LAYERS]);
    let worker = start(&realm, 0, "").await;
    let gateway = Gateway::dial(&realm, 0, &worker.agent.endpoint().await).await;
    assert_eq!(
        gateway.generate(request(1, &[1], 1)).await.unwrap_err().code(),
        Code::Unavailable
    );
}

/// A stage before the worker's, played by the test.
struct Previous {
    messages: mpsc::Sender<wire::CarryMessage>,
    results: Streaming<wire::StepResult>,
}

impl Previous {
    async fn open(realm: &Realm, id: &SpiffeId, stage: usize, endpoint: &str, epoch: u64) -> Result<Self, Status> {
        let mut client = carrier(realm, id, stage, endpoint).await;
        let (messages, outgoing) = mpsc::channel(4);
        let open = Message::Open(wire::Open { epoch });
        messages.send(wire::CarryMessage { message: Some(open) }).await.unwrap();
        let results = client.carry(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { messages, results })
    }

    async fn send(&self, message: Message) {
        self.messages
            .send(wire::CarryMessage { message: Some(message) })
            .await
            .unwrap();
    }

    async fn result(&mut self) -> Result<wire::StepResult, Status> {
        let result = within_limit("a result", self.results.message()).await?;
        Ok(result.expect("a result before the end of the stream"))
    }

    /// The result of a step of one row of sequence 0, sampled at the tail.
    async fn step(&mut self, epoch: u64, number: u64, position: u32, values: &[f32]) -> wire::StepResult {
        let row = Row {
            sequence: 0,
            position,
            token: 1,
            sample: Some(engine::Sampling::GREEDY),
        };
        let step = Step {
            number,
            operations: vec![],
            rows: vec![row],
        };
        self.send(Message::Step(step.to_wire(epoch, activations::encode(values.to_vec()))))
            .await;
        self.result().await.unwrap()
    }
}

fn reason(result: &wire::StepResult) -> &str {
    result.error.as_ref().map_or("", |error| &error.reason)
}

#[tokio::test]
async fn only_the_stage_before_may_carry() {
    let chain = Chain::start(Realm::new(&[2, 4, LAYERS])).await;
    chain.gateway(1).await;
    let (head, middle) = (chain.endpoint(0).await, chain.endpoint(1).await);
    let cases = [
        (
            worker_id("node-2"),
            1,
            &middle,
            "does not come before this stage in epoch 1",
        ),
        (gateway_id(), 1, &middle, "does not come before"),
        (worker_id("node-0"), 0, &head, "is the head"),
    ];
    for (id, stage, endpoint, part) in cases {
        let refused = Previous::open(&chain.realm, &id, stage, endpoint, 1).await;
        let status = refused.err().expect("a refusal");
        assert_eq!(status.code(), Code::PermissionDenied);
        assert!(status.message().contains(part), "{status:?}");
    }
    let stale = Previous::open(&chain.realm, &worker_id("node-0"), 1, &middle, 9).await;
    assert_eq!(stale.err().map(|status| status.code()), Some(Code::FailedPrecondition));
}

#[tokio::test]
async fn a_stage_refuses_what_does_not_follow_and_undoes_what_it_is_told_to() {
    let realm = Realm::new(&[3, LAYERS]);
    let tail = start(&realm, 1, "").await;
    tail.agent.install(&realm.envelope(1), None).await.unwrap();
    let endpoint = tail.agent.endpoint().await;
    let mut previous = Previous::open(&realm, &worker_id("node-0"), 1, &endpoint, 1)
        .await
        .unwrap();
    let values = [3.0; WIDTH];
    let first = previous.step(1, 5, 0, &values).await;
    assert_eq!((first.number, first.tokens.len(), first.compute_us.len()), (5, 1, 1));
    assert_eq!(first.tokens[0].position, 1);
    assert_eq!(reason(&previous.step(1, 7, 1, &values).await), "OutOfOrder");
    assert_eq!(reason(&previous.step(1, 6, 2, &values).await), "OutOfOrder");
    assert_eq!(reason(&previous.step(1, 6, 1, &values[1..]).await), "WrongShape");
    assert_eq!(reason(&previous.step(1, 6, 1, &[f32::NAN; WIDTH]).await), "Compute");
    assert_eq!(reason(&previous.step(2, 6, 1, &values).await), "WrongEpoch");
    let second = previous.step(1, 6, 1, &values).await;
    assert_eq!(reason(&second), "");
    previous
        .send(Message::Rollback(wire::Rollback { from_number: 5 }))
        .await;
    let again = previous.step(1, 5, 0, &values).await;
    assert_eq!(again.tokens, first.tokens);
    assert_eq!(previous.step(1, 6, 1, &values).await.tokens, second.tokens);

    let mut newer = Previous::open(&realm, &worker_id("node-0"), 1, &endpoint, 1)
        .await
        .unwrap();
    assert_eq!(previous.result().await.unwrap_err().code(), Code::Aborted);
    assert_eq!(newer.step(1, 1, 0, &values).await.tokens, first.tokens);
    newer.send(Message::Open(wire::Open { epoch: 1 })).await;
    assert_eq!(newer.result().await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_stream_that_waits_to_be_opened_does_not_take_over_from_one_of_a_newer_epoch() {
    let realm = Realm::new(&[3, LAYERS]);
    let tail = start(&realm, 1, "").await;
    tail.agent.install(&realm.envelope(1), None).await.unwrap();
    let (endpoint, head) = (tail.agent.endpoint().await, worker_id("node-0"));
    let mut client = carrier(&realm, &head, 1, &endpoint).await;
    let (late, outgoing) = mpsc::channel(1);
    let opening = tokio::spawn(async move { client.carry(ReceiverStream::new(outgoing)).await.map(drop) });

    tail.agent.install(&realm.envelope(2), None).await.unwrap();
    let mut newer = Previous::open(&realm, &head, 1, &endpoint, 2).await.unwrap();
    let message = Some(Message::Open(wire::Open { epoch: 1 }));
    late.send(wire::CarryMessage { message }).await.unwrap();
    let refused = within_limit("a refusal", opening).await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(reason(&newer.step(2, 1, 0, &[3.0; WIDTH]).await), "");
}

#[tokio::test]
async fn a_stage_that_misses_the_next_one_goes_on_where_it_hears_of_it_while_the_stage_before_it_waits() {
    let realm = Realm::new(&[2, 4, LAYERS]);
    let (middle, tail) = (start(&realm, 1, "").await, start(&realm, 2, "").await);
    let envelope = realm.envelope(1);
    tail.agent.install(&envelope, None).await.unwrap();
    middle.agent.install(&envelope, None).await.unwrap();
    let (endpoint, head) = (middle.agent.endpoint().await, worker_id("node-0"));
    let opening = Previous::open(&realm, &head, 1, &endpoint, 1);
    let hearing = async {
        let next = tail.agent.endpoint().await;
        middle.agent.install(&envelope, Some(&next)).await.unwrap();
    };
    let (opened, ()) = Box::pin(within_limit("the stream", async { tokio::join!(opening, hearing) })).await;
    let mut opened = opened.unwrap();
    assert_eq!(reason(&opened.step(1, 1, 0, &[3.0; WIDTH]).await), "");
}

#[tokio::test]
async fn a_stage_that_hears_nothing_of_the_next_one_says_so_to_the_stage_before_it() {
    let realm = Realm::new(&[2, 4, LAYERS]);
    let middle = start(&realm, 1, "").await;
    middle.agent.install(&realm.envelope(1), None).await.unwrap();
    let endpoint = middle.agent.endpoint().await;
    let head = worker_id("node-0");
    let opening = Previous::open(&realm, &head, 1, &endpoint, 1);
    let refused = within_limit("a refusal", opening).await.map(drop).unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(
        refused
            .message()
            .contains("stage 2 cannot be reached: its endpoint is not known yet"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_next_stage_of_another_epoch_is_named_with_both_epochs() {
    let realm = Realm::new(&[3, LAYERS]);
    let tail = start(&realm, 1, "").await;
    tail.agent.install(&realm.envelope(2), None).await.unwrap();
    let next = Some(tail.agent.endpoint().await);
    // Its head has the placement of epoch 1.
    let head = Head::start(&realm, realm.config(0, ""), Fake::new(0, 3).loader(), next).await;
    let refused = within_limit("a refusal", head.open()).await.unwrap_err();
    assert_eq!(
        refused,
        "stage 1 has another epoch: FailedPrecondition: the stream is of epoch 1, installed is 2"
    );
}

#[tokio::test]
async fn a_stream_that_does_not_begin_with_open_is_refused() {
    let realm = Realm::new(&[3, LAYERS]);
    let tail = start(&realm, 1, "").await;
    tail.agent.install(&realm.envelope(1), None).await.unwrap();
    let mut client = carrier(&realm, &worker_id("node-0"), 1, &tail.agent.endpoint().await).await;
    let rollback = Message::Rollback(wire::Rollback { from_number: 1 });
    let message = wire::CarryMessage {
        message: Some(rollback),
    };
    let status = client.carry(tokio_stream::iter([message])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn the_control_socket_answers_nonsense_and_ends_a_line_without_end() {
    let realm = Realm::new(&[LAYERS]);
    let worker = start(&realm, 0, "").await;
    let agent = &worker.agent;
    for nonsense in ["", "{}", "nonsense", r#"{"op":"fly"}"#, r#"{"op":"install"}"#, "\u{1}"] {
        let answer = agent.exchange(nonsense.as_bytes()).await.unwrap();
        assert!(answer.contains("BadRequest"), "{nonsense}: {answer}");
    }
    let no_base64 = agent
        .exchange(br#"{"op":"install","envelope":"%","next":null}"#)
        .await
        .unwrap();
    assert!(no_base64.contains("BadSignature"), "{no_base64}");
    let socket = realm.config(0, "").control_socket;
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&socket).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let mut endless = tokio::net::UnixStream::connect(&socket).await.unwrap();
    endless.write_all(&vec![b'a'; 128 * 1024]).await.unwrap();
    let mut said = String::new();
    let read = tokio::io::AsyncReadExt::read_to_string(&mut endless, &mut said);
    within_limit("the end of the connection", read).await.unwrap();
    assert!(
        matches!(serde_json::from_str(&said), Ok(Answer::Outcome { ok: false, .. })),
        "{said}"
    );
    assert_eq!(agent.status().await.unwrap().phase, Phase::Serving);
}

#[tokio::test]
async fn a_placement_that_was_handed_over_while_loading_is_in_force_after_it() {
    let realm = Realm::new(&[LAYERS]);
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let loader: worker::compute::Loader = Box::new(move || {
        let _ = wait.recv();
        Ok(Box::new(Fake::new(0, LAYERS)))
    });
    let worker = LocalWorker::start(realm.config(0, ""), loader).await;
    assert_eq!(worker.agent.status().await.unwrap().phase, Phase::Loading);
    worker.agent.install(&realm.envelope(1), None).await.unwrap();
    go.send(()).unwrap();
    let gateway = Gateway::dial(&realm, 0, &worker.agent.endpoint().await).await;
    gateway.ready(1).await;
}

#[tokio::test]
async fn a_worker_that_cannot_load_says_why_and_ends() {
    let realm = Realm::new(&[LAYERS]);
    let cause = || "of some cause".to_owned();
    let cases = [
        (LoadError::Weights(cause()), "LoadRefused", Exit::Weights),
        (LoadError::Memory(cause()), "InsufficientMemory", Exit::Memory),
        (LoadError::Device(cause()), "DeviceUnavailable", Exit::Device),
        (
            LoadError::UnsupportedCpu(cause()),
            "UnsupportedCPU",
            Exit::UnsupportedCpu,
        ),
    ];
    for (error, reason, exit) in cases {
        let said = error.to_string();
        let worker = LocalWorker::start(realm.config(0, reason), Box::new(move || Err(error))).await;
        let status = rig::wait_for("the failure", || async {
            worker
                .agent
                .status()
                .await
                .filter(|status| status.phase == Phase::Failed)
        })
        .await;
        assert_eq!((status.reason.as_deref(), status.message), (Some(reason), Some(said)));
        assert_eq!(worker.exited().await, exit);
    }
}

#[tokio::test]
async fn a_worker_without_an_agent_ends_and_one_with_an_agent_stays() {
    let realm = Realm::new(&[3, LAYERS]);
    let mut config = realm.config(0, "");
    // Long enough to be met by the agent that leaves it.
    config.orphan_grace_s = 5;
    let staying = start(&realm, 1, "").await;
    let mut orphan = LocalWorker::start(config, Fake::new(0, 3).loader()).await;
    let other = rig::agent::Agent::attach(&realm.config(1, "").control_socket).await;
    orphan.agent = other;
    assert_eq!(orphan.exited().await, Exit::Drained);
    assert_eq!(staying.agent.status().await.unwrap().phase, Phase::Serving);
}

#[test]
fn an_envelope_of_the_largest_size_fits_a_line() {
    let request = worker::control::Request::Install {
        envelope: STANDARD.encode(vec![0; 64 * 1024]),
        next: Some("[2001:db8::1]:65535".to_owned()),
    };
    assert!(serde_json::to_vec(&request).unwrap().len() < 128 * 1024);
}
