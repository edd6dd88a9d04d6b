use super::*;
use gguf::{Gguf, TensorType, pieces};

#[test]
fn every_family_makes_a_model_that_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    for name in families() {
        let path = folder.path().join("model.gguf");
        Recipe::new(name).unwrap().write(&path).unwrap();
        let header = Gguf::open(&path).unwrap();
        let pieces = pieces(&header).unwrap();
        assert_eq!((pieces.architecture().name, pieces.layer_count()), (name, 4));
        let may_be_cut = gguf::architecture::splittable().any(|splittable| splittable == name);
        assert_eq!(pieces.whole_because().is_none(), may_be_cut, "{name}");
    }
}

#[test]
fn a_model_that_keeps_a_state_has_no_keys_and_values_and_may_not_be_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    Recipe::new("mamba").unwrap().write(&path).unwrap();
    let facts = gguf::model_facts(&Gguf::open(&path).unwrap()).unwrap();
    assert_eq!((facts.heads, facts.kv_elements_per_token_per_layer), (0, 0));
    assert!(facts.layer_state_bytes.iter().all(|bytes| *bytes > 0));
    assert!(facts.allowed_cuts.is_empty());
    let reason = facts.whole_because.unwrap();
    assert!(reason.contains("`mamba`"), "{reason}");
}

#[test]
fn a_model_that_keeps_states_beside_keys_and_values_has_layers_of_both_kinds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let kept = |name: &str| {
        let mut recipe = Recipe::new(name).unwrap();
        recipe.layers = 6;
        recipe.write(&path).unwrap();
        let facts = gguf::model_facts(&Gguf::open(&path).unwrap()).unwrap();
        let keeps = facts.layer_state_bytes.iter().zip(&facts.layer_kv_elements);
        let letter = |(state, kv): (&u64, &u32)| match (*state > 0, *kv > 0) {
            (true, true) => 'b',
            (true, false) => 's',
            (false, true) => 'a',
            (false, false) => '-',
        };
        keeps.map(letter).collect::<String>()
    };
    for name in ["jamba", "granitehybrid", "lfm2", "lfm2moe", "kimi-linear"] {
        assert_eq!(kept(name), "sasasa", "{name}");
    }
    for name in ["qwen3next", "qwen35", "qwen35moe"] {
        assert_eq!(kept(name), "sasasa", "{name}");
    }
    assert_eq!(kept("falcon-h1"), "bbbbbb");
    assert_eq!(kept("nemotron_h"), "sa-sa-");
    for name in ["mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"] {
        assert_eq!(kept(name), "ssssss", "{name}");
    }
    assert_eq!(kept("llama"), "aaaaaa");
}

#[test]
fn every_architecture_that_keeps_a_state_has_a_family() {
    let known: Vec<_> = families().collect();
    for name in gguf::architecture::stateful() {
        assert!(known.contains(&name), "{name}");
    }
}

#[test]
fn every_architecture_that_may_be_cut_has_a_family() {
    let known: Vec<_> = families().collect();
    for name in gguf::architecture::splittable() {
        assert!(known.contains(&name), "{name}");
    }
}

#[test]
fn the_same_recipe_makes_the_same_model_and_another_seed_another() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = |seed: u64| {
        let path = folder.path().join("model.gguf");
        let mut recipe = Recipe::new("llama").unwrap();
        recipe.seed = seed;
        recipe.write(&path).unwrap();
        std::fs::read(path).unwrap()
    };
    assert!(bytes(1) == bytes(1));
    assert!(bytes(1) != bytes(2));
    assert_eq!(bytes(1).len(), bytes(2).len());
}

#[test]
fn matrices_have_the_format_that_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    for name in ["F32", "F16", "Q8_0", "Q4_0"] {
        let mut recipe = Recipe::new("qwen3").unwrap();
        recipe.format = Format::named(name).unwrap();
        recipe.write(&path).unwrap();
        let header = Gguf::open(&path).unwrap();
        assert_eq!(header.tensor("blk.0.ffn_up.weight").unwrap().tensor_type.name(), name);
        assert_eq!(
            header.tensor("output_norm.weight").unwrap().tensor_type,
            TensorType::F32
        );
    }
    assert_eq!(Format::named("Q9"), None);
}

#[test]
fn a_shape_that_does_not_suit_the_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = Recipe::new("llama").unwrap();
    recipe.feed_forward = 33;
    let error = recipe.write(&folder.path().join("model.gguf")).unwrap_err();
    assert!(error.to_string().contains("ffn_down"), "{error}");
}
