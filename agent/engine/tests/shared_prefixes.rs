//! A sequence that begins with a kept prefix continues exactly as if it had computed it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use engine::reference::{WholeConfig, WholeModel};
use engine::sample::greedy;
use engine::{EngineError, Row, Runtime, STRICT_STEP_ROWS, Stage, StepInput};

use support::{CONTEXT_LENGTH, LAYERS, PREFIX_SEQUENCES, Pieces, Pipeline, cpu, model_file, prompts, stage_config};

const SYSTEM: &str = "<|im_start|>system\nYou are a helpful assistant who answers briefly, names the \
source of what is said where there is one, and says so plainly where something is not known.<|im_end|>\n";

const COMPARED_TOKENS: usize = 40;

/// Continues `prompt`, whose first `held` tokens the sequence has, by greedy tokens.
fn continued(pipeline: &mut Pipeline, sequence: u32, prompt: &[i32], held: usize) -> Vec<i32> {
    let logits = pipeline.feed(sequence, &prompt[held..], STRICT_STEP_ROWS as usize);
    let mut tokens = vec![greedy(&logits)];
    while tokens.len() < COMPARED_TOKENS {
        let logits = pipeline.feed(sequence, &tokens[tokens.len() - 1..], 1);
        tokens.push(greedy(&logits));
    }
    tokens
}

#[test]
fn what_begins_with_a_kept_prefix_gives_the_tokens_of_a_cold_run() {
    let Some(model) = model_file() else { return };
    let runtime = Runtime::load_for(None, &cpu()).unwrap();
    let mut whole = WholeModel::load(&runtime, &model, &WholeConfig::like_a_stage(cpu(), CONTEXT_LENGTH)).unwrap();
    let system = whole.tokenize(SYSTEM).unwrap();
    let prompts: Vec<Vec<i32>> = prompts()[..3]
        .iter()
        .map(|prompt| whole.tokenize(&format!("{SYSTEM}{prompt}")).unwrap())
        .collect();
    assert!(prompts.iter().all(|prompt| prompt.starts_with(&system)));
    let cold: Vec<_> = prompts
        .iter()
        .map(|prompt| whole.greedy(prompt, COMPARED_TOKENS).unwrap().tokens)
        .collect();

    let pieces = Pieces::write(&model);
    for cuts in [&[][..], &[13], &[10, 20]] {
        let slices = cuts.len() + 1;
        let mut pipeline = pieces.pipeline(&runtime, cuts, 3);
        let prefix = 3;
        assert_eq!(pipeline.greedy(0, &prompts[0], COMPARED_TOKENS), cold[0]);
        pipeline.copy_prefix(0, prefix, system.len());
        // The one that computed it leaves; what others share stays.
        pipeline.forget(0);
        for (sequence, (prompt, cold)) in (0..).zip(prompts.iter().zip(&cold)) {
            pipeline.copy_prefix(prefix, sequence, system.len());
            let warm = continued(&mut pipeline, sequence, prompt, system.len());
            assert_eq!(&warm, cold, "sequence {sequence}, {slices} slices");
        }
        // A prefix of a prefix, and the middle sequence leaves a hole.
        let shorter = system.len() - 7;
        pipeline.forget(1);
        pipeline.copy_prefix(prefix, 1, shorter);
        pipeline.forget(prefix);
        assert_eq!(
            continued(&mut pipeline, 1, &prompts[1], shorter),
            cold[1],
            "{slices} slices"
        );
        println!("{slices} slices: kept prefixes give the tokens of cold runs");
    }
}

/// Cells of a cache in which compaction has to happen again and again.
const FEW_CELLS: u32 = 256;

#[test]
fn shared_cells_survive_every_compaction_bit_for_bit() {
    let Some(model) = model_file() else { return };
    let runtime = Runtime::load_for(None, &cpu()).unwrap();
    let pieces = Pieces::write(&model);
    let mut roomy = pieces.pipeline(&runtime, &[15], 1);
    let tokens: Vec<i32> = (0..150).map(|index| 300 + 7 * index).collect();
    let cold = roomy.feed(0, &tokens, 50);

    let mut pipeline = pieces.pipeline_with(&runtime, &[15], &[cpu(), cpu()], 3, FEW_CELLS);
    let prefix = 3;
    pipeline.feed(0, &tokens[..100], 50);
    pipeline.copy_prefix(0, prefix, 100);
    pipeline.forget(0);
    for round in 0..8u32 {
        let (sequence, filler) = (round % 2, 2);
        pipeline.copy_prefix(prefix, sequence, 100);
        // Rows that go again push the cells of those that stay ever further back.
        pipeline.feed(filler, &tokens[..40], 40);
        pipeline.feed(sequence, &tokens[100..130], 30);
        pipeline.forget(filler);
        let logits = pipeline.feed(sequence, &tokens[130..], 20);
        assert!(logits == cold, "logits differ in round {round}");
        for stage in &pipeline.stages {
            assert_eq!(stage.kv_cells_free(), FEW_CELLS - 150, "round {round}");
        }
        pipeline.forget(sequence);
    }
}

/// Positions that a layer with a window reads: few, so that most of a sequence is beyond it.
const WINDOW: u32 = 16;

