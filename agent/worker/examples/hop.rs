//! What the wire between two stages costs: a chain of two workers that compute nothing but a fixed time.
//!
//! `hop [--cores H,T] [--width N] [--rows N] [--cost-us N] [--tokens N] [--blocks N]` starts the second stage as a process of
//! its own, pinned when cores are given, and prints
//!
//! - one hop with one token's activations: half of (round trip - both computes), median and 99th percentile;
//! - blocks of a prompt: MB/s with several steps in flight, beside a raw TLS byte pump between the same two processes, over the
//!   same acceptor and the same TLS configurations;
//! - the pause between two steps on a pipeline of one stage, which no wire is part of.
//!
//! The last line is one JSON object.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on has nothing to tell")]

#[path = "../tests/rig/mod.rs"]
mod rig;

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use identity::{Credentials, Identity, TlsListener, tls};
use rig::head::Head;
use rig::realm::{Realm, write_config};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use worker::compute::{Compute, ComputeError, Facts, Loader, Output};
use worker::config::WorkerConfig;
use worker::head::pipeline::Pipeline;
use worker::step::{Row, Step};

/// Rounds of which the best rate counts, wire and bytes alone in turns: other work on the machine only ever slows one down.
const ROUNDS: usize = 3;

/// What the measurement is of.
#[derive(Clone, Debug)]
struct Plan {
    cores: Option<(usize, usize)>,
    width: usize,
    rows: usize,
    cost_us: u64,
    tokens: u64,
    blocks: u64,
}

impl Plan {
    fn parse(mut args: impl Iterator<Item = String>) -> Self {
        let mut plan = Self {
            cores: None,
            width: 576,
            rows: 512,
            cost_us: 1000,
            tokens: 2000,
            blocks: 64,
        };
        while let Some(name) = args.next() {
            let value = args.next().unwrap_or_else(|| panic!("{name} needs a value"));
            let number = || {
                value
                    .parse::<u64>()
                    .unwrap_or_else(|_| panic!("{name} {value}: not a number"))
            };
            match name.as_str() {
                "--cores" => {
                    let (head, tail) = value.split_once(',').expect("--cores H,T");
                    plan.cores = Some((head.parse().unwrap(), tail.parse().unwrap()));
                }
                "--width" => plan.width = number() as usize,
                "--rows" => plan.rows = number() as usize,
                "--cost-us" => plan.cost_us = number(),
                "--tokens" => plan.tokens = number(),
                "--blocks" => plan.blocks = number(),
                _ => panic!("{name} is not known"),
            }
        }
        plan
    }
}

/// A stage that takes a fixed time for a step of one row, and none for others: what it hands out for those lies ready, so that
/// filling memory is not taken for the wire's work.
struct Fixed {
    width: usize,
    cost: Duration,
    last: bool,
    ready: Vec<Vec<f32>>,
}

impl Fixed {
    fn values(&mut self, rows: usize) -> Vec<f32> {
        let ready = if rows == 1 { None } else { self.ready.pop() };
        ready.unwrap_or_else(|| vec![1.0; rows * self.width])
    }
}

impl Compute for Fixed {
    fn facts(&self) -> Facts {
        Facts {
            embedding_length: self.width,
            vocabulary_size: 1,
            shares_prefixes: true,
        }
    }

    fn embed(&mut self, tokens: &[i32]) -> Result<Vec<f32>, ComputeError> {
        Ok(self.values(tokens.len()))
    }

    fn step(&mut self, rows: &[Row], _: &[f32]) -> Result<Output, ComputeError> {
        let started = Instant::now();
        let output = if self.last {
            Output::Tokens(vec![0; rows.iter().filter(|row| row.sample.is_some()).count()])
        } else {
            Output::Activations(self.values(rows.len()))
        };
        // Busy, as an engine on a processor is.
        while rows.len() == 1 && started.elapsed() < self.cost {
            std::hint::spin_loop();
        }
        Ok(output)
    }

    fn remove(&mut self, _: u32, _: u32, _: Option<u32>) -> Result<(), ComputeError> {
        Ok(())
    }

    fn copy_prefix(&mut self, _: u32, _: u32, _: u32) -> Result<(), ComputeError> {
        Ok(())
    }
}

fn loader(plan: &Plan, last: bool) -> Loader {
    let mut fixed = Fixed {
        width: plan.width,
        cost: Duration::from_micros(plan.cost_us),
        last,
        ready: Vec::new(),
    };
    // Two for each block of a head that is not the tail: the embedding, and what the layers make of it.
    let ready = if last { 0 } else { 2 * (plan.blocks + warm(plan)) };
    let length = plan.rows * plan.width;
    Box::new(move || {
        fixed.ready = (0..ready).map(|_| vec![1.0; length]).collect();
        Ok(Box::new(fixed))
    })
}

fn main() {
    // Taken already means that something chose it before us, which nothing does.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("serve") => serve(Path::new(&args[1]), &args[2..]),
        Some("sink") => runtime().block_on(sink(Path::new(&args[1]))),
        _ => measure(&Plan::parse(args.into_iter())),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    worker::args::io_runtime().unwrap()
}

