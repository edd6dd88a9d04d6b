//! A worker with a model that keeps a state: no prefixes, no cutting back, and the engine's own failures.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use std::path::Path;
use std::sync::Arc;

use engine::Device;
use engine::reference::{WholeConfig, WholeModel};
use futures::future::join_all;
use modelgen::Recipe;
use rig::gateway::{Gateway, request};
use rig::local::{Chain, LocalWorker, within_limit};
use rig::process::cut;
use rig::realm::Realm;
use tonic::Code;
use worker::compute::{Compute, ComputeError, Facts, Loader, Output, engine_loader};
use worker::config::WorkerConfig;
use worker::memory::observation;
use worker::step::Row;

const LAYERS: u32 = 4;
const ANSWER_TOKENS: usize = 24;

/// A token in whose place the engine is given one that the model does not have.
const POISON: i32 = 66;

/// The engine, and steps that it cannot compute.
struct Poisoned(Box<dyn Compute>);

impl Compute for Poisoned {
    fn facts(&self) -> Facts {
        self.0.facts()
    }

    fn embed(&mut self, tokens: &[i32]) -> Result<Vec<f32>, ComputeError> {
        self.0.embed(tokens)
    }

    fn step(&mut self, rows: &[Row], activations: &[f32]) -> Result<Output, ComputeError> {
        let mut rows = rows.to_vec();
        for row in rows.iter_mut().filter(|row| row.token == POISON) {
            row.token = i32::MAX;
        }
        self.0.step(&rows, activations)
    }

    fn remove(&mut self, sequence: u32, from: u32, end: Option<u32>) -> Result<(), ComputeError> {
        self.0.remove(sequence, from, end)
    }

    fn copy_prefix(&mut self, from: u32, to: u32, end: u32) -> Result<(), ComputeError> {
        self.0.copy_prefix(from, to, end)
    }
}

fn poisoned(config: &WorkerConfig) -> Loader {
    let (gauge, _) = observation();
    let load = engine_loader(Arc::new(config.clone()), gauge);
    Box::new(move || Ok(Box::new(Poisoned(load()?))))
}

/// Prompts that begin alike, and as much of an answer as holds no poison.
fn expected(model: &Path) -> Vec<(Vec<i32>, Vec<i32>)> {
    let device = Device::Cpu { threads: 1 };
    let runtime = engine::Runtime::load_for(None, &device).unwrap();
    let mut whole = WholeModel::load(&runtime, model, &WholeConfig::like_a_stage(device, 256)).unwrap();
    let prompt = |nth: i32| (0..20 + nth).map(move |place| 100 + (place * place * 3 + place / 18 * nth) % 150);
    let answer = |prompt: Vec<i32>| {
        let mut tokens = whole.greedy(&prompt, ANSWER_TOKENS).unwrap().tokens;
        let clean = tokens.iter().position(|token| *token == POISON);
        tokens.truncate(clean.unwrap_or(ANSWER_TOKENS));
        assert!(!tokens.is_empty());
        (prompt, tokens)
    };
    (0..4).map(|nth| prompt(nth).collect()).map(answer).collect()
}

async fn answers(gateway: &Gateway, (prompt, tokens): &(Vec<i32>, Vec<i32>)) {
    let asked = gateway.generate(request(1, prompt, tokens.len() as u32));
    let reply = within_limit("an answer", asked).await.unwrap();
    assert_eq!((&reply.tokens, reply.finished.cached_tokens), (tokens, 0));
}

#[tokio::test]
async fn a_recurrent_model_answers_as_llama_cpp_does_keeps_no_prefixes_and_outlives_failed_steps() {
    outlives("mamba").await;
}

#[tokio::test]
async fn a_model_with_states_beside_attention_does_so_too() {
    outlives("jamba").await;
}

async fn outlives(architecture: &str) {
    let mut realm = Realm::new(&[LAYERS]);
    realm.runtime.prefix_sequences = 2;
    let model = realm.path("model.gguf");
    let mut recipe = Recipe::new(architecture).unwrap();
    recipe.layers = LAYERS;
    recipe.write(&model).unwrap();
    let expected = expected(&model);
    let config = cut(&realm, &model).remove(0);
    assert_eq!(config.embedding, None);
    let workers = vec![LocalWorker::start(config.clone(), poisoned(&config)).await];
    let chain = Chain { realm, workers };
    chain.install(1).await;
    let gateway = &chain.gateway(1).await;

    // One by one, the same again, and more than there are sequences.
    for one in expected.iter().chain(&expected[..1]) {
        answers(gateway, one).await;
    }
    join_all(expected.iter().chain(&expected).map(|one| answers(gateway, one))).await;

    // Whoever shares a step with one that fails begins anew, and is not told.
    for round in 0..4 {
        let poisoned = [expected[round].0.clone(), vec![POISON, 100]].concat();
        let bad = async {
            let status = gateway.generate(request(1, &poisoned, 5)).await.unwrap_err();
            assert_eq!(status.code(), Code::Internal, "{status:?}");
        };
        let good = join_all(expected[..2].iter().map(|one| answers(gateway, one)));
        within_limit("three outcomes", Box::pin(async { futures::join!(bad, good) })).await;
    }
    chain.workers[0].agent.idle().await;
    let metrics = chain.workers[0].agent.metrics().await;
    assert!(metrics.contains("shardwright_worker_prefixes_kept 0"), "{metrics}");
}
