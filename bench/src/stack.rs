//! One stream through everything: control plane, operator, agents, gateway, workers, against llama.cpp's own loop.

use std::time::{Duration, Instant};

use localplane::assets;
use localplane::chat::{Chat, rendered};
use localplane::stack::{AgentSpec, Stack};
use serde_json::{Value, json};

use crate::error::{Result, failed};
use crate::peer::{Peer, PeerSpec, Question};
use crate::pinning::Seat;
use crate::report::{Report, ratio};
use crate::session::Session;
use crate::timing::{best, rate};

const THREADS: u32 = 2;
const TOKENS: usize = 128;
const CONTEXT_LENGTH: u32 = 1024;
const LIMIT: Duration = Duration::from_secs(60);
/// Long answers, so that the stream does not end before enough tokens are measured.
const PROMPT: &str = "Write a long story about a lighthouse keeper, in great detail.";

/// Measures both, and notes them among the figures.
///
/// # Errors
/// When the stack does not come up.
pub async fn measure(session: &Session, report: &mut Report) -> Result<()> {
    let directory = session.directory("stack")?;
    session.say("through the gateway: starting a control plane");
    let agents = [AgentSpec::new("node-a", "cpu"), AgentSpec::new("node-b", "cpu")];
    let mut stack = Stack::start(&directory.join("plane"), &agents, &mut |_| {}).await?;
    stack.wait_for_devices(agents.len()).await?;
    for (name, devices) in [("one-stage", 1), ("two-stages", 2)] {
        stack.apply(&model(name, devices)?)?;
        stack
            .wait_for_condition("default", name, "Ready", "True", LIMIT)
            .await?;
    }
    let chat = Chat::new(&stack.endpoint(), stack.api_key(), stack.bundle())?;
    let spec = PeerSpec::alone(THREADS, CONTEXT_LENGTH, 1)?;
    let mut whole = Peer::start("whole", &Seat::anywhere(), &spec, &directory).await?;
    // As long as the text is in tokens, near enough.
    let question = Question::Decode(crate::prompts::prompt(1, rendered(PROMPT).len() / 4), TOKENS);

    let (mut alone, mut one, mut two) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=session.rounds {
        alone.push(whole.ask(&question).await?);
        one.push(stream_speed(&chat, "one-stage").await?);
        two.push(stream_speed(&chat, "two-stages").await?);
        session.say(&format!("through the gateway: round {round} of {}", session.rounds));
    }
    report.figures(
        "through_the_gateway",
        json!({
            "tokens": TOKENS,
            "threads": THREADS,
            "whole_tok_s": best(&alone),
            "one_stage_tok_s": best(&one),
            "two_stages_tok_s": best(&two),
            "one_stage_ratio": ratio(best(&one), best(&alone)),
            "two_stages_ratio": ratio(best(&two), best(&alone)),
        }),
    );
    stack.stop().await?;
    Ok(())
}

fn model(name: &str, devices: u32) -> Result<Value> {
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
    let first = first.ok_or_else(|| failed(model, format!("answered nothing: {:?}", answer.error)))?;
    if answer.completion_tokens < TOKENS as u64 / 2 {
        let cause = format!("ended after {} tokens: too few to measure", answer.completion_tokens);
        return Err(failed(model, cause));
    }
    Ok(rate(answer.completion_tokens as usize - 1, last.duration_since(first)))
}
