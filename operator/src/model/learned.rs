//! PURE: what loaded stages teach about memory. The estimate of working memory is a rule of thumb; where a stage
//! measured more, the next placement reckons with what was measured.

use crds::LearnedMemory;
use crds::names::members;
use placement::{Model, text};
use proto::control::v1::MemoryUse;
use proto::placement::v1::{Runtime, Stage};

use super::in_force::InForce;
use super::stages::StageSight;

/// More than this many times the estimate (and [`LEARNED_SLACK_BYTES`]) is not believed: one wrong report must not make
/// a model unplaceable.
const LEARNED_FACTOR: u64 = 4;
/// Small models have small estimates; backends take some hundred mebibytes whatever the model.
const LEARNED_SLACK_BYTES: u64 = 1 << 30;
/// Figures are rounded up to this, so that a status does not change for a few bytes.
const GRAIN_BYTES: u64 = 1 << 20;
/// Backend of the processor: there the token embedding lies in the memory that is measured.
const CPU: &str = "cpu";

/// Tokens of the cache of every stage.
#[must_use]
pub fn cache_tokens(runtime: &Runtime) -> u64 {
    match runtime.kv_cells {
        0 => u64::from(runtime.context_length) * u64::from(runtime.parallel_sequences),
        cells => cells.into(),
    }
}

/// Whether a figure was measured of what is asked for now: the cache is of the same size, and the same is `estimated`.
#[must_use]
pub fn holds(learned: &LearnedMemory, estimated: &Model, runtime: &Runtime) -> bool {
    u64::try_from(learned.kv_cache_tokens) == Ok(cache_tokens(runtime))
        && learned.estimated_compute_bytes == signed(estimated.compute_buffer_bytes)
        && learned.estimated_output_bytes == signed(estimated.output_buffer_bytes)
}

/// The model as the next placement shall reckon with it.
pub fn correct(model: &mut Model, learned: &LearnedMemory) {
    model.compute_buffer_bytes = model.compute_buffer_bytes.max(unsigned(learned.compute_bytes));
    model.output_buffer_bytes = model.output_buffer_bytes.max(unsigned(learned.output_bytes));
}

/// What is known once the stages of a placement have been looked at; `estimated` is the model before any correction.
#[must_use]
pub fn learn(
    known: Option<LearnedMemory>,
    estimated: &Model,
    runtime: &Runtime,
    in_force: &InForce,
    sights: &[StageSight],
) -> Option<LearnedMemory> {
    let known = known.filter(|known| holds(known, estimated, runtime));
    let (compute, output) = (estimated.compute_buffer_bytes, estimated.output_buffer_bytes);
    let mut learned = known.unwrap_or_default();
    let every_stage = |learned: &LearnedMemory| compute.max(unsigned(learned.compute_bytes));
    let before = every_stage(&learned);
    let measured = |(stage, sight): (&Stage, &StageSight)| {
        let memory = sight.memory.as_ref()?;
        let is_last = stage.end_layer as usize == estimated.layers.len();
        Some((is_last, beside_contents(estimated, stage, memory)))
    };
    let stages = in_force.stages().into_iter().zip(sights);
    let measured: Vec<(bool, u64)> = stages.filter_map(measured).collect();
    for (_, beside) in measured.iter().filter(|(is_last, _)| !is_last) {
        learned.compute_bytes = learned.compute_bytes.max(excess(*beside, compute));
    }
    // So much of what was taken for the output's proves to be every stage's.
    let grown = every_stage(&learned).saturating_sub(before);
    learned.output_bytes = excess(unsigned(learned.output_bytes).saturating_sub(grown), output);
    for (_, beside) in measured.iter().filter(|(is_last, _)| *is_last) {
        // Of a last stage only the sum is measured: what is not the output's is taken as reckoned.
        let others = every_stage(&learned);
        learned.output_bytes = learned.output_bytes.max(excess(beside.saturating_sub(others), output));
    }
    let taught = learned.compute_bytes > 0 || learned.output_bytes > 0;
    taught.then(|| LearnedMemory {
        kv_cache_tokens: signed(cache_tokens(runtime)),
        estimated_compute_bytes: signed(compute),
        estimated_output_bytes: signed(output),
        ..learned
    })
}