/// The second stage: a worker as it is.
fn serve(config: &Path, args: &[String]) {
    let plan = Plan::parse(args.iter().cloned());
    let config = Arc::new(worker::config::read(config).unwrap());
    let (_, unmeasured) = worker::memory::observation();
    let worker = worker::run::run_observed(config, loader(&plan, true), unmeasured, std::future::pending());
    let exit = runtime().block_on(worker);
    println!("{exit:?}");
}

/// The other end of the byte pump: reads what comes, and answers each block of the announced size with one byte.
async fn sink(identity: &Path) {
    let credentials = Credentials::new(Identity::load(identity).unwrap()).unwrap();
    let config = tls::server_config(&credentials);
    let mut listener = TlsListener::bind("127.0.0.1:0", config).await.unwrap();
    std::fs::write(identity.join("port"), listener.local_addr().port().to_string()).unwrap();
    let mut stream = listener.next().await.unwrap();
    let mut buffer = vec![0; 256 * 1024];
    // Until the other end has what it wants to know.
    while let Ok(total) = stream.read_u64().await {
        let mut left = total;
        while left > 0 {
            let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            let read = stream.read(&mut buffer[..most]).await.unwrap();
            assert!(read > 0, "the pump ended early");
            left -= read as u64;
        }
        stream.write_u8(1).await.unwrap();
        stream.flush().await.unwrap();
    }
}

fn spawn(core: Option<usize>, args: &[String]) -> Ending {
    let own = std::env::current_exe().unwrap();
    let mut command = if let Some(core) = core {
        let mut pinned = Command::new("taskset");
        pinned.args(["-c", &core.to_string()]).arg(own);
        pinned
    } else {
        Command::new(own)
    };
    Ending(command.args(args).stdout(std::process::Stdio::null()).spawn().unwrap())
}

/// Ends a child with this process's interest in it.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn measure(plan: &Plan) {
    if let Some((head, _)) = plan.cores {
        let pid = std::process::id().to_string();
        let pinned = Command::new("taskset")
            .args(["-a", "-p", "-c", &head.to_string(), &pid])
            .output();
        assert!(pinned.unwrap().status.success(), "this process cannot be pinned");
    }
    let runtime = runtime();
    let (mut hops, mut blocks_mb_s, mut raw_mb_s) = (Vec::new(), 0.0_f64, 0.0_f64);
    for _ in 0..ROUNDS {
        let (trips, rate) = runtime.block_on(chain(plan));
        hops.extend(trips);
        blocks_mb_s = blocks_mb_s.max(rate);
        raw_mb_s = raw_mb_s.max(runtime.block_on(pump(plan)));
    }
    let (p50, p99) = (percentile(&hops, 50), percentile(&hops, 99));
    let gaps = runtime.block_on(alone(plan));
    let gap = percentile(&gaps, 50);
    println!("one hop, {} values: p50 {p50:.0} us, p99 {p99:.0} us", plan.width);
    println!("blocks of {} x {}: {blocks_mb_s:.0} MB/s", plan.rows, plan.width);
    println!("raw TLS: {raw_mb_s:.0} MB/s, ratio {:.2}", blocks_mb_s / raw_mb_s);
    println!("one stage: {gap:.0} us between two steps");
    let report = serde_json::json!({
        "width": plan.width, "rows": plan.rows, "hop_us_p50": p50, "hop_us_p99": p99,
        "block_mb_s": blocks_mb_s, "raw_tls_mb_s": raw_mb_s, "block_ratio": blocks_mb_s / raw_mb_s,
        "one_stage_gap_us_p50": gap,
    });
    println!("{report}");
}

fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) * percent / 100]
}

fn realm(plan: &Plan, ends: &[u32]) -> Realm {
    let mut realm = Realm::new(ends);
    realm.runtime.max_step_rows = plan.rows as u32;
    realm.runtime.context_length = u32::MAX;
    realm.runtime.parallel_sequences = 1;
    realm
}

fn config(realm: &Realm, stage: usize, plan: &Plan) -> WorkerConfig {
    WorkerConfig {
        embedding_length: plan.width as u32,
        ..realm.config(stage, "")
    }
}

/// The head's own stage.
async fn head(realm: &Realm, plan: &Plan, next: Option<String>) -> Head {
    let last = realm.stages.len() == 1;
    Head::start(realm, config(realm, 0, plan), loader(plan, last), next).await
}

