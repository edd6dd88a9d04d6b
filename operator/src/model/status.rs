//! PURE: what the operator reports of a model, from what it knows, decided and sees.

use crds::conditions::{ConditionStatus, NewCondition, model as kind, reason, set_condition};
use crds::{
    InferenceModel, InferenceModelStatus, LearnedMemory, LearnedPace, MemoryUsed, PlacementStatus, ResolvedModel,
    StagePhase, Yielded,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use placement::text;

use super::away::Away;
use super::facts::Facts;
use super::in_force::InForce;
use super::inspect::Resolution;
use super::learned;
use super::learned_pace;
use super::observed_pace;
use super::stages::{self, StageSight, body, name};
use super::yielding;

/// Longest message of a stage in the view.
const STAGE_MESSAGE_MAX: usize = 1024;

/// Stages whose progress is told one by one.
const STAGES_TOLD: usize = 8;

/// A reason and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// One CamelCase word.
    pub reason: String,
    /// For a person.
    pub message: String,
}

impl Why {
    /// A reason with its sentence.
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            message: message.into(),
        }
    }
}

/// Whether the placement in force is what the spec asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placed {
    /// It is.
    Yes,
    /// It is, with fewer replicas than are asked for.
    Fewer(Why),
    /// There is none that would be; an older one may still serve.
    No(Why),
    /// It cannot be decided yet.
    NotYet(Why),
}

/// All that a status is made from.
#[derive(Debug)]
pub struct Sight<'a> {
    /// The object.
    pub model: &'a InferenceModel,
    /// What is known of the source.
    pub resolution: &'a Resolution,
    /// What the source is known to be, now or from before a restart.
    pub resolved: Option<&'a ResolvedModel>,
    /// Why it is not known how to reach the source.
    pub unreachable: Option<&'a Why>,
    /// What loaded stages taught about memory.
    pub learned: Option<LearnedMemory>,
    /// What serving stages taught about the speed of their devices.
    pub learned_pace: &'a [LearnedPace],
    /// What was decided.
    pub placed: &'a Placed,
    /// What it gave up to a model of higher priority.
    pub yielded: Option<&'a Yielded>,
    /// What goes on beside.
    pub note: Option<&'a str>,
    /// Why what it has stays on devices that are judged unfit.
    pub held: Option<&'a str>,
    /// Why what it has stays on nodes whose agents are not heard.
    pub unheard: Option<&'a str>,
    /// Stages whose agents are away.
    pub away: &'a Away,
    /// Whether the loss of a node is survived.
    pub recovery: (ConditionStatus, Why),
    /// The placement in force, and its stages.
    pub in_force: Option<(&'a InForce, &'a [StageSight])>,
}

/// The status to publish. `previous` lends its transition times.
#[must_use]
pub fn status(sight: &Sight<'_>, previous: Option<&InferenceModelStatus>, now: &Time) -> InferenceModelStatus {
    let generation = sight.model.metadata.generation;
    let mut conditions = previous.map(|status| status.conditions.clone()).unwrap_or_default();
    conditions.retain(|condition| kind::ALL.contains(&condition.type_.as_str()));
    let stages = sight.in_force.map_or(&[][..], |(_, stages)| stages);
    let serving = stages.iter().filter(|stage| stage.serves()).count();
    let heads = sight
        .in_force
        .map_or_else(Vec::new, |(in_force, stages)| stages::heads(in_force, stages));
    let replicas = Replicas {
        serving: heads.iter().flatten().count(),
        asked: usize::try_from(sight.model.spec.replicas).unwrap_or(1).max(1),
        all_serve: serving > 0 && serving == stages.len(),
    };
    for (kind, (status, why)) in judge(sight, &replicas) {
        let new = NewCondition {
            kind,
            status,
            reason: &why.reason,
            message: &why.message,
        };
        set_condition(&mut conditions, new, generation, now);
    }
    InferenceModelStatus {
        observed_generation: generation,
        conditions,
        model: sight.resolved.cloned(),
        placement: sight.in_force.map(|(in_force, stages)| view(in_force, stages)),
        stages_ready: (!stages.is_empty()).then(|| format!("{serving}/{}", stages.len())),
        replicas_ready: (!stages.is_empty()).then(|| format!("{}/{}", replicas.serving, replicas.asked)),
        endpoint: heads.into_iter().flatten().next(),
        learned: sight.learned,
        learned_pace: sight.learned_pace.to_vec(),
        yielded: sight.yielded.cloned(),
    }
}

