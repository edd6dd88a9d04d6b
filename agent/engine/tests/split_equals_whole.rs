//! Any split of the model gives the whole model's numbers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use engine::reference::{WholeConfig, WholeModel};
use engine::sample::greedy;
use engine::{Device, EngineError, Row, Runtime, STRICT_STEP_ROWS, Stage, StepInput};

use support::{CONTEXT_LENGTH, LAYERS, PREFIX_SEQUENCES, Pieces, Pipeline, cpu, model_file, prompts};

/// Greedy tokens compared for each prompt.
const COMPARED_TOKENS: usize = 128;

fn whole(runtime: &Runtime, model: &std::path::Path) -> WholeModel {
    whole_on(runtime, model, cpu())
}

fn whole_on(runtime: &Runtime, model: &std::path::Path, device: Device) -> WholeModel {
    WholeModel::load(runtime, model, &WholeConfig::like_a_stage(device, CONTEXT_LENGTH)).unwrap()
}

#[test]
fn one_two_three_and_five_slices_give_the_whole_models_greedy_tokens() {
    let Some(model) = model_file() else { return };
    let runtime = Runtime::load_for(None, &cpu()).unwrap();
    let mut whole = whole(&runtime, &model);
    let prompts: Vec<_> = prompts().iter().map(|text| whole.tokenize(text).unwrap()).collect();
    let expected: Vec<_> = prompts
        .iter()
        .map(|prompt| whole.greedy(prompt, COMPARED_TOKENS).unwrap().tokens)
        .collect();
    assert!(
        whole.detokenize(&expected[0]).contains("Paris"),
        "{:?}",
        whole.detokenize(&expected[0])
    );

    let pieces = Pieces::write(&model);
    let cuts: [&[u32]; 4] = [&[], &[13], &[10, 20], &[1, 7, 16, 29]];
    for cuts in cuts {
        let mut pipeline = pieces.pipeline(&runtime, cuts, 1);
        for (prompt, expected) in prompts.iter().zip(&expected) {
            let tokens = pipeline.greedy(0, prompt, COMPARED_TOKENS);
            assert_eq!(&tokens, expected, "cut before layers {cuts:?}");
        }
        println!(
            "{} slices: {} x {COMPARED_TOKENS} greedy tokens equal the whole model's",
            cuts.len() + 1,
            prompts.len()
        );
    }
}

#[test]
fn stages_of_two_threads_give_what_the_whole_model_gives_on_two_threads() {
    let Some(model) = model_file() else { return };
    let device = Device::Cpu { threads: 2 };
    let runtime = Runtime::load_for(None, &device).unwrap();
    let mut whole = whole_on(&runtime, &model, device.clone());
    let prompt = whole.tokenize(&prompts()[1]).unwrap();
    let devices = vec![device; 2];
    let mut pipeline = Pieces::write(&model).pipeline_on(&runtime, &[15], &devices, 1);
    let expected = whole.greedy(&prompt, 24).unwrap().tokens;
    assert_eq!(pipeline.greedy(0, &prompt, 24), expected);
}

/// A sequence of a mixed run: when it joins, what it says, how long it stays.
struct Guest {
    sequence: u32,
    joins_at_step: usize,
    prompt: Vec<i32>,
    count: usize,
    tokens: Vec<i32>,
    fed: usize,
    has_left: bool,
}

impl Guest {
    fn is_done(&self) -> bool {
        self.tokens.len() == self.count
    }

    /// The rows it has for the next step: a piece of its prompt, or its last token.
    fn rows(&self, step: usize) -> Vec<Row> {
        if step < self.joins_at_step || self.is_done() {
            return Vec::new();
        }
        let pending: Vec<i32> = if self.fed < self.prompt.len() {
            self.prompt[self.fed..].iter().copied().take(11).collect()
        } else {
            self.tokens.last().copied().into_iter().collect()
        };
        (self.fed as u32..)
            .zip(pending)
            .map(|(position, token)| Row {
                sequence: self.sequence,
                position,
                token,
            })
            .collect()
    }
}

