//! Equal devices of a node that work as one: a software renderer, which the node has twice.
//!
//! Asks for its driver by name: Mesa's uses buffers that are gone where several devices compute (22.3; 25.0 does not).

use std::path::Path;

use localplane::chat::Chat;
use modelgen::{LEAST_TOKENS, Recipe};
use serde_json::{Value, json};

use super::{
    Device, Here, LIMIT, PROMPTS, Runtime, Seen, Shape, WholeConfig, WholeModel, installed, shape, stages, until, uri,
};

/// The Vulkan loader takes the manifest of the only driver from here.
const DRIVER: &str = "VK_DRIVER_FILES";
const MEMBERS: [&str; 2] = ["node-0-vulkan0", "node-0-vulkan1"];
const GROUP: &str = "node-0-vulkan0+node-0-vulkan1";
/// Each device is measured by itself until it is known, with pauses, and then both together.
const MEASURED_WITHIN: &str = "--timeout=900s";

const LAYERS: u32 = 8;
const CONTEXT_LENGTH: u32 = 512;
/// Most of them have a text of their own, which tells them.
const VOCABULARY: u32 = 8192;
/// Of the generated models.
const BEGIN_OF_SEQUENCE: i32 = 1;
const FIRST_FILLER: i32 = LEAST_TOKENS as i32;

const QUESTIONS: i32 = 4;
const QUESTION_TOKENS: i32 = 20;
const ANSWER_TOKENS: u32 = 16;
/// Of all answers together, so many tokens are told by their text at least.
const TOLD_TOKENS: usize = 16;
/// How far below the processor's best a token's logit may be, in parts of the logits' size: the processor multiplies with activations
/// in 8 bits, and several devices add up in another order. About four tokens of the vocabulary are as near to the best.
const NEAR: f32 = 0.5;

/// A node whose agent finds the renderer twice.
fn renderer_twice(manifest: &str, folder: &Path) -> Shape {
    let second = folder.join("second.json");
    std::fs::copy(manifest, &second).expect("a manifest");
    let both = format!("{manifest}:{}", second.display());
    let mut one = shape(&["vulkan"]);
    one.agents[0].environment = vec![(DRIVER.to_owned(), both)];
    one
}

/// A model that two devices can divide; each of its answers depends on every weight.
fn write_divisible_model(file: &Path) {
    let mut recipe = Recipe::new("llama").expect("an architecture");
    (recipe.layers, recipe.vocabulary) = (LAYERS, VOCABULARY);
    (recipe.width, recipe.heads, recipe.kv_heads) = (512, 8, 4);
    recipe.feed_forward = 1024;
    recipe.tied = false;
    recipe.write(file).expect("a model");
}

impl Here {
    fn object(&self, name: &str) -> Value {
        let text = self.stack.kubectl(&["get", name, "-o", "json"]).expect("an object");
        serde_json::from_str(&text).expect("JSON")
    }

    /// Waits until the agent has measured its devices as one, or found that they cannot work so; what it says of them.
    fn measured_group(&self) -> Value {
        let links = "nodelinkstates/node-0";
        let measured = "--for=jsonpath={.status.groups[0].measuredAt}";
        let wait = ["wait", links, "--for=create", measured, MEASURED_WITHIN];
        self.stack.kubectl(&wait).expect("both are measured as one");
        self.object(links)["status"]["groups"][0].clone()
    }

    /// Waits until both devices show so many shards; these.
    async fn members_show(&self, count: usize) -> [Vec<Value>; 2] {
        let shards = |device: &str| {
            let object = self.object(&format!("devicegpustates/{device}"));
            object["status"]["shards"].as_array().cloned().unwrap_or_default()
        };
        let look = || -> localplane::Result<Seen<[Vec<Value>; 2]>> {
            let shown = MEMBERS.map(shards);
            Ok(if shown.iter().all(|shards| shards.len() == count) {
                Seen::Done(shown)
            } else {
                Seen::Not(format!("{shown:?}"))
            })
        };
        let what = format!("both devices show {count} shards");
        until(&what, LIMIT, || std::future::ready(look())).await.expect("told")
    }
}

/// Tokens that no other question begins with.
fn question(nth: i32) -> Vec<i32> {
    let token = |place: i32| FIRST_FILLER + (place * place * 31 + place * (7 + nth) + 5 + nth) % 4000;
    let tokens = (0..QUESTION_TOKENS).map(token);
    std::iter::once(BEGIN_OF_SEQUENCE).chain(tokens).collect()
}

