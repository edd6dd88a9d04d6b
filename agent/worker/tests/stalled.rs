//! Stages that take the connection and then say nothing: over real TLS on loopback, each is given up in time and by name.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use std::iter::once;
use std::time::Duration;

use bytes::Bytes;
use engine::Sampling;
use proto::shard::v1 as wire;
use proto::shard::v1::carry_message::Message;
use proto::shard::v1::stage_server::Stage;
use rig::fake::{Fake, LAYERS};
use rig::gateway::carrier;
use rig::head::{Head, serve};
use rig::local::within_limit;
use rig::realm::{Realm, worker_id};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use worker::compute::{Compute, ComputeError, Facts, Loader, Output};
use worker::head::pipeline::Pipeline;
use worker::placement::Stand;
use worker::stage::activations;
use worker::stage::link::Deadlines;
use worker::stage::thread::{Done, Left};
use worker::step::{Reason, Row, Step};

/// Of activations in one row: six such steps are more than a connection takes whose end is not read, and one is less than a
/// message may have.
const WIDE_BYTES: usize = 3 << 20;

/// A wait that a test has time for, where nothing is to come.
const SHORT: Duration = Duration::from_secs(1);

/// Of who waits for an opening that never comes.
fn hasty_to_open() -> Deadlines {
    Deadlines {
        open: SHORT,
        ..Deadlines::default()
    }
}

/// Of who waits for a step that never comes back.
fn hasty_with_steps() -> Deadlines {
    Deadlines {
        step: SHORT,
        ..Deadlines::default()
    }
}

/// A stage that never answers.
enum Mute {
    /// Not even whether it takes the stream.
    AtOnce,
    /// It takes the stream, and nothing that is sent on it.
    Later,
}

#[tonic::async_trait]
impl Stage for Mute {
    type CarryStream = ReceiverStream<Result<wire::StepResult, Status>>;