#[test]
fn shared_cells_of_a_windowed_cache_survive_compaction_beyond_the_window_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("windowed.gguf");
    let mut recipe = modelgen::Recipe::new("gemma3").unwrap();
    recipe.layers = 6;
    recipe.window = Some(WINDOW);
    recipe.write(&file).unwrap();
    let runtime = Runtime::load_for(None, &cpu()).unwrap();
    let load = |kv_cells| {
        let mut config = stage_config(vec![file.clone()], (0, 6), &cpu(), 3);
        (config.last, config.kv_cells) = (true, kv_cells);
        Stage::load(&runtime, &config).unwrap()
    };
    let tokens: Vec<i32> = (0..150).map(|index| 3 + 7 * index % 200).collect();
    let cold = feed_tokens(&mut load(0), 0, &tokens, 0..150);

    let mut stage = load(FEW_CELLS);
    let prefix = 3;
    feed_tokens(&mut stage, 0, &tokens, 0..100);
    stage.copy_prefix(0, prefix, 100).unwrap();
    stage.remove(0, 0, u32::MAX).unwrap();
    for round in 0..8u32 {
        let (sequence, filler) = (round % 2, 2);
        // Shorter than what is kept: the last positions before the cut must be there, however old.
        let shared = 100 - 9 * round;
        stage.copy_prefix(prefix, sequence, shared).unwrap();
        feed_tokens(&mut stage, filler, &tokens, 0..40);
        feed_tokens(&mut stage, sequence, &tokens, shared..130);
        stage.remove(filler, 0, u32::MAX).unwrap();
        // A step that is taken back, to before the window.
        stage.remove(sequence, shared, u32::MAX).unwrap();
        let logits = feed_tokens(&mut stage, sequence, &tokens, shared..150);
        assert!(logits == cold, "logits differ in round {round}");
        stage.remove(sequence, 0, u32::MAX).unwrap();
    }
}

/// Feeds these positions' tokens to a whole model; the last one's logits.
fn feed_tokens(stage: &mut Stage, sequence: u32, tokens: &[i32], positions: std::ops::Range<u32>) -> Vec<f32> {
    assert!(stage.takes_tokens());
    let rows: Vec<Row> = positions
        .map(|position| Row {
            sequence,
            position,
            token: tokens[position as usize],
        })
        .collect();
    let mut last = Vec::new();
    for rows in rows.chunks(STRICT_STEP_ROWS as usize) {
        let mut wants = vec![false; rows.len()];
        *wants.last_mut().unwrap() = true;
        let output = stage.step(&StepInput {
            rows,
            activations: &[],
            wants: &wants,
        });
        last = output.unwrap().logits.row(0).unwrap().to_vec();
    }
    last
}

#[test]
fn a_full_cache_refuses_the_step_by_name_and_goes_on_once_a_prefix_is_evicted() {
    let Some(model) = model_file() else { return };
    let runtime = Runtime::load_for(None, &cpu()).unwrap();
    let pieces = Pieces::write(&model);
    let mut pipeline = pieces.pipeline_with(&runtime, &[], &[cpu()], 2, FEW_CELLS);
    let tokens: Vec<i32> = (0..200).collect();
    pipeline.feed(0, &tokens[..150], 50);
    pipeline.copy_prefix(0, 2, 150);
    pipeline.forget(0);
    pipeline.feed(1, &tokens[..100], 50);
    let activations = pipeline.embedding.rows(&tokens[100..107]).unwrap();
    let rows: Vec<Row> = (100..107)
        .map(|position| Row {
            sequence: 1,
            position,
            token: tokens[position as usize],
        })
        .collect();
    let input = StepInput {
        rows: &rows,
        activations: &activations,
        wants: &[false; 7],
    };
    let stage = &mut pipeline.stages[0];
    let refused = stage.step(&input);
    assert!(
        matches!(&refused, Err(error @ EngineError::KvFull { rows: 7, free: 6, .. }) if error.to_string().contains("kvCacheTokens")),
        "{refused:?}"
    );
    assert_eq!(stage.sequence_length(1), 100);
    stage.remove(2, 0, u32::MAX).unwrap();
    stage.step(&input).unwrap();
    assert_eq!(stage.kv_cells_free(), FEW_CELLS - 107);
}

#[test]
fn a_prefix_that_is_not_there_is_refused_and_changes_nothing() {
    let Some(model) = model_file() else { return };
    let runtime = Runtime::load_for(None, &cpu()).unwrap();
    let pieces = Pieces::write(&model);
    let mut pipeline = pieces.pipeline(&runtime, &[], 2);
    pipeline.feed(0, &[1, 2, 3], 3);
    pipeline.feed(1, &[1], 1);
    let stage = &mut pipeline.stages[0];
    for (from, to, end) in [(0, 2, 4), (0, 2, 0), (0, 1, 2), (0, 0, 3), (3, 2, 1)] {
        let refused = stage.copy_prefix(from, to, end).unwrap_err();
        assert!(matches!(refused, EngineError::PrefixRefused { .. }), "{refused}");
    }
    let unknown = 2 + PREFIX_SEQUENCES;
    let refused = stage.copy_prefix(0, unknown, 1).unwrap_err();
    assert!(matches!(refused, EngineError::UnknownSequence { .. }), "{refused}");
    assert_eq!((stage.sequence_length(0), stage.sequence_length(2)), (3, 0));
    let config = stage_config(vec!["x.gguf".into()], (0, LAYERS), &cpu(), 253);
    let refused = Stage::load(&runtime, &config).unwrap_err();
    assert!(matches!(refused, EngineError::BadConfig { .. }), "{refused}");
}
