//! PURE: between our objects and the types of `topology` and `placement`. Infallible but for figures no model can have.

use crds::conditions::reason;
use crds::{LearnedMemory, PlacementStatus, StagePhase, StageStatus, Verdict};
use gguf::Digest;
use gguf::architecture::refuses_strict_steps;
use placement::prefill::{Prompt, prefill};
use placement::{Figures, HeldLayers, Model, Plan, Problem, RunnerUp, estimate, text};
use proto::placement::v1 as wire;
use topology::{HeldMemory, StepShape, Topology};

use super::facts::Facts;
use super::in_force::InForce;
use super::learned;
use super::learned_pace::Corrections;
use super::observed_pace::PREFILL_TOKENS;
use super::replicas::Replica;
use super::sign::Draft;
use super::status::Why;
use super::validate::Validated;

/// The schema takes no longer words about a placement.
const MOST_BYTES: usize = 1024;

/// What is to be decided for one model.
pub fn problem(
    name: &str,
    validated: &Validated,
    facts: &Facts,
    learned: Option<&LearnedMemory>,
    topology: Topology,
) -> Result<Problem, Why> {
    promise(validated, facts)?;
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

/// Refuses what every stage on a processor would refuse to load: nothing is placed, fetched or moved for it.
fn promise(validated: &Validated, facts: &Facts) -> Result<(), Why> {
    let architecture = &facts.architecture;
    if !validated.is_strict() || !refuses_strict_steps(architecture) {
        return Ok(());
    }
    let message = format!(
        "`{architecture}` keeps a recurrent state beside attention, and it is not shown that its numbers depend on the tokens before \
         and on nothing else: set spec.determinism to Relaxed, or use a model of another architecture"
    );
    Err(Why::new(reason::STRICT_NOT_SUPPORTED, message))
}

/// The graph as it counts for a model: by its shape and the format of its weights, and by what serving stages taught.
#[must_use]
pub fn counted(topology: Topology, validated: &Validated, facts: &Facts, paces: &Corrections) -> Topology {
    let topology = topology.for_model(&shape(validated, facts));
    paces.correct(topology, &facts.quantisation)
}

/// The model as its steps depend on it. All layers are counted alike, so what grows with the context is that of a layer on
/// average: one that keeps a state in place of keys and values attends to no position and reads no cache of any.
fn shape(validated: &Validated, facts: &Facts) -> StepShape {
    let bits = facts.file_bytes.saturating_mul(8) / facts.parameters.max(1);
    let context = u64::from(reckoned_context(&validated.runtime));
    let layers = facts.layer_bytes.len() as u64;
    let most_elements = facts.kv_elements_per_token_per_layer;
    let elements = |layer: usize| facts.layer_kv_elements.get(layer).copied().unwrap_or(most_elements);
    let token_bytes = (0..facts.layer_bytes.len()).map(|layer| validated.kv_element.bytes(elements(layer).into()));
    let (mut attending, mut all_bytes) = (0u64, 0u64);
    for bytes in token_bytes.filter(|bytes| *bytes > 0) {
        attending += 1;
        all_bytes = all_bytes.saturating_add(bytes);
    }
    let on_average = |of_all_layers: u64| of_all_layers.saturating_mul(context) / layers.max(1);
    StepShape {
        bits: u32::try_from(bits).unwrap_or(u32::MAX),
        width: facts.embedding_length,
        positions: u32::try_from(on_average(attending)).unwrap_or(u32::MAX),
        cache_bytes: on_average(all_bytes),
        strict: validated.is_strict(),
        group_sizes: facts.group_sizes.clone(),
    }
}

/// Whether devices may work as one on the model's layers: its tensors can be divided so, and the spec allows it.
#[must_use]
pub fn may_group(validated: &Validated, facts: &Facts) -> bool {
    let most = validated.constraints.max_group_devices;
    // Several add up in another order than one does.
    !validated.is_strict() && facts.group_sizes.iter().any(|size| *size <= most)
}

/// Positions that a token attends to in what is predicted: half of a full context.
#[must_use]
pub fn reckoned_context(runtime: &wire::Runtime) -> u32 {
    runtime.context_length / 2
}

/// The model as it is estimated, before anything was measured.
pub fn estimated(name: &str, validated: &Validated, facts: &Facts) -> Result<Model, Why> {
    let runtime = &validated.runtime;
    let figures = Figures {
        name: name.to_owned(),
        layer_weight_bytes: facts.layer_bytes.clone(),
        layer_active_bytes: facts.layer_active_bytes.clone(),
        embedding_bytes: facts.embedding_bytes,
        output_bytes: facts.output_bytes,
        embedding_length: facts.embedding_length.into(),
        vocabulary_size: facts.vocabulary_size.into(),
        kv_elements_per_token_per_layer: facts.kv_elements_per_token_per_layer.into(),
        layer_kv_elements: facts.layer_kv_elements.iter().copied().map(u64::from).collect(),
        layer_state_bytes: facts.layer_state_bytes.clone(),
        kv_element: validated.kv_element,
        context_length: runtime.context_length.into(),
        parallel_sequences: runtime.parallel_sequences.into(),
        kv_cells: runtime.kv_cells.into(),
        max_step_rows: runtime.max_step_rows.into(),
        allowed_cuts: facts.allowed_cuts.clone(),
    };
    estimate(&figures).map_err(|error| Why::new(reason::INVALID_SPEC, error.to_string()))
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

/// The pipelines in force as the checker sees them, by their numbers. Their predictions are of another day and are not to be
/// checked.
#[must_use]
pub fn plans(in_force: &InForce) -> Vec<Plan> {
    let mut views = in_force.view.stages.iter();
    let stage = |stage: &wire::Stage, view: Option<&StageStatus>| placement::Stage {
        device: stage.device.clone(),
        node: stage.node.clone(),
        backend: stage.backend.clone(),
        first_layer: stage.first_layer,
        end_layer: stage.end_layer,
        weight_bytes: view.map_or(0, |view| u64::try_from(view.weight_bytes).unwrap_or(0)),
        memory_bytes: stage.memory_budget_bytes,
        time_ns: 0,
        hop_ns: None,
    };
    let mut plan = |pipeline: &wire::Pipeline| Plan {
        stages: pipeline.stages.iter().map(|body| stage(body, views.next())).collect(),
        entry_ns: 0,
        latency_ns: 0,
        slowest_ns: 0,
    };
    in_force.pipelines().iter().map(&mut plan).collect()
}

/// What a placement in force takes on each device.
pub fn held(in_force: &InForce) -> impl Iterator<Item = HeldMemory> + '_ {
    let stages = in_force.stages().into_iter();
    stages.map(|stage| HeldMemory {
        device: stage.device.clone(),
        bytes: stage.memory_budget_bytes,
    })
}

/// What plans would take on each device.
pub fn claims(plans: &[Plan]) -> impl Iterator<Item = HeldMemory> + '_ {
    let stages = plans.iter().flat_map(|plan| &plan.stages);
    stages.map(|stage| HeldMemory {
        device: stage.device.clone(),
        bytes: stage.memory_bytes,
    })
}