/// The tokens that an answer begins with, up to the first whose text does not tell it.
async fn answer_to(chat: &Chat, question: &[i32]) -> Vec<i32> {
    let request = json!({ "model": "m", "prompt": question, "temperature": 0, "max_tokens": ANSWER_TOKENS });
    let answer = chat.post("/completions", request.to_string()).await;
    let (status, answer) = answer.expect("an answer");
    assert_eq!(status, 200, "{answer}");
    let text = answer["choices"][0]["text"].as_str().expect("a text");
    let number = |piece: &str| piece.strip_prefix("<filler ")?.strip_suffix('>')?.parse().ok();
    text.split_inclusive('>').map_while(number).collect()
}

/// How far below the best of the processor's logits an answer's tokens are at most, in parts of these logits' size.
fn farthest_from_best(whole: &mut WholeModel, question: &[i32], answer: &[i32]) -> f32 {
    let all = [question, answer].concat();
    let mut farthest = 0_f32;
    let compare = |at: usize, logits: &[f32]| {
        let next = all.get(at + 1).filter(|_| at + 1 >= question.len());
        let Some(next) = next else { return };
        let chosen = logits[usize::try_from(*next).expect("a token")];
        let best = logits.iter().copied().fold(f32::MIN, f32::max);
        let squares: f32 = logits.iter().map(|logit| logit * logit).sum();
        let size = (squares / logits.len() as f32).sqrt();
        farthest = farthest.max((best - chosen) / size);
    };
    whole.teacher_forced(&all, compare).expect("logits");
    farthest
}

#[tokio::test]
#[ignore = "make test-long: 300 s"]
async fn two_equal_devices_that_were_measured_as_one_serve_a_model_as_one_and_say_what_the_processor_says() {
    let Ok(manifest) = std::env::var(DRIVER) else {
        println!("SKIPPED: {DRIVER} names no driver on which several devices may compute");
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("model.gguf");
    write_divisible_model(&file);
    let mut here = installed(&renderer_twice(&manifest, folder.path())).await;
    here.stack.wait_for_devices(MEMBERS.len()).await.expect("devices");
    let group = here.measured_group();
    assert_eq!(group["devices"], json!(MEMBERS), "{group}");
    assert!(group["error"].is_null(), "{group}");
    assert!(group["stepRates"].is_object(), "{group}");

    // They share the processors, so that one may be as fast: but only as one can both have all layers.
    let pins = MEMBERS.map(|device| json!({ "device": device, "minLayers": LAYERS }));
    let spec = json!({
        "source": { "uri": uri(&file) }, "contextLength": CONTEXT_LENGTH,
        "placement": { "maxDevices": 1, "maxGroupDevices": 2, "allowSoftwareDevices": true, "pinnedLayers": pins },
    });
    here.apply("m", &spec);
    let placed = stages(&here.ready("m").await);
    let device = placed[0]["device"].as_str();
    assert_eq!((placed.len(), device), (1, Some(GROUP)), "{placed:?}");
    let shown = here.members_show(1).await;
    assert_eq!(shown[0], shown[1], "equal parts");
    let shard = &shown[0][0];
    let (model, layers) = (shard["model"].as_str(), shard["layers"].as_str());
    assert_eq!((model, layers), (Some("m"), Some("0-7")), "{shard}");

    let chat = here.chat();
    let streamed = chat.stream("m", PROMPTS[0], ANSWER_TOKENS, &mut |_| {}).await;
    let streamed = streamed.expect("an answer");
    assert_eq!(streamed.error, None);
    assert!(streamed.completion_tokens > 0, "{streamed:?}");
    let mut answers = Vec::new();
    for nth in 0..QUESTIONS {
        let question = question(nth);
        answers.push((answer_to(&chat, &question).await, question));
    }
    let delete = ["delete", "inferencemodel", "-n", "default", "m"];
    here.stack.kubectl(&delete).expect("deleted");
    here.members_show(0).await;

    let runtime = Runtime::load(None).expect("llama.cpp");
    let config = WholeConfig::like_a_stage(Device::Cpu { threads: 2 }, CONTEXT_LENGTH);
    let mut whole = WholeModel::load(&runtime, &file, &config).expect("the model");
    let mut told = 0;
    for (answer, question) in &answers {
        let farthest = farthest_from_best(&mut whole, question, answer);
        println!("{} tokens, at most {farthest:.3} from the best", answer.len());
        assert!(farthest < NEAR, "{answer:?}: {farthest} from the best");
        told += answer.len();
    }
    assert!(told >= TOLD_TOKENS, "{told} tokens are told: {answers:?}");
}
