//! A shard as exact arithmetic: cheap, deterministic, and sensitive to every position that a sequence holds, so that a lost,
//! repeated or reordered row changes the tokens that follow.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use worker::compute::{Compute, ComputeError, Facts, Loader, Output, choose_token};
use worker::step::Row;

pub const WIDTH: usize = 4;
pub const VOCABULARY: usize = 97;
pub const LAYERS: u32 = 6;
/// A product of two values stays exact in f32.
const MODULUS: u32 = 4093;

/// A token that no shard with [`Fake::poisoned`] can compute.
pub const POISON: i32 = 66;

/// Lets steps through one by one; open from the start.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<Option<usize>>, Condvar)>);

impl Gate {
    /// From now on a step needs a permit.
    pub fn shut(&self) {
        *self.0.0.lock().unwrap() = Some(0);
    }

    pub fn permit(&self, steps: usize) {
        let mut permits = self.0.0.lock().unwrap();
        *permits = permits.map(|permits| permits + steps);
        self.0.1.notify_all();
    }

    pub fn open(&self) {
        *self.0.0.lock().unwrap() = None;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let permits = self.0.0.lock().unwrap();
        let mut permits = self.0.1.wait_while(permits, |permits| *permits == Some(0)).unwrap();
        *permits = permits.map(|permits| permits - 1);
    }
}

pub struct Fake {
    first_layer: u32,
    end_layer: u32,
    poisoned: bool,
    recurrent: bool,
    /// Nothing can be forgotten while this is set.
    clinging: Arc<AtomicBool>,
    gate: Gate,
    /// What each position of each sequence left in each layer.
    cache: BTreeMap<u32, Vec<Vec<u32>>>,
}

impl Fake {
    pub fn new(first_layer: u32, end_layer: u32) -> Self {
        let cache = BTreeMap::new();
        Self {
            first_layer,
            end_layer,
            poisoned: false,
            recurrent: false,
            clinging: Arc::default(),
            gate: Gate::default(),
            cache,
        }
    }

    pub fn poisoned(mut self) -> Self {
        self.poisoned = true;
        self
    }

    /// Keeps no prefixes, cannot cut a sequence back, and loses the sequences of a step that fails.
    pub fn recurrent(mut self) -> Self {
        self.recurrent = true;
        self
    }

    /// Refuses to forget anything while `clinging` is set.
    pub fn clinging(mut self, clinging: Arc<AtomicBool>) -> Self {
        self.clinging = clinging;
        self
    }

    pub fn gated(mut self, gate: Gate) -> Self {
        self.gate = gate;
        self
    }

    pub fn loader(self) -> Loader {
        Box::new(move || Ok(Box::new(self)))
    }

    /// What the whole model answers to a prompt, one row at a time.
    pub fn whole(prompt: &[i32], sampling: engine::Sampling, count: usize) -> Vec<i32> {
        let mut model = Self::new(0, LAYERS);
        let mut tokens = prompt.to_vec();
        for position in 0..prompt.len() + count - 1 {
            let sample = (position + 1 == tokens.len()).then_some(sampling);
            let row = Row {
                sequence: 0,
                position: position as u32,
                token: tokens[position],
                sample,
            };
            let input = model.embed(&[row.token]).unwrap();
            match model.step(&[row], &input).unwrap() {
                Output::Tokens(sampled) => tokens.extend(sampled),
                Output::Activations(_) => panic!("the whole model gives tokens"),
            }
        }
        tokens.split_off(prompt.len())
    }

    fn layer(&mut self, layer: u32, row: &Row, stream: &mut [u32; WIDTH]) {
        let index = (layer - self.first_layer) as usize;
        let layers = (self.end_layer - self.first_layer) as usize;
        let held = self
            .cache
            .entry(row.sequence)
            .or_insert_with(|| vec![Vec::new(); layers]);
        let seen = stream.iter().enumerate().fold(layer + 1, |sum, (at, value)| {
            (sum * 31 + value * (at as u32 + 1)) % MODULUS
        });
        held[index].push(seen);
        assert_eq!(
            held[index].len(),
            row.position as usize + 1,
            "positions follow without a gap"
        );
        let attended = held[index].iter().fold(7, |sum, seen| (sum * 17 + seen) % MODULUS);
        for (at, value) in stream.iter_mut().enumerate() {
            *value = (*value + attended * (at as u32 + 3)) % MODULUS;
        }
    }
}

