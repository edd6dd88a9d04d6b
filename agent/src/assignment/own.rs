//! A placement as one node sees it: its own stages, and what they are to hold. Pure.

use crate::shard::observed::Fault;
use crate::shard::occupied::is_well_formed;
use crate::shard::{Desired, InForce, Place, Purpose, Slice};
use crate::source::Access;
use crds::names::MAX_GROUP_DEVICES;
use prost::Message;
use proto::control::v1::{self as wire, Assignment, Route, ShardPhase, ShardStatus};
use proto::placement::v1::{Pipeline, Placement, Runtime, Source, Stage};
use std::sync::Arc;

/// Peers of one model that are remembered; a fetch asks fewer.
const PEERS_MAX: usize = 64;

/// A stage of a placement that is on this node.
pub(super) struct Own<'a> {
    /// The pipeline it is in.
    pipeline: &'a Pipeline,
    /// That one's index.
    pipeline_index: u32,
    /// Its own index.
    index: u32,
    stage: &'a Stage,
}

/// The stages of a placement that are on a node.
pub(super) fn stages<'a>(node: &str, placement: &'a Placement) -> Vec<Own<'a>> {
    let mut own = Vec::new();
    for (pipeline_index, pipeline) in placement.pipelines.iter().enumerate() {
        let stages = pipeline.stages.iter().enumerate();
        own.extend(
            stages
                .filter(|(_, stage)| stage.node == node)
                .map(|(index, stage)| Own {
                    pipeline,
                    pipeline_index: pipeline_index as u32,
                    index: index as u32,
                    stage,
                }),
        );
    }
    own
}

impl Own<'_> {
    /// That the stage is refused.
    pub(super) fn refusal(&self, placement: &Placement, purpose: Purpose, fault: &Fault) -> ShardStatus {
        ShardStatus {
            model_uid: placement.model_uid.clone(),
            epoch: placement.epoch,
            pipeline: self.pipeline_index,
            stage: self.index,
            phase: ShardPhase::Failed.into(),
            reason: fault.reason.clone(),
            message: fault.message.clone(),
            purpose: wire::Purpose::from(purpose).into(),
            ..ShardStatus::default()
        }
    }

    /// A worker stands in one place of a placement.
    pub(super) fn twice(&self, placement: &Placement) -> Fault {
        let Stage { device, .. } = self.stage;
        malformed(placement, &format!("has the same layers on {device} twice"))
    }

    fn is_before(&self, route: &Route) -> bool {
        route.pipeline == self.pipeline_index && route.stage == self.index + 1 && !route.endpoint.is_empty()
    }
}

/// An assignment whose placement stands, and what it is for.
pub(super) struct Given<'a> {
    assignment: &'a Assignment,
    placement: &'a Placement,
    purpose: Purpose,
    envelope: Arc<Vec<u8>>,
}

impl<'a> Given<'a> {
    pub(super) fn new(assignment: &'a Assignment, placement: &'a Placement, purpose: Purpose) -> Self {
        let envelope = assignment.envelope.as_ref();
        Self {
            assignment,
            placement,
            purpose,
            envelope: Arc::new(envelope.map(Message::encode_to_vec).unwrap_or_default()),
        }
    }

    /// Whether a slot has another place in this placement already.
    pub(super) fn is_twice(&self, known: &Desired, own: &Own<'_>) -> bool {
        known.places.iter().any(|place| {
            (place.epoch, place.purpose) == (self.placement.epoch, self.purpose)
                && (place.pipeline, place.stage) != (own.pipeline_index, own.index)
        })
    }

    /// What a stage is to hold. A signed placement may still be one that this version cannot carry out.
    pub(super) fn desired(&self, own: &Own<'_>) -> Result<Desired, Fault> {
        let Self {
            assignment, placement, ..
        } = self;
        let malformed = |what: &str| malformed(placement, what);
        let Source { uri, index_sha256, .. } = placement.source.clone().ok_or_else(|| malformed("names no source"))?;
        let runtime: Runtime = placement.runtime.ok_or_else(|| malformed("has no runtime"))?;
        let stage = own.stage;
        let total_layers = own.pipeline.stages.last().map_or(0, |last| last.end_layer);
        if stage.first_layer >= stage.end_layer || stage.end_layer > total_layers {
            return Err(malformed("has a stage without layers"));
        }
        if !is_well_formed(&stage.device) {
            let most = MAX_GROUP_DEVICES;
            return Err(malformed(&format!(
                "has a stage on {:?}, which is neither a device nor 2 to {most} of them in ascending order",
                stage.device
            )));
        }
        let digest = |bytes: &[u8], what: &str| <[u8; 32]>::try_from(bytes).map_err(|_| malformed(what));
        let slice = Slice {
            index: gguf::Digest(digest(&index_sha256, "has an index digest that is no SHA-256")?),
            first_layer: stage.first_layer,
            end_layer: stage.end_layer,
            total_layers,
            device: stage.device.clone(),
            backend: stage.backend.clone(),
            runtime,
            weight_root: digest(&stage.weight_root, "has a weight root that is no SHA-256")?,
        };
        let mut routes = assignment.routes.iter().filter(|_| !slice.is_tail());
        let next = routes.find(|route| own.is_before(route));
        Ok(Desired {
            in_force: (self.purpose == Purpose::Serve).then(|| InForce {
                epoch: placement.epoch,
                pipeline_epoch: own.pipeline.epoch_in(placement),
                envelope: Arc::clone(&self.envelope),
                next: next.map(|route| route.endpoint.clone()),
            }),
            slice,
            places: vec![Place {
                epoch: placement.epoch,
                pipeline: own.pipeline_index,
                stage: own.index,
                purpose: self.purpose,
            }],
            uri,
            access: Access::from(assignment.access.clone().unwrap_or_default()),
            peers: assignment.peers.iter().take(PEERS_MAX).cloned().collect(),
            model: (placement.namespace.clone(), placement.name.clone()),
            memory_budget_bytes: stage.memory_budget_bytes,
        })
    }
}

fn malformed(placement: &Placement, what: &str) -> Fault {
    let epoch = placement.epoch;
    Fault::new("BadPlacement", format!("the placement of epoch {epoch} {what}"))
}