type Judgement = (ConditionStatus, Why);

/// How many replicas there are.
struct Replicas {
    /// Every stage of them serves.
    serving: usize,
    asked: usize,
    /// Every stage of all that are placed serves.
    all_serve: bool,
}

impl Replicas {
    /// "1 of 2 replicas serves".
    fn told(&self) -> String {
        let verb = if self.serving == 1 { "serves" } else { "serve" };
        format!("{} of {} replicas {verb}", self.serving, self.asked)
    }
}

fn judge(sight: &Sight<'_>, replicas: &Replicas) -> [(&'static str, Judgement); 6] {
    let resolved = resolved(sight);
    let placed = placed(sight);
    let loaded = loaded(sight, replicas.all_serve);
    let answers = matches!(sight.placed, Placed::Yes | Placed::Fewer(_));
    let ready = if answers && replicas.serving > 0 {
        let epoch = sight.in_force.map_or(0, |(in_force, _)| in_force.placement.epoch);
        let message = if replicas.asked == 1 {
            format!("every stage serves epoch {epoch}")
        } else {
            format!("{} epoch {epoch}", replicas.told())
        };
        (ConditionStatus::True, Why::new(reason::SERVING, message))
    } else {
        // The first thing that is missing is the reason people see.
        let blocking = [&resolved, &placed, &loaded]
            .into_iter()
            .find(|(status, _)| *status != ConditionStatus::True);
        let why = blocking.map_or_else(
            || Why::new(reason::NOT_LOADED, "stages are not serving yet"),
            |(_, why)| why.clone(),
        );
        (ConditionStatus::False, why)
    };
    let mut degraded = held(sight, degraded(sight, replicas));
    if let Some(unheard) = sight.unheard {
        degraded = (ConditionStatus::True, Why::new(reason::AGENTS_UNHEARD, unheard));
    }
    [
        (kind::RESOLVED, resolved),
        (kind::PLACED, placed),
        (kind::LOADED, loaded),
        (kind::READY, ready),
        (kind::DEGRADED, degraded),
        (kind::RECOVERY_READY, sight.recovery.clone()),
    ]
}

fn resolved(sight: &Sight<'_>) -> Judgement {
    let uri = &sight.model.spec.source.uri;
    if let Some(why) = sight.unreachable {
        return (ConditionStatus::False, why.clone());
    }
    if let Some(model) = sight.resolved {
        let ResolvedModel {
            summary,
            layers,
            size_bytes,
            ..
        } = model;
        return (
            ConditionStatus::True,
            Why::new(
                reason::RESOLVED,
                format!("{summary}, {layers} layers, {size_bytes} bytes, from {uri}"),
            ),
        );
    }
    match sight.resolution {
        Resolution::Failed(failure) => (ConditionStatus::False, Why::new(&failure.reason, &failure.message)),
        Resolution::Inspecting(node) => (
            ConditionStatus::Unknown,
            Why::new(reason::INSPECTING, format!("node {node} reads {uri}")),
        ),
        Resolution::NoAgent | Resolution::Resolved(_) => (
            ConditionStatus::Unknown,
            Why::new(
                reason::NO_AGENT,
                format!("no agent is attached that could read {uri}; agents run as a DaemonSet"),
            ),
        ),
    }
}

fn placed(sight: &Sight<'_>) -> Judgement {
    match (sight.placed, sight.in_force) {
        (Placed::Yes, Some((in_force, _))) => (
            ConditionStatus::True,
            Why::new(reason::PLACED, where_it_is(sight, in_force, None)),
        ),
        (Placed::Fewer(why), Some((in_force, _))) => (
            ConditionStatus::True,
            Why::new(reason::PLACED, where_it_is(sight, in_force, Some(why))),
        ),
        (Placed::No(why), _) => (ConditionStatus::False, why.clone()),
        (Placed::NotYet(why), _) => (ConditionStatus::Unknown, why.clone()),
        (Placed::Yes | Placed::Fewer(_), None) => {
            (ConditionStatus::Unknown, Why::new(reason::PENDING, "not decided yet"))
        }
    }
}