/// Runs all guests together, interleaving their rows, until all are done.
fn run_together(pipeline: &mut Pipeline, guests: &mut [Guest]) {
    for step in 0..1_000 {
        if guests.iter().all(Guest::is_done) {
            return;
        }
        let mut queues: Vec<_> = guests.iter().map(|guest| guest.rows(step)).collect();
        let mut rows = Vec::new();
        while queues.iter().any(|queue| !queue.is_empty()) {
            for queue in queues.iter_mut().filter(|queue| !queue.is_empty()) {
                rows.push(queue.remove(0));
            }
        }
        if rows.is_empty() {
            continue;
        }
        let speaks = |row: &Row| {
            guests.iter().any(|guest| {
                guest.sequence == row.sequence
                    && !guest.is_done()
                    && step >= guest.joins_at_step
                    && row.position as usize + 1 >= guest.prompt.len()
            })
        };
        let wants: Vec<bool> = rows.iter().map(speaks).collect();
        let logits = pipeline.step(&rows, &wants);
        let mut answers = logits.rows();
        for (row, wanted) in rows.iter().zip(wants) {
            let present = |guest: &&mut Guest| guest.sequence == row.sequence && step >= guest.joins_at_step;
            let guest = guests
                .iter_mut()
                .filter(|guest| !guest.is_done())
                .find(present)
                .unwrap();
            guest.fed += 1;
            if wanted {
                guest.tokens.push(greedy(answers.next().unwrap()));
            }
        }
        for guest in guests.iter_mut().filter(|guest| guest.is_done() && !guest.has_left) {
            pipeline.forget(guest.sequence);
            guest.has_left = true;
        }
    }
    panic!("the guests were not done after 1000 steps");
}

#[test]
fn sequences_that_join_and_leave_a_mixed_batch_get_what_each_gets_alone() {
    let Some(model) = model_file() else { return };
    let runtime = Runtime::load_for(None, &cpu()).unwrap();
    let mut whole = whole(&runtime, &model);
    let prompts: Vec<_> = prompts().iter().map(|text| whole.tokenize(text).unwrap()).collect();
    let pieces = Pieces::write(&model);
    for cuts in [&[10u32, 20][..], &[][..]] {
        let mut pipeline = pieces.pipeline(&runtime, cuts, 4);
        // The last guest takes the seat of the first, which has left by then.
        let plan = [(0, 0, 12), (1, 2, 60), (2, 3, 33), (3, 9, 48), (0, 30, 24)];
        let mut guests: Vec<_> = plan
            .into_iter()
            .zip(&prompts)
            .map(|((sequence, joins_at_step, count), prompt)| Guest {
                sequence,
                joins_at_step,
                prompt: prompt.clone(),
                count,
                tokens: Vec::new(),
                fed: 0,
                has_left: false,
            })
            .collect();
        run_together(&mut pipeline, &mut guests);
        for guest in &guests {
            let alone = whole.greedy(&guest.prompt, guest.count).unwrap().tokens;
            assert_eq!(
                guest.tokens,
                alone,
                "sequence {} of {} slices",
                guest.sequence,
                cuts.len() + 1
            );
        }
    }
}

#[test]
fn a_prompt_gives_the_same_logits_in_whatever_steps_it_is_fed() {
    let Some(model) = model_file() else { return };
    let runtime = Runtime::load_for(None, &cpu()).unwrap();
    let mut whole = whole(&runtime, &model);
    let prompt = whole.tokenize(&prompts().concat().repeat(2)).unwrap();
    assert!(prompt.len() > 2 * STRICT_STEP_ROWS as usize);
    let mut expected = Vec::new();
    let last = prompt.len() - 1;
    let keep = |position: usize, logits: &[f32]| {
        if position == last {
            expected = logits.to_vec();
        }
    };
    whole.teacher_forced(&prompt, keep).unwrap();

    let mut pipeline = Pieces::write(&model).pipeline(&runtime, &[9, 21], 1);
    for step_rows in [63, 32, 7, 1] {
        pipeline.forget(0);
        let logits = pipeline.feed(0, &prompt, step_rows);
        assert!(logits == expected, "logits differ when fed in steps of {step_rows}");
    }
    // Forgetting a suffix and saying it again changes nothing either.
    for stage in &mut pipeline.stages {
        stage.remove(0, 40, u32::MAX).unwrap();
    }
    assert!(
        pipeline.feed(0, &prompt[40..], 63) == expected,
        "logits differ after a removal"
    );
}

