//! Several steps under way over all stages at once: over real TLS on loopback, computing plain arithmetic, so that every token
//! shows whether each stage held exactly the right rows.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use engine::Sampling;
use futures::FutureExt;
use proto::shard::v1 as wire;
use proto::shard::v1::carry_message::Message;
use proto::shard::v1::stage_client::StageClient;
use rig::fake::{Fake, Gate, LAYERS, POISON};
use rig::gateway::carrier;
use rig::head::Head;
use rig::local::{LocalWorker, within_limit};
use rig::realm::Realm;
use rig::wait_for;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use worker::compute::{Compute, ComputeError, Facts, Loader, Output};
use worker::head::pipeline::Pipeline;
use worker::stage::activations;
use worker::stage::executor::{Executor, Yield};
use worker::stage::link::MAX_IN_FLIGHT;
use worker::step::{KvOperation, PrefixCopy, Reason, Row, Sampled, Step};

/// A fake whose steps are counted once they are computed.
struct Counted {
    fake: Fake,
    steps: Arc<AtomicUsize>,
}

impl Compute for Counted {
    fn facts(&self) -> Facts {
        self.fake.facts()
    }

    fn embed(&mut self, tokens: &[i32]) -> Result<Vec<f32>, ComputeError> {
        self.fake.embed(tokens)
    }

    fn step(&mut self, rows: &[Row], activations: &[f32]) -> Result<Output, ComputeError> {
        let output = self.fake.step(rows, activations);
        self.steps.fetch_add(1, Ordering::SeqCst);
        output
    }

    fn remove(&mut self, sequence: u32, from: u32, end: Option<u32>) -> Result<(), ComputeError> {
        self.fake.remove(sequence, from, end)
    }

    fn copy_prefix(&mut self, from: u32, to: u32, end: u32) -> Result<(), ComputeError> {
        self.fake.copy_prefix(from, to, end)
    }
}

/// A head without a schedule, and workers behind it.
struct Line {
    realm: Realm,
    head: Head,
    workers: Vec<LocalWorker>,
    /// Steps that each stage has computed.
    computed: Vec<Arc<AtomicUsize>>,
}

impl Line {
    async fn start(ends: &[u32]) -> Self {
        Self::start_with(ends, |_, fake| fake).await
    }

    async fn start_with(ends: &[u32], prepare: impl Fn(usize, Fake) -> Fake) -> Self {
        let realm = Realm::new(ends);
        let computed: Vec<_> = ends.iter().map(|_| Arc::new(AtomicUsize::new(0))).collect();
        let loader = |stage: usize| -> Loader {
            let at = &realm.stages[stage];
            let fake = prepare(stage, Fake::new(at.first_layer, at.end_layer));
            let steps = Arc::clone(&computed[stage]);
            Box::new(move || Ok(Box::new(Counted { fake, steps })))
        };
        let (mut workers, mut next) = (Vec::new(), None);
        for stage in (1..ends.len()).rev() {
            let worker = LocalWorker::start(realm.config(stage, ""), loader(stage)).await;
            let endpoint = worker.agent.endpoint().await;
            worker.agent.install(&realm.envelope(1), next.as_deref()).await.unwrap();
            next = Some(endpoint);
            workers.insert(0, worker);
        }
        let head = Head::start(&realm, realm.config(0, ""), loader(0), next).await;
        Self {
            realm,
            head,
            workers,
            computed,
        }
    }

    async fn open(&self) -> Pipeline {
        wait_for("the pipeline stands", || async { self.head.open().await.ok() }).await
    }

    async fn until_computed(&self, stage: usize, steps: usize) {
        wait_for("the steps are computed", || async {
            (self.computed[stage].load(Ordering::SeqCst) == steps).then_some(())
        })
        .await;
    }
}

fn row(sequence: u32, position: u32, token: i32) -> Row {
    Row {
        sequence,
        position,
        token,
        sample: Some(Sampling::GREEDY),
    }
}

