//! What placement predicts of a stage, from the devices' own measurements and before the first request, beside what the stage
//! then takes: ten cuts of one model over three devices on a real control plane.

use std::time::{Duration, Instant};

use localplane::assets;
use localplane::chat::Chat;
use localplane::stack::{AgentSpec, Stack, condition_of};
use localplane::wait::{Seen, until};
use serde_json::{Value, json};

use crate::error::{Result, failed, trying};
use crate::report::Report;

const CPU_A: &str = "node-a";
const VULKAN: &str = "node-b";
const CPU_B: &str = "node-c";
/// Layers of the model on each node, in no order: placement chooses that.
const CUTS: [&[(&str, u32)]; 10] = [
    &[(CPU_A, 30)],
    &[(CPU_A, 15), (CPU_B, 15)],
    &[(CPU_A, 10), (CPU_B, 20)],
    &[(CPU_A, 20), (CPU_B, 10)],
    &[(CPU_A, 5), (CPU_B, 25)],
    &[(CPU_A, 28), (VULKAN, 2)],
    &[(CPU_A, 26), (VULKAN, 4)],
    &[(CPU_A, 14), (VULKAN, 2), (CPU_B, 14)],
    &[(CPU_A, 10), (VULKAN, 4), (CPU_B, 16)],
    &[(CPU_A, 5), (VULKAN, 1), (CPU_B, 24)],
];
const MODEL: &str = "predicted";
const NAMESPACE: &str = "default";
/// Predictions are of a context that is half full: so is, on average, that of a stream of so many tokens.
const CONTEXT_LENGTH: u32 = 512;
const TOKENS: u32 = 400;
/// Streams until every stage has told; the first should do.
const STREAMS_MAX: usize = 5;
const READY_LIMIT: Duration = Duration::from_secs(120);
/// A software renderer takes seconds for each measurement, and some for the pause to the next.
const MEASURED_LIMIT: Duration = Duration::from_secs(300);
/// A worker tells within ten seconds, its agent asks twice a second.
const TOLD_LIMIT: Duration = Duration::from_secs(20);
/// Agents pause for less between two measurements of a device, and the slowest of them takes less.
const SETTLED_AFTER: Duration = Duration::from_secs(25);
/// Prompts that are read before tokens are counted, and their words: each has a few steps of many rows.
const PROMPTS: usize = 3;
const PROMPT_WORDS: usize = 130;
const PROMPT: &str =
    "Write a very long story about a lighthouse keeper and his daughter, in great detail, with many chapters.";

/// One cut, as it was predicted and measured.
#[derive(Debug, Clone)]
struct Cut {
    name: String,
    predicted_us: f64,
    /// The same for the context that the stream's tokens met.
    expected_us: f64,
    observed_us: f64,
    /// From one token to the next, as the client saw it.
    client_us: f64,
    stages: Value,
}

impl Cut {
    fn error_percent(&self) -> f64 {
        (self.observed_us / self.expected_us - 1.0) * 100.0
    }
}

/// Measures all cuts, prints a line for each, and notes the median error.
///
/// # Errors
/// When the stack does not come up, or a cut does not serve.
pub async fn measure(report: &mut Report) -> Result<()> {
    let directory = tempfile::tempdir().map_err(trying("a temporary directory"))?;
    let agents = [
        AgentSpec::new(CPU_A, "cpu"),
        AgentSpec::new(VULKAN, "vulkan"),
        AgentSpec::new(CPU_B, "cpu"),
    ];
    println!(
        "starting a control plane, a gateway and three agents, one after the other: each measures its device for itself"
    );
    let mut stack = Stack::start(&directory.path().join("plane"), &agents[..1], &mut |_| {}).await?;
    for (count, agent) in agents.iter().enumerate() {
        if count > 0 {
            stack.start_agent(agent).await?;
        }
        stack.wait_for_devices(count + 1).await?;
        measured(&mut stack).await?;
    }
    stack.wait_for_links(agents.len()).await?;
    let chat = Chat::new(&stack.endpoint(), stack.api_key(), stack.bundle())?;
    println!(
        "\n{:<34} {:>9} {:>9} {:>9} {:>7} {:>9}",
        "layers", "predicted", "expected", "observed", "error", "client"
    );
    let mut cuts = Vec::new();
    for layers in CUTS {
        let cut = cut(&mut stack, &chat, layers).await?;
        println!(
            "{:<34} {:>6.2} ms {:>6.2} ms {:>6.2} ms {:>+5.0} % {:>6.2} ms",
            cut.name,
            cut.predicted_us / 1000.0,
            cut.expected_us / 1000.0,
            cut.observed_us / 1000.0,
            cut.error_percent(),
            cut.client_us / 1000.0
        );
        for stage in cut.stages.as_array().into_iter().flatten() {
            println!("    {}", stage_line(stage));
        }
        cuts.push(cut);
    }
    note(&cuts, report);
    stack.stop().await?;
    Ok(())
}

