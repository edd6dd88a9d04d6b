//! PURE: what the agents say of the stages of a placement.

use std::collections::BTreeMap;

use crds::StagePhase;
use crds::conditions::reason;
use proto::control::v1::{MemoryUse, ObservedPace, ShardPhase, ShardStatus};
use proto::placement::v1::Stage;

use super::failures::Health;
use super::in_force::InForce;
use super::progress::Bytes;
use crate::agents::AgentView;

/// One stage, as its node's agent sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageSight {
    /// Index of its pipeline.
    pub pipeline: usize,
    /// Index of the stage in the pipeline.
    pub stage: usize,
    /// The node's agent is attached.
    pub attached: bool,
    /// What the shard does, in the epoch of the placement.
    pub phase: StagePhase,
    /// Where its worker listens.
    pub endpoint: Option<String>,
    /// One CamelCase word, where it failed or waits.
    pub reason: String,
    /// Why, for a person.
    pub message: String,
    /// Of the present phase.
    pub bytes: Bytes,
    /// What it took once loaded, or took before it was given up as too large.
    pub memory: Option<MemoryUse>,
    /// What it does against a shortage of memory; empty without one.
    pub pressure: String,
    /// How fast it really is, once enough was measured.
    pub pace: Option<ObservedPace>,
}

/// Why a stage fails that cannot read a source in the network: on another device it would fail alike.
const OF_THE_SOURCE: [&str; 8] = [
    reason::ACCESS_DENIED,
    reason::SOURCE_NOT_FOUND,
    reason::SOURCE_UNAVAILABLE,
    reason::SOURCE_STALLED,
    reason::SOURCE_CHANGED,
    reason::RANGE_NOT_SUPPORTED,
    reason::NO_INDEX,
    reason::DIGEST_MISMATCH,
];
/// Sources that each node has by itself: there a missing file is a fault of the node.
const OF_A_NODE: [&str; 2] = ["file://", "pvc://"];

impl StageSight {
    /// It failed since it needs more memory than its placement allows.
    #[must_use]
    pub fn refused_memory(&self) -> bool {
        self.phase == StagePhase::Failed && self.reason == reason::INSUFFICIENT_MEMORY
    }

    /// It holds its weights.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.attached && matches!(self.phase, StagePhase::Loaded | StagePhase::Serving)
    }

    /// What it says of its device. A failure to read `uri` that other nodes would share says nothing.
    #[must_use]
    pub fn health(&self, uri: &str) -> Health {
        let shared = !OF_A_NODE.iter().any(|scheme| uri.starts_with(scheme));
        match self.phase {
            StagePhase::Serving => Health::Serving,
            StagePhase::Failed if shared && OF_THE_SOURCE.contains(&self.reason.as_str()) => Health::Working,
            StagePhase::Failed => Health::Failed,
            _ => Health::Working,
        }
    }

    /// Why it does not reach the stage behind it, where it serves itself.
    #[must_use]
    pub fn link_down(&self) -> Option<&str> {
        (self.serves() && self.reason == reason::LINK_DOWN).then_some(&self.message)
    }

    /// It serves in the epoch of the placement.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.attached && self.phase == StagePhase::Serving && self.endpoint.is_some()
    }
}

/// The stages of a placement, in the order of [`InForce::stages`]. Only a stage's own node is believed, and only in the placement's epoch.
#[must_use]
pub fn look(in_force: &InForce, agents: &BTreeMap<String, AgentView>) -> Vec<StageSight> {
    let placement = &in_force.placement;
    let sight = |pipeline: usize, index: usize, stage: &Stage| {
        let agent = agents.get(&stage.node);
        let ours = |shard: &&ShardStatus| {
            shard.model_uid == placement.model_uid
                && shard.epoch == placement.epoch
                && shard.pipeline as usize == pipeline
                && shard.stage as usize == index
        };
        let Some(shard) = agent.and_then(|agent| agent.shards.iter().find(ours)) else {
            return StageSight {
                pipeline,
                stage: index,
                attached: agent.is_some(),
                phase: StagePhase::Pending,
                endpoint: None,
                reason: String::new(),
                message: String::new(),
                bytes: Bytes::default(),
                memory: None,
                pressure: String::new(),
                pace: None,
            };
        };
        StageSight {
            pipeline,
            stage: index,
            attached: true,
            phase: phase(shard.phase()),
            endpoint: Some(shard.endpoint.clone()).filter(|endpoint| !endpoint.is_empty()),
            reason: shard.reason.clone(),
            message: shard.message.clone(),
            bytes: Bytes {
                total: shard.bytes_total,
                done: shard.bytes_done,
            },
            memory: shard.memory,
            pressure: shard.pressure.clone(),
            pace: shard.pace,
        }
    };
    let mut sights = Vec::new();
    for (at, pipeline) in in_force.pipelines().iter().enumerate() {
        let stages = pipeline.stages.iter().enumerate();
        sights.extend(stages.map(|(index, stage)| sight(at, index, stage)));
    }
    sights
}

/// The stage that is seen.
#[must_use]
pub fn body<'a>(in_force: &'a InForce, sight: &StageSight) -> Option<&'a Stage> {
    in_force.pipelines().get(sight.pipeline)?.stages.get(sight.stage)
}

/// What people know it by: "stage 1 on node-b-cpu0", of several replicas with the number of its own.
#[must_use]
pub fn name(in_force: &InForce, sight: &StageSight) -> String {
    let device = body(in_force, sight).map_or("", |stage| &stage.device);
    if in_force.pipelines().len() > 1 {
        format!("replica {}, stage {} on {device}", sight.pipeline, sight.stage)
    } else {
        format!("stage {} on {device}", sight.stage)
    }
}

