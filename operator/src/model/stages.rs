//! PURE: what the agents say of the stages of a placement.

use std::collections::BTreeMap;

use crds::StagePhase;
use proto::control::v1::{MemoryUse, ShardPhase, ShardStatus};

use super::in_force::InForce;
use super::progress::Bytes;
use crate::agents::AgentView;

/// One stage, as its node's agent sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageSight {
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
    /// What it took once loaded.
    pub memory: Option<MemoryUse>,
    /// What it does against a shortage of memory; empty without one.
    pub pressure: String,
}

/// Reasons of a stage that found its budget too small.
const MEMORY_REASONS: [&str; 3] = ["InsufficientMemory", "MemoryRefused", "OverBudget"];

impl StageSight {
    /// It failed since it needs more memory than its placement allows.
    #[must_use]
    pub fn refused_memory(&self) -> bool {
        self.phase == StagePhase::Failed && MEMORY_REASONS.contains(&self.reason.as_str())
    }

    /// It serves in the epoch of the placement.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.attached && self.phase == StagePhase::Serving && self.endpoint.is_some()
    }
}

/// The stages of a placement, in order. Only a stage's own node is believed, and only in the placement's epoch.
#[must_use]
pub fn look(in_force: &InForce, agents: &BTreeMap<String, AgentView>) -> Vec<StageSight> {
    let placement = &in_force.placement;
    let sight = |(index, stage): (usize, &proto::placement::v1::Stage)| {
        let agent = agents.get(&stage.node);
        let ours = |shard: &&ShardStatus| {
            shard.model_uid == placement.model_uid
                && shard.epoch == placement.epoch
                && shard.pipeline == 0
                && shard.stage as usize == index
        };
        let Some(shard) = agent.and_then(|agent| agent.shards.iter().find(ours)) else {
            return StageSight {
                attached: agent.is_some(),
                phase: StagePhase::Pending,
                endpoint: None,
                reason: String::new(),
                message: String::new(),
                bytes: Bytes::default(),
                memory: None,
                pressure: String::new(),
            };
        };
        StageSight {
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
        }
    };
    in_force.stages().iter().enumerate().map(sight).collect()
}

fn phase(phase: ShardPhase) -> StagePhase {
    match phase {
        ShardPhase::Unspecified => StagePhase::Pending,
        ShardPhase::Fetching => StagePhase::Fetching,
        ShardPhase::Verifying => StagePhase::Verifying,
        ShardPhase::Loading => StagePhase::Loading,
        ShardPhase::Serving => StagePhase::Serving,
        ShardPhase::Draining => StagePhase::Draining,
        ShardPhase::Failed => StagePhase::Failed,
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
}
