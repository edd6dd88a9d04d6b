use super::*;
use crate::model::fixture;
use crate::model::validate::validate;

const LAYERS: usize = fixture::LAYERS as usize;

fn estimated_of(facts: &Facts) -> Model {
    let validated = validate(&fixture::model().spec).unwrap();
    estimated("m", &validated, facts).unwrap()
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
