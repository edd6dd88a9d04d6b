//! Models that keep states beside keys and values: they run whole, keep no prefixes, and promise equal numbers where that is shown.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use engine::{EngineError, Stage, StageConfig};
use gguf::architecture::{refuses_strict_steps, stateful, strict_hybrids};
use modelgen::Recipe;

use support::generated::{Generated, SEQUENCES, feed, feed_alone, rows, step};

/// Some of each kind of layer.
const LAYERS: u32 = 6;

/// Positions before the first that is computed alone: beyond 512 cells llama.cpp computes a lone row otherwise than several.
const PROMPT: u32 = 515;

/// Positions of the answer.
const ANSWER: u32 = 14;

/// Positions that are computed beside other sequences.
const BESIDE: u32 = 90;

const CONTEXT_LENGTH: u32 = 640;

fn of(architecture: &str) -> Generated {
    let mut recipe = Recipe::new(architecture).unwrap();
    recipe.layers = LAYERS;
    Generated::write(recipe)
}

fn all() -> impl Iterator<Item = Generated> {
    strict_hybrids().map(of)
}

#[test]
fn a_hybrid_as_a_stage_gives_the_tokens_of_llama_cpps_own_loop_over_its_file() {
    for model in all() {
        model.answers_as_llama_cpp_does(30);
    }
}

#[test]
fn a_hybrid_of_which_equal_numbers_are_not_promised_gives_those_tokens_too() {
    for name in stateful().filter(|name| refuses_strict_steps(name)) {
        of(name).answers_as_llama_cpp_does(30);
    }
}

/// The logits of positions from `PROMPT` on, for prompt and answer as `tokens` has them.
fn recovered(stage: &mut Stage, sequence: u32, tokens: &[i32], recomputed: u32) -> Vec<Vec<f32>> {
    let (before, after) = tokens.split_at((PROMPT + recomputed) as usize);
    feed(stage, sequence, before);
    feed_alone(stage, sequence, after)
}

#[test]
fn a_continuation_of_a_hybrid_after_a_recovery_has_the_logits_of_the_uninterrupted_one() {
    for model in all() {
        let name = model.recipe.architecture();
        let tokens = model.prompt(0, PROMPT + ANSWER);
        let mut stage = model.stage(2, CONTEXT_LENGTH);
        let uninterrupted = recovered(&mut stage, 0, &tokens, 0);

        // On the same stage, and on another with another number of threads, in which the sequence has another number.
        stage.remove(0, 0, u32::MAX).unwrap();
        let mut other = model.stage(1, CONTEXT_LENGTH);
        for (stage, sequence, recomputed) in [(&mut stage, 0, 1), (&mut other, 2, 9)] {
            let continued = recovered(stage, sequence, &tokens, recomputed);
            assert!(
                continued == uninterrupted[recomputed as usize..],
                "{name}, {recomputed} anew"
            );
        }
    }
}

/// Rows of the other sequences for a step, which grow, and now and then one of them begins anew.
fn others(model: &Generated, stage: &mut Stage, nth: u32) -> Vec<engine::Row> {
    let mut all = Vec::new();
    for sequence in 1..SEQUENCES {
        if (nth + sequence).is_multiple_of(4) {
            stage.remove(sequence, 0, u32::MAX).unwrap();
        }
        let count = (nth * sequence) % 6;
        let first = stage.sequence_length(sequence);
        let tokens = model.prompt(sequence, first + count);
        all.extend(rows(sequence, first, &tokens[first as usize..]));
    }
    all
}