/// How good what was solved is known to be, with what lost to it.
#[derive(Debug, Clone, Copy)]
pub struct Judged<'a> {
    /// Of the replicas that were solved together.
    pub verdict: placement::Verdict,
    /// The next best, of one alone.
    pub runner_up: Option<&'a RunnerUp>,
}

/// The next placement, ready to be signed. `in_force` is what replicas are kept of; without `judged` all are.
#[must_use]
pub fn draft(
    next: &[Replica<'_>],
    in_force: Option<&InForce>,
    judged: Option<Judged<'_>>,
    uri: &str,
    (validated, facts): (&Validated, &Facts),
) -> Draft {
    let kept = |number: usize| in_force.and_then(|in_force| in_force.pipelines().get(number)).cloned();
    let pipeline = |replica: &Replica<'_>| match replica {
        Replica::Kept(number) => kept(*number).unwrap_or_default(),
        Replica::New(plan) => wire::Pipeline {
            stages: plan.stages.iter().map(wire_stage).collect(),
            ..wire::Pipeline::default()
        },
        Replica::Missing => wire::Pipeline::default(),
    };
    let views: Vec<Vec<StageStatus>> = next
        .iter()
        .enumerate()
        .map(|(at, replica)| views(at, replica, in_force))
        .collect();
    let are_new = next.iter().all(|replica| matches!(replica, Replica::New(_)));
    let (verdict, gap_percent) = verdict(judged, in_force, are_new);
    Draft {
        source: wire::Source {
            uri: uri.to_owned(),
            sha256: bytes(facts.sha256),
            index_sha256: bytes(facts.index_sha256),
        },
        runtime: validated.runtime,
        pipelines: next.iter().map(pipeline).collect(),
        view: PlacementStatus {
            epoch: 0,
            generation: 0,
            envelope: String::new(),
            verdict,
            gap_percent,
            predicted_us_per_token: predicted_us(next, &views),
            predicted_context: None,
            observed_us_per_token: None,
            expected_us_per_token: None,
            predicted_prefill_us: None,
            stages: views.into_iter().flatten().collect(),
            runner_up: judged
                .and_then(|judged| judged.runner_up)
                .map(|other| clip(other.summary())),
            took: None,
        },
    }
}