/// Two sequences whose chunks and decodes follow each other, and a third one that begins with a prefix of the first.
fn steps(count: u64) -> Vec<Step> {
    let mut lengths = [0_u32; 3];
    let step = |number: u64| {
        let mut operations = Vec::new();
        if number == 4 {
            let shared = PrefixCopy { from: 0, to: 2, end: 2 };
            operations = vec![KvOperation::forget(2), KvOperation::Copy(shared)];
            lengths[2] = shared.end;
        }
        let mut rows = Vec::new();
        for sequence in (0..3_u32).filter(|sequence| *sequence < 2 || number >= 4) {
            let length = &mut lengths[sequence as usize];
            for _ in 0..1 + (number + u64::from(sequence)) % 3 {
                let token = (number as i32 * 7 + sequence as i32 * 5 + *length as i32) % 60;
                rows.push(row(sequence, *length, token));
                *length += 1;
            }
        }
        Step {
            number,
            operations,
            rows,
        }
    };
    (1..=count).map(step).collect()
}

/// What the whole model makes of steps.
fn whole(steps: &[Step]) -> Vec<Vec<Sampled>> {
    let place = worker::config::place(&Realm::new(&[LAYERS]).config(0, ""));
    let mut executor = Executor::new(place, Box::new(Fake::new(0, LAYERS)));
    let tokens = |step: &Step| match executor.execute(step, &[]).unwrap().yields {
        Yield::Tokens(tokens) => tokens,
        Yield::Activations(_) => panic!("the whole model gives tokens"),
    };
    steps.iter().map(tokens).collect()
}

async fn submit(pipeline: &mut Pipeline, steps: &[Step]) {
    for step in steps {
        pipeline.submit(step).await.unwrap();
    }
}

async fn expect(pipeline: &mut Pipeline, steps: &[Step], expected: &[Vec<Sampled>]) {
    for (step, tokens) in steps.iter().zip(expected) {
        let completed = within_limit("an outcome", pipeline.next()).await;
        assert_eq!((completed.number, completed.outcome), (step.number, Ok(tokens.clone())));
    }
}

#[tokio::test]
async fn as_many_steps_as_may_be_under_way_give_what_they_give_one_by_one() {
    let steps = steps(MAX_IN_FLIGHT as u64);
    let expected = whole(&steps);
    for ends in [&[LAYERS][..], &[2, LAYERS], &[1, 4, LAYERS]] {
        let line = Line::start(ends).await;
        let mut pipeline = line.open().await;
        assert_eq!(pipeline.stages() as usize, ends.len());
        submit(&mut pipeline, &steps).await;
        assert_eq!(pipeline.in_flight(), MAX_IN_FLIGHT);
        expect(&mut pipeline, &steps, &expected).await;
        assert_eq!(pipeline.in_flight(), 0);
        pipeline.close().await;
    }
}

#[tokio::test]
async fn only_a_step_that_had_no_company_tells_how_long_one_goes_round() {
    let line = Line::start(&[2, LAYERS]).await;
    let mut pipeline = line.open().await;
    let single = |number: u64| Step {
        number,
        operations: Vec::new(),
        rows: vec![row(0, number as u32 - 1, 7)],
    };
    for number in [1, 2] {
        pipeline.submit(&single(number)).await.unwrap();
    }
    for _ in [1, 2] {
        within_limit("a result", pipeline.next()).await;
    }
    assert_eq!(pipeline.round_trip(), None, "each had the other beside it");
    pipeline.submit(&single(3)).await.unwrap();
    within_limit("a result", pipeline.next()).await;
    assert!(pipeline.round_trip().is_some());
    pipeline.close().await;
}

#[tokio::test]
async fn every_stage_computes_ahead_of_those_after_it() {
    for held in [1, 2] {
        let gate = Gate::default();
        gate.shut();
        let gated = gate.clone();
        let prepare = move |stage, fake: Fake| if stage == held { fake.gated(gated.clone()) } else { fake };
        let line = Line::start_with(&[2, 4, LAYERS], prepare).await;
        let mut pipeline = line.open().await;
        let steps = steps(4);
        submit(&mut pipeline, &steps).await;
        for stage in 0..held {
            line.until_computed(stage, 4).await;
        }
        assert_eq!(line.computed[held].load(Ordering::SeqCst), 0);
        assert!(pipeline.next().now_or_never().is_none());
        gate.permit(1);
        let completed = within_limit("the first result, while the others are held", pipeline.next()).await;
        assert_eq!(completed.number, 1);
        gate.open();
        expect(&mut pipeline, &steps[1..], &whole(&steps)[1..]).await;
    }
}

