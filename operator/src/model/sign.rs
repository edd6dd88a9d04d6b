//! PURE (but for the key's arithmetic): from a plan to a signed placement and its view.

use crds::conditions::reason;
use crds::{InferenceModel, PlacementStatus};
use gguf::Index;
use identity::PlacementSigner;
use identity::sign::MAX_ENVELOPE_BYTES;
use prost::Message;
use proto::placement::v1::{Pipeline, Placement, Runtime, Source};

use super::carry_over::carry_over;
use super::in_force::{InForce, encode};
use super::status::Why;

/// How long a placement may be installed. Serving is not bound by it; the operator signs anew from half of it.
pub const INSTALLABLE_S: i64 = 24 * 60 * 60;

/// What a new placement is made from.
#[derive(Debug)]
pub struct Draft {
    /// Where the weights come from; the digest always set.
    pub source: Source,
    /// What every stage must agree on.
    pub runtime: Runtime,
    /// With stages in the order of the layers, their `weight_root` still empty; those that are left alone as they are in force.
    pub pipelines: Vec<Pipeline>,
    /// What people will see; epoch, generation and envelope still empty.
    pub view: PlacementStatus,
}

/// Signs a draft. Pipelines that stood in `previous` exactly so keep their epochs there.
pub fn sign(
    signer: &PlacementSigner,
    model: &InferenceModel,
    index: &Index,
    draft: Draft,
    (previous, epoch): (Option<&Placement>, u64),
    now_unix_s: i64,
) -> Result<InForce, Why> {
    let Draft {
        source,
        runtime,
        mut pipelines,
        view,
    } = draft;
    for stage in pipelines.iter_mut().flat_map(|pipeline| &mut pipeline.stages) {
        let root = index.stage_root(stage.first_layer, stage.end_layer);
        let root = root.ok_or_else(|| Why::new(reason::CHECK_FAILED, "a stage has layers that the model has not"))?;
        stage.weight_root = root.0.to_vec();
    }
    let metadata = &model.metadata;
    let mut placement = Placement {
        epoch,
        model_uid: metadata.uid.clone().unwrap_or_default(),
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        generation: metadata.generation.unwrap_or_default(),
        not_after_unix_s: now_unix_s + INSTALLABLE_S,
        source: Some(source),
        runtime: Some(runtime),
        pipelines,
        denied: Vec::new(),
    };
    for pipeline in &mut placement.pipelines {
        pipeline.epoch = epoch;
    }
    if let Some(previous) = previous {
        carry_over(previous, &mut placement);
    }
    let in_force = envelop(signer, placement, view);
    let bytes = in_force.envelope.encoded_len();
    if bytes > MAX_ENVELOPE_BYTES {
        let message = format!(
            "the signed placement has {bytes} bytes and at most {MAX_ENVELOPE_BYTES} are allowed; use fewer devices"
        );
        return Err(Why::new(reason::PLACEMENT_TOO_LARGE, message));
    }
    Ok(in_force)
}

/// The same stages under a higher epoch: a node has accepted one above the present. What it has accepted is not known, so
/// that no pipeline is taken to have stood before.
#[must_use]
pub fn raise(signer: &PlacementSigner, in_force: &InForce, epoch: u64, now_unix_s: i64) -> InForce {
    let mut placement = in_force.placement.clone();
    placement.epoch = epoch;
    for pipeline in &mut placement.pipelines {
        pipeline.epoch = epoch;
    }
    dated(signer, placement, in_force, now_unix_s)
}

/// The same placement, installable for longer; `None` while more than half of its time is left.
#[must_use]
pub fn prolong(signer: &PlacementSigner, in_force: &InForce, now_unix_s: i64) -> Option<InForce> {
    let left = in_force.placement.not_after_unix_s.saturating_sub(now_unix_s);
    (left < INSTALLABLE_S / 2).then(|| dated(signer, in_force.placement.clone(), in_force, now_unix_s))
}

