//! Small models for tests.

pub(crate) mod split;

use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::PathBuf;

use crate::encode::HeaderBuilder;
use crate::parse::{Gguf, Limits};
use crate::tensor_type::TensorType;
use crate::value::{Array, Value};

/// Builds the bytes of a small model with recognisable weights.
pub(crate) struct Model {
    pub architecture: &'static str,
    pub layers: u32,
    pub tied: bool,
    pub rotary_factors: bool,
    pub per_layer_heads: Option<Vec<u32>>,
    pub entries: Vec<(String, Value)>,
    pub tensors: Vec<(String, TensorType, Vec<u64>)>,
}

pub(crate) const WIDTH: u32 = 64;
pub(crate) const TOKENS: u32 = 5;

/// A tied `llama` model.
pub(crate) fn llama(layers: u32) -> Model {
    Model {
        architecture: "llama",
        layers,
        tied: true,
        rotary_factors: false,
        per_layer_heads: None,
        entries: Vec::new(),
        tensors: Vec::new(),
    }
}

impl Model {
    pub fn untied(mut self) -> Self {
        self.tied = false;
        self
    }

    pub fn with_rotary_factors(mut self) -> Self {
        self.rotary_factors = true;
        self
    }

    pub fn with_kv_heads(mut self, heads: &[u32]) -> Self {
        self.per_layer_heads = Some(heads.to_vec());
        self
    }

    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.entries.push((key.to_owned(), value));
        self
    }

    pub fn with_tensor(mut self, name: &str, dimensions: &[u64]) -> Self {
        self.tensors
            .push((name.to_owned(), TensorType::F32, dimensions.to_vec()));
        self
    }

    pub fn of(mut self, architecture: &'static str) -> Self {
        self.architecture = architecture;
        self
    }

    /// The file's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut header = HeaderBuilder::new();
        let key = |suffix: &str| format!("{}.{suffix}", self.architecture);
        let tokens = (0..TOKENS).map(|token| format!("<{token}>"));
        let kv_heads = match &self.per_layer_heads {
            Some(heads) => Value::Array(Array::of_u32(heads.iter().copied())),
            None => Value::U32(1),
        };
        header
            .entry("general.architecture", &Value::string(self.architecture))
            .entry("general.name", &Value::string("Tiny"))
            .entry("general.file_type", &Value::U32(3))
            .entry(&key("block_count"), &Value::U32(self.layers))
            .entry(&key("context_length"), &Value::U32(128))
            .entry(&key("embedding_length"), &Value::U32(WIDTH))
            .entry(&key("attention.head_count"), &Value::U32(2))
            .entry(&key("attention.head_count_kv"), &kv_heads)
            .entry(&key("rope.freq_base"), &Value::F32(10_000.0))
            .entry(&key("vocab_size"), &Value::U32(TOKENS))
            .entry("tokenizer.ggml.model", &Value::string("gpt2"))
            .entry("tokenizer.ggml.tokens", &Value::Array(Array::of_strings(tokens)))
            .entry(
                "tokenizer.ggml.token_type",
                &Value::Array(Array::of_i32([1, 1, 3, 1, 1])),
            )
            .entry("tokenizer.ggml.bos_token_id", &Value::U32(1))
            .entry("tokenizer.chat_template", &Value::string("{{ messages }}"));
        for (key, value) in &self.entries {
            header.entry(key, value);
        }
        let mut data = Vec::new();
        for (name, tensor_type, dimensions) in self.tensor_table() {
            let elements: u64 = dimensions.iter().product();
            let size = tensor_type.bytes_of(elements).unwrap();
            let at = header.tensor(&name, tensor_type, &dimensions, size) as usize;
            data.resize(at, 0);
            data.extend((0..size).map(|place| weight(&name, place)));
        }
        let mut file = header.finish();
        file.extend(data);
        file
    }

    fn tensor_table(&self) -> Vec<(String, TensorType, Vec<u64>)> {
        let q4_1 = TensorType::from_id(3).unwrap();
        let (width, tokens) = (u64::from(WIDTH), u64::from(TOKENS));
        let mut table = vec![("token_embd.weight".to_owned(), q4_1, vec![width, tokens])];
        if self.rotary_factors {
            table.push(("rope_freqs.weight".to_owned(), TensorType::F32, vec![width / 4]));
        }
        for layer in 0..self.layers {
            table.push((format!("blk.{layer}.attn_norm.weight"), TensorType::F32, vec![width]));
            table.push((format!("blk.{layer}.ffn_up.weight"), q4_1, vec![width, 3]));
        }
        table.push(("output_norm.weight".to_owned(), TensorType::F32, vec![width]));
        if !self.tied {
            table.push(("output.weight".to_owned(), q4_1, vec![width, tokens]));
        }
        table.extend(self.tensors.iter().cloned());
        table
    }

    pub fn gguf(&self) -> Gguf {
        parse(&self.bytes())
    }
}

/// A byte that depends on the tensor and the place, so that no mix-up goes unseen.
pub(crate) fn weight(name: &str, place: u64) -> u8 {
    let seed = name
        .bytes()
        .fold(7u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    (seed.wrapping_add(place.wrapping_mul(17)) >> 3) as u8
}

/// A source whose first reads fail, the last of these faults first.
pub(crate) struct Faltering<'a> {
    pub source: Cursor<&'a [u8]>,
    pub faults: Vec<io::ErrorKind>,
}

impl Read for Faltering<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.faults.pop() {
            Some(kind) => Err(kind.into()),
            None => self.source.read(buffer),
        }
    }
}

impl Seek for Faltering<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.source.seek(to)
    }
}

pub(crate) fn parse(bytes: &[u8]) -> Gguf {
    Gguf::parse(&mut Cursor::new(bytes), bytes.len() as u64, Limits::default()).unwrap()
}

/// A real model, if this machine has one.
pub(crate) fn real_model() -> Option<PathBuf> {
    let path = std::env::var_os("SHARDWRIGHT_TEST_MODEL")
        .map(PathBuf::from)
        .unwrap_or_else(|| {
            PathBuf::from(std::env::var_os("HOME").unwrap_or_default())
                .join(".cache/shardwright/models/SmolLM2-135M-Instruct.Q4_1.gguf")
        });
    if path.is_file() {
        return Some(path);
    }
    println!("SKIPPED: no model at {}; set SHARDWRIGHT_TEST_MODEL", path.display());
    None
}
