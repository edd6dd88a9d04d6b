use std::path::PathBuf;

use super::*;
use crate::runtime::Device;

/// The whole test model as one stage, or `None` after saying why the test does not run.
fn whole_model_stage() -> Option<Stage> {
    whole_model_stage_with(|_| {})
}

fn whole_model_stage_with(alter: impl FnOnce(&mut StageConfig)) -> Option<Stage> {
    let named = std::env::var_os("SHARDWRIGHT_TEST_MODEL").map(PathBuf::from);
    let file = named.unwrap_or_else(|| {
        let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
        home.join(".cache/shardwright/models/SmolLM2-135M-Instruct.Q4_1.gguf")
    });
    if !file.is_file() {
        println!("SKIPPED: no test model at {}", file.display());
        return None;
    }
    let mut config = config(vec![file]);
    alter(&mut config);
    let runtime = Runtime::load_for(None, &config.device).unwrap();
    Some(Stage::load(&runtime, &config).unwrap())
}

fn config(slice_files: Vec<PathBuf>) -> StageConfig {
    StageConfig {
        slice_files,
        device: Device::Cpu { threads: 1 },
        context_length: 64,
        parallel_sequences: 2,
        prefix_sequences: 2,
        kv_cells: 0,
        kv_type: KvType::default(),
        max_step_rows: STRICT_STEP_ROWS,
        strict: true,
        first: true,
        last: true,
        first_layer: 0,
        end_layer: 30,
    }
}

fn step(stage: &mut Stage, rows: &[(u32, u32)]) -> Result<StepOutput, EngineError> {
    let rows: Vec<_> = rows
        .iter()
        .map(|(sequence, position)| Row {
            sequence: *sequence,
            position: *position,
            token: 1000 + *position as i32,
        })
        .collect();
    let mut wants = vec![false; rows.len()];
    if let Some(last) = wants.last_mut() {
        *last = true;
    }
    stage.step(&StepInput {
        rows: &rows,
        activations: &[],
        wants: &wants,
    })
}

#[test]
fn a_failed_decode_takes_its_rows_back_and_leaves_other_sequences_alone() {
    let Some(mut stage) = whole_model_stage() else { return };
    let expected = step(&mut stage, &[(0, 0), (0, 1), (0, 2)]).unwrap();
    step(&mut stage, &[(1, 0), (1, 1)]).unwrap();

    // Behind the bookkeeping's back the cache still holds three positions, so llama.cpp refuses
    // another position 1: a decode that fails after it was let through.
    stage.positions.truncate(0, 1);
    let error = step(&mut stage, &[(1, 2), (0, 1), (0, 2)]).unwrap_err();
    assert!(matches!(&error, EngineError::DecodeFailed { rows: 3, .. }), "{error}");
    assert_eq!((stage.sequence_length(0), stage.sequence_length(1)), (1, 2));

    // The failed rows are gone from the cache too: the same positions can be said again.
    let again = step(&mut stage, &[(0, 1), (0, 2)]).unwrap();
    assert!(again == expected);
    step(&mut stage, &[(1, 2)]).unwrap();
}

#[test]
fn a_sequence_may_fill_its_context_and_no_more() {
    let Some(mut stage) = whole_model_stage() else { return };
    for sequence in [0, 1] {
        for first in [0, 32] {
            let rows: Vec<_> = (first..first + 32).map(|position| (sequence, position)).collect();
            step(&mut stage, &rows).unwrap();
        }
        let error = step(&mut stage, &[(sequence, 64)]).unwrap_err();
        assert!(
            matches!(error, EngineError::ContextFull { context_length: 64, .. }),
            "{error}"
        );
    }
    stage.remove(0, 63, 64).unwrap();
    step(&mut stage, &[(0, 63)]).unwrap();
}

#[test]
fn a_lone_rows_companion_takes_no_cell_from_those_that_may_be_filled() {
    // Whole blocks of llama.cpp's cache, so that none of its cells is there by rounding.
    let stage = whole_model_stage_with(|config| (config.context_length, config.parallel_sequences) = (256, 1));
    let Some(mut stage) = stage else { return };
    for first in (0..248).step_by(62) {
        let rows: Vec<_> = (first..first + 62).map(|position| (0, position)).collect();
        step(&mut stage, &rows).unwrap();
    }
    for position in 248..256 {
        step(&mut stage, &[(0, position)]).unwrap();
    }
    assert_eq!((stage.kv_cells_free(), stage.sequence_length(0)), (0, 256));
}

#[test]
fn a_lone_row_that_fails_leaves_nothing_of_its_companion_either() {
    let Some(mut stage) = whole_model_stage() else { return };
    let expected = step(&mut stage, &[(0, 0)]).unwrap();
    step(&mut stage, &[(0, 1)]).unwrap();

    // As above, llama.cpp refuses position 1: a decode that fails.
    stage.positions.truncate(0, 1);
    let error = step(&mut stage, &[(0, 1)]).unwrap_err();
    assert!(matches!(&error, EngineError::DecodeFailed { rows: 1, .. }), "{error}");
    // And a decode that goes well, of which nobody wants to hear.
    let rows = [Row {
        sequence: 1,
        position: 0,
        token: 1000,
    }];
    let input = StepInput {
        rows: &rows,
        activations: &[],
        wants: &[true],
    };
    let error = stage.step_with(&input, |_, _| Err("no".to_owned())).unwrap_err();
    assert!(matches!(&error, EngineError::DecodeFailed { rows: 1, .. }), "{error}");

    // Its place is free: the next companion could not be put there otherwise.
    assert!(step(&mut stage, &[(1, 0)]).unwrap() == expected);
    stage.remove(0, 0, u32::MAX).unwrap();
    assert!(step(&mut stage, &[(0, 0)]).unwrap() == expected);
}