#[test]
fn a_hybrids_numbers_do_not_depend_on_the_sequences_beside_it_that_come_and_go_nor_on_compaction() {
    for model in all() {
        let name = model.recipe.architecture();
        let tokens = model.prompt(0, PROMPT + BESIDE);
        let (prompt, tokens) = tokens.split_at(PROMPT as usize);
        let mut stage = model.stage(2, CONTEXT_LENGTH);
        feed(&mut stage, 0, prompt);
        let alone = feed_alone(&mut stage, 0, tokens);

        // So few cells that what was removed must be found again.
        let config = StageConfig {
            kv_cells: PROMPT + BESIDE + 80,
            ..model.config(2, CONTEXT_LENGTH)
        };
        let mut stage = model.load(&config).unwrap();
        feed(&mut stage, 0, prompt);
        let mut beside = Vec::new();
        let mut nth = 0;
        while beside.len() < tokens.len() {
            nth += 1;
            let others = others(&model, &mut stage, nth);
            // With one row more than any other has, llama.cpp would leave the last one alone.
            let of = |sequence| others.iter().filter(|row| row.sequence == sequence).count();
            let most = (1..SEQUENCES).map(of).max().unwrap_or(0);
            let count = if nth.is_multiple_of(3) { 1 } else { most + 1 }.min(tokens.len() - beside.len());
            let own = rows(0, stage.sequence_length(0), &tokens[beside.len()..][..count]);
            let mut all = [others, own].concat();
            if nth % 2 == 1 {
                // Each sequence's own stay in order.
                all.sort_by_key(|row| row.position);
            }
            let logits = step(&mut stage, &all).unwrap();
            let own = all.iter().zip(logits).filter(|(row, _)| row.sequence == 0);
            beside.extend(own.map(|(_, logits)| logits));
        }
        assert!(beside == alone, "{name}");
        assert_eq!(stage.sequence_length(0), PROMPT + BESIDE);
    }
}

#[test]
fn a_failed_step_empties_its_sequences_and_what_others_keep_is_not_touched() {
    for model in all() {
        let name = model.recipe.architecture();
        let mut stage = model.stage(1, CONTEXT_LENGTH);
        assert!(!stage.shares_prefixes());
        let (one, other) = (model.prompt(1, 40), model.prompt(2, 60));
        let expected = feed_alone(&mut stage, 0, &one);
        let others = feed_alone(&mut stage, 1, &other);
        for sequence in [0, 1] {
            stage.remove(sequence, 0, u32::MAX).unwrap();
        }

        // In turn, so that the cells of what fails are among those of what stays.
        for part in 0..4 {
            feed(&mut stage, 0, &one[part * 5..][..5]);
            feed(&mut stage, 1, &other[part * 10..][..10]);
        }
        let free = stage.kv_cells_free();
        let mut bad = rows(0, 20, &one[20..]);
        bad.last_mut().unwrap().token = i32::MAX;
        let error = step(&mut stage, &bad).unwrap_err();
        assert!(error.to_string().contains("are empty now"), "{error}");
        assert_eq!((stage.sequence_length(0), stage.sequence_length(1)), (0, 40), "{name}");
        assert_eq!(stage.kv_cells_free(), free + 20, "{name}");

        assert!(feed_alone(&mut stage, 1, &other[40..50]) == others[40..50], "{name}");
        assert!(feed(&mut stage, 0, &one) == expected, "{name}");
        assert!(feed(&mut stage, 1, &other[50..]) == others[50..], "{name}");
        let error = stage.copy_prefix(0, 2, 1).unwrap_err();
        assert!(matches!(error, EngineError::PrefixRefused { .. }), "{error}");
    }
}

#[test]
fn a_cache_that_is_full_refuses_the_rows_before_anything_is_computed() {
    let model = of("jamba");
    let config = StageConfig {
        kv_cells: 64,
        ..model.config(1, CONTEXT_LENGTH)
    };
    let mut stage = model.load(&config).unwrap();
    feed(&mut stage, 0, &model.prompt(0, 60));
    let error = step(&mut stage, &rows(1, 0, &model.prompt(1, 5))).unwrap_err();
    assert!(matches!(error, EngineError::KvFull { free: 4, .. }), "{error}");
    assert_eq!(stage.sequence_length(0), 60);
}
