//! PURE: between our objects and the types of `topology` and `placement`. Infallible but for figures no model can have.

use crds::{LearnedMemory, PlacementStatus, StagePhase, StageStatus, Verdict};
use gguf::Digest;
use placement::prefill::{Prompt, prefill};
use placement::{Figures, HeldLayers, Model, Plan, Problem, Solution, estimate, text};
use proto::placement::v1 as wire;
use topology::{HeldMemory, Topology};

use super::facts::Facts;
use super::in_force::InForce;
use super::learned;
use super::learned_pace::Corrections;
use super::observed_pace::PREFILL_TOKENS;
use super::sign::Draft;
use super::status::Why;
use super::validate::{INVALID_SPEC, Validated};

/// What is to be decided for one model.
pub fn problem(
    name: &str,
    validated: &Validated,
    facts: &Facts,
    learned: Option<&LearnedMemory>,
    topology: Topology,
) -> Result<Problem, Why> {
    let mut model = estimated(name, validated, facts)?;
    if let Some(learned) = learned.filter(|learned| learned::holds(learned, &model, &validated.runtime)) {
        learned::correct(&mut model, learned);
    }
    Ok(Problem {
        model,
        topology,
        constraints: validated.constraints.clone(),
        objective: validated.objective,
        held: Vec::new(),
    })
}

/// The graph as it counts for a model: by the format of its weights, and by what serving stages taught.
#[must_use]
pub fn counted(topology: Topology, facts: &Facts, paces: &Corrections) -> Topology {
    let bits = facts.file_bytes.saturating_mul(8) / facts.parameters.max(1);
    let topology = topology.for_weights_of(u32::try_from(bits).unwrap_or(u32::MAX));
    paces.correct(topology, &facts.quantisation)
}

/// The model as it is estimated, before anything was measured.
pub fn estimated(name: &str, validated: &Validated, facts: &Facts) -> Result<Model, Why> {
    let runtime = &validated.runtime;
    let figures = Figures {
        name: name.to_owned(),
        layer_weight_bytes: facts.layer_bytes.clone(),
        embedding_bytes: facts.embedding_bytes,
        output_bytes: facts.output_bytes,
        embedding_length: facts.embedding_length.into(),
        vocabulary_size: facts.vocabulary_size.into(),
        kv_elements_per_token_per_layer: facts.kv_elements_per_token_per_layer.into(),
        kv_element: validated.kv_element,
        context_length: runtime.context_length.into(),
        parallel_sequences: runtime.parallel_sequences.into(),
        kv_cells: runtime.kv_cells.into(),
        max_step_rows: runtime.max_step_rows.into(),
        allowed_cuts: facts.allowed_cuts.clone(),
    };
    estimate(&figures).map_err(|error| Why::new(INVALID_SPEC, error.to_string()))
}

/// The layers that a stage has loaded once it serves.
#[must_use]
pub fn held_layers(stage: &wire::Stage) -> HeldLayers {
    HeldLayers {
        device: stage.device.clone(),
        first_layer: stage.first_layer,
        end_layer: stage.end_layer,
    }
}

/// A placement in force as the checker sees it. Its predictions are of another day and are not to be checked.
#[must_use]
pub fn plan(in_force: &InForce) -> Plan {
    let stage = |(stage, view): (&wire::Stage, &StageStatus)| placement::Stage {
        device: stage.device.clone(),
        node: stage.node.clone(),
        backend: stage.backend.clone(),
        first_layer: stage.first_layer,
        end_layer: stage.end_layer,
        weight_bytes: u64::try_from(view.weight_bytes).unwrap_or(0),
        memory_bytes: stage.memory_budget_bytes,
        time_ns: 0,
        hop_ns: None,
    };
    Plan {
        stages: in_force.stages().iter().zip(&in_force.view.stages).map(stage).collect(),
        latency_ns: 0,
        slowest_ns: 0,
    }
}

/// Whether a plan puts the same layers on the same devices as a placement in force.
#[must_use]
pub fn same_stages(plan: &Plan, in_force: &InForce) -> bool {
    let of_plan = plan
        .stages
        .iter()
        .map(|stage| (&stage.device, stage.first_layer, stage.end_layer));
    of_plan.eq(in_force
        .stages()
        .iter()
        .map(|stage| (&stage.device, stage.first_layer, stage.end_layer)))
}