/// "epoch 3: 2 stages on a-cpu0, b-cpu0", and what else is to be known of it.
fn where_it_is(sight: &Sight<'_>, in_force: &InForce, fewer: Option<&Why>) -> String {
    let stages = in_force.stages();
    let devices: Vec<&str> = stages.iter().map(|stage| stage.device.as_str()).collect();
    let epoch = in_force.placement.epoch;
    let noun = if stages.len() == 1 { "stage" } else { "stages" };
    let replicas = match in_force.replicas() {
        0 | 1 => String::new(),
        several => format!("{several} replicas, "),
    };
    let mut message = format!(
        "epoch {epoch}: {replicas}{} {noun} on {}",
        stages.len(),
        devices.join(", ")
    );
    if let Some(learned) = &sight.learned {
        message = format!("{message}; {}", learned::explain(learned));
    }
    let yielded = sight.yielded.map(yielding::yielded);
    let fewer = fewer.map(|why| why.message.clone());
    let note = sight.note.map(str::to_owned);
    let paces = learned_pace::explain(sight.learned_pace, &in_force.view);
    for more in in_force
        .view
        .took
        .iter()
        .chain(&yielded)
        .chain(&fewer)
        .chain(&paces)
        .chain(&note)
    {
        message = format!("{message}; {more}");
    }
    message
}

fn loaded(sight: &Sight<'_>, all_serve: bool) -> Judgement {
    let Some((in_force, stages)) = sight.in_force else {
        return (
            ConditionStatus::Unknown,
            Why::new(reason::NOT_PLACED, "there is no placement to load"),
        );
    };
    if all_serve {
        return (
            ConditionStatus::True,
            Why::new(
                reason::LOADED,
                format!("all {} stages hold their weights", stages.len()),
            ),
        );
    }
    if let Some(why) = trouble(in_force, stages, sight.away) {
        return (ConditionStatus::False, why);
    }
    if let Some(message) = fetching(in_force, stages) {
        return (ConditionStatus::False, Why::new(reason::FETCHING, message));
    }
    let waiting = stages.iter().find(|stage| !stage.serves());
    let serving = stages.iter().filter(|stage| stage.serves()).count();
    let message = waiting.map_or_else(String::new, |sight| {
        let what = doing(sight.phase);
        format!(
            "{serving} of {} stages serve; {} {what}{}",
            stages.len(),
            name(in_force, sight),
            detail(sight)
        )
    });
    (ConditionStatus::False, Why::new(reason::LOADING, message))
}

/// How far each stage is that fetches or verifies; `None` where none does.
fn fetching(in_force: &InForce, sights: &[StageSight]) -> Option<String> {
    let under_way = |sight: &StageSight| matches!(sight.phase, StagePhase::Fetching | StagePhase::Verifying);
    let told: Vec<String> = in_force
        .stages()
        .into_iter()
        .zip(sights)
        .filter(|(_, sight)| under_way(sight))
        .map(|(stage, sight)| {
            let layers = text::layers(stage.first_layer, stage.end_layer);
            let noun = if stage.end_layer == stage.first_layer + 1 {
                "layer"
            } else {
                "layers"
            };
            let far = match sight.bytes.percent() {
                Some(percent) => format!("{percent} % of {}", text::bytes(sight.bytes.total)),
                None => doing(sight.phase).to_owned(),
            };
            let verifying = match (sight.phase, sight.bytes.percent()) {
                (StagePhase::Verifying, Some(_)) => " verified",
                _ => "",
            };
            format!("{}: {noun} {layers}, {far}{verifying}{}", stage.node, detail(sight))
        })
        .collect();
    some_of(&told)
}