/// Both figures, for a person.
#[must_use]
pub fn explain(learned: &LearnedMemory) -> String {
    let mut parts = Vec::new();
    for (what, measured, estimated) in [
        ("working memory", learned.compute_bytes, learned.estimated_compute_bytes),
        ("output buffers", learned.output_bytes, learned.estimated_output_bytes),
    ] {
        if measured > 0 {
            let (measured, estimated) = (text::bytes(unsigned(measured)), text::bytes(unsigned(estimated)));
            parts.push(format!("{what} of a stage: measured {measured}, estimated {estimated}"));
        }
    }
    parts.join("; ")
}

/// What a stage took beside the weights and the cache that are reckoned for its layers; where several devices work as one, on each of
/// them.
fn beside_contents(estimated: &Model, stage: &Stage, memory: &MemoryUse) -> u64 {
    let layers = estimated
        .layers
        .get(stage.first_layer as usize..stage.end_layer as usize);
    let contents = layers.unwrap_or_default().iter().fold(0_u64, |sum, layer| {
        sum.saturating_add(layer.weight_bytes).saturating_add(layer.kv_bytes)
    });
    let head = if stage.first_layer == 0 && stage.backend == CPU {
        estimated.embedding_bytes
    } else {
        0
    };
    let tail = if stage.end_layer as usize == estimated.layers.len() {
        estimated.output_bytes
    } else {
        0
    };
    // Layers are divided among such devices, and the output is whole on each.
    let parts = members(&stage.device).count().max(1) as u64;
    total(memory)
        .div_ceil(parts)
        .saturating_sub(contents.saturating_add(head).div_ceil(parts))
        .saturating_sub(tail)
}

/// All that a stage took.
#[must_use]
pub fn total(memory: &MemoryUse) -> u64 {
    memory
        .weights_bytes
        .saturating_add(memory.kv_bytes)
        .saturating_add(memory.compute_bytes)
}

/// What was measured, where it is more than was estimated; else nothing.
fn excess(measured: u64, estimated: u64) -> i64 {
    if measured <= estimated {
        return 0;
    }
    let believed = estimated
        .saturating_mul(LEARNED_FACTOR)
        .saturating_add(LEARNED_SLACK_BYTES);
    signed(measured.min(believed).div_ceil(GRAIN_BYTES).saturating_mul(GRAIN_BYTES))
}