/// What a placement in force takes on each device.
pub fn held(in_force: &InForce) -> impl Iterator<Item = HeldMemory> + '_ {
    let stages = in_force.stages().iter();
    stages.map(|stage| HeldMemory {
        device: stage.device.clone(),
        bytes: stage.memory_budget_bytes,
    })
}

/// What a plan would take on each device.
pub fn claims(plan: &Plan) -> impl Iterator<Item = HeldMemory> + '_ {
    plan.stages.iter().map(|stage| HeldMemory {
        device: stage.device.clone(),
        bytes: stage.memory_bytes,
    })
}

/// A solution, ready to be signed.
#[must_use]
pub fn draft(solution: &Solution, uri: &str, validated: &Validated, facts: &Facts) -> Draft {
    let Solution {
        plan,
        verdict,
        runner_up,
        ..
    } = solution;
    let (verdict, gap_percent) = match verdict {
        placement::Verdict::Optimal => (Verdict::Optimal, None),
        placement::Verdict::Feasible { gap_percent } => (Verdict::Feasible, i32::try_from(*gap_percent).ok()),
        placement::Verdict::Greedy => (Verdict::Greedy, None),
    };
    Draft {
        source: wire::Source {
            uri: uri.to_owned(),
            sha256: bytes(facts.sha256),
            index_sha256: bytes(facts.index_sha256),
        },
        runtime: validated.runtime,
        stages: plan.stages.iter().map(wire_stage).collect(),
        view: PlacementStatus {
            epoch: 0,
            generation: 0,
            envelope: String::new(),
            verdict,
            gap_percent,
            predicted_us_per_token: signed(text::us(plan.latency_ns)),
            observed_us_per_token: None,
            predicted_prefill_us: None,
            stages: plan.stages.iter().enumerate().map(view_stage).collect(),
            runner_up: runner_up.as_ref().map(|other| clip(other.summary())),
            took: None,
        },
    }
}

/// Puts the predicted times of a prompt beside those of a token.
pub fn foretell_prefill(
    view: &mut PlacementStatus,
    problem: &Problem,
    plan: &Plan,
    facts: &Facts,
    validated: &Validated,
) {
    let prompt = Prompt {
        tokens: PREFILL_TOKENS,
        step_rows: validated.runtime.max_step_rows.into(),
        parameters: facts.parameters,
        parameter_bytes: facts.file_bytes,
    };
    let foretold = prefill(problem, plan, &prompt);
    let us = |ns: u64| signed(text::us(ns));
    for (stage, ns) in view.stages.iter_mut().zip(&foretold.stages_ns) {
        stage.predicted_prefill_us = ns.map(us);
    }
    view.predicted_prefill_us = foretold.total_ns.map(us);
}

fn bytes(digest: Option<Digest>) -> Vec<u8> {
    digest.map(|digest| digest.0.to_vec()).unwrap_or_default()
}

fn wire_stage(stage: &placement::Stage) -> wire::Stage {
    wire::Stage {
        node: stage.node.clone(),
        device: stage.device.clone(),
        backend: stage.backend.clone(),
        first_layer: stage.first_layer,
        end_layer: stage.end_layer,
        weight_root: Vec::new(),
        memory_budget_bytes: stage.memory_bytes,
    }
}

fn view_stage((index, stage): (usize, &placement::Stage)) -> StageStatus {
    StageStatus {
        index: i32::try_from(index).unwrap_or(i32::MAX),
        node: stage.node.clone(),
        device: stage.device.clone(),
        backend: stage.backend.clone(),
        layers: text::layers(stage.first_layer, stage.end_layer),
        first_layer: i32::try_from(stage.first_layer).unwrap_or(i32::MAX),
        end_layer: i32::try_from(stage.end_layer).unwrap_or(i32::MAX),
        weight_bytes: signed(stage.weight_bytes),
        memory_bytes: signed(stage.memory_bytes),
        memory_used_bytes: None,
        pressure: None,
        predicted_us_per_token: signed(text::us(stage.time_ns)),
        correction_percent: None,
        predicted_prefill_us: None,
        observed: None,
        hop_us: stage.hop_ns.map(|ns| signed(text::us(ns))),
        endpoint: None,
        phase: StagePhase::Pending,
        message: None,
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// As long as the schema allows.
fn clip(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(1024));
    text
}
