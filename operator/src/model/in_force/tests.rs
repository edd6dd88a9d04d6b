use crds::InferenceModelStatus;
use identity::PlacementSigner;

use super::*;
use crate::model::fixture;

/// A model whose status holds a placement, and the verifier of the key that signed it.
fn placed() -> (InferenceModel, InForce, PlacementVerifier) {
    let signer = PlacementSigner::generate().unwrap();
    let mut in_force = fixture::in_force(3, &["a", "b"]);
    in_force.envelope = signer.sign(&in_force.placement);
    in_force.view.envelope = encode(&in_force.envelope);
    let mut model = fixture::model();
    model.status = Some(InferenceModelStatus {
        placement: Some(in_force.view.clone()),
        ..Default::default()
    });
    let verifier = PlacementVerifier::new([signer.public_key()]).unwrap();
    (model, in_force, verifier)
}

fn view(model: &mut InferenceModel) -> &mut PlacementStatus {
    model.status.as_mut().unwrap().placement.as_mut().unwrap()
}

#[test]
fn a_placement_is_found_again_in_the_status() {
    let (model, in_force, verifier) = placed();
    assert_eq!(recall(&model, &verifier), Ok(Some(in_force)));
    assert_eq!(recall(&fixture::model(), &verifier), Ok(None));
}

#[test]
fn an_envelope_that_another_key_signed_is_not_taken_over() {
    let (model, ..) = placed();
    let other = PlacementVerifier::new([PlacementSigner::generate().unwrap().public_key()]).unwrap();
    assert!(matches!(recall(&model, &other), Err(RecallError::Envelope(_))));
}

#[test]
fn an_envelope_of_another_object_is_not_taken_over() {
    let (mut model, _, verifier) = placed();
    model.metadata.uid = Some("recreated".into());
    assert!(matches!(recall(&model, &verifier), Err(RecallError::Mismatch(_))));
}

#[test]
fn a_view_that_tells_another_story_is_not_taken_over() {
    let (mut model, _, verifier) = placed();
    view(&mut model).epoch = 9;
    assert!(matches!(recall(&model, &verifier), Err(RecallError::Mismatch(_))));
    let (mut model, _, verifier) = placed();
    view(&mut model).stages.pop();
    assert!(matches!(recall(&model, &verifier), Err(RecallError::Mismatch(_))));
    let (mut model, _, verifier) = placed();
    view(&mut model).envelope = "no base64!".into();
    assert!(matches!(recall(&model, &verifier), Err(RecallError::Envelope(_))));
}
