use super::*;
use crate::fixture::{Model, llama};
use crate::piece::pieces;

fn cuts(model: &Model) -> Vec<u32> {
    pieces(&model.gguf()).unwrap().allowed_cuts()
}

fn reason(model: &Model) -> String {
    let gguf = model.gguf();
    let pieces = pieces(&gguf).unwrap();
    assert!(pieces.allowed_cuts().is_empty());
    pieces.whole_because().unwrap().to_owned()
}

fn flags(truths: &[bool]) -> Value {
    Value::Array(crate::Array::of_bools(truths.iter().copied()))
}

#[test]
fn llama_is_cut_between_layers_and_others_run_whole() {
    assert_eq!(architecture("llama").unwrap().division, Division::BetweenLayers);
    for name in ["llama4", "gemma3n", "baichuan", "glm4"] {
        assert_eq!(architecture(name).unwrap().division, Division::Whole, "{name}");
        assert!(!architecture(name).unwrap().embeds_outside(), "{name}");
    }
}

#[test]
fn what_does_not_run_is_refused_by_name() {
    let error = architecture("no-such-model").unwrap_err();
    assert!(matches!(error, ArchitectureError::Unknown { .. }));
    assert!(error.to_string().contains("`no-such-model`"), "{error}");
    let error = architecture("bert").unwrap_err();
    assert!(matches!(error, ArchitectureError::NoTextGenerator { .. }));
    assert!(error.to_string().contains("`bert`"), "{error}");
}

#[test]
fn what_the_engine_loads_but_computes_wrongly_is_refused_by_name_with_cause_and_remedy() {
    let error = architecture("plamo2").unwrap_err();
    assert!(matches!(error, ArchitectureError::Miscomputed { .. }));
    let message = error.to_string();
    for said in ["`plamo2`", "mixes up the states of several streams", "use a model of"] {
        assert!(message.contains(said), "{message}");
    }
    // No model of theirs is ever read, so nothing else is known of them.
    for name in MISCOMPUTED {
        assert!(kept_states(name).is_none(), "{name}");
    }
}

