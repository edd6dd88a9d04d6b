//! Connections that are damaged, reset and starved between two ends that both live: worker processes, mutual TLS between them,
//! and somebody in the middle of it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt as _};
use proto::shard::v1 as wire;
use proto::shard::v1::carry_message::Message;
use proto::shard::v1::stage_client::StageClient;
use rig::between::{Act, Between, Direction, Fault};
use rig::gateway::{Gateway, carrier, request, rest};
use rig::local::within_limit;
use rig::process::{WorkerProcess, llama};
use rig::realm::Realm;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};
use worker::config::WorkerConfig;
use worker::stage::activations;
use worker::stage::link::MAX_IN_FLIGHT;
use worker::step::{KvOperation, Row, Step};

/// Values of a row of activations, which is 4 KiB.
const WIDTH: usize = 1024;
/// So many bytes has no record but one that carries a step.
const OF_A_STEP: usize = 1024;
/// More than a ping has, and less than a request.
const OF_A_REQUEST: usize = 64;
/// As much as a token has on its way to the gateway, and more than a ping.
const OF_A_TOKEN: usize = 36;

const PROMPT_TOKENS: i32 = 40;
const ANSWER_TOKENS: usize = 128;
/// Records after which a prompt of one step a token is over, and its answer is not.
const IN_THE_ANSWER: usize = 60;

/// Draws depend on each position, so that one that is left out or comes twice is seen in all that follow.
const SAMPLING: wire::Sampling = wire::Sampling {
    temperature: 0.8,
    top_p: 0.95,
    top_k: 40,
    seed: 7,
};

/// The configurations of all stages of a model whose rows are large and whose layers are small.
fn configs(realm: &Realm) -> Vec<WorkerConfig> {
    let configs = llama(realm, |recipe| {
        recipe.width = WIDTH as u32;
        recipe.heads = 8;
    });
    let alone = |config: WorkerConfig| WorkerConfig {
        keep_awake: false,
        speculate: false,
        ..config
    };
    configs.into_iter().map(alone).collect()
}

/// A request for what is still to come of the answer, as a gateway makes it.
fn ask(heard: &[i32]) -> wire::GenerateRequest {
    let prompt: Vec<i32> = (0..PROMPT_TOKENS).map(|at| 100 + at * at * 3 % 150).collect();
    let tokens = [prompt.as_slice(), heard].concat();
    wire::GenerateRequest {
        sampling: Some(SAMPLING),
        resumed: !heard.is_empty(),
        ..request(1, &tokens, (ANSWER_TOKENS - heard.len()) as u32)
    }
}

/// Two stages, somebody between them, and a gateway.
struct Pair {
    head: WorkerProcess,
    tail: WorkerProcess,
    between: Between,
    gateway: Gateway,
    /// The answer without a fault.
    whole: Vec<i32>,
    // Its files are the workers'.
    _realm: Realm,
}

impl Pair {
    async fn start() -> Self {
        let realm = Realm::new(&[1, 2]);
        let configs = configs(&realm);
        let head = WorkerProcess::spawn(&realm, &configs[0]).await;
        let tail = WorkerProcess::spawn(&realm, &configs[1]).await;
        let envelope = realm.envelope(1);
        let between = Between::before(&tail.agent.endpoint().await);
        tail.agent.install(&envelope, None).await.unwrap();
        let endpoint = head.agent.endpoint().await;
        head.agent.install(&envelope, Some(between.endpoint())).await.unwrap();
        let gateway = Gateway::dial(&realm, 0, &endpoint).await;
        let whole = gateway.generate_when_ready(ask(&[])).await.tokens;
        assert_eq!(whole.len(), ANSWER_TOKENS);
        Self {
            head,
            tail,
            between,
            gateway,
            whole,
            _realm: realm,
        }
    }

