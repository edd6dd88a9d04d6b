//! A model of a few kilobytes, or more: enough for everything but computing.
#![allow(dead_code, reason = "each test file uses its part")]

use gguf::encode::HeaderBuilder;
use gguf::{Array, TensorType, Value};
use std::path::Path;

pub const LAYERS: u32 = 6;
const WIDTH: u32 = 64;
const TOKENS: u32 = 5;
/// Rows of each layer's matrix where the size does not matter.
const FEW_ROWS: u64 = 3;

type Entry = (String, TensorType, Vec<u64>);

/// Writes a tied llama of [`LAYERS`] layers, with rotary factors that every stage needs.
pub fn write(path: &Path) {
    std::fs::write(path, bytes(FEW_ROWS)).unwrap();
}

/// The same with matrices of so many rows, 40 bytes each.
pub fn bytes(rows: u64) -> Vec<u8> {
    file_of(head(), &table(rows))
}

/// The same in two files: `-00001-of-00002` and `-00002-of-00002`.
pub fn split(rows: u64) -> [Vec<u8>; 2] {
    let all = table(rows);
    let (first, second) = all.split_at(7);
    let mut header = head();
    let numbers = |header: &mut HeaderBuilder, number| {
        header
            .entry("split.no", &Value::U16(number))
            .entry("split.count", &Value::U16(2))
            .entry("split.tensors.count", &Value::I32(all.len() as i32));
    };
    numbers(&mut header, 0);
    let mut other = HeaderBuilder::new();
    numbers(&mut other, 1);
    [file_of(header, first), file_of(other, second)]
}

fn table(rows: u64) -> Vec<Entry> {
    let q4_1 = TensorType::from_id(3).unwrap();
    let (width, tokens) = (u64::from(WIDTH), u64::from(TOKENS));
    let mut table = vec![
        ("token_embd.weight".to_owned(), q4_1, vec![width, tokens]),
        ("rope_freqs.weight".to_owned(), TensorType::F32, vec![width / 4]),
        ("output_norm.weight".to_owned(), TensorType::F32, vec![width]),
    ];
    for layer in 0..LAYERS {
        table.push((format!("blk.{layer}.attn_norm.weight"), TensorType::F32, vec![width]));
        table.push((format!("blk.{layer}.ffn_up.weight"), q4_1, vec![width, rows]));
        table.push((format!("blk.{layer}.ffn_gate.weight"), q4_1, vec![width, rows]));
    }
    table
}

fn head() -> HeaderBuilder {
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
    header
}

fn file_of(mut header: HeaderBuilder, table: &[Entry]) -> Vec<u8> {
    let mut data = Vec::new();
    for (index, (name, tensor_type, dimensions)) in table.iter().enumerate() {
        let size = tensor_type.bytes_of(dimensions.iter().product()).unwrap();
        let at = header.tensor(name, *tensor_type, dimensions, size) as usize;
        data.resize(at, 0);
        let seed = name.len() + index * 7;
        data.extend((0..size).map(|place| ((place as usize).wrapping_mul(31) + (place as usize >> 8) + seed) as u8));
    }
    let mut file = header.finish();
    file.extend(data);
    file
}
