//! PURE: what an agent makes of its assignments, in few words: which epochs it accepts, and what its shards report.
//!
//! It keeps to what `agent/src/assignment.rs` and `agent/src/shard/step.rs` promise: the highest accepted epoch of each model is
//! on the disk before anything acts on it, a lower one is refused, proposals are not accepted, a newer placement that has the
//! same slice keeps the worker, and a device is not filled before what leaves it has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crds::names::members;
use identity::{Held, Role, SpiffeId, Wanted};
use prost::Message;
use proto::control::v1::{
    AcceptedEpoch, Assignment, Assignments, Hello, Purpose, ShardPhase, ShardReport, ShardStatus, TrustHeld,
};
use proto::placement::v1::{Pipeline, Placement};

/// What a worker holds, whichever placement it is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    /// Of the model.
    pub model_uid: String,
    /// Where; several devices that work as one are named as such.
    pub device: String,
    /// From this layer.
    pub first_layer: u32,
    /// To before this one.
    pub end_layer: u32,
    weight_root: Vec<u8>,
    runtime: Vec<u8>,
}

/// A place of a placement on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    epoch: u64,
    pipeline: u32,
    stage: u32,
    purpose: Purpose,
}

/// What is on the disk: it outlives the agent.
#[derive(Debug, Clone, Default)]
struct Disk {
    epochs: BTreeMap<String, u64>,
    /// The placements in force, by model.
    accepted: BTreeMap<String, Placement>,
    pieces: BTreeSet<Slot>,
    /// Whom its leaf and bundle have it trust.
    trust: Held,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Fetching,
    Verifying,
    Fetched,
    Loading,
    Loaded,
    Draining,
}

#[derive(Debug, Clone)]
struct Shard {
    phase: Phase,
    /// When the present phase ends, if by itself; in time since the world began.
    until: Option<Duration>,
    /// Where it last stood.
    place: Place,
}

/// One agent and the disk of its node.
#[derive(Debug)]
pub struct Agent {
    /// Its node.
    pub node: String,
    disk: Disk,
    desired: BTreeMap<Slot, Vec<Place>>,
    shards: BTreeMap<Slot, Shard>,
    refused: Vec<ShardStatus>,
    /// Whom it shall trust instead, and when its turn comes to renew its leaf.
    wanted: Option<(Wanted, Duration)>,
    /// It is of a version that does not understand whom it shall trust, and says nothing of it.
    pub is_older: bool,
    /// What it was told that can never be right.
    pub violations: Vec<String>,
}

const FETCH: Duration = Duration::from_millis(700);
const VERIFY: Duration = Duration::from_millis(200);
const LOAD: Duration = Duration::from_millis(500);
const DRAIN: Duration = Duration::from_millis(400);

