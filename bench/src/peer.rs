//! llama.cpp's own loop on the unsplit file, in a process of its own, so that it can be pinned: alone, or with its layers on
//! llama.cpp's RPC servers. What is asked of it travels as a line of JSON each way.

use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::reference::rpc::RpcSplit;
use engine::reference::{WholeConfig, WholeModel};
use engine::{Device, Runtime};
use localplane::assets;
use serde::{Deserialize, Serialize};

use crate::child::Part;
use crate::error::{Result, failed, trying};
use crate::pinning::Seat;
use crate::timing::rate;

/// The executable of these processes.
pub const EXECUTABLE: &str = "bench-part";
/// Loading, over the RPC link too.
const LOAD_LIMIT: Duration = Duration::from_secs(120);
/// No measurement takes longer.
const ANSWER_LIMIT: Duration = Duration::from_secs(180);

/// What a peer is made of; its first line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerSpec {
    /// The model's file.
    pub model: PathBuf,
    /// Compute threads.
    pub threads: u32,
    /// Positions of each sequence.
    pub context_length: u32,
    /// Sequences that decode together.
    pub sequences: u32,
    /// RPC servers in the order of the layers; none: it computes alone.
    pub servers: Vec<String>,
    /// First layers that it computes itself all the same.
    pub local_layers: u32,
    /// How many layers each server holds, the output head counted as one.
    pub shares: Vec<f32>,
}

impl PeerSpec {
    /// The model of all measurements, computed alone.
    ///
    /// # Errors
    /// When the model is missing.
    pub fn alone(threads: u32, context_length: u32, sequences: u32) -> Result<Self> {
        Ok(Self {
            model: assets::model()?,
            threads,
            context_length,
            sequences,
            servers: Vec::new(),
            local_layers: 0,
            shares: Vec::new(),
        })
    }
}

/// What is asked of a peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// The time to the first token of this prompt.
    Prefill(Vec<i32>),
    /// One stream: a prompt and how many tokens.
    Decode(Vec<i32>, usize),
    /// Several streams, decoded as one batch.
    Together(Vec<Vec<i32>>, usize),
}

/// What it answers: tokens per second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measured {
    /// The model is loaded.
    Ready,
    /// Tokens per second of what was asked.
    Rate(f64),
    /// It could not be done.
    Failed(String),
}

/// A running peer.
#[derive(Debug)]
pub struct Peer {
    part: Part,
}

impl Peer {
    /// Starts it and waits until the model is loaded.
    ///
    /// # Errors
    /// When it cannot be loaded.
    pub async fn start(name: &str, seat: &Seat, spec: &PeerSpec, directory: &Path) -> Result<Self> {
        let mut command = seat.command(&assets::own(EXECUTABLE)?);
        command.arg("whole");
        let mut part = Part::spawn(name, command, directory)?;
        match part.ask(spec, LOAD_LIMIT).await? {
            Measured::Ready => Ok(Self { part }),
            other => Err(failed(name, format!("{other:?}"))),
        }
    }

    /// Tokens per second.
    ///
    /// # Errors
    /// When it cannot do it.
    pub async fn ask(&mut self, question: &Question) -> Result<f64> {
        match self.part.ask(question, ANSWER_LIMIT).await? {
            Measured::Rate(rate) => Ok(rate),
            other => Err(failed("llama.cpp", format!("{other:?}"))),
        }
    }
}

/// The peer's own end: the model.
#[derive(Debug)]
pub struct Answering {
    model: WholeModel,
}

impl Answering {
    /// Loads with llama.cpp's defaults, which are faster than a stage's settings: the peer is not slowed down to look alike. Only
    /// the cache is one for all sequences, as llama.cpp's server has it.
    ///
    /// # Errors
    /// What llama.cpp says.
    pub fn load(spec: &PeerSpec) -> Result<Self> {
        let runtime = Runtime::load_for(None, &Device::Cpu { threads: spec.threads });
        let runtime = runtime.map_err(trying("llama.cpp"))?;
        let device = Device::Cpu { threads: spec.threads };
        let config = WholeConfig {
            sequences: spec.sequences,
            rpc: RpcSplit {
                servers: spec.servers.clone(),
                local_layers: spec.local_layers,
                shares: spec.shares.clone(),
            },
            ..WholeConfig::like_llama_cpp(device, spec.context_length)
        };
        let model = WholeModel::load(&runtime, &spec.model, &config).map_err(trying("llama.cpp"))?;
        Ok(Self { model })
    }

    /// Does what is asked, and times it.
    ///
    /// # Errors
    /// What llama.cpp says.
    pub fn answer(&mut self, question: &Question) -> Result<f64> {
        match question {
            Question::Prefill(prompt) => {
                let done = self.model.greedy(prompt, 1).map_err(trying("a prefill"))?;
                Ok(rate(prompt.len(), done.prefill_time))
            }
            Question::Decode(prompt, count) => {
                let done = self.model.greedy(prompt, *count).map_err(trying("decoding"))?;
                Ok(done.tokens_per_second())
            }
            Question::Together(prompts, count) => {
                let done = self.model.greedy_batch(prompts, *count).map_err(trying("decoding"))?;
                Ok(done.tokens_per_second())
            }
        }
    }
}
