//! The real thing: worker processes on the CPU, mutual TLS between them, a real model, and llama.cpp's own loop to compare
//! with. Prints SKIPPED where there is no model.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use std::path::Path;
use std::time::{Duration, Instant};

use engine::reference::{WholeConfig, WholeModel};
use engine::{Device, Runtime, STRICT_STEP_ROWS};
use futures::future::join_all;
use rig::gateway::request;
use rig::process::{WorkerProcess, backend_directory, cut, gateway, model, read_model};
use rig::realm::{Realm, write_config};
use tokio::time::timeout;
use worker::config::{Backend, RuntimeConfig, WorkerConfig};
use worker::control::{Phase, Request};

const TOKENS: usize = 40;
const CONTEXT: u32 = 512;
/// Threads of every process, and of the model that it is compared with: one, so that the test does not depend on cores
/// being free at the same time.
const THREADS: u32 = 1;
/// For a step of work on a machine that has much else to do.
const SLOW_LIMIT: Duration = Duration::from_secs(300);

const PROMPTS: [&str; 4] = [
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nWrite a short poem about the sea.<|im_end|>\n<|im_start|>assistant\n",
    "The three laws of thermodynamics are",
    "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number, counted from zero, and raise ValueError for a \
     negative n. The implementation is iterative, because the recursive one takes exponential time without a cache, and \
     because Python's recursion limit would stop it early.\"\"\"\n",
];

/// Prompts as tokens, and what the unsplit model continues them with.
fn expected(model: &Path) -> Vec<(Vec<i32>, Vec<i32>)> {
    expected_of(model, <[Vec<i32>]>::to_vec)
}

/// As `expected`, for prompts made from the tokens of [`PROMPTS`].
fn expected_of(model: &Path, make: impl Fn(&[Vec<i32>]) -> Vec<Vec<i32>>) -> Vec<(Vec<i32>, Vec<i32>)> {
    let runtime = Runtime::load(Some(&backend_directory())).unwrap();
    let config = WholeConfig::like_a_stage(Device::Cpu { threads: THREADS }, CONTEXT);
    let mut whole = WholeModel::load(&runtime, model, &config).unwrap();
    let prompts: Vec<Vec<i32>> = PROMPTS.iter().map(|prompt| whole.tokenize(prompt).unwrap()).collect();
    let continued = make(&prompts).into_iter().map(|prompt| {
        let generation = whole.greedy(&prompt, TOKENS).unwrap();
        println!("whole model: {:.1} tokens/s", generation.tokens_per_second());
        (prompt, generation.tokens)
    });
    continued.collect()
}

fn realm(ends: &[u32]) -> Realm {
    let mut realm = Realm::new(ends);
    realm.runtime = RuntimeConfig {
        context_length: CONTEXT,
        max_step_rows: STRICT_STEP_ROWS,
        ..realm.runtime
    };
    realm
}

/// All workers, serving; `Err` is the exit code of one that cannot.
async fn start_processes(realm: &Realm, configs: &[WorkerConfig]) -> Result<Vec<WorkerProcess>, Option<i32>> {
    let mut workers = Vec::new();
    for config in configs {
        let config = WorkerConfig {
            threads: THREADS,
            // A budget like the operator's: weights, cache and what a step computes in.
            memory_budget_bytes: 256 << 20,
            ..config.clone()
        };
        let mut worker = WorkerProcess::spawn(realm, &config).await;
        let serves = rig::wait_for("the worker serves or fails", || async {
            let status = worker.agent.status().await?;
            (status.phase != Phase::Loading).then_some(status.phase == Phase::Serving)
        });
        if !serves.await {
            return Err(worker.exited().await.code());
        }
        workers.push(worker);
    }
    Ok(workers)
}

/// Every worker holds nothing any more, and ends well when it is asked to.
async fn end(workers: &mut [WorkerProcess]) {
    for worker in workers {
        worker.agent.idle().await;
        worker.agent.request(&Request::Drain).await.unwrap();
        assert_eq!(worker.exited().await.code(), Some(0));
    }
}