fn dated(signer: &PlacementSigner, placement: Placement, in_force: &InForce, now_unix_s: i64) -> InForce {
    let placement = Placement {
        not_after_unix_s: now_unix_s + INSTALLABLE_S,
        ..placement
    };
    envelop(signer, placement, in_force.view.clone())
}

fn envelop(signer: &PlacementSigner, placement: Placement, view: PlacementStatus) -> InForce {
    let envelope = signer.sign(&placement);
    let view = PlacementStatus {
        epoch: i64::try_from(placement.epoch).unwrap_or(i64::MAX),
        generation: placement.generation,
        envelope: encode(&envelope),
        ..view
    };
    InForce {
        placement,
        envelope,
        view,
    }
}

#[cfg(test)]
mod tests {
    use identity::PlacementVerifier;

    use super::*;
    use crate::model::fixture;

    const NOW: i64 = 1_800_000_000;

    fn draft() -> Draft {
        let InForce { placement, view, .. } = fixture::in_force(1, &["a", "b"]);
        let source = Source {
            uri: "file:///m.gguf".into(),
            sha256: vec![9; 32],
            index_sha256: vec![7; 32],
        };
        Draft {
            source,
            runtime: Runtime::default(),
            pipelines: placement.pipelines,
            view,
        }
    }

    fn signed(signer: &PlacementSigner) -> InForce {
        let (model, index) = (fixture::model(), fixture::facts().index);
        sign(signer, &model, &index, draft(), (None, 5), NOW).unwrap()
    }

    #[test]
    fn a_draft_is_signed_with_the_root_of_each_stages_weights() {
        let (signer, index) = (PlacementSigner::generate().unwrap(), fixture::facts().index);
        let signed = sign(&signer, &fixture::model(), &index, draft(), (None, 5), NOW).unwrap();
        let verified = PlacementVerifier::new([signer.public_key()])
            .unwrap()
            .verify(&signed.envelope)
            .unwrap();
        assert_eq!(verified, signed.placement);
        assert_eq!((verified.epoch, verified.generation, signed.view.epoch), (5, 1, 5));
        assert_eq!(verified.pipelines[0].epoch, 5);
        assert_eq!(signed.stages()[0].weight_root, index.stage_root(0, 3).unwrap().0);
        assert_eq!(verified.not_after_unix_s, NOW + INSTALLABLE_S);
    }

    #[test]
    fn layers_that_the_model_has_not_are_never_signed() {
        let (signer, mut draft) = (PlacementSigner::generate().unwrap(), draft());
        draft.pipelines[0].stages[1].end_layer = 99;
        let why = sign(
            &signer,
            &fixture::model(),
            &fixture::facts().index,
            draft,
            (None, 1),
            NOW,
        )
        .unwrap_err();
        assert_eq!(why.reason, "CheckFailed");
    }

    #[test]
    fn what_is_raised_above_an_unknown_placement_stands_anew() {
        let signer = PlacementSigner::generate().unwrap();
        let signed = signed(&signer);
        let raised = raise(&signer, &signed, 9, NOW).placement;
        assert_eq!((raised.epoch, raised.pipelines[0].epoch), (9, 9));
        assert_eq!(raised.pipelines[0].stages, signed.pipelines()[0].stages);
    }

    #[test]
    fn a_placement_is_prolonged_from_half_its_time_without_a_new_epoch() {
        let signer = PlacementSigner::generate().unwrap();
        let signed = signed(&signer);
        assert_eq!(prolong(&signer, &signed, NOW + INSTALLABLE_S / 2), None);
        let later = NOW + INSTALLABLE_S / 2 + 1;
        let prolonged = prolong(&signer, &signed, later).unwrap();
        assert_eq!(
            (prolonged.placement.epoch, prolonged.placement.not_after_unix_s),
            (5, later + INSTALLABLE_S)
        );
        assert_eq!(prolonged.placement.pipelines, signed.placement.pipelines);
        assert_ne!(prolonged.view.envelope, signed.view.envelope);
    }
}
