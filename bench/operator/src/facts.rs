//! PURE: what an agent answers about a model's source: facts of published shapes, each model with weights of its own.

use gguf::WeightIndex;
use proto::control::v1::{LayerFacts, ModelFacts, PieceFacts};
use serde_json::json;
use sha2::{Digest, Sha256};

/// Bytes of a header with its vocabulary.
const HEADER_BYTES: u64 = 4 << 20;
/// Tensors of one layer, and their share of its weights in thousandths.
const TENSORS: [(&str, u64); 9] = [
    ("attn_k.weight", 20),
    ("attn_norm.weight", 1),
    ("attn_output.weight", 80),
    ("attn_q.weight", 80),
    ("attn_v.weight", 20),
    ("ffn_down.weight", 266),
    ("ffn_gate.weight", 266),
    ("ffn_norm.weight", 1),
    ("ffn_up.weight", 266),
];

/// A published shape, and how its weights are kept.
struct Shape {
    architecture: &'static str,
    quantisation: &'static str,
    layers: u64,
    layer_weights: u64,
    bits: u64,
    embedding_length: u32,
    vocabulary_size: u32,
    kv_elements: u32,
}

/// Of 40, 66 and 141 GB: two, three and four or five cards.
const SHAPES: [Shape; 3] = [
    Shape {
        architecture: "llama",
        quantisation: "Q4_K_M",
        layers: 80,
        layer_weights: 855_654_000,
        bits: 5,
        embedding_length: 8_192,
        vocabulary_size: 128_256,
        kv_elements: 2_048,
    },
    Shape {
        architecture: "qwen2",
        quantisation: "F16",
        layers: 64,
        layer_weights: 487_660_000,
        bits: 16,
        embedding_length: 5_120,
        vocabulary_size: 152_064,
        kv_elements: 2_048,
    },
    Shape {
        architecture: "llama",
        quantisation: "F16",
        layers: 80,
        layer_weights: 855_654_000,
        bits: 16,
        embedding_length: 8_192,
        vocabulary_size: 32_000,
        kv_elements: 2_048,
    },
];

fn digest(parts: &[&str]) -> Vec<u8> {
    Sha256::digest(parts.join("/")).to_vec()
}

/// By the number in its address.
fn shape(uri: &str) -> &'static Shape {
    let digits: String = uri.chars().filter(char::is_ascii_digit).collect();
    &SHAPES[digits.parse().unwrap_or(0) % SHAPES.len()]
}

/// What pins the weights at an address, as people write it.
pub fn index_sha256(uri: &str) -> String {
    index(uri, shape(uri)).0.digest().to_string()
}

/// The facts of the source at an address.
pub fn facts(uri: &str) -> ModelFacts {
    let shape = shape(uri);
    let layer_bytes: u64 = TENSORS.iter().map(|(_, share)| tensor_bytes(shape, *share)).sum();
    let end_bytes = end_bytes(shape);
    let (index, file_bytes) = index(uri, shape);
    let layer = |number: u64| LayerFacts {
        weight_bytes: layer_bytes,
        digest: digest(&[uri, "layer", &number.to_string()]),
        ..LayerFacts::default()
    };
    let piece = |name: &str| PieceFacts {
        weight_bytes: end_bytes,
        digest: digest(&[uri, name]),
    };
    // Models of one family have the same vocabulary.
    let vocabulary: Vec<u8> = shape.quantisation.bytes().cycle().take(HEADER_BYTES as usize).collect();
    let layers = u32::try_from(shape.layers).unwrap_or(u32::MAX);
    ModelFacts {
        sha256: digest(&[uri, "file"]),
        file_bytes,
        architecture: shape.architecture.to_owned(),
        quantisation: shape.quantisation.to_owned(),
        parameters: shape.layers * shape.layer_weights,
        embedding_length: shape.embedding_length,
        vocabulary_size: shape.vocabulary_size,
        context_length_trained: 131_072,
        kv_elements_per_token_per_layer: shape.kv_elements,
        layers: (0..shape.layers).map(layer).collect(),
        embedding: Some(piece("embedding")),
        output: Some(piece("output")),
        vocabulary_sha256: Sha256::digest(&vocabulary).to_vec(),
        vocabulary,
        allowed_cuts: (1..layers).collect(),
        index_sha256: index.digest().0.to_vec(),
        index: index.to_bytes(),
        group_sizes: Vec::new(),
    }
}

fn tensor_bytes(shape: &Shape, share: u64) -> u64 {
    shape.layer_weights / 1000 * share * shape.bits / 8
}

fn end_bytes(shape: &Shape) -> u64 {
    u64::from(shape.embedding_length) * u64::from(shape.vocabulary_size) * shape.bits / 8
}

/// Where every tensor lies, and the length of the file.
fn index(uri: &str, shape: &Shape) -> (WeightIndex, u64) {
    let end_bytes = end_bytes(shape);
    let mut offset = HEADER_BYTES;
    let mut tensors = Vec::new();
    let mut add = |name: String, bytes: u64| {
        let sha256 = hex(&digest(&[uri, &name]));
        tensors.push(format!(
            r#"{{"name":"{name}","file":0,"offset":{offset},"bytes":{bytes},"sha256":"{sha256}"}}"#
        ));
        offset += bytes;
    };
    add("token_embd.weight".to_owned(), end_bytes);
    for layer in 0..shape.layers {
        for (tensor, share) in TENSORS {
            add(format!("blk.{layer}.{tensor}"), tensor_bytes(shape, share));
        }
    }
    add("output.weight".to_owned(), end_bytes);
    let name = json!(uri.rsplit('/').next().unwrap_or_default());
    let (whole, header) = (hex(&digest(&[uri, "file"])), hex(&digest(&[uri, "header"])));
    let text = format!(
        r#"{{"version":1,"sha256":"{whole}","files":[{{"name":{name},"bytes":{offset},"header_bytes":{HEADER_BYTES},"header_sha256":"{header}"}}],"tensors":[{}]}}"#,
        tensors.join(",")
    );
    let index = WeightIndex::parse(format!("{text}\n").as_bytes()).expect("it is written in the canonical form");
    (index, offset)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_has_an_index_of_its_own_length_and_layers_that_need_several_cards() {
        for number in 0..SHAPES.len() {
            let facts = facts(&format!("https://models.invalid/model-{number:03}.gguf"));
            let index = WeightIndex::parse(&facts.index).expect("an index");
            assert_eq!(index.total_bytes(), facts.file_bytes);
            assert_eq!(index.digest().0.to_vec(), facts.index_sha256);
            assert!(facts.file_bytes > 40_000_000_000, "{} bytes", facts.file_bytes);
            let parts: u64 = facts.layers.iter().map(|layer| layer.weight_bytes).sum();
            assert!(parts < facts.file_bytes);
        }
    }
}