async fn compare(ends: &[u32], model: &Path, expected: &[(Vec<i32>, Vec<i32>)]) {
    let realm = realm(ends);
    let mut workers = start_processes(&realm, &cut(&realm, model)).await.unwrap();
    let gateway = gateway(&realm, &workers).await;
    for (prompt, tokens) in expected {
        let started = Instant::now();
        let reply = timeout(SLOW_LIMIT, gateway.generate(request(1, prompt, TOKENS as u32))).await;
        let reply = reply.expect("an answer").unwrap();
        assert_eq!(&reply.tokens, tokens, "{} stages, one sequence", ends.len());
        let rate = TOKENS as f64 / started.elapsed().as_secs_f64();
        println!(
            "{} stages, one sequence, prompt included: {rate:.1} tokens/s",
            ends.len()
        );
    }
    // More requests than sequences, so that prompts and decodes share steps and slots are used again.
    let started = Instant::now();
    let gateway = &gateway;
    let all = expected.iter().chain(expected).map(|(prompt, tokens)| async move {
        let reply = gateway.generate(request(1, prompt, TOKENS as u32)).await.unwrap();
        assert_eq!(&reply.tokens, tokens, "{} stages, several sequences", ends.len());
    });
    timeout(SLOW_LIMIT, join_all(all)).await.expect("all answers");
    let rate = (2 * expected.len() * TOKENS) as f64 / started.elapsed().as_secs_f64();
    println!(
        "{} stages, three sequences, prompts included: {rate:.1} tokens/s",
        ends.len()
    );
    end(&mut workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_continue_prompts_as_the_whole_model_does() {
    let Some(model) = model() else { return };
    assert_eq!(
        read_model(&model)
            .metadata
            .get("llama.block_count")
            .and_then(|value| value.as_u64()),
        Some(30)
    );
    let expected = tokio::task::block_in_place(|| expected(&model));
    compare(&[9, 20, 30], &model, &expected).await;
    compare(&[30], &model, &expected).await;
}

/// What any model goes on with as it began.
const REPEATING: &str = "Monday is red. Tuesday is blue. Wednesday is green. Monday is red. Tuesday is blue. Wednesday is green. \
                         Monday is red. Tuesday is";

#[tokio::test(flavor = "multi_thread")]
async fn draft_tokens_are_computed_by_stages_that_would_idle_and_change_nothing() {
    let Some(model) = model() else { return };
    let runtime = Runtime::load(Some(&backend_directory())).unwrap();
    let (prompt, tokens) = tokio::task::block_in_place(|| {
        let config = WholeConfig::like_a_stage(Device::Cpu { threads: THREADS }, CONTEXT);
        let mut whole = WholeModel::load(&runtime, &model, &config).unwrap();
        let prompt = whole.tokenize(REPEATING).unwrap();
        let tokens = whole.greedy(&prompt, TOKENS).unwrap().tokens;
        (prompt, tokens)
    });
    for speculate in [true, false] {
        let realm = realm(&[10, 20, 30]);
        let mut configs = cut(&realm, &model);
        configs[0].speculate = speculate;
        let mut workers = start_processes(&realm, &configs).await.unwrap();
        let gateway = gateway(&realm, &workers).await;
        let reply = timeout(SLOW_LIMIT, gateway.generate(request(1, &prompt, TOKENS as u32))).await;
        assert_eq!(reply.expect("an answer").unwrap().tokens, tokens, "drafts: {speculate}");
        let metrics = workers[0].agent.metrics().await;
        let none = "shardwright_worker_accepted_draft_tokens_total 0\n";
        assert_eq!(metrics.contains(none), !speculate, "{metrics}");
        end(&mut workers).await;
    }
}

/// Two prompts that begin alike and end differently, and one that goes on where the first one's answer is.
fn related(prompts: &[Vec<i32>]) -> Vec<Vec<i32>> {
    let [.., law, code] = prompts else {
        panic!("the prompts are known")
    };
    let alike = &code[..48];
    vec![[alike, law].concat(), [alike, &law[..3]].concat(), code.clone()]
}

#[tokio::test(flavor = "multi_thread")]
async fn four_streams_at_once_and_shared_prefixes_answer_as_each_would_alone() {
    let Some(model) = model() else { return };
    let (alone, related) = tokio::task::block_in_place(|| (expected(&model), expected_of(&model, related)));
    let mut realm = realm(&[15, 30]);
    (realm.runtime.parallel_sequences, realm.runtime.prefix_sequences) = (4, 4);
    let mut workers = start_processes(&realm, &cut(&realm, &model)).await.unwrap();
    let gateway = &gateway(&realm, &workers).await;
    let ask = |prompt: Vec<i32>| async move {
        let reply = timeout(SLOW_LIMIT, gateway.generate(request(1, &prompt, TOKENS as u32))).await;
        reply.expect("an answer").unwrap()
    };
    let ask = &ask;
    let all = alone.iter().map(|(prompt, tokens)| async move {
        assert_eq!(&ask(prompt.clone()).await.tokens, tokens, "four streams at once");
    });
    join_all(all).await;
    let mut cached = Vec::new();
    for (prompt, tokens) in &related {
        let reply = ask(prompt.clone()).await;
        assert_eq!(&reply.tokens, tokens, "after a shared prefix");
        cached.push(reply.finished.cached_tokens);
    }
    // An answer that was heard before is continued as it was.
    let (prompt, tokens) = &related[2];
    let resumed = [prompt, &tokens[..9]].concat();
    let reply = ask(resumed.clone()).await;
    assert_eq!(reply.tokens[..TOKENS - 9], tokens[9..]);
    assert_eq!(reply.finished.cached_tokens as usize, resumed.len() - 1);
    assert_eq!(cached[..2], [48, 50], "{cached:?}");
    end(&mut workers).await;
}

/// Tokens that arithmetic of another backend is sure not to change: the prompt's answer is clear.
const CLEAR_TOKENS: usize = 7;

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_on_vulkan_between_two_on_the_cpu_answers_as_the_whole_model_does() {
    let Some(model) = model() else { return };
    let realm = realm(&[14, 16, 30]);
    let mut configs = cut(&realm, &model);
    configs[1].backend = Backend::Vulkan;
    let mut workers = match start_processes(&realm, &configs).await {
        Ok(workers) => workers,
        Err(Some(69)) => return println!("SKIPPED: no Vulkan device 0"),
        Err(code) => panic!("a worker ended with {code:?}"),
    };
    let gateway = gateway(&realm, &workers).await;
    let (prompt, tokens) = tokio::task::block_in_place(|| expected(&model)).swap_remove(0);
    let started = Instant::now();
    let reply = timeout(SLOW_LIMIT, gateway.generate(request(1, &prompt, CLEAR_TOKENS as u32))).await;
    assert_eq!(reply.expect("an answer").unwrap().tokens, tokens[..CLEAR_TOKENS]);
    let rate = CLEAR_TOKENS as f64 / started.elapsed().as_secs_f64();
    println!("CPU, Vulkan, CPU, prompt included: {rate:.1} tokens/s");
    end(&mut workers).await;
}

#[tokio::test]
async fn a_bad_configuration_ends_with_64_and_says_which_field() {
    let realm = Realm::new(&[6]);
    let path = realm.path("config.json");
    let mut config = realm.config(0, "");
    config.runtime.parallel_sequences = 0;
    write_config(&config, &path);
    for (path, part) in [(path, "runtime.parallel_sequences"), (realm.path("missing"), "missing")] {
        let output = WorkerProcess::command().arg("--config").arg(path).output().unwrap();
        assert_eq!(output.status.code(), Some(64));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(part), "{said}");
    }
    let output = WorkerProcess::command().output().unwrap();
    assert_eq!(output.status.code(), Some(64));
}

/// What spoils a worker's configuration.
type Spoil<'a> = &'a dyn Fn(&mut WorkerConfig);

#[test]
fn a_worker_that_cannot_begin_ends_with_64_and_names_what_is_in_its_way() {
    let realm = Realm::new(&[6]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let socket = realm.path("taken.sock");
    let _answering = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let cases: [(&str, Spoil<'_>); 8] = [
        ("none: cannot read ", &|c| c.identity_dir.push("none")),
        ("the leaf names spiffe://shardwright/worker/node-0/", &|c| {
            c.node = "node-9".to_owned();
        }),
        (".epoch is damaged", &|c| std::fs::write(c.epoch_file(), "17").unwrap()),
        ("accepted epoch: cannot read ", &|c| {
            std::fs::create_dir(c.epoch_file()).unwrap();
        }),
        ("the path is taken by something that is no socket", &|c| {
            std::fs::write(&c.control_socket, "").unwrap();
        }),
        ("taken.sock: a worker answers there already", &|c| {
            c.control_socket.clone_from(&socket);
        }),
        ("none/w.sock: No such file or directory", &|c| {
            c.control_socket = realm.path("none/w.sock");
        }),
        ("data plane on 127.0.0.1:", &|c| c.listen.clone_from(&address)),
    ];
    for (number, (part, spoil)) in cases.into_iter().enumerate() {
        let mut config = realm.config(0, &number.to_string());
        spoil(&mut config);
        let path = realm.path("config.json");
        write_config(&config, &path);
        let output = WorkerProcess::command().arg("--config").arg(path).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{part}: {said}");
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[tokio::test]
async fn weights_that_cannot_be_loaded_end_with_65_after_the_agent_was_told() {
    let realm = Realm::new(&[6]);
    let mut worker = WorkerProcess::spawn(&realm, &realm.config(0, "")).await;
    let status = rig::wait_for("the failure", || async {
        let status = worker.agent.status().await.expect("the worker stays to tell");
        status.reason.is_some().then_some(status)
    })
    .await;
    assert_eq!(status.reason.as_deref(), Some("LoadRefused"), "{status:?}");
    assert_eq!(worker.exited().await.code(), Some(65));
}

#[tokio::test]
async fn a_device_that_is_not_there_ends_with_69() {
    let realm = Realm::new(&[6]);
    let mut config = realm.config(0, "");
    config.backend = Backend::Vulkan;
    config.device_index = 99;
    let mut worker = WorkerProcess::spawn(&realm, &config).await;
    rig::wait_for("the failure", || async {
        worker.agent.status().await.and_then(|status| status.reason)
    })
    .await;
    assert_eq!(worker.exited().await.code(), Some(69));
}