#[test]
fn no_architecture_is_listed_twice() {
    let names = SPLITTABLE
        .iter()
        .chain(RUN_WHOLE)
        .map(|known| known.name)
        .chain(NO_TEXT_GENERATORS.iter().copied())
        .chain(MISCOMPUTED.iter().copied());
    let mut names: Vec<_> = names.collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn an_architecture_with_a_rule_by_layer_number_is_cut_at_multiples_of_its_period() {
    assert_eq!(cuts(&llama(10).of("smollm3")), [4, 8]);
    assert!(cuts(&llama(4).of("smollm3")).is_empty());
}

#[test]
fn every_slice_of_a_windowed_model_begins_with_a_window() {
    assert_eq!(cuts(&llama(6).of("gemma2")), [2, 4]);
    let gemma3 = || llama(9).of("gemma3");
    let windowed = || gemma3().with("gemma3.attention.sliding_window", Value::U32(512));
    assert_eq!(cuts(&gemma3()), (1..9).collect::<Vec<_>>(), "no window is stated");
    assert_eq!(cuts(&windowed()), [1, 2, 3, 4, 6, 7, 8]);
    let period = windowed().with("gemma3.attention.sliding_window_pattern", Value::U32(3));
    assert_eq!(cuts(&period), [1, 3, 4, 6, 7]);
    let late = flags(&[false, false, true, true, false, true, false, false, true]);
    let late = windowed().with("gemma3.attention.sliding_window_pattern", late);
    assert_eq!(cuts(&late), [3, 5, 8], "the first slice needs a window too");
}

#[test]
fn no_slice_has_a_length_that_is_taken_for_another_model() {
    for layers in [26, 27, 47, 60, 61] {
        let model = llama(layers)
            .of("deepseek2")
            .with("deepseek2.expert_gating_func", Value::U32(2));
        let mut bounds = cuts(&model);
        assert!(bounds.len() >= 7, "{layers}: {bounds:?}");
        bounds.insert(0, 0);
        bounds.push(layers);
        for (place, end) in bounds.iter().enumerate() {
            for first in &bounds[..place] {
                let length = end - first;
                assert!(
                    length == layers || ![26, 27].contains(&length),
                    "{layers}: {first} to {end}"
                );
            }
        }
    }
}

#[test]
fn sizes_with_rules_of_their_own_run_whole() {
    assert!(reason(&llama(46).of("gemma2")).contains("46 layers"));
    assert!(reason(&llama(62).of("gemma3")).contains("62 layers"));
    assert!(reason(&llama(64).of("command-r")).contains("64 layers"));
    assert!(reason(&llama(64).of("exaone4")).contains("64 layers"));
    assert_eq!(cuts(&llama(42).of("gemma2")).len(), 20);
}

#[test]
fn models_whose_metadata_changes_the_rules_run_whole() {
    let implied = llama(4).of("minicpm");
    assert!(reason(&implied).contains("`minicpm.residual_scale`"));
    let stated = implied
        .with("minicpm.residual_scale", Value::F32(0.2))
        .with("minicpm.embedding_scale", Value::F32(12.0));
    assert_eq!(cuts(&stated), [1, 2, 3]);
    let vision = llama(4).of("granite").with(
        "granite.deepstack_mapping",
        Value::Array(crate::Array::of_i32([0, -1, -1, -1])),
    );
    assert!(reason(&vision).contains("`granite.deepstack_mapping`"));
    let unknown = llama(4).with("llama.some_rule", flags(&[true, false, true, true]));
    assert!(reason(&unknown).contains("`llama.some_rule`"));
}

#[test]
fn heads_scale_rows_only_where_the_graph_does_not() {
    let scale = |name: &str| architecture(name).unwrap().lookup_scale(2304);
    assert_eq!(scale("gemma3"), 48.0);
    for name in ["llama", "granite", "gemma", "gemma2"] {
        assert_eq!(scale(name), 1.0, "{name}");
    }
    let overwritten: Vec<_> = splittable()
        .filter(|name| architecture(name).unwrap().overwritten_input().is_some())
        .collect();
    assert_eq!(overwritten, ["gemma", "gemma2"]);
}

#[test]
fn a_model_that_predicts_further_tokens_runs_whole() {
    let predicting = |layers| llama(4).with("llama.nextn_predict_layers", Value::U32(layers));
    assert_eq!(cuts(&predicting(0)), [1, 2, 3]);
    assert!(reason(&predicting(1)).contains("predict further tokens"));
}

#[test]
fn strict_steps_are_refused_where_states_stand_beside_attention_and_no_test_has_shown_them() {
    for (name, refused) in [("llama", false), ("mamba", false), ("jamba", false), ("lfm2moe", true)] {
        assert_eq!(refuses_strict_steps(name), refused, "{name}");
    }
    let shown: Vec<_> = strict_hybrids().collect();
    assert!(shown.contains(&"jamba") && !shown.contains(&"mamba") && !shown.contains(&"lfm2moe"));
}

#[test]
fn tensors_are_divided_only_where_the_architecture_is_shown_to_divide() {
    for (name, divided) in [("llama", true), ("mistral3", true), ("olmo2", false), ("mamba", false)] {
        assert_eq!(splits_tensors(name), divided, "{name}");
    }
    assert!(!splits_tensors("no-such-model"));
    // Where a slice has a row in the place of its output, or keys and values are compressed, llama.cpp does not divide tensors.
    for name in splittable() {
        let is_whole = architecture(name).unwrap().output.separate || name == "deepseek2";
        assert_eq!(splits_tensors(name), !is_whole, "{name}");
    }
    assert!(splitting_tensors().all(|name| kept_states(name).is_none()));
}
