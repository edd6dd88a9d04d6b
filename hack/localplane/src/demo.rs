//! The main job, for real: a control plane, three agents on two backends, one split model, one streamed answer.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::chat::Chat;
use crate::stack::{AgentSpec, Stack, condition_of};
use crate::{Error, Result, assets};

/// What the documentation shows; its `metadata` holds the two names below.
const EXAMPLE: &str = "docs/examples/inferencemodel-smollm2.yaml";
const MODEL: &str = "smollm2";
const MODEL_NAMESPACE: &str = "default";
const READY_LIMIT: Duration = Duration::from_secs(120);
/// How soon a process that ended is started again.
const SUPERVISION: Duration = Duration::from_millis(500);
const QUESTION: &str = "What is the capital of France?";
const MAX_TOKENS: u32 = 64;

/// What the caller chose.
#[derive(Debug, Clone)]
pub struct Options {
    /// Stay until a signal comes, after everything is shown.
    pub keep: bool,
    /// Asked instead of the question whose answer is known.
    pub prompt: Option<String>,
}

/// Runs the demo in `dir`. Success means that a model split over the CPU and Vulkan backends streamed an answer.
pub async fn run(dir: &Path, options: &Options) -> Result<()> {
    let started = Instant::now();
    let mut say = |text: &str| println!("[{:5.1} s] {text}", started.elapsed().as_secs_f64());
    let agents = [
        AgentSpec::new("node-a", "cpu"),
        AgentSpec::new("node-b", "vulkan"),
        AgentSpec::new("node-c", "cpu"),
    ];
    let mut stack = Stack::start(dir, &agents, &mut say).await?;
    say("waiting until the devices are probed, verified and measured");
    stack.wait_for_devices(agents.len()).await?;

    say(&format!("kubectl apply -f {EXAMPLE}"));
    let applied = Instant::now();
    stack.apply(&manifest()?)?;
    let model = stack
        .wait_for_condition(MODEL_NAMESPACE, MODEL, "Ready", "True", READY_LIMIT)
        .await?;
    say("Ready");
    print!("\n{}", stack.kubectl(&["get", "gpu,im", "-A"])?);
    print_stages(&model);
    check_backends(&model)?;

    let prompt = options.prompt.as_deref().unwrap_or(QUESTION);
    println!("\n> {prompt}");
    let chat = Chat::new(&stack.endpoint(), stack.api_key(), stack.bundle())?;
    let mut first = None;
    let asked = Instant::now();
    let answer = chat
        .stream(MODEL, prompt, MAX_TOKENS, &mut |piece| {
            first.get_or_insert_with(Instant::now);
            print!("{piece}");
            // A progress display: a closed terminal is no reason to stop.
            let _ = std::io::stdout().flush();
        })
        .await?;
    println!("\n");
    if let Some(error) = answer.error {
        return Err(Error::Other(format!("the stream ended with an error: {error}")));
    }
    let first = first.ok_or_else(|| Error::Other("the answer is empty".into()))?;
    if options.prompt.is_none() && !answer.text.contains("Paris") {
        return Err(Error::Other(format!("the answer does not name Paris: {}", answer.text)));
    }
    println!(
        "kubectl apply to first token: {:.1} s; request to first token: {:.2} s; {} tokens in {:.1} s",
        first.duration_since(applied).as_secs_f64(),
        first.duration_since(asked).as_secs_f64(),
        answer.completion_tokens,
        asked.elapsed().as_secs_f64(),
    );
    if options.keep {
        print_access(&stack);
        println!("demo: ok");
        supervise(&mut stack).await?;
    }
    stack.stop().await?;
    if !options.keep {
        println!("demo: ok");
    }
    Ok(())
}

/// The example that the documentation shows, with this machine's path and the digest of the model filled in.
pub fn manifest() -> Result<Value> {
    let example = assets::workspace().join(EXAMPLE);
    let text = std::fs::read_to_string(&example).map_err(crate::file(&example))?;
    let mut manifest: Value =
        serde_saphyr::from_str(&text).map_err(|error| Error::Other(format!("{}: {error}", example.display())))?;
    let path = assets::model()?;
    manifest["spec"]["source"] = json!({ "uri": format!("file://{}", path.display()), "sha256": digest(&path)? });
    Ok(manifest)
}

/// SHA-256 of a file, as the API wants it.
pub fn digest(path: &Path) -> Result<String> {
    use sha2::{Digest, Sha256};
    let mut hasher = Sha256::new();
    let mut source = std::fs::File::open(path).map_err(crate::file(path))?;
    std::io::copy(&mut source, &mut hasher).map_err(crate::file(path))?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn stages(model: &Value) -> Vec<Value> {
    model["status"]["placement"]["stages"]
        .as_array()
        .cloned()
        .unwrap_or_default()
}

fn print_stages(model: &Value) {
    println!(
        "\n{}",
        condition_of(model, "Placed")["message"].as_str().unwrap_or_default()
    );
    for stage in stages(model) {
        let text = |key: &str| stage[key].as_str().unwrap_or_default().to_owned();
        println!(
            "  layers {:>5}  {:<7} {}  {}",
            text("layers"),
            text("backend"),
            text("device"),
            text("endpoint")
        );
    }
}

fn check_backends(model: &Value) -> Result<()> {
    let stages = stages(model);
    let used: BTreeSet<&str> = stages.iter().filter_map(|stage| stage["backend"].as_str()).collect();
    if used == BTreeSet::from(["cpu", "vulkan"]) {
        return Ok(());
    }
    Err(Error::Other(format!(
        "the model runs on {used:?}, not on both backends"
    )))
}

fn print_access(stack: &Stack) {
    println!("endpoint:   {}", stack.endpoint());
    println!("key:        {}", stack.api_key());
    println!("authority:  {}", stack.bundle().display());
    println!("kubeconfig: {}", stack.plane().kubeconfig().display());
    if let Ok(kubectl) = assets::kubectl() {
        println!("kubectl:    {}", kubectl.display());
    }
    println!(
        "try: curl --cacert {} -H 'authorization: Bearer {}' {}/models",
        stack.bundle().display(),
        stack.api_key(),
        stack.endpoint()
    );
}

/// Until a signal comes: starts again what ends, so that one can kill things and watch.
async fn supervise(stack: &mut Stack) -> Result<()> {
    let mut look = tokio::time::interval(SUPERVISION);
    let signal = wait_for_signal();
    tokio::pin!(signal);
    loop {
        tokio::select! {
            ended = &mut signal => return ended,
            _ = look.tick() => {
                for name in stack.restart_ended()? {
                    println!("{name} had ended and runs again");
                }
            }
        }
    }
}

/// Until SIGTERM or SIGINT.
pub async fn wait_for_signal() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let explain = |error: std::io::Error| Error::Other(format!("cannot wait for signals: {error}"));
    let mut term = signal(SignalKind::terminate()).map_err(explain)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(explain)?;
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
