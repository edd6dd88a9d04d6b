//! PURE: moving a model that serves: propose → load beside what serves → cut over, or roll back.
//!
//! The agents of a proposal fetch and load its stages, while the placement in force serves on. Once all of them hold their
//! weights the proposal takes the placement's place, which costs the streams one install and no load. A proposal that cannot be
//! loaded is dropped, and nothing has changed. Proposals are not kept in status: the next leader makes its own.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crds::StagePhase;
use crds::names::members;
use proto::placement::v1::Stage;
use topology::Topology;

use super::gain::Gain;
use super::in_force::InForce;
use super::stages::StageSight;
use crate::retry;

/// Reading the largest slice from the slowest disk; what takes longer is stuck.
const LOAD_LIMIT: Duration = Duration::from_secs(15 * 60);

/// Why a model that serves is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// What is in force may not stay: the spec or a device says so.
    Required,
    /// A node is about to leave.
    Leaving,
    /// A better place, for long enough.
    Gain,
}

/// A placement that is loaded beside the one in force.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// As it will be in force, with an epoch above the present one.
    pub next: InForce,
    /// What it is for.
    pub cause: Cause,
    /// When it was made.
    pub since: Instant,
}

/// What becomes of a proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is being loaded; so many of its stages are.
    Wait {
        /// Stages that hold their weights.
        loaded: usize,
    },
    /// Everything is loaded.
    CutOver,
    /// It will not be.
    RollBack {
        /// For a person.
        cause: String,
    },
}

impl Proposal {
    /// What becomes of it, from what the agents say of its stages.
    #[must_use]
    pub fn judge(&self, sights: &[StageSight], now: Instant) -> Verdict {
        let stages = self.next.stages();
        let failed = |sight: &&StageSight| !sight.attached || sight.phase == StagePhase::Failed;
        if let Some((stage, sight)) = stages.iter().zip(sights).find(|(_, sight)| failed(sight)) {
            let why = match (sight.attached, sight.message.is_empty()) {
                (false, _) => "its node's agent is not attached",
                (true, true) => &sight.reason,
                (true, false) => &sight.message,
            };
            let cause = format!("{} failed: {why}", stage.device);
            return Verdict::RollBack { cause };
        }
        let loaded = sights.iter().filter(|sight| sight.is_loaded()).count();
        if loaded == stages.len() {
            return Verdict::CutOver;
        }
        if now.saturating_duration_since(self.since) >= LOAD_LIMIT {
            let cause = format!("it was not loaded within {} minutes", LOAD_LIMIT.as_secs() / 60);
            return Verdict::RollBack { cause };
        }
        Verdict::Wait { loaded }
    }
}

/// What is remembered of a model's moves.
#[derive(Debug, Default)]
pub struct Moving {
    /// The move under way.
    pub proposal: Option<Proposal>,
    /// Better places.
    pub gain: Gain,
    /// Of the spec that moves failed for.
    generation: Option<i64>,
    failures: u32,
    /// No move before, and why the last one failed.
    rest: Option<(Instant, String)>,
}

impl Moving {
    /// The proposal came to nothing; none is made for a while, longer each time.
    pub fn rolled_back(&mut self, cause: String, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.rest = Some((now + retry::DEVICE.wait(self.failures, 1.0), cause));
        self.proposal = None;
    }

    /// Another spec may do better: what failed before says nothing of it.
    pub fn heed(&mut self, generation: Option<i64>) {
        if self.generation != generation {
            (self.generation, self.failures, self.rest) = (generation, 0, None);
        }
    }

    /// Another placement is in force.
    pub fn moved(&mut self) {
        *self = Self::default();
    }

    /// Why no move is made now, if one failed lately.
    #[must_use]
    pub fn rests(&self, now: Instant) -> Option<&str> {
        let resting = self.rest.as_ref().filter(|(until, _)| now < *until);
        resting.map(|(_, cause)| cause.as_str())
    }

    /// When something is due by itself.
    #[must_use]
    pub fn wakes_at(&self) -> Option<Instant> {
        let stuck = self.proposal.as_ref().map(|proposal| proposal.since + LOAD_LIMIT);
        let rested = self.rest.as_ref().map(|(until, _)| *until);
        stuck.into_iter().chain(rested).min()
    }
}

/// Whether the new stages of a placement fit beside what is in force, which goes on until they are loaded. `topology`: as if the
/// model held nothing.
#[must_use]
pub fn fits_beside(topology: &Topology, in_force: &InForce, next: &InForce, same_weights: bool) -> bool {
    let present = in_force.stages();
    let kept = |new: &Stage| {
        let same = |held: &&Stage| {
            held.device == new.device && (held.first_layer, held.end_layer) == (new.first_layer, new.end_layer)
        };
        same_weights && present.iter().any(same)
    };
    let new = next.stages().into_iter().filter(|stage| !kept(stage));
    let mut by_device: BTreeMap<&str, u64> = BTreeMap::new();
    for Stage {
        device,
        memory_budget_bytes: bytes,
        ..
    } in present.iter().copied().chain(new)
    {
        let parts = members(device).count() as u64;
        for member in members(device) {
            let sum = by_device.entry(member).or_default();
            *sum = sum.saturating_add(bytes.div_ceil(parts.max(1)));
        }
    }
    let mut by_pool = vec![0_u64; topology.pools.len()];
    for (name, bytes) in by_device {
        // A device that takes nothing new holds no more than it does already.
        let Some(device) = topology.device(name) else { continue };
        if bytes > device.usable_bytes {
            return false;
        }
        if let Some(sum) = by_pool.get_mut(device.pool) {
            *sum = sum.saturating_add(bytes);
        }
    }
    by_pool
        .iter()
        .zip(&topology.pools)
        .all(|(bytes, pool)| *bytes <= pool.usable_bytes)
}

#[cfg(test)]
mod tests;