fn note(cuts: &[Cut], report: &mut Report) {
    let mut errors: Vec<f64> = cuts.iter().map(|cut| cut.error_percent().abs()).collect();
    errors.sort_by(f64::total_cmp);
    report.set("prediction.median_error_percent", median(&errors));
    report.set("prediction.worst_error_percent", errors.last().copied());
    let entry = |cut: &Cut| {
        json!({
            "layers": cut.name, "predicted_us": cut.predicted_us, "expected_us": cut.expected_us,
            "observed_us": cut.observed_us,
            "error_percent": cut.error_percent(), "client_us": cut.client_us, "stages": cut.stages,
        })
    };
    report.entries("cuts", cuts.iter().map(entry).collect());
}

/// Of sorted values.
fn median(sorted: &[f64]) -> Option<f64> {
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted.get((sorted.len() - 1) / 2)?;
    Some((upper + lower) / 2.0)
}

fn stage_line(stage: &Value) -> String {
    let us = |value: &Value| value.as_f64().map_or("-".to_owned(), |us| format!("{us:.0} us"));
    format!(
        "{:<14} {:>6}  predicted {:>8}, expected {:>8}, observed {:>8}; hop {:>7}; 1000 tokens of a prompt {:>10}, observed {:>10}",
        stage["device"].as_str().unwrap_or_default(),
        stage["layers"].as_str().unwrap_or_default(),
        us(&stage["predictedUsPerToken"]),
        us(&stage["observed"]["expectedUsPerToken"]),
        us(&stage["observed"]["usPerToken"]),
        us(&stage["hopUs"]),
        us(&stage["predictedPrefillUs"]),
        us(&stage["observed"]["prefillUs"]),
    )
}

async fn cut(stack: &mut Stack, chat: &Chat, layers: &[(&str, u32)]) -> Result<Cut> {
    stack.apply(&model(layers)?)?;
    let ready = stack
        .wait_for_condition(NAMESPACE, MODEL, "Ready", "True", READY_LIMIT)
        .await?;
    // Before the first request: what was learned from one is in no prediction.
    let predicted = ready["status"]["placement"].clone();
    for number in 0..PROMPTS {
        // No two begin alike: what was read before is not read again.
        let words: Vec<String> = (0..PROMPT_WORDS)
            .map(|word| format!("{}", (word * 7 + number * 31) % 97))
            .collect();
        chat.stream(MODEL, &words.join(" "), 1, &mut |_| {}).await?;
    }
    let mut between_us = Vec::new();
    let mut observed = None;
    for _ in 0..STREAMS_MAX {
        between_us.extend(stream(chat).await?);
        observed = told(stack).await?;
        if observed.is_some() {
            break;
        }
    }
    let observed = observed.ok_or_else(|| failed("the observed pace", "no stage tells of it"))?;
    remove(stack).await?;
    between_us.sort_by(f64::total_cmp);
    let number = |value: &Value, what: &str| value.as_f64().ok_or_else(|| failed(what, "is not in the status"));
    let name: Vec<String> = layers.iter().map(|(node, count)| format!("{count} {node}")).collect();
    Ok(Cut {
        name: name.join(", "),
        predicted_us: number(&predicted["predictedUsPerToken"], "predictedUsPerToken")?,
        expected_us: number(&observed["expectedUsPerToken"], "expectedUsPerToken")?,
        observed_us: number(&observed["observedUsPerToken"], "observedUsPerToken")?,
        client_us: median(&between_us).unwrap_or_default(),
        stages: observed["stages"].clone(),
    })
}

/// Times between two tokens of one stream, as the client sees them, microseconds.
async fn stream(chat: &Chat) -> Result<Vec<f64>> {
    let mut at = Vec::new();
    let answer = chat
        .stream(MODEL, PROMPT, TOKENS, &mut |_| at.push(Instant::now()))
        .await?;
    if let Some(error) = answer.error {
        return Err(failed("a stream", error.to_string()));
    }
    let between = at.windows(2).filter_map(|pair| match pair {
        [from, to] => Some(to.duration_since(*from).as_secs_f64() * 1e6),
        _ => None,
    });
    Ok(between.collect())
}

