//! Stages that take the connection and then say nothing: over real TLS on loopback, each is given up in time and by name.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use std::time::Duration;

use engine::Sampling;
use proto::shard::v1 as wire;
use proto::shard::v1::stage_server::Stage;
use rig::fake::{Fake, LAYERS};
use rig::head::{Head, serve};
use rig::local::within_limit;
use rig::realm::Realm;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use worker::head::pipeline::Pipeline;
use worker::stage::link::Deadlines;
use worker::step::{Reason, Row, Step};

/// Waits that a test has time for; each as long as others do for hundreds of times as much.
fn hasty() -> Deadlines {
    Deadlines {
        step: Duration::from_secs(1),
        open: Duration::from_secs(1),
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

/// Submits two steps; the message of the first one's failure, which is the second one's too.
async fn failure(pipeline: &mut Pipeline) -> String {
    for position in 0..2_u32 {
        let row = Row {
            sequence: 0,
            position,
            token: 5,
            sample: Some(Sampling::GREEDY),
        };
        let step = Step {
            number: u64::from(position) + 1,
            operations: Vec::new(),
            rows: vec![row],
        };
        pipeline.submit(&step).await.unwrap();
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
    let head = stage(&realm, 0, endpoint, hasty()).await;
    let cause = within_limit("a refusal", head.open()).await.unwrap_err();
    assert_eq!(cause, "stage 1 cannot be reached: no answer within 1s");
}

#[tokio::test]
async fn a_next_stage_that_never_answers_the_opening_of_the_stream_is_given_up_by_name() {
    let realm = Realm::new(&[3, LAYERS]);
    let endpoint = mute(&realm, 1, Mute::AtOnce).await;
    let head = stage(&realm, 0, endpoint, hasty()).await;
    let cause = within_limit("a refusal", head.open()).await.unwrap_err();
    assert_eq!(cause, "stage 1 cannot be reached: no answer within 1s");
}

#[tokio::test]
async fn a_next_stage_that_never_answers_a_step_fails_those_under_way_by_name() {
    let realm = Realm::new(&[3, LAYERS]);
    let endpoint = mute(&realm, 1, Mute::Later).await;
    let head = stage(&realm, 0, endpoint, hasty()).await;
    let mut pipeline = within_limit("the stream stands", head.open()).await.unwrap();
    let said = failure(&mut pipeline).await;
    assert_eq!(said, "stage 1: Unreachable: no answer within 1s");
    within_limit("it is closed", pipeline.close()).await;
}

#[tokio::test]
async fn a_stage_says_by_name_which_one_behind_it_never_answers_before_its_own_time_is_up() {
    let realm = Realm::new(&[2, 4, LAYERS]);
    let endpoint = mute(&realm, 2, Mute::Later).await;
    let middle = stage(&realm, 1, endpoint, hasty()).await;
    let head = stage(&realm, 0, middle.serve().await, Deadlines::default()).await;
    let mut pipeline = within_limit("the stream stands", head.open()).await.unwrap();
    let said = failure(&mut pipeline).await;
    assert!(said.starts_with("stage 1: "), "{said}");
    assert!(said.ends_with("stage 2 gave no answer within 1s"), "{said}");
}