#[test]
fn the_only_slice_gives_the_same_logits_for_tokens_and_for_looked_up_rows() {
    let Some(model) = model_file() else { return };
    let runtime = Runtime::load_for(None, &cpu()).unwrap();
    let pieces = Pieces::write(&model);
    let mut pipeline = pieces.pipeline(&runtime, &[], 2);
    let rows: Vec<_> = [1, 4093, 198, 1780, 49151, 0]
        .iter()
        .zip(0..)
        .map(|(token, position)| Row {
            sequence: 0,
            position,
            token: *token,
        })
        .collect();
    let wants = vec![true; rows.len()];
    let looked_up = pipeline.step(&rows, &wants);
    let rows: Vec<_> = rows.iter().map(|row| Row { sequence: 1, ..*row }).collect();
    let stage = &mut pipeline.stages[0];
    assert!(stage.takes_tokens());
    let fed = stage
        .step(&StepInput {
            rows: &rows,
            activations: &[],
            wants: &wants,
        })
        .unwrap();
    assert_eq!(fed.logits.len(), rows.len());
    assert!(fed.logits == looked_up);
    assert!(!pieces.load(&runtime, (0, 2), &cpu(), 1).0.takes_tokens());
}

/// The first two layers, ready to be misused.
fn small_stage() -> Option<Stage> {
    let model = model_file()?;
    let runtime = Runtime::load_for(None, &cpu()).unwrap();
    Some(Pieces::write(&model).load(&runtime, (0, 2), &cpu(), 2).0)
}

#[test]
fn a_step_that_does_not_fit_is_refused_and_changes_nothing() {
    let Some(mut stage) = small_stage() else { return };
    let width = stage.embedding_length();
    let values = vec![0.25; 64 * width];
    let mut step = |sequence: u32, positions: std::ops::Range<u32>, values: &[f32]| {
        let rows: Vec<_> = positions
            .map(|position| Row {
                sequence,
                position,
                token: 0,
            })
            .collect();
        let wants = vec![false; rows.len()];
        let output = stage.step(&StepInput {
            rows: &rows,
            activations: values,
            wants: &wants,
        });
        (output, stage.sequence_length(sequence))
    };
    let (output, length) = step(1, 0..3, &values[..3 * width]);
    assert_eq!((output.unwrap().activations.len(), length), (3 * width, 3));

    let (refused, length) = step(1, 4..5, &values[..width]);
    assert!(matches!(refused, Err(EngineError::DoesNotFollow { expected: 3, .. })));
    assert_eq!(length, 3);
    let (refused, length) = step(1, 3..4, &values[..width - 1]);
    assert!(matches!(
        refused,
        Err(EngineError::StepShape {
            what: "activations",
            ..
        })
    ));
    assert_eq!(length, 3);
    let (refused, length) = step(1, 3..67, &values);
    assert!(matches!(refused, Err(EngineError::StepSize { rows: 64, limit: 63 })));
    assert_eq!(length, 3);
    let (refused, _) = step(1, 3..3, &[]);
    assert!(matches!(refused, Err(EngineError::StepSize { rows: 0, .. })));
    let limit = 2 + PREFIX_SEQUENCES;
    let (refused, _) = step(limit, 0..1, &values[..width]);
    assert!(matches!(refused, Err(EngineError::UnknownSequence { limit: found, .. }) if found == limit));
    let (output, length) = step(1, 3..4, &values[..width]);
    assert_eq!((output.unwrap().activations.len(), length), (width, 4));
}

#[test]
fn a_stage_refuses_files_that_do_not_match_its_configuration() {
    let Some(model) = model_file() else { return };
    let runtime = Runtime::load_for(None, &cpu()).unwrap();
    let load = |files: Vec<std::path::PathBuf>, layers| {
        Stage::load(&runtime, &support::stage_config(files, layers, &cpu(), 1)).unwrap_err()
    };
    let error = load(vec![model.clone()], (0, LAYERS - 1));
    assert!(matches!(error, EngineError::BadConfig { .. }), "{error}");
    let error = load(vec![], (0, LAYERS));
    assert!(matches!(error, EngineError::BadConfig { .. }), "{error}");
    let error = load(vec!["/does/not/exist.gguf".into()], (0, LAYERS));
    assert!(matches!(error, EngineError::LoadRefused { .. }), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let torn = folder.path().join("torn.gguf");
    let bytes = std::fs::read(&model).unwrap();
    std::fs::write(&torn, &bytes[..bytes.len() / 2]).unwrap();
    let error = load(vec![torn], (0, LAYERS));
    assert!(
        matches!(&error, EngineError::LoadRefused { cause, .. } if !cause.is_empty()),
        "{error}"
    );
}