impl Agent {
    /// On an empty disk.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            disk: Disk::default(),
            desired: BTreeMap::new(),
            shards: BTreeMap::new(),
            refused: Vec::new(),
            wanted: None,
            is_older: false,
            violations: Vec::new(),
        }
    }

    /// A new life on the same disk: workers of the last one are ended, what was in force is taken up again.
    pub fn restart(&mut self, now: Duration) {
        self.desired.clear();
        self.shards.clear();
        self.refused.clear();
        self.wanted = None;
        for placement in self.disk.accepted.clone().into_values() {
            self.desire(&placement, Purpose::Serve);
        }
        self.step(now);
    }

    /// The first message of a stream.
    #[must_use]
    pub fn hello(&self) -> Hello {
        let epoch = |(uid, epoch): (&String, &u64)| AcceptedEpoch {
            model_uid: uid.clone(),
            epoch: *epoch,
        };
        Hello {
            version: "0.1.0".into(),
            epochs: self.disk.epochs.iter().map(epoch).collect(),
            weights_endpoint: format!("{}:9445", self.node),
            takes_purposes: true,
        }
    }

    /// The highest accepted epochs, by model.
    #[must_use]
    pub fn epochs(&self) -> &BTreeMap<String, u64> {
        &self.disk.epochs
    }

    /// The placements that it has accepted and was not told to give up, by model.
    #[must_use]
    pub fn accepted(&self) -> &BTreeMap<String, Placement> {
        &self.disk.accepted
    }

    /// Takes whom it is told to trust. Its first leaf it has at once, another when its turn comes; how it enrols is not played.
    pub fn want(&mut self, wanted: Wanted, now: Duration) {
        let role = Role::Agent {
            node: self.node.clone(),
        };
        let turn = match SpiffeId::new("shardwright", role) {
            Ok(who) if self.disk.trust != Held::default() => wanted.turn(&who),
            _ => Duration::ZERO,
        };
        self.wanted = Some(wanted)
            .filter(|wanted| !self.is_older && !self.disk.trust.is(wanted))
            .map(|wanted| (wanted, now + turn));
        self.step(now);
    }

    /// Whom it trusts, and whose leaf it has.
    #[must_use]
    pub fn trust(&self) -> &Held {
        &self.disk.trust
    }

    /// What the operator is told of that.
    #[must_use]
    pub fn says_of_trust(&self) -> TrustHeld {
        match self.is_older {
            true => TrustHeld::default(),
            false => TrustHeld::from(&self.disk.trust),
        }
    }

    /// Takes what it is told to hold.
    pub fn assign(&mut self, told: &Assignments, now: Duration) {
        self.desired.clear();
        self.refused.clear();
        let mut kept: BTreeMap<String, Placement> = BTreeMap::new();
        let of = |purpose: Purpose| {
            let of_purpose = told.assignments.iter().filter(move |it| it.purpose() == purpose);
            of_purpose.filter_map(|assignment| Some((assignment.clone(), placement(assignment)?)))
        };
        for (_, placement) in of(Purpose::Serve) {
            let uid = placement.model_uid.clone();
            let highest = self.disk.epochs.get(&uid).copied().unwrap_or(0);
            if placement.epoch < highest {
                self.refuse(&placement, highest);
                // What was accepted stays in force.
                if let Some(known) = self.disk.accepted.get(&uid).cloned() {
                    self.desire(&known, Purpose::Serve);
                    kept.insert(uid, known);
                }
                continue;
            }
            self.compare(&placement);
            self.disk.epochs.insert(uid.clone(), placement.epoch);
            self.desire(&placement, Purpose::Serve);
            kept.insert(uid, placement);
        }
        self.disk.accepted = kept;
        for purpose in [Purpose::Load, Purpose::Fetch] {
            for (_, placement) in of(purpose) {
                let highest = self.disk.epochs.get(&placement.model_uid).copied().unwrap_or(0);
                if placement.epoch >= highest {
                    self.desire(&placement, purpose);
                }
            }
        }
        self.step(now);
    }

    /// One epoch is one placement, for ever.
    fn compare(&mut self, placement: &Placement) {
        let known = self.disk.accepted.get(&placement.model_uid);
        if let Some(known) = known.filter(|known| known.epoch == placement.epoch)
            && known.pipelines != placement.pipelines
        {
            let Placement { epoch, model_uid, .. } = placement;
            let node = &self.node;
            self.violations.push(format!(
                "I3: {node} was told two placements of epoch {epoch} of model {model_uid}"
            ));
        }
    }

    fn refuse(&mut self, placement: &Placement, highest: u64) {
        for (pipeline, stage, _, _) in own(&self.node, placement) {
            self.refused.push(ShardStatus {
                model_uid: placement.model_uid.clone(),
                epoch: placement.epoch,
                pipeline,
                stage,
                phase: ShardPhase::Failed.into(),
                reason: "StaleEpoch".into(),
                message: format!(
                    "epoch {} is lower than {highest}, which this node accepted before",
                    placement.epoch
                ),
                purpose: Purpose::Serve.into(),
                ..ShardStatus::default()
            });
        }
    }

    fn desire(&mut self, placement: &Placement, purpose: Purpose) {
        let runtime = placement
            .runtime
            .as_ref()
            .map(Message::encode_to_vec)
            .unwrap_or_default();
        for (pipeline, index, _, stage) in own(&self.node, placement) {
            let slot = Slot {
                model_uid: placement.model_uid.clone(),
                device: stage.device.clone(),
                first_layer: stage.first_layer,
                end_layer: stage.end_layer,
                weight_root: stage.weight_root.clone(),
                runtime: runtime.clone(),
            };
            self.desired.entry(slot).or_default().push(Place {
                epoch: placement.epoch,
                pipeline,
                stage: index,
                purpose,
            });
        }
    }

    /// Does what is to be done now. True where that changed what it reports.
    pub fn step(&mut self, now: Duration) -> bool {
        let before = self.report();
        if let Some((wanted, _)) = self.wanted.take_if(|(_, due)| *due <= now) {
            self.disk.trust = Held {
                authorities: wanted.authorities,
                issuers: BTreeSet::from([wanted.issuer]),
            };
        }
        loop {
            // Also what was just drained, and is wanted again.
            for (slot, places) in &self.desired {
                self.shards.entry(slot.clone()).or_insert_with(|| Shard {
                    phase: Phase::Fetching,
                    until: None,
                    place: places[0].clone(),
                });
            }
            let filled: BTreeSet<String> = self
                .shards
                .iter()
                .filter(|(_, shard)| shard.phase == Phase::Draining)
                .flat_map(|(slot, _)| members(&slot.device).map(str::to_owned))
                .collect();
            let next = self
                .shards
                .iter()
                .find_map(|(slot, shard)| Some((slot.clone(), self.next(slot, shard, &filled, now)?)));
            match next {
                Some((slot, Some(shard))) => {
                    if matches!(shard.phase, Phase::Fetched | Phase::Verifying) {
                        self.disk.pieces.insert(slot.clone());
                    }
                    self.shards.insert(slot, shard);
                }
                Some((slot, None)) => {
                    self.shards.remove(&slot);
                }
                None => break,
            }
        }
        before != self.report()
    }

    /// What a shard is next: `None` where it stays as it is, and nothing where it is gone.
    fn next(&self, slot: &Slot, shard: &Shard, filled: &BTreeSet<String>, now: Duration) -> Option<Option<Shard>> {
        let places = self.desired.get(slot);
        let is_over = shard.until.is_none_or(|until| until <= now);
        let to = |phase, time: Option<Duration>| {
            let place = places.map_or_else(|| shard.place.clone(), |places| places[0].clone());
            let until = time.map(|time| now + time);
            Some(Some(Shard { phase, until, place }))
        };
        let is_free = members(&slot.device).all(|device| !filled.contains(device));
        let loads = places.is_some_and(|places| places.iter().any(|place| place.purpose != Purpose::Fetch));
        match (shard.phase, places.is_some()) {
            (Phase::Draining, _) => is_over.then_some(None),
            // No worker, nothing to drain.
            (Phase::Fetching | Phase::Verifying | Phase::Fetched, false) => Some(None),
            (_, false) => to(Phase::Draining, Some(DRAIN)),
            (Phase::Fetching, true) if shard.until.is_none() => match self.disk.pieces.contains(slot) {
                true => to(Phase::Verifying, Some(VERIFY)),
                false => to(Phase::Fetching, Some(FETCH)),
            },
            (Phase::Fetching, true) if is_over => to(Phase::Verifying, Some(VERIFY)),
            (Phase::Verifying, true) if is_over => to(Phase::Fetched, None),
            (Phase::Fetched, true) if loads && is_free => to(Phase::Loading, Some(LOAD)),
            (Phase::Loading, true) if is_over => to(Phase::Loaded, None),
            // Only wanted on the disk.
            (Phase::Loaded, true) if !loads => to(Phase::Draining, Some(DRAIN)),
            _ => None,
        }
    }

    /// When something is due by itself.
    #[must_use]
    pub fn wakes_at(&self) -> Option<Duration> {
        let turn = self.wanted.as_ref().map(|(_, due)| *due);
        let shards = self.shards.values().filter_map(|shard| shard.until);
        shards.chain(turn).min()
    }

    /// All shards of the node.
    #[must_use]
    pub fn report(&self) -> ShardReport {
        let mut shards = Vec::new();
        for (slot, shard) in &self.shards {
            let gone = vec![shard.place.clone()];
            let places = self.desired.get(slot).unwrap_or(&gone);
            shards.extend(places.iter().map(|place| self.status(slot, shard, place)));
        }
        shards.extend(self.refused.iter().cloned());
        ShardReport { shards }
    }

    fn status(&self, slot: &Slot, shard: &Shard, place: &Place) -> ShardStatus {
        let phase = match (shard.phase, place.purpose) {
            (Phase::Draining, _) => ShardPhase::Draining,
            (Phase::Fetching, _) => ShardPhase::Fetching,
            (Phase::Verifying, _) => ShardPhase::Verifying,
            (Phase::Fetched, _) | (_, Purpose::Fetch) => ShardPhase::Fetched,
            (Phase::Loading, _) => ShardPhase::Loading,
            (Phase::Loaded, Purpose::Load) => ShardPhase::Loaded,
            (Phase::Loaded, Purpose::Serve) => ShardPhase::Serving,
        };
        let listens = shard.phase == Phase::Loaded && place.purpose != Purpose::Fetch;
        ShardStatus {
            model_uid: slot.model_uid.clone(),
            epoch: place.epoch,
            pipeline: place.pipeline,
            stage: place.stage,
            phase: phase.into(),
            endpoint: if listens {
                format!("{}:7{:03}", self.node, slot.first_layer)
            } else {
                String::new()
            },
            purpose: place.purpose.into(),
            ..ShardStatus::default()
        }
    }

    /// Everything that it holds, for people and for comparison: model, layers, phase, purposes.
    #[must_use]
    pub fn holds(&self) -> Vec<String> {
        let shard = |(slot, shard): (&Slot, &Shard)| {
            let purposes = self.desired.get(slot).into_iter().flatten();
            let purposes: BTreeSet<&str> = purposes.map(|place| place.purpose.as_str_name()).collect();
            let Slot {
                model_uid,
                device,
                first_layer,
                end_layer,
                ..
            } = slot;
            format!(
                "{model_uid} {first_layer}..{end_layer} on {device}: {:?} {purposes:?}",
                shard.phase
            )
        };
        self.shards.iter().map(shard).collect()
    }
}

fn placement(assignment: &Assignment) -> Option<Placement> {
    Placement::decode(assignment.envelope.as_ref()?.payload.as_slice()).ok()
}

fn own<'a>(node: &str, placement: &'a Placement) -> Vec<(u32, u32, &'a Pipeline, &'a proto::placement::v1::Stage)> {
    let mut own = Vec::new();
    for (at, pipeline) in (0..).zip(&placement.pipelines) {
        let stages = (0..).zip(&pipeline.stages).filter(|(_, stage)| stage.node == node);
        own.extend(stages.map(|(index, stage)| (at, index, pipeline, stage)));
    }
    own
}
