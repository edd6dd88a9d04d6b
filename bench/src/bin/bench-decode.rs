//! Decode speed of one stream through gateway and workers against llama.cpp's own loop on the unsplit file, same build, same
//! threads, same file, in turns. Prints a table and writes `target/bench/decode.json`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use bench::{best, write_results};
use engine::reference::{WholeConfig, WholeModel};
use engine::{Device, Runtime};
use localplane::chat::{Chat, rendered};
use localplane::stack::{AgentSpec, Stack};
use localplane::{Error, Result, assets};
use serde_json::json;

const THREADS: u32 = 2;
const TOKENS: usize = 128;
const ROUNDS: usize = 9;
const CONTEXT_LENGTH: u32 = 1024;
const LIMIT: Duration = Duration::from_secs(60);
/// Long answers, so that the stream does not end before enough tokens are measured.
const PROMPT: &str = "Write a long story about a lighthouse keeper, in great detail.";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-decode: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let dir = tempfile::tempdir().map_err(|error| Error::Other(error.to_string()))?;
    let agents = [AgentSpec::new("node-a", "cpu"), AgentSpec::new("node-b", "cpu")];
    let mut stack = Stack::start(&dir.path().join("plane"), &agents, &mut |step| println!("{step}")).await?;
    stack.wait_for_devices(agents.len()).await?;
    for (name, devices) in [("one-stage", 1), ("two-stages", 2)] {
        stack.apply(&model(name, devices)?)?;
        stack
            .wait_for_condition("default", name, "Ready", "True", LIMIT)
            .await?;
    }
    let chat = Chat::new(&stack.endpoint(), stack.api_key(), stack.bundle())?;
    let mut whole = whole_model()?;

    let (mut whole_tok_s, mut one_tok_s, mut two_tok_s) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        println!("round {round} of {ROUNDS}");
        whole_tok_s.push(whole_speed(&mut whole)?);
        one_tok_s.push(stream_speed(&chat, "one-stage").await?);
        two_tok_s.push(stream_speed(&chat, "two-stages").await?);
    }
    let (whole, one, two) = (best(&whole_tok_s), best(&one_tok_s), best(&two_tok_s));
    println!("\none stream, {TOKENS} tokens, {THREADS} threads, best of {ROUNDS} rounds");
    println!("{:<34} {:>8} {:>7}", "", "tok/s", "ratio");
    for (name, speed) in [
        ("llama.cpp's own loop, whole file", whole),
        ("one stage, through the gateway", one),
        ("two stages, through the gateway", two),
    ] {
        println!("{name:<34} {speed:>8.1} {:>7.2}", speed / whole);
    }
    let results = json!({ "whole_tok_s": whole, "one_stage_tok_s": one, "two_stage_tok_s": two });
    let path =
        write_results(&assets::workspace(), "decode", &results).map_err(|error| Error::Other(error.to_string()))?;
    println!("{}", path.display());
    stack.stop().await
}

fn model(name: &str, devices: u32) -> Result<serde_json::Value> {
    Ok(json!({
        "apiVersion": "shardwright.dev/v1alpha1", "kind": "InferenceModel",
        "metadata": { "name": name, "namespace": "default" },
        "spec": {
            "source": { "uri": format!("file://{}", assets::model()?.display()) },
            "contextLength": CONTEXT_LENGTH,
            "parallelSequences": 1,
            "placement": { "minDevices": devices, "maxDevices": devices },
        },
    }))
}

/// llama.cpp's defaults, faster than a stage's settings: the peer is not slowed down to look alike.
fn whole_model() -> Result<WholeModel> {
    let explain = |error: engine::EngineError| Error::Other(error.to_string());
    let runtime = Runtime::load(None).map_err(explain)?;
    let config = WholeConfig::like_llama_cpp(Device::Cpu { threads: THREADS }, CONTEXT_LENGTH);
    WholeModel::load(&runtime, &assets::model()?, &config).map_err(explain)
}

fn whole_speed(whole: &mut WholeModel) -> Result<f64> {
    let explain = |error: engine::EngineError| Error::Other(error.to_string());
    let prompt = whole.tokenize(&rendered(PROMPT)).map_err(explain)?;
    Ok(whole.greedy(&prompt, TOKENS).map_err(explain)?.tokens_per_second())
}

/// Tokens per second between the first and the last piece of text: the prompt's time does not count.
async fn stream_speed(chat: &Chat, model: &str) -> Result<f64> {
    let mut first = None;
    let mut last = Instant::now();
    let limit = u32::try_from(TOKENS).unwrap_or(u32::MAX);
    let answer = chat
        .stream(model, PROMPT, limit, &mut |_| {
            last = Instant::now();
            first.get_or_insert(last);
        })
        .await?;
    let first = first.ok_or_else(|| Error::Other(format!("{model} answered nothing: {:?}", answer.error)))?;
    if answer.completion_tokens < TOKENS as u64 / 2 {
        return Err(Error::Other(format!(
            "{model} ended after {} tokens: too few to measure",
            answer.completion_tokens
        )));
    }
    Ok((answer.completion_tokens - 1) as f64 / last.duration_since(first).as_secs_f64())
}