impl Compute for Fake {
    fn facts(&self) -> Facts {
        let vocabulary_size = if self.first_layer == 0 { VOCABULARY as u64 } else { 0 };
        Facts {
            embedding_length: WIDTH,
            vocabulary_size,
            shares_prefixes: !self.recurrent,
        }
    }

    fn embed(&mut self, tokens: &[i32]) -> Result<Vec<f32>, ComputeError> {
        let row = |token: i32| (1..=WIDTH as i32).map(move |at| (token * at * 13 % 1009) as f32);
        Ok(tokens.iter().copied().flat_map(row).collect())
    }

    fn step(&mut self, rows: &[Row], activations: &[f32]) -> Result<Output, ComputeError> {
        self.gate.pass();
        if self.poisoned && rows.iter().any(|row| row.token == POISON) {
            for row in rows.iter().filter(|_| self.recurrent) {
                self.cache.remove(&row.sequence);
            }
            return Err(ComputeError::Failed("a row cannot be computed".to_owned()));
        }
        let mut streams = Vec::new();
        for (row, input) in rows.iter().zip(activations.chunks_exact(WIDTH)) {
            let mut stream = [0; WIDTH];
            for (value, input) in stream.iter_mut().zip(input) {
                *value = *input as u32;
            }
            for layer in self.first_layer..self.end_layer {
                self.layer(layer, row, &mut stream);
            }
            streams.push(stream);
        }
        if self.end_layer < LAYERS {
            return Ok(Output::Activations(
                streams.iter().flatten().map(|value| *value as f32).collect(),
            ));
        }
        let sampled = rows
            .iter()
            .zip(&streams)
            .filter(|(row, _)| row.sample.is_some())
            .map(|(row, stream)| {
                let value = stream.iter().fold(1, |sum, value| (sum * 5 + value) % MODULUS);
                let logits = (0..VOCABULARY as u32).map(|id| ((value + id * id * 29) % 241) as f32 / 30.0);
                choose_token(row, &logits.collect::<Vec<_>>())
            });
        Ok(Output::Tokens(sampled.collect::<Result<_, _>>()?))
    }

    fn remove(&mut self, sequence: u32, from: u32, end: Option<u32>) -> Result<(), ComputeError> {
        assert_eq!(end, None, "the workers remove to the end");
        if self.clinging.load(Ordering::SeqCst) {
            return Err(ComputeError::Failed("nothing can be forgotten".to_owned()));
        }
        let mut held = self.cache.get_mut(&sequence);
        let cut = held
            .iter()
            .flat_map(|layers| layers.iter())
            .any(|layer| layer.len() > from as usize);
        if self.recurrent && cut && from > 0 {
            return Err(ComputeError::Broken("a state cannot go back".to_owned()));
        }
        for layer in held.iter_mut().flat_map(|layers| layers.iter_mut()) {
            layer.truncate(from as usize);
        }
        if from == 0 {
            self.cache.remove(&sequence);
        }
        Ok(())
    }

    fn copy_prefix(&mut self, from: u32, to: u32, end: u32) -> Result<(), ComputeError> {
        assert!(!self.recurrent, "no prefix can be shared");
        assert!(!self.cache.contains_key(&to), "a prefix is given to an empty sequence");
        let layers = self.cache.get(&from).cloned().unwrap_or_default();
        assert!(
            layers.iter().all(|layer| layer.len() >= end as usize),
            "the prefix is held"
        );
        let shared = layers.into_iter().map(|layer| layer[..end as usize].to_vec());
        self.cache.insert(to, shared.collect());
        Ok(())
    }
}