#[test]
fn strict_steps_are_promised_on_the_processor_and_refused_by_name_where_they_are_not_shown_for_states_beside_attention()
{
    let strict = config(Vec::new());
    let needed = |kind| companion::needed(&strict, kind, "jamba");
    assert!(needed(CacheKind::Plain).unwrap());
    assert!(needed(CacheKind::Windowed(16)).unwrap());
    assert!(!needed(CacheKind::Recurrent).unwrap());
    assert!(needed(CacheKind::Hybrid).unwrap(), "it is shown for jamba");
    let not_shown = |kind| companion::needed(&strict, kind, "lfm2moe");
    for error in [not_shown(CacheKind::Hybrid), needed(CacheKind::WindowedHybrid)] {
        let error = error.unwrap_err();
        assert!(error.to_string().contains("strict steps: `"), "{error}");
        assert_eq!(error.fault(), crate::Fault::Config);
    }

    let relaxed = StageConfig {
        strict: false,
        ..strict.clone()
    };
    let elsewhere = StageConfig {
        device: Device::Gpu {
            backend: "vulkan".to_owned(),
            index: 0,
        },
        ..strict
    };
    for config in [relaxed, elsewhere] {
        assert!(!companion::needed(&config, CacheKind::Hybrid, "lfm2moe").unwrap());
        assert_eq!(companion::cells(&config), 0);
    }
}

#[test]
fn rows_that_are_alone_in_their_sequence_are_one_part_of_a_step_and_each_sequence_of_several_is_another() {
    let parts = |sequences: &[u32]| {
        let row = |sequence: &u32| Row {
            sequence: *sequence,
            position: 0,
            token: 0,
        };
        companion::parts(&sequences.iter().map(row).collect::<Vec<_>>())
    };
    assert_eq!(parts(&[3]), [[0]]);
    assert_eq!(parts(&[3, 1, 2]), [[0, 1, 2]]);
    assert_eq!(parts(&[3, 3]), [[0, 1]]);
    assert_eq!(parts(&[3, 1, 3, 2, 4, 2]), [vec![1, 4], vec![0, 2], vec![3, 5]]);
}

#[test]
fn a_recurrent_model_has_no_sequences_for_prefixes_however_many_are_configured() {
    let Some(stage) = whole_model_stage() else { return };
    assert!(stage.shares_prefixes());
    assert_eq!(stage.positions.sequences(), 4);
    let config = StageConfig {
        prefix_sequences: 8,
        ..config(Vec::new())
    };
    assert_eq!(sequences(CacheKind::Plain, &config), 10);
    assert_eq!(sequences(CacheKind::Windowed(16), &config), 10);
    assert_eq!(sequences(CacheKind::Recurrent, &config), 2);
}

#[test]
fn a_configuration_that_contradicts_itself_is_refused_before_anything_is_loaded() {
    let good = StageConfig {
        slice_files: vec!["slice.gguf".into()],
        device: Device::Cpu { threads: 1 },
        context_length: 2048,
        parallel_sequences: 4,
        prefix_sequences: 2,
        kv_cells: 0,
        kv_type: KvType::Q8_0,
        max_step_rows: STRICT_STEP_ROWS,
        strict: true,
        first: false,
        last: false,
        first_layer: 4,
        end_layer: 8,
    };
    assert_eq!(check(&good).unwrap(), 8192);
    let bad = [
        StageConfig {
            end_layer: 4,
            ..good.clone()
        },
        StageConfig {
            first: true,
            ..good.clone()
        },
        StageConfig {
            context_length: 0,
            ..good.clone()
        },
        StageConfig {
            parallel_sequences: PARALLEL_SEQUENCES_LIMIT + 1,
            ..good.clone()
        },
        StageConfig {
            context_length: u32::MAX,
            ..good.clone()
        },
        StageConfig {
            max_step_rows: 0,
            ..good.clone()
        },
        StageConfig {
            max_step_rows: STRICT_STEP_ROWS + 1,
            ..good.clone()
        },
        StageConfig {
            slice_files: Vec::new(),
            ..good
        },
    ];
    for config in bad {
        let error = check(&config).unwrap_err();
        assert_eq!(error.fault(), crate::Fault::Config, "{config:?}");
    }
}

#[test]
fn a_sequence_is_not_touched_by_others_that_come_and_go_nor_by_compaction() {
    let Some(mut stage) = whole_model_stage() else { return };
    let rows = |sequence: u32, positions: std::ops::Range<u32>| -> Vec<(u32, u32)> {
        positions.map(|position| (sequence, position)).collect()
    };
    let alone: Vec<_> = (0..6)
        .map(|part| step(&mut stage, &rows(1, 10 * part..10 * part + 10)).unwrap())
        .collect();
    stage.remove(1, 0, u32::MAX).unwrap();
    assert_eq!(stage.cells, Some(Cells::new(128, 4)));

    // 128 cells take 60 rows that stay and 200 that go only if the cells of the gone are found again.
    let mut compactions = 0;
    for (part, alone) in (0..6).zip(&alone) {
        for _ in 0..2 {
            let before = stage.cells.clone();
            step(&mut stage, &rows(0, 0..17)).unwrap();
            compactions += u32::from(before.unwrap().wants_compaction(17));
            // What is behind all others is freed at once, what is not is retired.
            step(&mut stage, &rows(2, 0..1)).unwrap();
            stage.remove(0, 5, u32::MAX).unwrap();
            stage.remove(0, 0, 5).unwrap();
            stage.remove(2, 0, 1).unwrap();
        }
        let beside = step(&mut stage, &rows(1, 10 * part..10 * part + 10)).unwrap();
        assert!(beside == *alone, "logits differ after part {part}");
    }
    assert!(compactions > 0);
}