/// The first ones, and how many more there are; `None` where there is none.
fn some_of(stages: &[String]) -> Option<String> {
    let more = match stages.len().saturating_sub(STAGES_TOLD) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    (!stages.is_empty()).then(|| format!("{}{more}", stages[..stages.len().min(STAGES_TOLD)].join("; ")))
}

fn degraded(sight: &Sight<'_>, replicas: &Replicas) -> Judgement {
    let epoch = sight.in_force.map(|(in_force, _)| in_force.placement.epoch);
    let lost = sight.in_force.and_then(|(in_force, stages)| {
        let lost = |message: String| Why::new(reason::STAGE_LOST, message);
        trouble(in_force, stages, sight.away).or_else(|| some_of(&sight.away.replaced(in_force)).map(lost))
    });
    let few = replicas.asked > 1 && replicas.serving < replicas.asked;
    match (sight.placed, epoch, lost) {
        (Placed::No(why), Some(epoch), None) if replicas.all_serve => {
            let message = format!(
                "epoch {epoch}, of an earlier specification, still serves: {}",
                why.message
            );
            (ConditionStatus::True, Why::new(&why.reason, message))
        }
        (Placed::Fewer(fewer), Some(_), lost) => {
            let reason = lost.as_ref().map_or(reason::FEWER_REPLICAS, |why| &why.reason);
            let mut message = format!("{}; {}", replicas.told(), fewer.message);
            if let Some(lost) = &lost {
                message = format!("{message}; {}", lost.message);
            }
            (ConditionStatus::True, Why::new(reason, message))
        }
        (_, Some(_), Some(why)) if few => {
            let message = format!("{}; {}", replicas.told(), why.message);
            (ConditionStatus::True, Why::new(why.reason, message))
        }
        (_, Some(_), Some(why)) => (ConditionStatus::True, why),
        (Placed::Yes, Some(_), None) if few && replicas.serving > 0 => {
            let message = format!("{}; others load", replicas.told());
            (ConditionStatus::True, Why::new(reason::FEWER_REPLICAS, message))
        }
        _ => (ConditionStatus::False, Why::new(reason::AS_EXPECTED, "nothing is lost")),
    }
}

/// What waits for a person comes first.
fn held(sight: &Sight<'_>, (status, why): Judgement) -> Judgement {
    let Some(held) = sight.held else { return (status, why) };
    let message = match status {
        ConditionStatus::True => format!("{held}; {}", why.message),
        _ => held.to_owned(),
    };
    (
        ConditionStatus::True,
        Why::new(reason::QUARANTINE_LIMIT_REACHED, message),
    )
}

/// A stage whose node is gone, or that failed.
fn trouble(in_force: &InForce, stages: &[StageSight], away: &Away) -> Option<Why> {
    let lost = stages.iter().filter(|stage| !stage.attached);
    let lost: Vec<String> = lost.map(|stage| away.told(in_force, stage)).collect();
    if let Some(message) = some_of(&lost) {
        return Some(Why::new(reason::STAGE_LOST, message));
    }
    if let Some(down) = stages.iter().find_map(|cut| link_down(in_force, stages, cut)) {
        return Some(down);
    }
    let failed = stages.iter().find(|stage| stage.phase == StagePhase::Failed)?;
    let reason = match failed.reason.as_str() {
        reason::CRASH_LOOP => reason::CRASH_LOOP,
        _ => reason::LOAD_FAILED,
    };
    Some(Why::new(
        reason,
        format!(
            "{} failed{}{}",
            name(in_force, failed),
            detail(failed),
            shortage(in_force, failed)
        ),
    ))
}

/// Both ends serve; what is lost is what is between them.
fn link_down(in_force: &InForce, stages: &[StageSight], cut: &StageSight) -> Option<Why> {
    let behind = stages::cut_off(stages, cut)?;
    let node = |sight| body(in_force, sight).map_or("", |stage| &stage.node);
    let message = format!(
        "the link from {} to {} is down: {} does not reach {}: {}",
        node(cut),
        node(behind),
        name(in_force, cut),
        name(in_force, behind),
        cut.message
    );
    Some(Why::new(reason::LINK_DOWN, message))
}