#[tokio::test]
async fn a_step_that_fails_anywhere_voids_those_after_it_and_is_undone_everywhere() {
    let good = steps(5);
    let expected = whole(&good);
    for stage in 0..3 {
        let prepare = move |at, fake: Fake| if at == stage { fake.poisoned() } else { fake };
        let line = Line::start_with(&[2, 4, LAYERS], prepare).await;
        let mut pipeline = line.open().await;
        for failing in 0..5 {
            let mut bad = good.clone();
            bad[failing].rows.last_mut().unwrap().token = POISON;
            submit(&mut pipeline, &bad).await;
            expect(&mut pipeline, &good[..failing], &expected[..failing]).await;
            let completed = within_limit("the failure", pipeline.next()).await;
            let fault = completed.outcome.unwrap_err();
            assert_eq!((completed.number, fault.stage), (good[failing].number, stage as u32));
            assert_eq!(fault.reason, Reason::Compute, "{fault}");
            within_limit("the rollback", pipeline.rollback(completed.number))
                .await
                .unwrap();
            assert_eq!(pipeline.in_flight(), 0);
            submit(&mut pipeline, &good[failing..]).await;
            expect(&mut pipeline, &good[failing..], &expected[failing..]).await;
            // And all of it again, for the next round.
            within_limit("the rollback", pipeline.rollback(1)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn steps_that_went_well_can_be_dropped_too_and_are_not_computed_when_they_still_wait() {
    let gate = Gate::default();
    let gated = gate.clone();
    let prepare = move |stage, fake: Fake| if stage == 0 { fake.gated(gated.clone()) } else { fake };
    let line = Line::start_with(&[3, LAYERS], prepare).await;
    let mut pipeline = line.open().await;
    let steps = steps(6);
    let expected = whole(&steps);
    gate.shut();
    submit(&mut pipeline, &steps).await;
    gate.permit(2);
    expect(&mut pipeline, &steps[..2], &expected[..2]).await;
    let mut rolled_back = Box::pin(pipeline.rollback(3));
    assert!(rolled_back.as_mut().now_or_never().is_none());
    gate.permit(1);
    within_limit("the rollback", rolled_back).await.unwrap();
    // The third may have been in the engine already.
    assert!(line.computed[0].load(Ordering::SeqCst) <= 3);
    gate.open();
    submit(&mut pipeline, &steps[2..]).await;
    expect(&mut pipeline, &steps[2..], &expected[2..]).await;
}

#[tokio::test]
async fn what_does_not_follow_is_refused_and_disturbs_nothing() {
    let line = Line::start(&[3, LAYERS]).await;
    let mut pipeline = line.open().await;
    let steps = steps(MAX_IN_FLIGHT as u64 + 1);
    let expected = whole(&steps);
    submit(&mut pipeline, &steps[..1]).await;
    let refused = [
        pipeline.submit(&steps[0]).await,
        pipeline.submit(&steps[2]).await,
        pipeline.rollback(2).await,
    ];
    for refused in refused {
        assert_eq!(refused.unwrap_err().reason, Reason::OutOfOrder);
    }
    submit(&mut pipeline, &steps[1..MAX_IN_FLIGHT]).await;
    let one_more = pipeline.submit(&steps[MAX_IN_FLIGHT]).await;
    assert_eq!(one_more.unwrap_err().reason, Reason::OutOfOrder);
    expect(&mut pipeline, &steps[..MAX_IN_FLIGHT], &expected).await;
    submit(&mut pipeline, &steps[MAX_IN_FLIGHT..]).await;
    expect(&mut pipeline, &steps[MAX_IN_FLIGHT..], &expected[MAX_IN_FLIGHT..]).await;
}

#[tokio::test]
async fn waiting_for_an_outcome_can_be_given_up_and_taken_up_again() {
    let line = Line::start(&[2, 4, LAYERS]).await;
    let mut pipeline = line.open().await;
    let steps = steps(6);
    submit(&mut pipeline, &steps).await;
    let mut told = Vec::new();
    let all = async {
        while told.len() < steps.len() {
            match pipeline.next().now_or_never() {
                Some(completed) => told.push(completed.outcome.unwrap()),
                None => tokio::task::yield_now().await,
            }
        }
    };
    within_limit("all outcomes", all).await;
    assert_eq!(told, whole(&steps));
    assert!(pipeline.next().now_or_never().is_none());
    assert!(pipeline.broken().now_or_never().is_none());
}

#[tokio::test]
async fn a_lost_stage_fails_every_step_under_way_and_the_pipeline_can_be_opened_again() {
    let gate = Gate::default();
    let gated = gate.clone();
    let prepare = move |stage, fake: Fake| if stage == 2 { fake.gated(gated.clone()) } else { fake };
    let mut line = Line::start_with(&[2, 4, LAYERS], prepare).await;
    let mut pipeline = line.open().await;
    let steps = steps(3);
    gate.shut();
    submit(&mut pipeline, &steps).await;
    line.until_computed(1, 3).await;
    line.workers[1].kill();
    for number in 1..=3 {
        let completed = within_limit("a failure", pipeline.next()).await;
        assert_eq!(completed.number, number);
        assert_eq!(completed.outcome.unwrap_err().reason, Reason::Unreachable);
    }
    within_limit("it breaks", pipeline.broken()).await;
    assert_eq!(
        pipeline.submit(&steps[0]).await.unwrap_err().reason,
        Reason::Unreachable
    );
    assert_eq!(pipeline.rollback(1).await.unwrap_err().reason, Reason::Unreachable);
    pipeline.close().await;
    gate.open();

    let at = &line.realm.stages[2];
    let fake = Fake::new(at.first_layer, at.end_layer);
    let tail = LocalWorker::start(line.realm.config(2, "b"), fake.loader()).await;
    let envelope = line.realm.envelope(1);
    tail.agent.install(&envelope, None).await.unwrap();
    let endpoint = tail.agent.endpoint().await;
    line.workers[0].agent.install(&envelope, Some(&endpoint)).await.unwrap();
    let mut pipeline = line.open().await;
    submit(&mut pipeline, &steps).await;
    expect(&mut pipeline, &steps, &whole(&steps)).await;
}

#[tokio::test]
async fn a_closed_pipeline_computes_nothing_that_still_waited() {
    let gate = Gate::default();
    let gated = gate.clone();
    let prepare = move |stage, fake: Fake| if stage == 0 { fake.gated(gated.clone()) } else { fake };
    let line = Line::start_with(&[3, LAYERS], prepare).await;
    let steps = steps(5);
    let mut pipeline = line.open().await;
    gate.shut();
    submit(&mut pipeline, &steps).await;
    gate.permit(1);
    line.until_computed(0, 1).await;
    let mut closed = Box::pin(pipeline.close());
    assert!(closed.as_mut().now_or_never().is_none());
    // The second step may be in the engine already; those behind it may not reach it.
    gate.permit(1);
    within_limit("the pipeline is closed", closed).await;
    assert!(line.computed[0].load(Ordering::SeqCst) <= 2);
    gate.open();
    let mut pipeline = line.open().await;
    submit(&mut pipeline, &steps).await;
    expect(&mut pipeline, &steps, &whole(&steps)).await;
}

/// A stream to a stage, open for as long as this is.
struct Carried {
    results: tonic::Streaming<wire::StepResult>,
    _client: StageClient<Channel>,
    _sender: tokio::sync::mpsc::Sender<wire::CarryMessage>,
}

/// Sends a stage all of this at once.
async fn carried(line: &Line, messages: Vec<Message>) -> Carried {
    let endpoint = line.workers[0].agent.endpoint().await;
    let mut client = carrier(&line.realm, &line.realm.worker_id(0), 1, &endpoint).await;
    let (sender, receiver) = tokio::sync::mpsc::channel(messages.len() + 1);
    let open = Message::Open(wire::Open { epoch: 1 });
    for message in std::iter::once(open).chain(messages) {
        sender
            .send(wire::CarryMessage { message: Some(message) })
            .await
            .unwrap();
    }
    let results = client.carry(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    Carried {
        results,
        _client: client,
        _sender: sender,
    }
}

impl Carried {
    async fn next(&mut self) -> wire::StepResult {
        within_limit("a result", self.results.message()).await.unwrap().unwrap()
    }
}

fn carry(epoch: u64, number: u64, position: u32, token: i32) -> Message {
    let step = Step {
        number,
        operations: Vec::new(),
        rows: vec![row(0, position, token)],
    };
    Message::Step(step.to_wire(epoch, activations::encode(vec![1.0; rig::fake::WIDTH])))
}

#[tokio::test]
async fn every_step_that_a_stage_is_sent_is_answered_once_and_in_order_whatever_came_of_it() {
    let prepare = |stage, fake: Fake| if stage == 1 { fake.poisoned() } else { fake };
    for ends in [&[2, LAYERS][..], &[2, 4, LAYERS]] {
        let line = Line::start_with(ends, prepare).await;
        let mut messages: Vec<Message> = (0..30).map(|at| carry(1, at + 1, at as u32, 3)).collect();
        messages[10] = carry(1, 11, 10, POISON);
        messages[20] = carry(9, 21, 20, 3);
        messages.push(Message::Rollback(wire::Rollback { from_number: 11 }));
        messages.extend((10..14).map(|at| carry(1, at + 1, at as u32, 4)));
        let mut results = carried(&line, messages).await;
        for number in (1..=30).chain(11..=14) {
            let result = results.next().await;
            assert_eq!(result.number, number);
            let reason = result.error.map(|error| error.reason);
            let expected = match number {
                11 if result.tokens.is_empty() => Some("Compute"),
                21 => Some("WrongEpoch"),
                12.. if result.tokens.is_empty() => Some("OutOfOrder"),
                _ => None,
            };
            assert_eq!(reason.as_deref(), expected, "step {number}");
        }
    }
}

#[tokio::test]
async fn a_stage_that_is_sent_more_than_may_wait_takes_it_as_fast_as_it_answers() {
    let gate = Gate::default();
    let gated = gate.clone();
    let prepare = move |stage, fake: Fake| if stage == 1 { fake.gated(gated.clone()) } else { fake };
    let line = Line::start_with(&[2, LAYERS], prepare).await;
    gate.shut();
    let count = 200;
    let messages = (0..count).map(|at| carry(1, at + 1, at as u32, 3)).collect();
    let mut results = carried(&line, messages).await;
    gate.permit(1);
    line.until_computed(1, 1).await;
    let first = results.next().await;
    assert_eq!(first.number, 1);
    gate.open();
    for number in 2..=count {
        let result = results.next().await;
        assert_eq!((result.number, result.error), (number, None));
    }
}

#[tokio::test]
async fn a_step_larger_than_the_placement_allows_ends_its_stream_unread() {
    let line = Line::start(&[2, LAYERS]).await;
    let step = Step {
        number: 1,
        operations: Vec::new(),
        rows: vec![row(0, 0, 3)],
    };
    let huge = Message::Step(step.to_wire(1, activations::encode(vec![1.0; 1 << 16])));
    let mut carried = carried(&line, vec![huge]).await;
    let ended = within_limit("the end", carried.results.message()).await.unwrap_err();
    assert_eq!(ended.code(), tonic::Code::OutOfRange, "{ended:?}");
    let mut pipeline = line.open().await;
    submit(&mut pipeline, &steps(2)).await;
    expect(&mut pipeline, &steps(2), &whole(&steps(2))).await;
}

#[tokio::test]
async fn a_pipeline_whose_very_first_step_fails_goes_on() {
    let step = |number, sequence, token| Step {
        number,
        operations: Vec::new(),
        rows: vec![row(sequence, 0, token)],
    };
    let good = [step(1, 1, 4), step(2, 0, 5)];
    for stage in 0..3 {
        let prepare = move |at, fake: Fake| if at == stage { fake.poisoned() } else { fake };
        let line = Line::start_with(&[2, 4, LAYERS], prepare).await;
        let mut pipeline = line.open().await;
        submit(&mut pipeline, &[step(1, 0, POISON), step(2, 1, 4)]).await;
        let completed = within_limit("the failure", pipeline.next()).await;
        let fault = completed.outcome.unwrap_err();
        assert_eq!((completed.number, fault.stage), (1, stage as u32));
        within_limit("the rollback", pipeline.rollback(1)).await.unwrap();
        submit(&mut pipeline, &good).await;
        expect(&mut pipeline, &good, &whole(&good)).await;
    }
}

#[tokio::test]
async fn an_engine_that_does_not_come_back_from_a_step_is_noticed() {
    let gate = Gate::default();
    let line = Line::start_with(&[LAYERS], |_, fake| fake.gated(gate.clone())).await;
    let mut pipeline = line.open().await;
    gate.shut();
    submit(&mut pipeline, &steps(1)).await;
    let limit = std::time::Duration::from_millis(10);
    within_limit("the engine is stuck", line.head.compute.stuck(limit)).await;
    gate.open();
    expect(&mut pipeline, &steps(1), &whole(&steps(1))).await;
}
