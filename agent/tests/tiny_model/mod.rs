//! A model of a few kilobytes: enough for everything but computing.

use gguf::encode::HeaderBuilder;
use gguf::{Array, TensorType, Value};
use std::path::Path;

pub const LAYERS: u32 = 6;
const WIDTH: u32 = 64;
const TOKENS: u32 = 5;

/// Writes a tied llama of [`LAYERS`] layers, with rotary factors that every stage needs.
pub fn write(path: &Path) {
    let q4_1 = TensorType::from_id(3).unwrap();
    let (width, tokens) = (u64::from(WIDTH), u64::from(TOKENS));
    let mut table = vec![
        ("token_embd.weight".to_owned(), q4_1, vec![width, tokens]),
        ("rope_freqs.weight".to_owned(), TensorType::F32, vec![width / 4]),
        ("output_norm.weight".to_owned(), TensorType::F32, vec![width]),
    ];
    for layer in 0..LAYERS {
        table.push((format!("blk.{layer}.attn_norm.weight"), TensorType::F32, vec![width]));
        table.push((format!("blk.{layer}.ffn_up.weight"), q4_1, vec![width, 3]));
    }
    let mut header = HeaderBuilder::new();
    header
        .entry("general.architecture", &Value::string("llama"))
        .entry("general.name", &Value::string("Tiny"))
        .entry("general.file_type", &Value::U32(3))
        .entry("llama.block_count", &Value::U32(LAYERS))
        .entry("llama.context_length", &Value::U32(128))
        .entry("llama.embedding_length", &Value::U32(WIDTH))
        .entry("llama.attention.head_count", &Value::U32(2))
        .entry("llama.attention.head_count_kv", &Value::U32(1))
        .entry("llama.vocab_size", &Value::U32(TOKENS))
        .entry("tokenizer.ggml.model", &Value::string("gpt2"))
        .entry(
            "tokenizer.ggml.tokens",
            &Value::Array(Array::of_strings((0..TOKENS).map(|token| format!("<{token}>")))),
        );
    let mut data = Vec::new();
    for (index, (name, tensor_type, dimensions)) in table.iter().enumerate() {
        let size = tensor_type.bytes_of(dimensions.iter().product()).unwrap();
        let at = header.tensor(name, *tensor_type, dimensions, size) as usize;
        data.resize(at, 0);
        data.extend((0..size).map(|place| (place as usize * 31 + index) as u8));
    }
    let mut file = header.finish();
    file.extend(data);
    std::fs::write(path, file).unwrap();
}
