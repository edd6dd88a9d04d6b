//! Scenarios: a cluster and a model in, the operator's answer out, both committed. One test for each file.
//!
//! After a change that is meant: `UPDATE_SCENARIOS=1 cargo test -p placement --test scenarios`, then read the difference.

use std::{collections::BTreeSet, env, fs, path::PathBuf};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios")
}

fn answers_as_committed(name: &str) {
    let forms = ["toml", "json"].map(|form| folder().join(format!("{name}.{form}")));
    let file = forms.iter().find(|path| path.exists()).expect("the scenario");
    let answer = placement::scenario::run(&fs::read_to_string(file).expect("a text")).expect("a scenario");
    assert!(!answer.contains("VIOLATION"), "{answer}");
    let path = folder().join(format!("{name}.out"));
    if env::var_os("UPDATE_SCENARIOS").is_some() {
        fs::write(&path, &answer).expect("the answer is written");
    }
    let committed = fs::read_to_string(&path).expect("the committed answer");
    assert_eq!(answer, committed, "{name} is answered otherwise than committed");
}

macro_rules! scenarios {
    ($($name:ident),+ $(,)?) => {
        $(
            #[test]
            fn $name() {
                answers_as_committed(stringify!($name));
            }
        )+

        #[test]
        fn every_file_has_its_test() {
            let tested = BTreeSet::from([$(stringify!($name).to_owned()),+]);
            let files = fs::read_dir(folder()).expect("the folder").map(|entry| entry.expect("an entry").path());
            let present: BTreeSet<String> =
                files.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
            assert_eq!(present, tested);
        }
    };
}

scenarios!(
    a_link_is_full_of_another_model,
    a_link_must_stay_free,
    a_large_model_for_many_streams,
    a_large_model_over_mixed_cards,
    a_node_is_lost_and_the_fewest_bytes_move,
    a_thousand_cards,
    a_taint_is_tolerated,
    a_taint_keeps_layers_away,
    an_agent_is_gone,
    between_latency_and_throughput,
    demo,
    four_cards_work_as_one,
    four_mac_studios,
    four_strix_halo_boxes,
    helix_42_nodes_of_seven_kinds,
    helix_one_cluster_of_24_cards,
    helix_three_regions_of_24_cards,
    hundreds_of_mebibytes_short,
    layers_too_large_for_what_is_left,
    memory_is_held_by_others,
    one_device_is_enough,
    pins_that_clash,
    prima_cpp_at_home,
    runs_whole,
    software_is_not_allowed,
    the_head_is_near_the_gateway,
    the_third_replica_does_not_fit,
    tokens_stay_on_trusted_nodes,
    too_few_devices,
    too_large_for_two_devices,
    two_replicas_on_two_pairs_of_cards,
    two_replicas_over_four_boxes,
    what_was_never_measured_is_taken_from_a_table,
);

#[test]
fn what_is_not_a_scenario_is_refused_with_the_reason() {
    let told = |file: &str| placement::scenario::run(file).expect_err("refused").to_string();
    assert!(told("{").starts_with("not a scenario: "));
    assert!(told("no form at all").starts_with("not a scenario: "));
    assert!(
        told(r#"{"cluster": {"devices": [], "attached_nodes": []}, "model": {}, "extra": 1}"#)
            .contains("not a scenario")
    );
}

#[test]
fn a_scenario_of_a_model_that_cannot_be_is_refused_in_the_models_own_words() {
    let told = |file: &str| placement::scenario::run(file).expect_err("refused").to_string();
    let unknown = r#"
        [model]
        shape = "none-such"
        quantisation = "Q8_0"

        [card.gpu]
        memory_gib = 1.5

        [[node]]
        name = "lone"
        cards = ["gpu"]
    "#;
    let named = "no model shape is called none-such; known are smollm2-135m, ";
    assert!(told(unknown).starts_with(named), "{}", told(unknown));

    let whole = fs::read_to_string(folder().join("runs_whole.json")).expect("the scenario");
    let mut hollow: serde_json::Value = serde_json::from_str(&whole).expect("JSON");
    hollow["model"]["layer_weight_bytes"] = serde_json::json!([]);
    assert_eq!(
        told(&hollow.to_string()),
        "the model has no layers: nothing can be placed"
    );
}
