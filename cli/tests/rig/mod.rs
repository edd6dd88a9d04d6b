//! Small models, and the tool run on them.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::Path;
use std::process::{Command, Output};

use gguf::encode::HeaderBuilder;
use gguf::{Array, TensorType, Value};

/// A `llama` model of four layers, in `parts` files. The weights follow from `seed`.
pub fn model(parts: usize, seed: u8) -> Vec<Vec<u8>> {
    let width = 32u64;
    let mut tensors = vec![("token_embd.weight".to_owned(), vec![width, 5])];
    for layer in 0..4 {
        tensors.push((format!("blk.{layer}.attn_norm.weight"), vec![width]));
        tensors.push((format!("blk.{layer}.ffn_up.weight"), vec![width, 3]));
    }
    tensors.push(("output_norm.weight".to_owned(), vec![width]));
    let total = tensors.len();
    let chunks = tensors.chunks(total.div_ceil(parts)).enumerate();
    chunks
        .map(|(number, chunk)| {
            let mut header = HeaderBuilder::new();
            if number == 0 {
                describe(&mut header);
            }
            if parts > 1 {
                header
                    .entry("split.no", &Value::U16(number as u16))
                    .entry("split.count", &Value::U16(parts as u16))
                    .entry("split.tensors.count", &Value::I32(total as i32));
            }
            let mut data = Vec::new();
            for (name, dimensions) in chunk {
                let bytes = dimensions.iter().product::<u64>() * 4;
                let at = header.tensor(name, TensorType::F32, dimensions, bytes);
                data.resize(at as usize, 0);
                data.extend((0..bytes).map(|place| (place as u8).wrapping_mul(3) ^ seed ^ name.len() as u8));
            }
            let mut file = header.finish();
            file.extend(data);
            file
        })
        .collect()
}

fn describe(header: &mut HeaderBuilder) {
    let tokens = ["a", "b", "c", "d", "e"];
    header
        .entry("general.architecture", &Value::string("llama"))
        .entry("general.name", &Value::string("Tiny"))
        .entry("general.file_type", &Value::U32(0))
        .entry("llama.block_count", &Value::U32(4))
        .entry("llama.context_length", &Value::U32(128))
        .entry("llama.embedding_length", &Value::U32(32))
        .entry("llama.feed_forward_length", &Value::U32(3))
        .entry("llama.attention.head_count", &Value::U32(2))
        .entry("llama.attention.layer_norm_rms_epsilon", &Value::F32(1e-5))
        .entry("tokenizer.ggml.model", &Value::string("gpt2"))
        .entry("tokenizer.ggml.tokens", &Value::Array(Array::of_strings(tokens)));
}

/// The names of a model's files.
pub fn names(parts: usize) -> Vec<String> {
    match parts {
        1 => vec!["tiny.gguf".to_owned()],
        _ => (1..=parts)
            .map(|number| format!("tiny-{number:05}-of-{parts:05}.gguf"))
            .collect(),
    }
}

/// Writes a model into a folder.
pub fn write(folder: &Path, parts: usize) {
    for (name, bytes) in names(parts).iter().zip(model(parts, 7)) {
        std::fs::write(folder.join(name), bytes).unwrap();
    }
}

/// Runs the tool in a folder.
pub fn run(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kubectl-shardwright"))
        .args(args)
        .current_dir(folder)
        .env_remove("SHARDWRIGHT_SOURCE_TOKEN")
        .env_remove("HF_ENDPOINT")
        .output()
        .unwrap()
}

/// Runs the tool, which must succeed; gives what it printed.
pub fn succeed(folder: &Path, args: &[&str]) -> String {
    let output = run(folder, args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs the tool, which must end with this code; gives its message.
pub fn fail(folder: &Path, args: &[&str], code: i32) -> String {
    let output = run(folder, args);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {errors}");
    assert!(output.stdout.is_empty(), "{args:?}");
    assert!(!errors.contains("panicked"), "{errors}");
    errors
}