/// What people see of one replica.
fn views(number: usize, replica: &Replica<'_>, in_force: Option<&InForce>) -> Vec<StageStatus> {
    let at = i32::try_from(number).unwrap_or(i32::MAX);
    match replica {
        Replica::Kept(number) => {
            let all = in_force.map_or(&[][..], |in_force| &in_force.view.stages);
            let own = all.iter().filter(|view| usize::try_from(view.pipeline) == Ok(*number));
            own.cloned().collect()
        }
        Replica::New(plan) => {
            let stages = plan.stages.iter().enumerate();
            stages.map(|(index, stage)| view_stage(at, index, stage)).collect()
        }
        Replica::Missing => Vec::new(),
    }
}

/// A proof is one for what was solved: beside replicas that were left where they are, others might be better.
fn verdict(judged: Option<Judged<'_>>, in_force: Option<&InForce>, are_new: bool) -> (Verdict, Option<i32>) {
    match (judged.map(|judged| judged.verdict), in_force) {
        (Some(placement::Verdict::Greedy), _) => (Verdict::Greedy, None),
        (Some(placement::Verdict::Optimal), _) if are_new => (Verdict::Optimal, None),
        (Some(placement::Verdict::Feasible { gap_percent }), _) if are_new => {
            (Verdict::Feasible, i32::try_from(gap_percent).ok())
        }
        (None, Some(in_force)) if in_force.replicas() == 1 => (in_force.view.verdict, in_force.view.gap_percent),
        _ => (Verdict::Feasible, None),
    }
}

/// The mean of all replicas.
fn predicted_us(next: &[Replica<'_>], views: &[Vec<StageStatus>]) -> i64 {
    let one = |(replica, views): (&Replica<'_>, &Vec<StageStatus>)| match replica {
        Replica::New(plan) => Some(signed(text::us(plan.latency_ns))),
        Replica::Kept(_) => Some(
            views
                .iter()
                .map(|s| s.predicted_us_per_token + s.hop_us.unwrap_or(0))
                .sum(),
        ),
        Replica::Missing => None,
    };
    let all: Vec<i64> = next.iter().zip(views).filter_map(one).collect();
    all.iter().sum::<i64>() / i64::try_from(all.len()).unwrap_or(i64::MAX).max(1)
}

/// Says which part of the predicted times grows with the context, and for which they are.
pub fn foretell_context(view: &mut PlacementStatus, topology: &Topology, runtime: &wire::Runtime) {
    view.predicted_context = i32::try_from(reckoned_context(runtime)).ok();
    for stage in &mut view.stages {
        let Some(device) = topology.device(&stage.device).filter(|device| device.steps.is_some()) else {
            continue;
        };
        let layers = u64::try_from(stage.end_layer - stage.first_layer).unwrap_or(0);
        let ns = device.context_ns().saturating_mul(layers);
        stage.predicted_context_us = Some(signed(text::us(ns)));
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

fn view_stage(pipeline: i32, index: usize, stage: &placement::Stage) -> StageStatus {
    StageStatus {
        pipeline,
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
        predicted_context_us: None,
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
#[must_use]
pub fn clip(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MOST_BYTES));
    text
}

#[cfg(test)]
mod tests;
