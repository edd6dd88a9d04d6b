//! PURE: stages whose agents are away: since when, and who loads their layers.
//!
//! What is told of them changes with what happens and not with time: it names the moment at which the agent was first missed. It is told
//! while such a stage is in force and, where others take its layers, until all stages serve. The next leader finds the moment in the
//! status, of stages that are still in force.

use std::collections::BTreeMap;

use crds::InferenceModelStatus;
use k8s_openapi::jiff::Timestamp;
use placement::text;
use proto::placement::v1::Stage;

use super::in_force::InForce;
use super::stages::{self, StageSight};
use crate::agents::AgentView;

/// What is told of a stage first.
const NOT_ATTACHED: &str = "the node's agent is not attached";
/// Stages of one model whose moment is remembered: far above those of any placement.
const MISSED_MAX: usize = 1024;

/// A stage whose agent was there before.
#[derive(Debug)]
struct Missed {
    /// As people know it.
    name: String,
    pipeline: usize,
    stage: usize,
    node: String,
    device: String,
    first_layer: u32,
    end_layer: u32,
    /// Of the spec that it was placed for.
    generation: i64,
    since: Timestamp,
}

impl Missed {
    fn told(&self) -> String {
        // To the second: a fraction says nothing to a person.
        format!("{NOT_ATTACHED} since {:.0}", self.since)
    }

    /// The same, and who has its layers now.
    fn told_with_heirs(&self, in_force: &InForce) -> String {
        let pipeline = in_force.pipelines().get(self.pipeline);
        let stages = pipeline.into_iter().flat_map(|pipeline| &pipeline.stages);
        let heir = |stage: &Stage| {
            let first = stage.first_layer.max(self.first_layer);
            let end = stage.end_layer.min(self.end_layer);
            (first < end).then(|| format!("{} on {}", text::layers(first, end), stage.device))
        };
        let heirs: Vec<String> = stages.filter_map(heir).collect();
        let loaded = match heirs.is_empty() {
            true => String::new(),
            false => format!(
                "; its layers are loaded in epoch {}: {}",
                in_force.placement.epoch,
                heirs.join(", ")
            ),
        };
        format!("{}: {}{loaded}", self.name, self.told())
    }

    /// Whether it is this stage of the placement, however that is cut.
    fn is(&self, in_force: &InForce, sight: &StageSight) -> bool {
        (self.pipeline, self.stage) == (sight.pipeline, sight.stage) && self.is_in(in_force)
    }

    fn is_in(&self, in_force: &InForce) -> bool {
        let pipeline = in_force.pipelines().get(self.pipeline);
        let stage = pipeline.and_then(|pipeline| pipeline.stages.get(self.stage));
        stage.is_some_and(|stage| stage.device == self.device)
    }
}

/// The stages of one model whose agents are away.
#[derive(Debug, Default)]
pub struct Away(Vec<Missed>);

impl Away {
    /// Takes over who is attached. `present`: the placement that is in status. `told`: what an earlier leader, or this one, said.
    pub fn look(
        &mut self,
        present: Option<&InForce>,
        agents: &BTreeMap<String, AgentView>,
        told: Option<&InferenceModelStatus>,
        now: Timestamp,
    ) {
        self.0.retain(|missed| !agents.contains_key(&missed.node));
        let Some(in_force) = present.filter(|present| present.nodes().any(|node| !agents.contains_key(node))) else {
            return;
        };
        for (stage, sight) in in_force.stages().into_iter().zip(stages::look(in_force, agents)) {
            if sight.attached {
                continue;
            }
            if let Some(missed) = self.0.iter_mut().find(|missed| missed.is(in_force, &sight)) {
                // A placement that was written and not heard of may have cut it anew.
                (missed.first_layer, missed.end_layer) = (stage.first_layer, stage.end_layer);
                missed.generation = in_force.placement.generation;
                continue;
            }
            if self.0.len() >= MISSED_MAX {
                continue;
            }
            let name = stages::name(in_force, &sight);
            let of_node = self.0.iter().find(|missed| missed.node == stage.node);
            let since = of_node.map(|missed| missed.since).or_else(|| in_status(told, &name));
            self.0.push(Missed {
                name,
                pipeline: sight.pipeline,
                stage: sight.stage,
                node: stage.node.clone(),
                device: stage.device.clone(),
                first_layer: stage.first_layer,
                end_layer: stage.end_layer,
                generation: in_force.placement.generation,
                since: since.unwrap_or(now),
            });
        }
    }

    /// Every stage serves: what was missed is made up for.
    pub fn forget(&mut self) {
        self.0.clear();
    }

    /// What is told of a stage in force whose agent is away.
    #[must_use]
    pub fn told(&self, in_force: &InForce, sight: &StageSight) -> String {
        let told = self.find(in_force, sight).map(Missed::told);
        let name = stages::name(in_force, sight);
        format!("{name}: {}", told.as_deref().unwrap_or(NOT_ATTACHED))
    }

    /// What is told of stages whose layers others take, which do not all serve yet.
    #[must_use]
    pub fn replaced(&self, in_force: &InForce) -> Vec<String> {
        let generation = in_force.placement.generation;
        let replaced = |missed: &&Missed| missed.generation == generation && !missed.is_in(in_force);
        let replaced = self.0.iter().filter(replaced);
        replaced.map(|missed| missed.told_with_heirs(in_force)).collect()
    }

    fn find(&self, in_force: &InForce, sight: &StageSight) -> Option<&Missed> {
        self.0.iter().find(|missed| missed.is(in_force, sight))
    }
}

