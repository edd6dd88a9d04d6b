//! PURE: what a scripted agent says of its shards: the phases of real ones, at a fixed pace.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crds::HeldShard;
use proto::control::v1::{AcceptedEpoch, Assignments, MemoryUse, Purpose, ShardPhase, ShardReport, ShardStatus};
use proto::placement::v1::{Placement, Stage};

/// A worker by what it holds: model, device, first and last layer.
type Slot = (String, String, u32, u32);

/// Steps until the weights are on the disk, and until they are loaded.
const ON_DISK: u32 = 2;
const LOADED: u32 = 3;

/// One stage of one placement on this node.
#[derive(Debug, Clone)]
struct Wanted {
    placement: Placement,
    at: (usize, usize),
    stage: Stage,
    purpose: Purpose,
}

/// The shards of one node.
#[derive(Debug)]
pub struct Shards {
    node: String,
    /// What each phase takes.
    pace: Duration,
    wanted: Vec<Wanted>,
    /// Since when each slot counts as begun, and how far it shall go.
    slots: BTreeMap<Slot, (Instant, u32)>,
    epochs: BTreeMap<String, u64>,
}

impl Shards {
    pub fn new(node: &str, pace: Duration) -> Self {
        Self {
            node: node.to_owned(),
            pace,
            wanted: Vec::new(),
            slots: BTreeMap::new(),
            epochs: BTreeMap::new(),
        }
    }

    /// What was accepted, for Hello.
    pub fn epochs(&self) -> Vec<AcceptedEpoch> {
        let accepted = self.epochs.iter().map(|(uid, epoch)| AcceptedEpoch {
            model_uid: uid.clone(),
            epoch: *epoch,
        });
        accepted.collect()
    }

    /// Takes what the node shall hold. Slots that were held before go on.
    pub fn assign(&mut self, assignments: &Assignments, now: Instant) {
        self.wanted.clear();
        for assignment in &assignments.assignments {
            let payload = assignment.envelope.as_ref().map(|envelope| envelope.payload.as_slice());
            let Ok(placement) = <Placement as prost::Message>::decode(payload.unwrap_or_default()) else {
                continue;
            };
            let purpose = assignment.purpose();
            if purpose == Purpose::Serve {
                let epoch = self.epochs.entry(placement.model_uid.clone()).or_default();
                *epoch = (*epoch).max(placement.epoch);
            }
            for (pipeline, stages) in placement.pipelines.iter().map(|pipeline| &pipeline.stages).enumerate() {
                let own = stages.iter().enumerate().filter(|(_, stage)| stage.node == self.node);
                self.wanted.extend(own.map(|(index, stage)| Wanted {
                    placement: placement.clone(),
                    at: (pipeline, index),
                    stage: stage.clone(),
                    purpose,
                }));
            }
        }
        let mut goals: BTreeMap<Slot, u32> = BTreeMap::new();
        for wanted in &self.wanted {
            let goal = if wanted.purpose == Purpose::Fetch {
                ON_DISK
            } else {
                LOADED
            };
            let known = goals.entry(wanted.slot()).or_default();
            *known = goal.max(*known);
        }
        let pace = self.pace;
        let slots = std::mem::take(&mut self.slots);
        self.slots = goals
            .into_iter()
            .map(|(slot, goal)| {
                let begun = match slots.get(&slot) {
                    Some((since, old)) => now - pace * steps(*since, *old, pace, now),
                    None => now,
                };
                (slot, (begun, goal))
            })
            .collect();
    }

    /// All shards as they are; those on lost devices have failed.
    pub fn report(&self, lost: &BTreeSet<String>, now: Instant) -> ShardReport {
        let status = |wanted: &Wanted| {
            let done = self
                .slots
                .get(&wanted.slot())
                .map_or(0, |(since, goal)| steps(*since, *goal, self.pace, now));
            wanted.status(done, lost.contains(&wanted.stage.device))
        };
        ShardReport {
            shards: self.wanted.iter().map(status).collect(),
        }
    }

    /// When a shard reaches its next phase.
    pub fn changes_at(&self, now: Instant) -> Option<Instant> {
        let next = self.slots.values().filter_map(|(since, goal)| {
            let done = steps(*since, *goal, self.pace, now);
            (done < *goal).then(|| *since + self.pace * (done + 1))
        });
        next.min()
    }

    /// What each device holds in force, for its object.
    pub fn holdings(&self, now: Instant) -> BTreeMap<String, Vec<HeldShard>> {
        let mut held: BTreeMap<String, Vec<HeldShard>> = BTreeMap::new();
        for wanted in self.wanted.iter().filter(|wanted| wanted.purpose == Purpose::Serve) {
            let slot = self.slots.get(&wanted.slot());
            if slot.is_none_or(|(since, goal)| steps(*since, *goal, self.pace, now) < LOADED) {
                continue;
            }
            let Stage {
                device,
                first_layer,
                end_layer,
                memory_budget_bytes,
                ..
            } = &wanted.stage;
            held.entry(device.clone()).or_default().push(HeldShard {
                model: wanted.placement.name.clone(),
                namespace: wanted.placement.namespace.clone(),
                layers: format!("{first_layer}-{}", end_layer.saturating_sub(1)),
                memory_bytes: i64::try_from(*memory_budget_bytes).unwrap_or(i64::MAX),
            });
        }
        held
    }
}