    /// A stream that a fault meets says nothing wrong and ends so that a gateway goes on with it. Both workers live on, and say
    /// the rest. Gives how many tokens came before the fault.
    async fn outlives(&self, fault: Fault) -> usize {
        let connections = self.between.connections();
        self.between.strike(fault);
        let mut stream = self.gateway.start(ask(&[])).await.unwrap();
        let (heard, end) = within_limit("the end of the stream", rest(&mut stream)).await;
        assert!(self.between.has_struck(), "{fault:?}");
        let status = end.expect_err("a stage that does not answer");
        assert_eq!(status.code(), Code::Unavailable, "{fault:?}: {status:?}");
        let told = "the pipeline broke: stage 1: Unreachable: ";
        assert!(status.message().starts_with(told), "{fault:?}: {status:?}");
        assert!(heard.len() < ANSWER_TOKENS, "{fault:?}");
        assert_eq!(heard, self.whole[..heard.len()], "{fault:?}");

        self.between.mend();
        let resumed = self.gateway.generate_when_ready(ask(&heard)).await;
        assert_eq!(resumed.tokens, self.whole[heard.len()..], "{fault:?}");
        let again = self.gateway.generate(ask(&[])).await.unwrap();
        assert_eq!(again.tokens, self.whole, "{fault:?}");
        assert!(self.between.connections() > connections, "the stage is dialled again");
        for worker in [&self.head, &self.tail] {
            worker.agent.idle().await;
        }
        heard.len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_that_changes_between_two_stages_is_never_taken_for_a_number() {
    let pair = Pair::start().await;
    let damage = |direction, least_bytes, nth| Fault {
        act: Act::Damage,
        direction,
        least_bytes,
        nth,
    };
    pair.outlives(damage(Direction::Onward, OF_A_STEP, 2)).await;
    let unreachable = "shardwright_worker_steps_total{outcome=\"Unreachable\"}";
    assert!(pair.head.agent.metric(unreachable).await > 0.0);
    let heard = pair.outlives(damage(Direction::Onward, OF_A_STEP, IN_THE_ANSWER)).await;
    assert!(heard > 0);
    let heard = pair.outlives(damage(Direction::Back, 0, IN_THE_ANSWER)).await;
    assert!(heard > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_within_a_message_between_two_living_stages_leaves_no_position_out_and_repeats_none() {
    let pair = Pair::start().await;
    let reset = |direction, least_bytes, nth| Fault {
        act: Act::Reset,
        direction,
        least_bytes,
        nth,
    };
    pair.outlives(reset(Direction::Onward, OF_A_STEP, 2)).await;
    let heard = pair.outlives(reset(Direction::Onward, OF_A_STEP, IN_THE_ANSWER)).await;
    assert!(heard > 0);
    let heard = pair.outlives(reset(Direction::Back, 0, IN_THE_ANSWER)).await;
    assert!(heard > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_that_reads_1_kib_a_second_is_given_up_by_name_and_serves_once_it_reads_again() {
    let pair = Pair::start().await;
    let crawl = Fault {
        act: Act::Crawl,
        direction: Direction::Onward,
        least_bytes: OF_A_STEP,
        nth: 2,
    };
    pair.outlives(crawl).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_that_changes_between_gateway_and_head_ends_their_connection_and_is_no_part_of_prompt_or_answer() {
    let realm = Realm::new(&[1]);
    let head = WorkerProcess::spawn(&realm, &configs(&realm)[0]).await;
    let between = Between::before(&head.agent.endpoint().await);
    head.agent.install(&realm.envelope(1), None).await.unwrap();
    let gateway = Gateway::dial(&realm, 0, between.endpoint()).await;
    let whole = gateway.generate_when_ready(ask(&[])).await.tokens;
    for (direction, least_bytes, nth) in [(Direction::Onward, OF_A_REQUEST, 1), (Direction::Back, OF_A_TOKEN, 3)] {
        between.strike(Fault {
            act: Act::Damage,
            direction,
            least_bytes,
            nth,
        });
        let (heard, end) = match within_limit("an outcome", gateway.start(ask(&[]))).await {
            Ok(mut stream) => within_limit("the end of the stream", rest(&mut stream)).await,
            Err(status) => (Vec::new(), Err(status)),
        };
        assert!(between.has_struck(), "{direction:?}");
        let status = end.expect_err("a connection that broke");
        // So a gateway knows a connection that broke from what the head says.
        assert!(status.source().is_some(), "{direction:?}: {status:?}");
        assert!(heard.len() < whole.len(), "{direction:?}");
        assert_eq!(heard, whole[..heard.len()], "{direction:?}");
        let resumed = gateway.generate_when_ready(ask(&heard)).await;
        assert_eq!(resumed.tokens, whole[heard.len()..], "{direction:?}");
        head.agent.idle().await;
    }
}

/// Rows of a step that the test sends as the head, and the bytes of their activations: half a MiB.
const ROWS: u32 = 128;
const STEP_BYTES: u64 = ROWS as u64 * WIDTH as u64 * 4;
/// Steps with which every stream begins.
const WARM_UP: u64 = 2;
/// Far less than comes within seconds where nothing holds it back: a connection takes 32 MiB that nobody reads, in buffers that
/// may be twice as large, and steps under way are held as they came, as they are to go, and as they are sent.
const MOST_BYTES: u64 = 96 << 20;
/// Between two looks at the memory of a process.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A step that is in order whatever was before: its sequence begins anew.
fn step(number: u64, activations: &Bytes) -> wire::CarryMessage {
    let row = |position| Row {
        sequence: 0,
        position,
        token: 5,
        sample: None,
    };
    let step = Step {
        number,
        operations: vec![KvOperation::forget(0)],
        rows: (0..ROWS).map(row).collect(),
    };
    wire::CarryMessage {
        message: Some(Message::Step(step.to_wire(1, activations.clone()))),
    }
}

/// A stream to a stage that has answered the steps it began with; `later` follows when the sender is dropped.
async fn carried(
    client: &mut StageClient<Channel>,
    activations: &Bytes,
    later: impl Stream<Item = wire::CarryMessage> + Send + 'static,
) -> (mpsc::Sender<wire::CarryMessage>, Streaming<wire::StepResult>) {
    let open = wire::CarryMessage {
        message: Some(Message::Open(wire::Open { epoch: 1 })),
    };
    let (sender, receiver) = mpsc::channel(1 + WARM_UP as usize);
    sender.send(open).await.unwrap();
    for number in 1..=WARM_UP {
        sender.send(step(number, activations)).await.unwrap();
    }
    let opened = within_limit(
        "the stream stands",
        client.carry(ReceiverStream::new(receiver).chain(later)),
    )
    .await;
    let mut results = opened.unwrap().into_inner();
    for number in 1..=WARM_UP {
        let result = within_limit("a result", results.message()).await.unwrap().unwrap();
        assert_eq!((result.number, result.error), (number, None));
    }
    (sender, results)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_before_one_that_reads_1_kib_a_second_holds_the_steps_that_may_be_under_way_and_no_more() {
    let mut realm = Realm::new(&[1, 2, 3]);
    realm.runtime.max_step_rows = ROWS;
    let configs = configs(&realm);
    let middle = WorkerProcess::spawn(&realm, &configs[1]).await;
    let tail = WorkerProcess::spawn(&realm, &configs[2]).await;
    let envelope = realm.envelope(1);
    let between = Between::before(&tail.agent.endpoint().await);
    tail.agent.install(&envelope, None).await.unwrap();
    let endpoint = middle.agent.endpoint().await;
    middle.agent.install(&envelope, Some(between.endpoint())).await.unwrap();
    let mut client = carrier(&realm, &realm.worker_id(0), 1, &endpoint).await;

    let activations = activations::encode(vec![1.0; ROWS as usize * WIDTH]);
    let sent = Arc::new(AtomicU64::new(0));
    let (counted, row) = (Arc::clone(&sent), activations.clone());
    // Without end: as many as the stage takes.
    let flood = stream::iter(WARM_UP + 1..).map(move |number| {
        counted.fetch_add(1, Ordering::SeqCst);
        step(number, &row)
    });
    let (sender, mut results) = carried(&mut client, &activations, flood).await;
    let before = middle.resident_bytes();
    between.strike(Fault {
        act: Act::Crawl,
        direction: Direction::Onward,
        least_bytes: OF_A_STEP,
        nth: 1,
    });
    drop(sender);
    let mut most = before;
    let given_up = async {
        loop {
            most = most.max(middle.resident_bytes());
            if let Ok(ended) = timeout(LOOK_EVERY, results.message()).await {
                return ended;
            }
        }
    };
    let status = within_limit("the end", given_up)
        .await
        .expect_err("a stage that does not answer");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("stage 2"), "{status:?}");
    assert!(between.has_struck());
    let rows = middle.agent.metric("shardwright_worker_rows_total").await;
    assert!(
        rows <= f64::from(ROWS) * (WARM_UP as usize + MAX_IN_FLIGHT) as f64,
        "{rows}"
    );
    let taken = sent.load(Ordering::SeqCst) * STEP_BYTES;
    println!("it took {taken} bytes and grew by {}", most - before);
    assert!(taken <= MOST_BYTES, "{taken}");
    assert!(most - before <= MOST_BYTES, "{}", most - before);

    between.mend();
    carried(&mut client, &activations, stream::empty()).await;
}
