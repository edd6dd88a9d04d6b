//! A model that keeps a state instead of keys and values: it runs whole, keeps no prefixes, and begins a sequence anew where
//! others would cut it back.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use engine::{EngineError, STRICT_STEP_ROWS, Stage};
use gguf::architecture::{Keepers, kept_states, stateful};
use gguf::{Gguf, SlicePlan, pieces};
use modelgen::Recipe;

use support::generated::{Generated, rows, step};

const LAYERS: u32 = 4;

const CONTEXT_LENGTH: u32 = 256;

/// Greedy tokens compared.
const ANSWER_TOKENS: usize = 40;

/// The models that keep states alone.
fn architectures() -> impl Iterator<Item = &'static str> {
    stateful().filter(|name| kept_states(name).is_some_and(|states| states.keepers == Keepers::All))
}

fn of(architecture: &str) -> Generated {
    let mut recipe = Recipe::new(architecture).unwrap();
    recipe.layers = LAYERS;
    Generated::write(recipe)
}

fn stage(model: &Generated, threads: u32) -> Stage {
    model.stage(threads, CONTEXT_LENGTH)
}

#[test]
fn a_recurrent_model_as_a_stage_gives_the_tokens_of_llama_cpps_own_loop_over_its_file() {
    for architecture in architectures() {
        of(architecture).answers_as_llama_cpp_does(ANSWER_TOKENS);
    }
}

#[test]
fn a_cut_through_a_recurrent_model_is_refused_by_the_architectures_name() {
    let model = of("mamba");
    let gguf = Gguf::open(&model.folder.path().join("model.gguf")).unwrap();
    let pieces = pieces(&gguf).unwrap();
    for (first, end) in [(0, 2), (2, LAYERS)] {
        let error = SlicePlan::new(&pieces, first, end).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("runs whole") && said.contains("`mamba`"), "{said}");
    }
}

#[test]
fn its_strict_steps_give_the_same_numbers_alone_in_large_steps_and_beside_other_sequences() {
    for architecture in architectures() {
        strict_steps(&of(architecture));
    }
}

fn strict_steps(model: &Generated) {
    let mut stage = stage(model, 2);
    let tokens = model.prompt(0, 70);
    let alone: Vec<_> = (0..)
        .zip(&tokens)
        .map(|(position, token)| step(&mut stage, &rows(0, position, &[*token])).unwrap().remove(0))
        .collect();
    stage.remove(0, 0, u32::MAX).unwrap();

    let mut together = Vec::new();
    for chunk in rows(0, 0, &tokens).chunks(STRICT_STEP_ROWS as usize) {
        together.extend(step(&mut stage, chunk).unwrap());
    }
    assert!(together == alone, "{}", model.recipe.architecture());
    stage.remove(0, 0, u32::MAX).unwrap();

    // Beside two others, each of as many rows as it likes, one after the other and mixed.
    let mut beside = Vec::new();
    for (nth, chunk) in (0u32..).zip(rows(0, 0, &tokens).chunks(7)) {
        let mut all = chunk.to_vec();
        for sequence in [1, 2] {
            let count = (nth * sequence) % 5;
            let first = stage.sequence_length(sequence);
            all.extend(rows(
                sequence,
                first,
                &model.prompt(sequence, first + count)[first as usize..],
            ));
        }
        if nth % 2 == 1 {
            // Each sequence's own stay in order.
            all.sort_by_key(|row| row.position);
        }
        let logits = step(&mut stage, &all).unwrap();
        let own = all.iter().zip(logits).filter(|(row, _)| row.sequence == 0);
        beside.extend(own.map(|(_, logits)| logits));
    }
    assert!(beside == alone, "{}", model.recipe.architecture());
}

#[test]
fn a_stage_whose_state_was_to_go_back_is_broken_and_says_so_to_whatever_is_asked_of_it() {
    let model = of("mamba");
    let mut stage = stage(&model, 1);
    let tokens = model.prompt(0, 10);
    step(&mut stage, &rows(0, 0, &tokens)).unwrap();
    let error = stage.remove(0, 4, u32::MAX).unwrap_err();
    assert!(matches!(error, EngineError::Broken { .. }), "{error}");
    let said = "the stage is broken (sequence 0 could not be cut back to 4): unload it and load it again";
    assert_eq!(error.to_string(), said);
    let refused = [
        step(&mut stage, &rows(1, 0, &tokens)).map(drop),
        stage.remove(0, 0, u32::MAX),
        stage.copy_prefix(0, 2, 1),
    ];
    for refused in refused {
        assert_eq!(refused.unwrap_err().to_string(), said);
    }
}

#[test]
fn a_failed_step_empties_its_sequences_and_leaves_the_state_of_others_alone() {
    let model = of("mamba");
    let mut stage = stage(&model, 1);
    assert!(!stage.shares_prefixes());
    let error = stage.copy_prefix(0, 3, 1).unwrap_err();
    assert!(
        matches!(error, EngineError::UnknownSequence { limit: 3, .. }),
        "{error}"
    );

    let (one, other) = (model.prompt(1, 30), model.prompt(2, 30));
    let expected = step(&mut stage, &rows(0, 0, &one)).unwrap();
    let others = step(&mut stage, &rows(1, 0, &other)).unwrap();
    for sequence in [0, 1] {
        stage.remove(sequence, 0, u32::MAX).unwrap();
    }

    step(&mut stage, &rows(0, 0, &one[..20])).unwrap();
    step(&mut stage, &rows(1, 0, &other[..20])).unwrap();
    let mut bad = rows(0, 20, &one[20..]);
    bad.last_mut().unwrap().token = i32::MAX;
    let error = step(&mut stage, &bad).unwrap_err();
    assert!(error.to_string().contains("are empty now"), "{error}");
    assert_eq!((stage.sequence_length(0), stage.sequence_length(1)), (0, 20));

    assert!(step(&mut stage, &rows(1, 20, &other[20..])).unwrap() == others[20..]);
    assert!(step(&mut stage, &rows(0, 0, &one)).unwrap() == expected);
    let error = stage.copy_prefix(0, 2, 1).unwrap_err();
    assert!(matches!(error, EngineError::PrefixRefused { .. }), "{error}");
}