/// The moment that a status names for a stage.
fn in_status(status: Option<&InferenceModelStatus>, name: &str) -> Option<Timestamp> {
    let before = format!("{name}: {NOT_ATTACHED} since ");
    let mut messages = status?.conditions.iter().map(|condition| &condition.message);
    messages.find_map(|message| {
        let (_, after) = message.split_once(&before)?;
        after.split(';').next()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use crds::conditions::{ConditionStatus, NewCondition, model as kind, reason, set_condition};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::model::fixture;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// What is told of the stages in force that are away.
    fn told(away: &Away, in_force: &InForce, agents: &BTreeMap<String, AgentView>) -> Vec<String> {
        let sights = stages::look(in_force, agents);
        let missing = sights.iter().filter(|sight| !sight.attached);
        missing.map(|sight| away.told(in_force, sight)).collect()
    }

    const B_AWAY: &str = "stage 1 on b-cpu0: the node's agent is not attached since 1970-01-01T00:00:07Z";

    #[test]
    fn a_stage_in_force_is_told_with_the_moment_at_which_its_agent_was_first_missed() {
        let (in_force, mut away) = (fixture::in_force(4, &["a", "b"]), Away::default());
        let both = fixture::agents(&["a", "b"]);
        let one = fixture::agents(&["a"]);
        away.look(Some(&in_force), &both, None, at(1));
        assert_eq!(told(&away, &in_force, &both), [""; 0]);
        for second in [7, 8, 900] {
            away.look(Some(&in_force), &one, None, at(second));
            assert_eq!(told(&away, &in_force, &one), [B_AWAY]);
        }
        assert_eq!(away.replaced(&in_force), [""; 0], "nobody took its place");
        away.look(Some(&in_force), &both, None, at(901));
        away.look(Some(&in_force), &one, None, at(902));
        let again = told(&away, &in_force, &one);
        assert!(again[0].ends_with("since 1970-01-01T00:15:02Z"), "{again:?}");
    }

    #[test]
    fn a_stage_that_others_take_over_is_told_with_its_layers_and_where_they_are_loaded_until_all_serve() {
        let (before, after) = (
            fixture::in_force(4, &["a", "b"]),
            fixture::in_force(5, &["a", "c", "d"]),
        );
        let (mut away, agents) = (Away::default(), fixture::agents(&["a", "c", "d"]));
        away.look(Some(&before), &agents, None, at(7));
        let heirs = format!("{B_AWAY}; its layers are loaded in epoch 5: 3 on c-cpu0, 4-5 on d-cpu0");
        assert_eq!(away.replaced(&after), std::slice::from_ref(&heirs));
        away.look(Some(&after), &agents, None, at(8));
        assert_eq!(away.replaced(&after), [heirs], "time alone changes nothing");
        let mut edited = after.clone();
        edited.placement.generation += 1;
        assert_eq!(away.replaced(&edited), [""; 0], "another spec has other layers");
        away.forget();
        assert_eq!(away.replaced(&after), [""; 0]);
    }

    #[test]
    fn a_stage_that_is_cut_anew_while_its_agent_is_away_is_told_with_the_layers_that_it_has_by_then() {
        let before = fixture::in_force(4, &["a", "b"]);
        let (mut away, one) = (Away::default(), fixture::agents(&["a"]));
        away.look(Some(&before), &one, None, at(7));
        let mut placement = fixture::in_force(5, &["a", "b"]).placement;
        placement.pipelines[0].stages[0].end_layer = 2;
        placement.pipelines[0].stages[1].first_layer = 2;
        let recut = fixture::signed(placement);
        away.look(Some(&recut), &one, None, at(8));
        assert_eq!(told(&away, &recut, &one), [B_AWAY], "its agent is away since then");
        assert_eq!(away.replaced(&recut), [""; 0]);
        let after = fixture::in_force(6, &["a", "c", "d"]);
        let heirs = format!("{B_AWAY}; its layers are loaded in epoch 6: 2-3 on c-cpu0, 4-5 on d-cpu0");
        assert_eq!(away.replaced(&after), [heirs]);
    }

    #[test]
    fn an_agent_that_is_back_is_missed_no_more_wherever_its_layers_are_by_then() {
        let (before, after) = (fixture::in_force(4, &["a", "b"]), fixture::in_force(5, &["a", "c"]));
        let mut away = Away::default();
        away.look(Some(&before), &fixture::agents(&["a", "c"]), None, at(7));
        assert_eq!(away.replaced(&after).len(), 1);
        away.look(Some(&after), &fixture::agents(&["a", "b", "c"]), None, at(8));
        assert_eq!(away.replaced(&after), [""; 0]);
    }

    #[test]
    fn the_next_leader_takes_the_moment_over_from_the_status() {
        let in_force = fixture::in_force(4, &["a", "b"]);
        let agents = fixture::agents(&["a"]);
        let mut status = InferenceModelStatus::default();
        let message = format!("1 of 2 replicas serves; {B_AWAY}; and 1 more");
        let new = NewCondition {
            kind: kind::DEGRADED,
            status: ConditionStatus::True,
            reason: reason::STAGE_LOST,
            message: &message,
        };
        set_condition(&mut status.conditions, new, Some(1), &Time(at(7)));
        let mut away = Away::default();
        away.look(Some(&in_force), &agents, Some(&status), at(100));
        assert_eq!(told(&away, &in_force, &agents), [B_AWAY]);
        let mut elsewhere = Away::default();
        let other = fixture::in_force(4, &["b", "a"]);
        elsewhere.look(Some(&other), &agents, Some(&status), at(100));
        let other = told(&elsewhere, &other, &agents);
        assert!(other[0].ends_with("since 1970-01-01T00:01:40Z"), "{other:?}");
    }
}