/// Phases that are over.
fn steps(since: Instant, goal: u32, pace: Duration, now: Instant) -> u32 {
    let passed = now.saturating_duration_since(since).as_nanos() / pace.as_nanos().max(1);
    u32::try_from(passed).unwrap_or(u32::MAX).min(goal)
}

impl Wanted {
    fn slot(&self) -> Slot {
        let Stage {
            device,
            first_layer,
            end_layer,
            ..
        } = &self.stage;
        (
            self.placement.model_uid.clone(),
            device.clone(),
            *first_layer,
            *end_layer,
        )
    }

    fn status(&self, done: u32, is_lost: bool) -> ShardStatus {
        let phase = match (done, self.purpose) {
            _ if is_lost => ShardPhase::Failed,
            (0, _) => ShardPhase::Fetching,
            (1, _) => ShardPhase::Verifying,
            (_, Purpose::Fetch) => ShardPhase::Fetched,
            (ON_DISK, _) => ShardPhase::Loading,
            (_, Purpose::Load) => ShardPhase::Loaded,
            (_, Purpose::Serve) => ShardPhase::Serving,
        };
        let is_up = matches!(phase, ShardPhase::Loaded | ShardPhase::Serving);
        let budget_bytes = self.stage.memory_budget_bytes;
        let (pipeline, index) = self.at;
        ShardStatus {
            model_uid: self.placement.model_uid.clone(),
            epoch: self.placement.epoch,
            pipeline: u32::try_from(pipeline).unwrap_or(u32::MAX),
            stage: u32::try_from(index).unwrap_or(u32::MAX),
            phase: phase.into(),
            endpoint: if is_up {
                format!("10.0.0.1:{}", 40_000 + index)
            } else {
                String::new()
            },
            message: if is_lost { "the device is lost" } else { "" }.to_owned(),
            reason: if is_lost { "DeviceLost" } else { "" }.to_owned(),
            memory: is_up.then_some(MemoryUse {
                weights_bytes: budget_bytes / 100 * 80,
                kv_bytes: budget_bytes / 100 * 12,
                compute_bytes: budget_bytes / 100 * 2,
            }),
            purpose: self.purpose.into(),
            ..ShardStatus::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::control::v1::Assignment;
    use proto::placement::v1::{Envelope, Pipeline};

    use super::*;

    const PACE: Duration = Duration::from_millis(10);

    fn assigned(epoch: u64, purpose: Purpose) -> Assignments {
        let stage = Stage {
            node: "a".into(),
            device: "a-cuda0".into(),
            end_layer: 8,
            memory_budget_bytes: 1000,
            ..Stage::default()
        };
        let placement = Placement {
            epoch,
            model_uid: "m".into(),
            pipelines: vec![Pipeline {
                stages: vec![stage],
                ..Pipeline::default()
            }],
            ..Placement::default()
        };
        let envelope = Envelope {
            payload: prost::Message::encode_to_vec(&placement),
            ..Envelope::default()
        };
        Assignments {
            assignments: vec![Assignment {
                envelope: Some(envelope),
                purpose: purpose.into(),
                ..Assignment::default()
            }],
            leave_now: false,
        }
    }

    fn phase(shards: &Shards, now: Instant) -> ShardPhase {
        shards.report(&BTreeSet::new(), now).shards[0].phase()
    }

    #[test]
    fn a_shard_goes_through_its_phases_and_a_newer_placement_of_the_same_layers_keeps_it() {
        let (mut shards, start) = (Shards::new("a", PACE), Instant::now());
        shards.assign(&assigned(1, Purpose::Serve), start);
        let phases = [0, 1, 2, 3].map(|at| phase(&shards, start + PACE * at));
        let expected = [
            ShardPhase::Fetching,
            ShardPhase::Verifying,
            ShardPhase::Loading,
            ShardPhase::Serving,
        ];
        assert_eq!(phases, expected);
        assert_eq!(shards.changes_at(start + PACE), Some(start + PACE * 2));
        assert_eq!(shards.changes_at(start + PACE * 3), None);
        shards.assign(&assigned(2, Purpose::Serve), start + PACE * 3);
        assert_eq!(phase(&shards, start + PACE * 3), ShardPhase::Serving);
        assert_eq!(shards.epochs()[0].epoch, 2);
    }

    #[test]
    fn what_is_fetched_for_a_loss_stays_on_the_disk_until_it_is_to_serve() {
        let (mut shards, start) = (Shards::new("a", PACE), Instant::now());
        shards.assign(&assigned(1, Purpose::Fetch), start);
        assert_eq!(phase(&shards, start + PACE * 9), ShardPhase::Fetched);
        assert!(shards.epochs().is_empty() && shards.holdings(start + PACE * 9).is_empty());
        shards.assign(&assigned(1, Purpose::Serve), start + PACE * 9);
        assert_eq!(phase(&shards, start + PACE * 9), ShardPhase::Loading);
        assert_eq!(phase(&shards, start + PACE * 10), ShardPhase::Serving);
    }

    #[test]
    fn shards_of_a_lost_device_have_failed() {
        let (mut shards, start) = (Shards::new("a", PACE), Instant::now());
        shards.assign(&assigned(1, Purpose::Serve), start);
        let report = shards.report(&BTreeSet::from(["a-cuda0".to_owned()]), start + PACE * 5);
        assert_eq!(report.shards[0].phase(), ShardPhase::Failed);
        assert!(report.shards[0].endpoint.is_empty());
    }
}