    async fn carry(
        &self,
        request: Request<Streaming<wire::CarryMessage>>,
    ) -> Result<Response<Self::CarryStream>, Status> {
        if let Self::AtOnce = self {
            std::future::pending::<()>().await;
        }
        let (results, answers) = mpsc::channel(1);
        let upstream = request.into_inner();
        tokio::spawn(async move {
            results.closed().await;
            drop(upstream);
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

async fn mute(realm: &Realm, stage: usize, mute: Mute) -> String {
    serve(&realm.credentials(&realm.worker_id(stage)), mute).await
}

async fn stage(realm: &Realm, stage: usize, next: String, deadlines: Deadlines) -> Head {
    let at = &realm.stages[stage];
    let loader = Fake::new(at.first_layer, at.end_layer).loader();
    Head::start_within(realm, realm.config(stage, ""), loader, Some(next), deadlines).await
}

/// A stage behind the head that hands on what it is sent, and whose rows are large.
struct Wide;

impl Compute for Wide {
    fn facts(&self) -> Facts {
        Facts {
            embedding_length: WIDE_BYTES / size_of::<f32>(),
            vocabulary_size: 0,
            shares_prefixes: true,
        }
    }

    fn embed(&mut self, _: &[i32]) -> Result<Vec<f32>, ComputeError> {
        Err(ComputeError::Failed("it is no head".to_owned()))
    }

    fn step(&mut self, _: &[Row], activations: &[f32]) -> Result<Output, ComputeError> {
        Ok(Output::Activations(activations.to_vec()))
    }

    fn remove(&mut self, _: u32, _: u32, _: Option<u32>) -> Result<(), ComputeError> {
        Ok(())
    }

    fn copy_prefix(&mut self, _: u32, _: u32, _: u32) -> Result<(), ComputeError> {
        Ok(())
    }
}

/// Of the steps of one sequence, the one of this number, which counts up from 1.
fn step(number: u64) -> Step {
    let row = Row {
        sequence: 0,
        position: number as u32 - 1,
        token: 5,
        sample: Some(Sampling::GREEDY),
    };
    Step {
        number,
        operations: Vec::new(),
        rows: vec![row],
    }
}

/// Submits two steps; the message of the first one's failure, which is the second one's too.
async fn failure(pipeline: &mut Pipeline) -> String {
    for number in 1..=2 {
        pipeline.submit(&step(number)).await.unwrap();
    }
    let mut faults = Vec::new();
    for number in 1..=2 {
        let completed = within_limit("a failure", pipeline.next()).await;
        assert_eq!(completed.number, number);
        faults.push(completed.outcome.unwrap_err());
    }
    assert_eq!(faults[0], faults[1]);
    assert_eq!(faults[0].reason, Reason::Unreachable);
    within_limit("it is broken", pipeline.broken()).await;
    faults[0].to_string()
}

#[tokio::test]
async fn a_next_stage_that_never_answers_the_handshake_is_given_up_by_name() {
    let realm = Realm::new(&[3, LAYERS]);
    // The kernel takes the connection.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = silent.local_addr().unwrap().to_string();
    let head = stage(&realm, 0, endpoint, hasty_to_open()).await;
    let cause = within_limit("a refusal", head.open()).await.unwrap_err();
    assert_eq!(cause, "stage 1 cannot be reached: no answer within 1s");
}

#[tokio::test]
async fn a_next_stage_that_never_answers_the_opening_of_the_stream_is_given_up_by_name() {
    let realm = Realm::new(&[3, LAYERS]);
    let endpoint = mute(&realm, 1, Mute::AtOnce).await;
    let head = stage(&realm, 0, endpoint, hasty_to_open()).await;
    let cause = within_limit("a refusal", head.open()).await.unwrap_err();
    assert_eq!(cause, "stage 1 cannot be reached: no answer within 1s");
}

#[tokio::test]
async fn a_next_stage_that_never_answers_a_step_fails_those_under_way_by_name() {
    let realm = Realm::new(&[3, LAYERS]);
    let endpoint = mute(&realm, 1, Mute::Later).await;
    let head = stage(&realm, 0, endpoint, hasty_with_steps()).await;
    let mut pipeline = within_limit("the stream stands", head.open()).await.unwrap();
    let said = failure(&mut pipeline).await;
    assert_eq!(said, "stage 1: Unreachable: no answer within 1s");
    within_limit("it is closed", pipeline.close()).await;
}

#[tokio::test]
async fn a_stage_says_by_name_which_one_behind_it_never_answers_before_its_own_time_is_up() {
    let realm = Realm::new(&[2, 4, LAYERS]);
    let endpoint = mute(&realm, 2, Mute::Later).await;
    let middle = stage(&realm, 1, endpoint, hasty_with_steps()).await;
    let head = stage(&realm, 0, middle.serve().await, Deadlines::default()).await;
    let mut pipeline = within_limit("the stream stands", head.open()).await.unwrap();
    let said = failure(&mut pipeline).await;
    assert!(said.starts_with("stage 1: "), "{said}");
    assert!(said.ends_with("stage 2 gave no answer within 1s"), "{said}");
}

#[tokio::test]
async fn another_worker_at_the_next_stages_address_is_not_taken_for_it_and_both_are_named() {
    let realm = Realm::new(&[3, LAYERS]);
    let stranger = worker_id("node-z");
    let endpoint = serve(&realm.credentials(&stranger), Mute::Later).await;
    let head = stage(&realm, 0, endpoint, Deadlines::default()).await;
    let cause = within_limit("a refusal", head.open()).await.unwrap_err();
    let both = format!("{stranger} answers where {} is expected", realm.worker_id(1));
    assert!(
        cause.starts_with("stage 1 cannot be reached: ") && cause.contains(&both),
        "{cause}"
    );
}

#[tokio::test]
async fn a_step_that_the_next_stage_does_not_take_fails_and_those_before_it_are_on_their_way() {
    let realm = Realm::new(&[3, LAYERS]);
    let head = stage(&realm, 0, "127.0.0.1:1".to_owned(), Deadlines::default()).await;
    let stand = Stand {
        epoch: 1,
        stage: 0,
        stages: 2,
    };
    let mut session = head.compute.open(stand).await.unwrap();
    let (outgoing, mut taken) = mpsc::channel(2);
    session.forward_to(outgoing.downgrade());
    for number in 1..=3 {
        session.submit(step(number), Bytes::new()).await.unwrap();
    }
    session.rollback(4).await.unwrap();
    let mut outcomes = Vec::new();
    for _ in 0..4 {
        let outcome = match within_limit("an outcome", session.done()).await.unwrap() {
            Done::Step(step) => (Some(step.number), step.outcome),
            Done::RolledBack(undone) => (None, undone.map(|()| Left::Forwarded)),
        };
        outcomes.push((outcome.0, outcome.1.map_err(|fault| fault.to_string())));
    }
    let nothing_more = || Err("stage 0: Unreachable: the next stage takes nothing more".to_owned());
    let expected = [
        (Some(1), Ok(Left::Forwarded)),
        (Some(2), Ok(Left::Forwarded)),
        (Some(3), nothing_more()),
        (None, nothing_more()),
    ];
    assert_eq!(outcomes, expected);
    for number in 1..=2 {
        let Some(Message::Step(sent)) = taken.recv().await.unwrap().message else {
            panic!("no step {number}");
        };
        assert_eq!(sent.number, number);
    }
    assert!(taken.is_empty(), "a step that failed is not sent");
}

#[tokio::test]
async fn a_next_stage_that_takes_the_stream_and_reads_nothing_more_is_given_up_by_name() {
    let realm = Realm::new(&[2, 4, LAYERS]);
    let last = mute(&realm, 2, Mute::Later).await;
    let wide: Loader = Box::new(|| Ok(Box::new(Wide)));
    let middle = Head::start_within(&realm, realm.config(1, ""), wide, Some(last), Deadlines::default()).await;
    let mut client = carrier(&realm, &realm.worker_id(0), 1, &middle.serve().await).await;
    let open = Message::Open(wire::Open { epoch: 1 });
    let row = activations::encode(vec![1.0; WIDE_BYTES / size_of::<f32>()]);
    let steps = (1..=6).map(|number| Message::Step(step(number).to_wire(1, row.clone())));
    // They undo nothing, and each is handed on: more of them than may wait for a connection that is full.
    let rollbacks = (0..64).map(|_| Message::Rollback(wire::Rollback { from_number: 7 }));
    let (sender, receiver) = mpsc::channel(128);
    for message in once(open).chain(steps).chain(rollbacks) {
        let message = wire::CarryMessage { message: Some(message) };
        sender.send(message).await.unwrap();
    }
    let opened = within_limit("the stream stands", client.carry(ReceiverStream::new(receiver))).await;
    let mut results = opened.unwrap().into_inner();
    let ended = within_limit("the end", results.message()).await.unwrap_err();
    assert_eq!(ended.code(), Code::DataLoss, "{ended:?}");
    assert_eq!(
        ended.message(),
        "stage 1: Unreachable: the next stage takes nothing more"
    );
}