/// Of a stage that was refused its memory: what it needs and what it may use.
fn shortage(in_force: &InForce, sight: &StageSight) -> String {
    let budget = body(in_force, sight).map(|stage| stage.memory_budget_bytes);
    match (&sight.memory, budget) {
        (Some(memory), Some(budget)) if sight.refused_memory() => format!(
            " (measured {}, the placement allows {})",
            text::bytes(learned::total(memory)),
            text::bytes(budget)
        ),
        _ => String::new(),
    }
}

fn detail(sight: &StageSight) -> String {
    match (sight.reason.as_str(), sight.message.as_str()) {
        ("", "") => String::new(),
        ("", message) => format!(": {message}"),
        (reason, "") => format!(": {reason}"),
        (reason, message) => format!(": {reason}: {message}"),
    }
}

fn doing(phase: StagePhase) -> &'static str {
    match phase {
        StagePhase::Pending => "has not begun",
        StagePhase::Fetching => "fetches its weights",
        StagePhase::Verifying => "verifies its weights",
        StagePhase::Loading => "loads",
        StagePhase::Serving => "serves, but its endpoint is not known yet",
        StagePhase::Draining => "drains",
        StagePhase::Failed => "failed",
        StagePhase::Loaded => "is loaded and waits",
        StagePhase::Fetched => "has its weights on disk",
    }
}

/// The placement as people see it now.
#[must_use]
pub fn view(in_force: &InForce, sights: &[StageSight]) -> PlacementStatus {
    let mut view = in_force.view.clone();
    for (stage, sight) in view.stages.iter_mut().zip(sights) {
        stage.phase = sight.phase;
        stage.endpoint.clone_from(&sight.endpoint);
        stage.memory_used_bytes = sight.memory.as_ref().map(|memory| MemoryUsed {
            weights: signed(memory.weights_bytes),
            kv: signed(memory.kv_bytes),
            compute: signed(memory.compute_bytes),
        });
        stage.pressure = Some(sight.pressure.clone()).filter(|pressure| !pressure.is_empty());
        // What was shown before a change of the leader stays until there is something newer.
        stage.observed = sight.pace.as_ref().map(observed_pace::view).or(stage.observed);
        let text = if sight.message.is_empty() {
            &sight.reason
        } else {
            &sight.message
        };
        let end = text.floor_char_boundary(STAGE_MESSAGE_MAX);
        stage.message = (!text.is_empty()).then(|| text[..end].to_owned());
    }
    for stage in &mut view.stages {
        observed_pace::expect(stage, view.predicted_context);
    }
    view.observed_us_per_token = observed_pace::total_us(&view);
    view.expected_us_per_token = view.observed_us_per_token.and(observed_pace::expected_us(&view));
    view
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// What a status says of the source.
#[must_use]
pub fn resolved_model(facts: &Facts) -> ResolvedModel {
    ResolvedModel {
        summary: format!("{}/{}", facts.architecture, facts.quantisation),
        architecture: facts.architecture.clone(),
        layers: i32::try_from(facts.layer_bytes.len()).unwrap_or(i32::MAX),
        quantisation: facts.quantisation.clone(),
        parameters: signed(facts.parameters),
        size_bytes: signed(facts.file_bytes),
        sha256: facts.sha256.map(|digest| digest.to_string()).unwrap_or_default(),
        index_sha256: facts.index_sha256.map(|digest| digest.to_string()),
        vocabulary_sha256: facts.vocabulary_sha256.to_string(),
    }
}

/// Whether two statuses differ in more than their times and the conditions of others, which nobody writes but they.
#[must_use]
pub fn differ(a: &InferenceModelStatus, b: &InferenceModelStatus) -> bool {
    let untimed = |status: &InferenceModelStatus| {
        let mut status = status.clone();
        status
            .conditions
            .retain(|condition| kind::ALL.contains(&condition.type_.as_str()));
        for condition in &mut status.conditions {
            condition.last_transition_time = Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH);
        }
        status.conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        status
    };
    untimed(a) != untimed(b)
}

#[cfg(test)]
mod tests;
