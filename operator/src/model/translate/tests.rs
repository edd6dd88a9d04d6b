use super::*;
use crate::model::fixture;
use crate::model::validate::validate;

const LAYERS: usize = fixture::LAYERS as usize;

fn validated() -> Validated {
    validate(&fixture::model().spec).unwrap()
}

fn estimated_of(facts: &Facts) -> Model {
    estimated("m", &validated(), facts).unwrap()
}

#[test]
fn what_each_layer_keeps_is_reckoned_with_by_layer() {
    let usual = estimated_of(&fixture::facts());
    let mut facts = fixture::facts();
    facts.layer_kv_elements = vec![128; LAYERS];
    facts.layer_kv_elements[2] = 0;
    facts.layer_state_bytes = vec![0; LAYERS];
    facts.layer_state_bytes[2] = 1 << 20;
    let model = estimated_of(&facts);
    assert_eq!(model.layers[0], usual.layers[0]);
    // Two sequences, and the two of the runtime.
    assert_eq!(model.layers[2].kv_bytes, 4 << 20);
    assert_eq!(model.layers[2].kv_read_bytes, 2 << 20);
}

/// Half of the context of [`fixture::model`].
const POSITIONS: u32 = 128;

/// Facts of a model whose layers add so many elements of keys and values for each token, or keep states.
fn keeping(layer_kv_elements: &[u32], layer_state_bytes: &[u64]) -> Facts {
    Facts {
        kv_elements_per_token_per_layer: layer_kv_elements.iter().copied().max().unwrap_or(0),
        layer_kv_elements: layer_kv_elements.to_vec(),
        layer_state_bytes: layer_state_bytes.to_vec(),
        layer_bytes: vec![1 << 20; layer_kv_elements.len()],
        layer_active_bytes: vec![1 << 20; layer_kv_elements.len()],
        allowed_cuts: Vec::new(),
        ..fixture::facts()
    }
}

/// As llama.cpp lays out Qwen3-Next-80B-A3B: `is_recr` is true but for each fourth of 48 layers, which have 2 heads of keys and
/// values of 256 each. The others keep `n_embd_r` = 3 x (4096 + 2 x 16 x 128) and `n_embd_s` = 128 x 4096 floats.
fn hybrid() -> Facts {
    let attends = |layer: usize| layer % 4 == 3;
    let state = 4 * (3 * (4096 + 2 * 16 * 128) + 128 * 4096);
    let kept = |layer: usize| if attends(layer) { (2 * 512, 0) } else { (0, state) };
    let (elements, states): (Vec<u32>, Vec<u64>) = (0..48).map(kept).unzip();
    keeping(&elements, &states)
}

/// Positions and bytes of a layer.
fn growing(facts: &Facts) -> (u32, u64) {
    let shape = shape(&validated(), facts);
    (shape.positions, shape.cache_bytes)
}

#[test]
fn of_layers_that_are_alike_each_attends_to_half_a_context_and_reads_its_keys_and_values() {
    let read_bytes = 128 * 2 * u64::from(POSITIONS);
    assert_eq!(growing(&fixture::facts()), (POSITIONS, read_bytes));
}

#[test]
fn layers_that_keep_states_attend_to_nothing_and_read_no_cache_that_grows() {
    // A quarter of the layers, of 1,024 elements of 16 bits.
    let read_bytes = 1024 * 2 * u64::from(POSITIONS);
    assert_eq!(growing(&hybrid()), (POSITIONS / 4, read_bytes / 4));
    let recurrent = keeping(&[0; 24], &[1 << 20; 24]);
    assert_eq!(growing(&recurrent), (0, 0));
    // Beside each other in every layer, as in Falcon-H1.
    let both = keeping(&[1024; 24], &[1 << 20; 24]);
    assert_eq!(growing(&both), (POSITIONS, read_bytes));
}

#[test]
fn what_all_layers_are_counted_with_is_what_they_are_reckoned_to_read_of_keys_and_values() {
    for facts in [fixture::facts(), hybrid(), keeping(&[64, 0, 256, 0, 64, 128], &[])] {
        let model = estimated_of(&facts);
        let read: u64 = model.layers.iter().map(|layer| layer.kv_read_bytes).sum();
        let of_states = 2 * facts.layer_state_bytes.iter().sum::<u64>();
        let layers = model.layers.len() as u64;
        let counted = growing(&facts).1 * layers;
        let rounded = read - of_states - counted;
        assert!(rounded < layers, "{read}, {of_states}, {counted}");
    }
}
