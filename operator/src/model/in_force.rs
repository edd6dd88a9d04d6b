//! PURE: a placement in force, and how it is found again in the status of its model after a restart.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use crds::names;
use crds::{InferenceModel, PlacementStatus};
use identity::PlacementVerifier;
use prost::Message;
use proto::placement::v1::{Envelope, Pipeline, Placement, Stage};

/// A placement that was signed and written into its model's status.
#[derive(Debug, Clone, PartialEq)]
pub struct InForce {
    /// What was signed.
    pub placement: Placement,
    /// The signed bytes.
    pub envelope: Envelope,
    /// What people see of it. Phases and endpoints in it are of the time it was decided.
    pub view: PlacementStatus,
}

/// Why a status holds no placement that can be taken over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecallError {
    /// Not base64, not protobuf, not signed by us.
    #[error("its envelope is not one of ours: {0}")]
    Envelope(String),
    /// It belongs to another object, or its view tells another story.
    #[error("its envelope does not belong to this status: {0}")]
    Mismatch(&'static str),
}

impl InForce {
    /// Its pipelines, each a replica; one that there is none for at present has no stages.
    #[must_use]
    pub fn pipelines(&self) -> &[Pipeline] {
        &self.placement.pipelines
    }

    /// All stages, pipeline by pipeline, in the order of the layers.
    #[must_use]
    pub fn stages(&self) -> Vec<&Stage> {
        stages(&self.placement).collect()
    }

    /// How many pipelines have stages.
    #[must_use]
    pub fn replicas(&self) -> usize {
        self.pipelines()
            .iter()
            .filter(|pipeline| !pipeline.stages.is_empty())
            .count()
    }

    /// The nodes of its stages; one with several comes several times.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        stages(&self.placement).map(|stage| stage.node.as_str())
    }

    /// The devices of its stages; several that work as one are named as such.
    #[must_use]
    pub fn devices(&self) -> Vec<&str> {
        stages(&self.placement).map(|stage| stage.device.as_str()).collect()
    }

    /// The single devices of its stages.
    #[must_use]
    pub fn members(&self) -> Vec<&str> {
        let stages = stages(&self.placement);
        stages.flat_map(|stage| names::members(&stage.device)).collect()
    }

    /// Uid of its model.
    #[must_use]
    pub fn model_uid(&self) -> &str {
        &self.placement.model_uid
    }
}

fn stages(placement: &Placement) -> impl Iterator<Item = &Stage> {
    placement.pipelines.iter().flat_map(|pipeline| &pipeline.stages)
}

/// The text of an envelope in a status.
#[must_use]
pub fn encode(envelope: &Envelope) -> String {
    BASE64_STANDARD.encode(envelope.encode_to_vec())
}

/// The placement in a model's status, if it has one.
pub fn recall(model: &InferenceModel, verifier: &PlacementVerifier) -> Result<Option<InForce>, RecallError> {
    let Some(view) = model.status.as_ref().and_then(|status| status.placement.clone()) else {
        return Ok(None);
    };
    let bytes = BASE64_STANDARD
        .decode(&view.envelope)
        .map_err(|error| RecallError::Envelope(error.to_string()))?;
    let envelope = Envelope::decode(bytes.as_slice()).map_err(|error| RecallError::Envelope(error.to_string()))?;
    let placement = verifier
        .verify(&envelope)
        .map_err(|error| RecallError::Envelope(error.to_string()))?;
    if Some(placement.model_uid.as_str()) != model.metadata.uid.as_deref() {
        return Err(RecallError::Mismatch("it was signed for another object"));
    }
    if u64::try_from(view.epoch) != Ok(placement.epoch) || stages(&placement).next().is_none() {
        return Err(RecallError::Mismatch("the epoch or the stages differ"));
    }
    let numbered = placement.pipelines.iter().enumerate();
    let pipelines = numbered.flat_map(|(at, pipeline)| pipeline.stages.iter().map(move |_| i32::try_from(at).ok()));
    if !pipelines.eq(view.stages.iter().map(|stage| Some(stage.pipeline))) {
        return Err(RecallError::Mismatch("the number of stages differs"));
    }
    Ok(Some(InForce {
        placement,
        envelope,
        view,
    }))
}

#[cfg(test)]
mod tests;
