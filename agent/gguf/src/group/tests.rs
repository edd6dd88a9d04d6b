use super::*;
use crate::fixture::{Model, WIDTH, llama};
use crate::tensor_type::TensorType;
use crate::value::Value;

/// Columns of a feed-forward network that has just enough of them for two devices.
const COLUMNS: u64 = 256;

fn kind(name: &str) -> TensorType {
    let mut all = (0..64).filter_map(TensorType::from_id);
    all.find(|kind| kind.name() == name).unwrap()
}

/// Two layers of two heads, with the matrices that divide; those of attention end in blocks of this type.
fn whole(attention: &str) -> Model {
    let mut model = llama(2).with_kv_heads(&[2, 2]);
    let width = u64::from(WIDTH);
    for layer in 0..2 {
        for name in ["attn_q", "attn_k", "attn_v"] {
            model = model.with_tensor(&format!("blk.{layer}.{name}.weight"), &[width, width]);
        }
        let output = format!("blk.{layer}.attn_output.weight");
        model.tensors.push((output, kind(attention), vec![width, width]));
        let down = format!("blk.{layer}.ffn_down.weight");
        model.tensors.push((down, kind("Q4_0"), vec![COLUMNS, width]));
    }
    model
}

fn without(mut model: Model, name: &str) -> Model {
    let before = model.tensors.len();
    model.tensors.retain(|(known, ..)| known != name);
    assert!(model.tensors.len() < before, "{name}");
    model
}

fn refusal(model: &Model, members: u32) -> GroupError {
    let gguf = model.gguf();
    check(&gguf.metadata, &gguf.tensors, members).unwrap_err()
}

#[test]
fn a_model_is_divided_among_as_many_devices_as_its_heads_and_columns_divide_evenly_by() {
    let gguf = whole("Q4_0").gguf();
    assert_eq!(sizes(&gguf), [2]);
    let attention = check(&gguf.metadata, &gguf.tensors, 2).unwrap();
    let expected = Attention {
        kv_heads: 2,
        queries_per_head: 1,
        head_length: 32,
        kv_elements: 2 * 2 * (32 + 32),
    };
    assert_eq!(attention, expected);
    assert_eq!(
        refusal(&whole("Q4_0"), 4),
        GroupError::Uneven {
            layer: 0,
            what: "key and value heads",
            count: 2,
            together: 1,
            members: 4
        }
    );
    let one = whole("F32").with_kv_heads(&[2, 1]);
    assert!(matches!(
        refusal(&one, 2),
        GroupError::Uneven { layer: 1, count: 1, .. }
    ));
}

#[test]
fn heads_that_share_a_block_of_weights_stay_together() {
    // A head is 32 long, a block 64.
    let wide = whole("NVFP4");
    assert!(matches!(refusal(&wide, 2), GroupError::Uneven { together: 2, .. }));
    assert!(sizes(&wide.gguf()).is_empty());
}

#[test]
fn parts_are_those_that_llama_cpp_makes() {
    // Llama 3 8B in K-quants: 4 × 128 elements for each of 8 heads.
    assert_eq!([2, 4, 8].map(|members| heads_together(512, 256, members)), [1; 3]);
    // Qwen 2.5 0.5B: 7 × 64 elements, so that blocks of 128 end with every second head.
    assert_eq!(heads_together(448, 32, 2), 2);
    // And with so many devices that blocks stay short, 64 divides it.
    assert_eq!(heads_together(448, 32, 8), 1);
    assert_eq!((least_common_multiple(0, 3), least_common_multiple(6, 4)), (0, 12));
}

#[test]
fn a_feed_forward_network_with_less_than_a_part_for_each_device_is_refused() {
    let mut narrow = whole("F32");
    for (name, _, dimensions) in &mut narrow.tensors {
        if name.ends_with("ffn_down.weight") {
            dimensions[0] = COLUMNS - 32;
        }
    }
    let said = refusal(&narrow, 2).to_string();
    assert!(said.starts_with("layer 0: 224 columns"), "{said}");
    assert!(
        said.contains("128 of which stay together") && said.contains("2 devices"),
        "{said}"
    );
}

#[test]
fn what_is_not_shown_to_divide_is_refused_with_what_to_use_instead() {
    let other = refusal(&llama(2).of("olmo2"), 2);
    assert!(matches!(&other, GroupError::Architecture { name } if name == "olmo2"));
    assert!(other.to_string().ends_with("use single devices"), "{other}");

    let form = |model: &Model| match refusal(model, 2) {
        GroupError::Form { layer, problem } => (layer, problem),
        other => panic!("{other}"),
    };
    let (layer, problem) = form(&without(whole("F32"), "blk.1.attn_output.weight"));
    assert_eq!((layer, problem), (1, "its attention has no output matrix"));
    let (_, problem) = form(&without(whole("F32"), "blk.0.attn_k.weight"));
    assert!(problem.contains("of no known form"), "{problem}");
    let (_, problem) = form(&without(whole("F32"), "blk.0.ffn_down.weight"));
    assert!(problem.contains("feed-forward"), "{problem}");
    let (_, problem) = form(&whole("F32").with("llama.attention.key_length_swa", Value::U32(16)));
    assert!(problem.contains("not all of one length"), "{problem}");
    let (_, problem) = form(&whole("F32").with_kv_heads(&[0, 2]));
    assert!(problem.contains("for each key and value head"), "{problem}");
    let width = u64::from(WIDTH);
    let packed = whole("F32").with_tensor("blk.0.attn_qkv.weight", &[width, 3 * width]);
    let (_, problem) = form(&packed.with_tensor("blk.0.attn_q.bias", &[width]));
    assert!(problem.contains("separate biases"), "{problem}");

    let biased = whole("F32").with_tensor("output.bias", &[5]);
    assert_eq!(refusal(&biased, 2), GroupError::Output);
}

#[test]
fn each_member_has_its_part_of_the_matrices_and_all_of_the_rest() {
    let gguf = whole("F32").untied().gguf();
    let bytes = |names: fn(&str) -> bool| -> u64 {
        let named = gguf.tensors.iter().filter(|tensor| names(&tensor.name));
        named.map(|tensor| tensor.size_bytes).sum()
    };
    let norms = bytes(|name| name.ends_with("norm.weight"));
    let divided = bytes(is_divided);
    assert!(norms > 0 && divided > 0);
    let embedding = bytes(|name| name == TOKEN_EMBEDDING);
    assert_eq!(norms + divided + embedding, bytes(|_| true));
    assert_eq!(
        member_bytes(&gguf.tensors, 1),
        norms + divided,
        "the embedding is the processor's"
    );
    assert_eq!(member_bytes(&gguf.tensors, 2), norms + divided.div_ceil(2));

    let tied = whole("F32").gguf();
    let half_output = gguf.tensor(OUTPUT).unwrap().size_bytes / 2;
    assert_eq!(
        member_bytes(&tied.tensors, 2),
        member_bytes(&gguf.tensors, 2) - half_output + embedding
    );
}