/// The stage behind one that does not reach it, though both serve as far as their nodes can tell: it is the link that is down. `None` where
/// there is no such stage.
#[must_use]
pub fn cut_off<'s>(sights: &'s [StageSight], cut: &StageSight) -> Option<&'s StageSight> {
    cut.link_down()?;
    let behind = |sight: &&StageSight| sight.pipeline == cut.pipeline && sight.stage == cut.stage + 1;
    sights.iter().find(behind).filter(|behind| behind.serves())
}

/// What the stages say of their devices, in their order; see [`StageSight::health`]. A link that is down is left by moving the stage
/// behind it: where that goes is reached over another one.
#[must_use]
pub fn healths(sights: &[StageSight], uri: &str) -> Vec<Health> {
    let unreached: Vec<&StageSight> = sights.iter().filter_map(|sight| cut_off(sights, sight)).collect();
    let health = |sight: &StageSight| match unreached.contains(&sight) {
        true => Health::Unreached,
        false => sight.health(uri),
    };
    sights.iter().map(health).collect()
}

/// Of each pipeline, where its head listens if all its stages serve.
#[must_use]
pub fn heads(in_force: &InForce, sights: &[StageSight]) -> Vec<Option<String>> {
    let head = |pipeline: usize| {
        let mut own = sights.iter().filter(|sight| sight.pipeline == pipeline).peekable();
        let head = own.peek()?.endpoint.clone();
        own.all(StageSight::serves).then_some(head).flatten()
    };
    (0..in_force.pipelines().len()).map(head).collect()
}

fn phase(phase: ShardPhase) -> StagePhase {
    match phase {
        ShardPhase::Unspecified => StagePhase::Pending,
        ShardPhase::Fetching => StagePhase::Fetching,
        ShardPhase::Verifying => StagePhase::Verifying,
        // A stage in force passes through these.
        ShardPhase::Loading => StagePhase::Loading,
        ShardPhase::Serving => StagePhase::Serving,
        ShardPhase::Draining => StagePhase::Draining,
        ShardPhase::Failed => StagePhase::Failed,
        ShardPhase::Loaded => StagePhase::Loaded,
        ShardPhase::Fetched => StagePhase::Fetched,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixture;

    #[test]
    fn only_the_stages_own_node_in_the_present_epoch_is_believed() {
        let in_force = fixture::in_force(4, &["a", "b"]);
        let mut agents = fixture::agents(&["a", "b"]);
        fixture::report(&mut agents, "a", 4, 0, ShardPhase::Serving);
        fixture::report(&mut agents, "b", 3, 1, ShardPhase::Serving);
        fixture::report(&mut agents, "b", 4, 0, ShardPhase::Failed);
        let sights = look(&in_force, &agents);
        assert!(sights[0].serves());
        assert_eq!((sights[1].phase, sights[1].attached), (StagePhase::Pending, true));
        agents.remove("a");
        assert!(!look(&in_force, &agents)[0].attached);
    }

    #[test]
    fn a_link_that_is_down_counts_against_the_stage_behind_it_while_both_ends_serve() {
        let in_force = fixture::in_force(4, &["a", "b", "c"]);
        let mut agents = fixture::agents(&["a", "b", "c"]);
        for (stage, node) in (0..).zip(["a", "b", "c"]) {
            fixture::report(&mut agents, node, 4, stage, ShardPhase::Serving);
        }
        let mut sights = look(&in_force, &agents);
        let uri = "file:///models/m.gguf";
        assert_eq!(healths(&sights, uri), [Health::Serving; 3]);
        (sights[1].reason, sights[1].message) = (reason::LINK_DOWN.into(), "no connection".into());
        assert_eq!(
            healths(&sights, uri),
            [Health::Serving, Health::Serving, Health::Unreached]
        );
        assert_eq!(cut_off(&sights, &sights[1]).map(|sight| sight.stage), Some(2));
        // A stage that loads is not reached, and that is no fault of a link.
        sights[2].phase = StagePhase::Loading;
        assert_eq!(
            healths(&sights, uri),
            [Health::Serving, Health::Serving, Health::Working]
        );
        sights[2].attached = false;
        assert_eq!(cut_off(&sights, &sights[1]), None);
    }

    #[test]
    fn a_source_that_is_down_is_no_fault_of_the_device_unless_it_is_a_file_of_the_node() {
        let (in_force, mut agents) = (fixture::in_force(1, &["a"]), fixture::agents(&["a"]));
        fixture::report(&mut agents, "a", 1, 0, ShardPhase::Failed);
        let mut sight = look(&in_force, &agents).remove(0);
        let (network, local) = ("https://models.example/m.gguf", "file:///models/m.gguf");
        assert_eq!(sight.health(network), Health::Failed, "{}", sight.reason);
        for word in OF_THE_SOURCE {
            sight.reason = word.into();
            assert_eq!(sight.health(network), Health::Working, "{word}");
            assert_eq!(sight.health(local), Health::Failed, "{word}");
            assert_eq!(sight.health("pvc://models/m.gguf"), Health::Failed, "{word}");
        }
        // Another node has another disk.
        sight.reason = reason::DISK_FULL.into();
        assert_eq!(sight.health(network), Health::Failed);
        sight.phase = StagePhase::Serving;
        assert_eq!(sight.health(network), Health::Serving);
    }
}