async fn chain(plan: &Plan) -> (Vec<f64>, f64) {
    let realm = realm(plan, &[1, rig::fake::LAYERS]);
    let tail = config(&realm, 1, plan);
    let path = realm.path("tail.json");
    write_config(&tail, &path);
    let args = [
        "serve",
        path.to_str().unwrap(),
        "--width",
        &plan.width.to_string(),
        "--cost-us",
        &plan.cost_us.to_string(),
    ];
    let _tail = spawn(plan.cores.map(|(_, tail)| tail), &args.map(str::to_owned));
    let agent = rig::agent::Agent::attach(&tail.control_socket).await;
    let endpoint = agent.endpoint().await;
    agent.install(&realm.envelope(1), None).await.unwrap();
    let head = head(&realm, plan, Some(endpoint)).await;
    let mut pipeline = head.open().await.unwrap();
    let mut steps = Steps::default();
    // Warm: connections, caches, and the allocator's idea of what it needs.
    round_trips(&mut pipeline, &mut steps, plan.tokens / 10).await;
    let trips = round_trips(&mut pipeline, &mut steps, plan.tokens).await;
    let compute_us = 2.0 * plan.cost_us as f64;
    let hops = trips.iter().map(|trip| (trip - compute_us) / 2.0).collect();
    blocks(&mut pipeline, &mut steps, plan, warm(plan)).await;
    let rate = blocks(&mut pipeline, &mut steps, plan, plan.blocks).await;
    pipeline.close().await;
    (hops, rate)
}

/// Blocks before those that count.
fn warm(plan: &Plan) -> u64 {
    plan.blocks / 4
}

/// One sequence that never ends.
#[derive(Default)]
struct Steps {
    number: u64,
    position: u32,
}

impl Steps {
    fn next(&mut self, rows: usize) -> Step {
        self.number += 1;
        let first = self.position;
        self.position += rows as u32;
        let row = |position: u32| Row {
            sequence: 0,
            position,
            token: 0,
            sample: (position + 1 == first + rows as u32).then_some(engine::Sampling::GREEDY),
        };
        Step {
            number: self.number,
            rows: (first..first + rows as u32).map(row).collect(),
            ..Step::default()
        }
    }
}

/// Microseconds of each token's way through all stages.
async fn round_trips(pipeline: &mut Pipeline, steps: &mut Steps, count: u64) -> Vec<f64> {
    let mut trips = Vec::new();
    for _ in 0..count {
        let step = steps.next(1);
        let started = Instant::now();
        pipeline.submit(&step).await.unwrap();
        pipeline.next().await.outcome.unwrap();
        trips.push(started.elapsed().as_secs_f64() * 1e6);
    }
    trips
}

/// MB/s of activations with as many steps in flight as two stages keep busy with.
async fn blocks(pipeline: &mut Pipeline, steps: &mut Steps, plan: &Plan, count: u64) -> f64 {
    let started = Instant::now();
    let mut submitted = 0;
    let mut done = 0;
    while done < count {
        while submitted < count && pipeline.in_flight() < 4 {
            pipeline.submit(&steps.next(plan.rows)).await.unwrap();
            submitted += 1;
        }
        pipeline.next().await.outcome.unwrap();
        done += 1;
    }
    let bytes = count as f64 * (plan.rows * plan.width * size_of::<f32>()) as f64;
    bytes / started.elapsed().as_secs_f64() / 1e6
}

/// MB/s of bytes alone between two processes.
async fn pump(plan: &Plan) -> f64 {
    let realm = realm(plan, &[1, rig::fake::LAYERS]);
    let (head, tail) = (config(&realm, 0, plan), config(&realm, 1, plan));
    let args = ["sink", tail.identity_dir.to_str().unwrap()];
    let _sink = spawn(plan.cores.map(|(_, tail)| tail), &args.map(str::to_owned));
    let port_file: PathBuf = tail.identity_dir.join("port");
    let port = rig::wait_for("the sink's port", || async {
        std::fs::read_to_string(&port_file).ok()?.parse::<u16>().ok()
    });
    let port = port.await;
    let credentials = Credentials::new(Identity::load(&head.identity_dir).unwrap()).unwrap();
    let connector = TlsConnector::from(tls::client_config(&credentials));
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = connector.connect(name, stream).await.unwrap();
    let block = vec![1_u8; plan.rows * plan.width * size_of::<f32>()];
    let mut rate = 0.0;
    // Warm, as the chain is.
    for blocks in [warm(plan), plan.blocks] {
        let total = block.len() as u64 * blocks;
        let started = Instant::now();
        stream.write_u64(total).await.unwrap();
        for _ in 0..blocks {
            stream.write_all(&block).await.unwrap();
        }
        stream.flush().await.unwrap();
        stream.read_u8().await.unwrap();
        rate = total as f64 / started.elapsed().as_secs_f64() / 1e6;
    }
    rate
}

/// Microseconds that a head without later stages takes between two steps, beside computing.
async fn alone(plan: &Plan) -> Vec<f64> {
    let realm = realm(plan, &[rig::fake::LAYERS]);
    let head = head(&realm, plan, None).await;
    let mut pipeline = head.open().await.unwrap();
    let trips = round_trips(&mut pipeline, &mut Steps::default(), plan.tokens).await;
    pipeline.close().await;
    trips.iter().map(|trip| trip - plan.cost_us as f64).collect()
}
