//! PURE: from placements in force to what each node is told to hold and each gateway may use.

use std::collections::BTreeMap;

use proto::control::v1::{Assignment, ModelRoute, Route};

use super::in_force::InForce;
use super::stages::StageSight;
use crate::agents::NodeAssignments;

/// What every node must hold: all placements that name it, each with the endpoints known so far. Infallible.
#[must_use]
pub fn assignments<'a>(
    placements: impl IntoIterator<Item = (&'a InForce, &'a [StageSight])>,
) -> BTreeMap<String, NodeAssignments> {
    let mut by_node: BTreeMap<String, NodeAssignments> = BTreeMap::new();
    for (in_force, sights) in placements {
        let assignment = Assignment {
            envelope: Some(in_force.envelope.clone()),
            routes: routes(sights),
        };
        for stage in in_force.stages() {
            let node = by_node.entry(stage.node.clone()).or_default();
            // A node with several stages of a model is told once.
            if node.models.insert(in_force.model_uid().to_owned()) {
                node.message.assignments.push(assignment.clone());
            }
        }
    }
    by_node
}

fn routes(sights: &[StageSight]) -> Vec<Route> {
    let known = sights
        .iter()
        .enumerate()
        .filter_map(|(stage, sight)| Some((stage, sight.endpoint.clone()?)));
    known
        .map(|(stage, endpoint)| Route {
            pipeline: 0,
            stage: stage as u32,
            endpoint,
        })
        .collect()
}

/// What gateways are told of one model; `message` says why it is not ready.
#[must_use]
pub fn model_route(
    model: &crds::InferenceModel,
    in_force: Option<(&InForce, &[StageSight])>,
    vocabulary_sha256: Vec<u8>,
    message: String,
) -> ModelRoute {
    let metadata = &model.metadata;
    let ready = in_force.is_some_and(|(_, sights)| !sights.is_empty() && sights.iter().all(StageSight::serves));
    let head = in_force
        .and_then(|(_, sights)| sights.first()?.endpoint.clone())
        .filter(|_| ready);
    ModelRoute {
        model_uid: metadata.uid.clone().unwrap_or_default(),
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        envelope: in_force.map(|(in_force, _)| in_force.envelope.clone()),
        head_endpoints: in_force.map(|_| head.unwrap_or_default()).into_iter().collect(),
        ready,
        message: if ready { String::new() } else { message },
        vocabulary_sha256,
        created_unix_s: metadata
            .creation_timestamp
            .as_ref()
            .map_or(0, |time| time.0.as_second()),
    }
}

#[cfg(test)]
mod tests {
    use proto::control::v1::ShardPhase;

    use super::*;
    use crate::model::{fixture, stages};

    #[test]
    fn every_node_is_told_once_of_every_placement_that_names_it() {
        let (one, two) = (
            fixture::in_force(1, &["a", "b", "a"]),
            fixture::in_force_of("other", 7, &["b"]),
        );
        let by_node = assignments([(&one, &[][..]), (&two, &[][..])]);
        assert_eq!(by_node.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(by_node["a"].message.assignments.len(), 1);
        assert_eq!(by_node["b"].models.iter().collect::<Vec<_>>(), [fixture::UID, "other"]);
    }

    #[test]
    fn routes_are_those_that_are_known() {
        let in_force = fixture::in_force(1, &["a", "b"]);
        let mut agents = fixture::agents(&["a", "b"]);
        fixture::report(&mut agents, "b", 1, 1, ShardPhase::Serving);
        let sights = stages::look(&in_force, &agents);
        let by_node = assignments([(&in_force, sights.as_slice())]);
        let routes = &by_node["a"].message.assignments[0].routes;
        assert_eq!(routes.iter().map(|route| route.stage).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn a_gateway_gets_the_head_only_when_all_stages_serve() {
        let (model, in_force) = (fixture::model(), fixture::in_force(1, &["a", "b"]));
        let mut agents = fixture::agents(&["a", "b"]);
        fixture::report(&mut agents, "a", 1, 0, ShardPhase::Serving);
        let route = |agents: &_| {
            let sights = stages::look(&in_force, agents);
            model_route(&model, Some((&in_force, &sights)), vec![1; 32], "stage 1 loads".into())
        };
        let partly = route(&agents);
        assert!(!partly.ready);
        assert_eq!(
            (partly.head_endpoints, partly.message.as_str()),
            (vec![String::new()], "stage 1 loads")
        );
        fixture::report(&mut agents, "b", 1, 1, ShardPhase::Serving);
        let whole = route(&agents);
        assert!(whole.ready && whole.message.is_empty());
        assert_eq!(whole.head_endpoints, ["a:7000"]);
        let unplaced = model_route(&model, None, Vec::new(), "not placed".into());
        assert!(unplaced.head_endpoints.is_empty() && unplaced.envelope.is_none());
    }
}