fn unsigned(bytes: i64) -> u64 {
    u64::try_from(bytes).unwrap_or(0)
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use placement::{Figures, KvElement, estimate};

    use super::*;
    use crate::model::{fixture, stages};

    const MIB: u64 = 1 << 20;

    fn runtime() -> Runtime {
        Runtime {
            context_length: 256,
            parallel_sequences: 2,
            max_step_rows: 63,
            ..Default::default()
        }
    }

    fn model() -> Model {
        let figures = Figures {
            name: "m".into(),
            layer_weight_bytes: vec![10 * MIB; 6],
            layer_active_bytes: Vec::new(),
            embedding_bytes: 5 * MIB,
            output_bytes: 5 * MIB,
            embedding_length: 64,
            vocabulary_size: 1000,
            kv_elements_per_token_per_layer: 128,
            layer_kv_elements: Vec::new(),
            layer_state_bytes: Vec::new(),
            kv_element: KvElement::F16,
            context_length: 256,
            parallel_sequences: 2,
            kv_cells: 0,
            max_step_rows: 63,
            allowed_cuts: vec![3],
        };
        estimate(&figures).unwrap()
    }

    /// Two stages of three layers, each with so many bytes beside weights and cache.
    fn learned(known: Option<LearnedMemory>, beside: [u64; 2]) -> Option<LearnedMemory> {
        let (model, in_force) = (model(), fixture::in_force(1, &["a", "b"]));
        let mut sights = stages::look(&in_force, &fixture::agents(&["a", "b"]));
        for (sight, beside) in sights.iter_mut().zip(beside) {
            sight.memory = Some(MemoryUse {
                weights_bytes: 35 * MIB,
                kv_bytes: 3 * model.layers[0].kv_bytes,
                compute_bytes: beside,
            });
        }
        learn(known, &model, &runtime(), &in_force, &sights)
    }

    #[test]
    fn a_stage_that_took_no_more_than_was_reckoned_teaches_nothing() {
        assert_eq!(learned(None, [0, 0]), None);
        let compute = model().compute_buffer_bytes;
        assert_eq!(learned(None, [compute, compute]), None);
    }

    #[test]
    fn what_was_measured_above_the_estimate_is_reckoned_with_and_both_are_told() {
        let found = learned(None, [100 * MIB, 100 * MIB + 7]).unwrap();
        assert_eq!(found.compute_bytes, 100 * MIB as i64);
        assert_eq!(found.output_bytes, 0, "the last stage took no more than the others");
        let mut corrected = model();
        correct(&mut corrected, &found);
        assert_eq!(corrected.compute_buffer_bytes, 100 * MIB);
        assert_eq!(corrected.output_buffer_bytes, model().output_buffer_bytes);
        assert!(explain(&found).starts_with("working memory of a stage: measured 100.0 MiB, estimated "));
        assert_eq!(learned(Some(found), [1, 1]), Some(found), "it is not forgotten");
    }

    #[test]
    fn of_devices_that_work_as_one_each_teaches_what_it_took_itself() {
        let model = model();
        let mut placement = fixture::in_force(1, &["a", "b"]).placement;
        let stage = &mut placement.pipelines[0].stages[0];
        (stage.device, stage.backend) = ("a-cuda0+a-cuda1".to_owned(), "cuda".to_owned());
        let in_force = fixture::signed(placement);
        let mut sights = stages::look(&in_force, &fixture::agents(&["a", "b"]));
        // Weights of three layers, divided; and of each of the two what is beside them.
        sights[0].memory = Some(MemoryUse {
            weights_bytes: 30 * MIB,
            kv_bytes: 3 * model.layers[0].kv_bytes,
            compute_bytes: 2 * 100 * MIB,
        });
        let found = learn(None, &model, &runtime(), &in_force, &sights).unwrap();
        assert_eq!(found.compute_bytes, 100 * MIB as i64);
    }

    #[test]
    fn the_last_stage_teaches_of_its_output() {
        let found = learned(None, [1, 300 * MIB]).unwrap();
        assert_eq!(found.compute_bytes, 0);
        assert!(found.output_bytes > 290 * MIB as i64);
    }

    #[test]
    fn what_every_stage_proves_to_take_is_not_reckoned_as_the_outputs_too() {
        let known = learned(None, [1, 300 * MIB]).unwrap();
        let found = learned(Some(known), [100 * MIB, 1]).unwrap();
        assert_eq!(found.compute_bytes, 100 * MIB as i64);
        let grown = 100 * MIB - model().compute_buffer_bytes;
        let left = (known.output_bytes as u64 - grown).div_ceil(MIB) * MIB;
        assert_eq!(found.output_bytes as u64, left);
        assert_eq!(
            learned(Some(found), [100 * MIB, 1]),
            Some(found),
            "it is taken off once"
        );
    }

    #[test]
    fn a_figure_holds_for_the_estimate_that_it_corrected() {
        let (model, known) = (model(), learned(None, [100 * MIB, 1]).unwrap());
        assert!(holds(&known, &model, &runtime()));
        let fewer_rows = Model {
            compute_buffer_bytes: model.compute_buffer_bytes / 2,
            ..model.clone()
        };
        assert!(!holds(&known, &fewer_rows, &runtime()));
        let smaller_output = Model {
            output_buffer_bytes: model.output_buffer_bytes / 2,
            ..model
        };
        assert!(!holds(&known, &smaller_output, &runtime()));
    }

    #[test]
    fn a_figure_of_another_size_of_cache_is_forgotten_and_an_absurd_one_is_bounded() {
        let other = LearnedMemory {
            kv_cache_tokens: 7,
            compute_bytes: 1 << 40,
            ..Default::default()
        };
        assert_eq!(learned(Some(other), [1, 1]), None);
        let bounded = learned(None, [u64::MAX / 4, 1]).unwrap();
        assert!(bounded.compute_bytes as u64 <= 2 * LEARNED_SLACK_BYTES + 4 * model().compute_buffer_bytes);
    }
}