/// The placement once the whole token is observed, or nothing where that does not come.
async fn told(stack: &Stack) -> Result<Option<Value>> {
    let deadline = Instant::now() + TOLD_LIMIT;
    let look = || -> localplane::Result<Seen<Option<Value>>> {
        let placement = stack.model(NAMESPACE, MODEL)?["status"]["placement"].clone();
        if !placement["observedUsPerToken"].is_null() {
            return Ok(Seen::Done(Some(placement)));
        }
        if Instant::now() >= deadline {
            return Ok(Seen::Done(None));
        }
        Ok(Seen::Not("not told".into()))
    };
    let found = until("the observed pace", TOLD_LIMIT * 2, || std::future::ready(look())).await?;
    Ok(found)
}

/// With the object goes what it taught: the next cut is predicted as if it were the first.
async fn remove(stack: &Stack) -> Result<()> {
    let mut kubectl = stack.plane().kubectl()?;
    localplane::stack::run(kubectl.args(["delete", "inferencemodel", "-n", NAMESPACE, MODEL]))?;
    let look = || -> localplane::Result<Seen<()>> {
        let held = |item: &&Value| item["status"]["shards"].as_array().is_some_and(|held| !held.is_empty());
        let holding = devices(stack)?.iter().filter(held).count();
        Ok(if holding == 0 {
            Seen::Done(())
        } else {
            Seen::Not(format!("{holding} devices hold shards"))
        })
    };
    until("the devices are free", READY_LIMIT, || std::future::ready(look())).await?;
    Ok(())
}

/// Until every device has its figures: a placement before that would be predicted from assumptions.
async fn measured(stack: &mut Stack) -> Result<()> {
    let mut last = (Vec::new(), Instant::now());
    let mut look = || -> localplane::Result<Seen<Vec<Value>>> {
        let items = devices(stack)?;
        let complete =
            |item: &Value| condition_of(item, "Ready")["status"] == "True" && !item["status"]["stepRates"].is_null();
        let rates: Vec<Value> = items.iter().map(|item| item["status"]["stepRates"].clone()).collect();
        if last.0 != rates {
            last = (rates, Instant::now());
        }
        // They are measured a few times, with pauses.
        if items.iter().all(complete) && last.1.elapsed() >= SETTLED_AFTER {
            return Ok(Seen::Done(items));
        }
        Ok(Seen::Not("not measured".into()))
    };
    let items = until(
        "the devices are measured",
        MEASURED_LIMIT,
        || std::future::ready(look()),
    )
    .await?;
    for item in &items {
        println!("{}", device_line(item));
    }
    Ok(())
}

fn devices(stack: &Stack) -> localplane::Result<Vec<Value>> {
    let mut kubectl = stack.plane().kubectl()?;
    let text = localplane::stack::run(kubectl.args(["get", "devicegpustates", "-o", "json"]))?;
    let list: Value = serde_json::from_str(&text).unwrap_or_default();
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

fn device_line(item: &Value) -> String {
    let status = &item["status"];
    let rates = &status["stepRates"];
    let shown = |value: &Value, per: f64| {
        value
            .as_f64()
            .map_or("-".to_owned(), |value| format!("{:.1}", value / per))
    };
    let reading = rates["reading"].as_array().into_iter().flatten();
    let reading: Vec<String> = reading
        .map(|reading| {
            format!(
                "{} bits {} GB/s",
                reading["bits"],
                shown(&reading["bytesPerSecond"], 1e9)
            )
        })
        .collect();
    format!(
        "{}: copies {} GB/s; a step {} us, a layer {} us, a row {} ns, weights of {}, attention {} GFLOP/s, strict {} %, {} GFLOP/s",
        item["metadata"]["name"].as_str().unwrap_or_default(),
        shown(&status["bandwidthBytesPerSecond"]["value"], 1e9),
        shown(&rates["stepNs"], 1e3),
        shown(&rates["layerNs"], 1e3),
        shown(&rates["rowPs"], 1e3),
        reading.join(", "),
        shown(&rates["attentionFlopsPerSecond"], 1e9),
        shown(&rates["strictPercent"], 1.0),
        shown(&rates["prefillFlopsPerSecond"], 1e9),
    )
}

fn model(layers: &[(&str, u32)]) -> Result<Value> {
    let pins: Vec<Value> = layers
        .iter()
        .map(|(node, count)| json!({ "node": node, "minLayers": count, "maxLayers": count }))
        .collect();
    Ok(json!({
        "apiVersion": "shardwright.dev/v1alpha1", "kind": "InferenceModel",
        "metadata": { "name": MODEL, "namespace": NAMESPACE },
        "spec": {
            "source": { "uri": format!("file://{}", assets::model()?.display()) },
            "contextLength": CONTEXT_LENGTH,
            "parallelSequences": 1,
            "placement": { "allowSoftwareDevices": true, "pinnedLayers": pins },
        },
    }))
}
