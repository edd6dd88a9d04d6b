//! PURE: from placements in force to what each node is told to hold and each gateway may use.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use proto::control::v1::{Assignment, ModelRoute, Purpose, Route, ShardPhase, ShardStatus, SourceAccess};

use super::in_force::InForce;
use super::stages::{self, StageSight};
use crate::agents::{AgentView, NodeAssignments};

/// Agents that are named as holders of a model's pieces: a reader asks one after the other, and some of the first will do.
const PEERS_MAX: usize = 16;

/// A placement in force with what its nodes must be told beside it.
#[derive(Debug)]
pub struct Holding<'a> {
    /// The placement.
    pub in_force: &'a InForce,
    /// Its stages.
    pub sights: &'a [StageSight],
    /// How its source is reached.
    pub access: Option<SourceAccess>,
    /// What takes its place once it is loaded.
    pub proposed: Option<&'a InForce>,
    /// What takes its place when a node is lost.
    pub standby: Vec<&'a InForce>,
}

/// What every node must hold: all placements that name it, each with the endpoints known so far. Infallible.
#[must_use]
pub fn assignments<'a>(
    holdings: impl IntoIterator<Item = Holding<'a>>,
    agents: &BTreeMap<String, AgentView>,
) -> BTreeMap<String, NodeAssignments> {
    let mut by_node: BTreeMap<String, NodeAssignments> = BTreeMap::new();
    let pieces = Pieces::of(agents);
    // Nodes of models that are about to be elsewhere.
    let mut moving: BTreeSet<String> = BTreeSet::new();
    for holding in holdings {
        let Holding {
            in_force,
            sights,
            access,
            proposed,
            standby,
        } = holding;
        let uid = in_force.model_uid();
        for stage in in_force.stages() {
            let node = by_node.entry(stage.node.clone()).or_default();
            // A node with several stages of a model is told once.
            if node.models.insert(uid.to_owned()) {
                node.message.assignments.push(Assignment {
                    envelope: Some(in_force.envelope.clone()),
                    routes: routes(sights),
                    access: access.clone(),
                    peers: pieces.peers(&stage.node, uid),
                    purpose: Purpose::Serve.into(),
                });
            }
        }
        if proposed.is_some() {
            moving.extend(in_force.nodes().map(str::to_owned));
        }
        let proposed = proposed.map(|proposed| (proposed, Purpose::Load));
        let ahead = proposed
            .into_iter()
            .chain(standby.into_iter().map(|next| (next, Purpose::Fetch)));
        for (next, purpose) in ahead {
            let nodes: BTreeSet<&str> = next.nodes().collect();
            for node in nodes
                .into_iter()
                .filter(|node| agents.get(*node).is_some_and(|agent| agent.takes_purposes))
            {
                let entry = by_node.entry(node.to_owned()).or_default();
                entry.models.insert(uid.to_owned());
                entry.message.assignments.push(Assignment {
                    envelope: Some(next.envelope.clone()),
                    routes: Vec::new(),
                    access: access.clone(),
                    peers: pieces.peers(node, uid),
                    purpose: purpose.into(),
                });
            }
        }
    }
    for (node, entry) in &mut by_node {
        entry.message.leave_now = agents.get(node).is_some_and(|agent| agent.leaving) && !moving.contains(node);
    }
    by_node
}

/// Who has verified pieces of which model: endpoints by node, by uid.
struct Pieces<'a>(HashMap<&'a str, BTreeMap<&'a str, &'a str>>);

impl<'a> Pieces<'a> {
    fn of(agents: &'a BTreeMap<String, AgentView>) -> Self {
        let mut holders: HashMap<&str, BTreeMap<&str, &str>> = HashMap::new();
        let reached = agents.iter().filter(|(_, agent)| !agent.weights_endpoint.is_empty());
        for (node, agent) in reached {
            for shard in agent.shards.iter().filter(|shard| is_verified(shard)) {
                let of_model = holders.entry(&shard.model_uid).or_default();
                of_model.insert(node, &agent.weights_endpoint);
            }
        }
        Self(holders)
    }

    /// Where a node may read pieces of a model that others have verified already. Each node begins after its own name, so that
    /// not all ask the same one first.
    fn peers(&self, node: &str, uid: &str) -> Vec<String> {
        let Some(holders) = self.0.get(uid) else {
            return Vec::new();
        };
        let after = holders.range::<str, _>((Bound::Excluded(node), Bound::Unbounded));
        let before = holders.range::<str, _>((Bound::Unbounded, Bound::Excluded(node)));
        let endpoints = after.chain(before).map(|(_, endpoint)| (*endpoint).to_owned());
        endpoints.take(PEERS_MAX).collect()
    }
}

/// Whether a shard's weights are complete and verified.
fn is_verified(shard: &ShardStatus) -> bool {
    matches!(
        shard.phase(),
        ShardPhase::Fetched | ShardPhase::Loading | ShardPhase::Loaded | ShardPhase::Serving | ShardPhase::Draining
    )
}

fn routes(sights: &[StageSight]) -> Vec<Route> {
    let known = sights.iter().filter_map(|sight| Some((sight, sight.endpoint.clone()?)));
    known
        .map(|(sight, endpoint)| Route {
            pipeline: sight.pipeline as u32,
            stage: sight.stage as u32,
            endpoint,
        })
        .collect()
}

/// What those wait for who would ask a model that is not ready.
#[derive(Debug, Default)]
pub struct Waits {
    /// Why it is not.
    pub message: String,
    /// It is placed: it will be ready once it is moved or loaded.
    pub placed: bool,
}

/// What gateways are told of one model.
#[must_use]
pub fn model_route(
    model: &crds::InferenceModel,
    in_force: Option<(&InForce, &[StageSight])>,
    vocabulary_sha256: Vec<u8>,
    waits: Waits,
) -> ModelRoute {
    let metadata = &model.metadata;
    let heads = in_force.map_or_else(Vec::new, |(in_force, sights)| stages::heads(in_force, sights));
    let ready = heads.iter().any(Option::is_some);
    ModelRoute {
        model_uid: metadata.uid.clone().unwrap_or_default(),
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        envelope: in_force.map(|(in_force, _)| in_force.envelope.clone()),
        head_endpoints: heads.into_iter().map(Option::unwrap_or_default).collect(),
        ready,
        message: if ready { String::new() } else { waits.message },
        recovering: !ready && waits.placed,
        vocabulary_sha256,
        created_unix_s: metadata
            .creation_timestamp
            .as_ref()
            .map_or(0, |time| time.0.as_second()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixture;

    fn waits(message: &str, placed: bool) -> Waits {
        let message = message.to_owned();
        Waits { message, placed }
    }

    fn holding<'a>(in_force: &'a InForce, sights: &'a [StageSight]) -> Holding<'a> {
        Holding {
            in_force,
            sights,
            access: None,
            proposed: None,
            standby: Vec::new(),
        }
    }

    #[test]
    fn a_node_is_told_of_others_that_hold_the_model_and_how_to_reach_its_source() {
        let in_force = fixture::in_force(1, &["a", "b", "c"]);
        let mut agents = fixture::agents(&["a", "b", "c", "d"]);
        fixture::report(&mut agents, "a", 1, 0, ShardPhase::Loading);
        fixture::report(&mut agents, "b", 1, 1, ShardPhase::Verifying);
        fixture::report(&mut agents, "c", 1, 2, ShardPhase::Serving);
        fixture::report(&mut agents, "d", 0, 0, ShardPhase::Draining);
        agents.get_mut("d").unwrap().weights_endpoint.clear();
        let access = Some(SourceAccess {
            proxy_url: "http://proxy:1".into(),
            ..Default::default()
        });
        let holding = Holding {
            access: access.clone(),
            ..holding(&in_force, &[])
        };
        let by_node = assignments([holding], &agents);
        let told = |node: &str| by_node[node].message.assignments[0].clone();
        assert_eq!(told("b").access, access);
        assert_eq!(told("b").peers, ["c:9445", "a:9445"], "each begins after its own name");
        assert_eq!(told("a").peers, ["c:9445"], "nobody is its own peer");
    }

    #[test]
    fn the_number_of_peers_is_bounded() {
        let names: Vec<String> = (0..40).map(|at| format!("n{at:02}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut agents = fixture::agents(&names);
        for name in &names {
            fixture::report(&mut agents, name, 1, 0, ShardPhase::Serving);
        }
        let pieces = Pieces::of(&agents);
        assert_eq!(pieces.peers("n39", fixture::UID).len(), PEERS_MAX);
        assert_eq!(pieces.peers("n39", fixture::UID)[0], "n00:9445");
    }

    #[test]
    fn every_node_is_told_once_of_every_placement_that_names_it() {
        let (one, two) = (
            fixture::in_force(1, &["a", "b", "a"]),
            fixture::in_force_of("other", 7, &["b"]),
        );
        let by_node = assignments([holding(&one, &[]), holding(&two, &[])], &BTreeMap::new());
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
        let by_node = assignments([holding(&in_force, &sights)], &agents);
        let routes = &by_node["a"].message.assignments[0].routes;
        assert_eq!(routes.iter().map(|route| route.stage).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn a_node_that_wants_to_leave_is_told_to_wait_while_what_it_serves_is_loaded_elsewhere_and_else_not() {
        let (in_force, next) = (fixture::in_force(1, &["a"]), fixture::in_force(2, &["b"]));
        let mut agents = fixture::agents(&["a", "b"]);
        let told = |agents: &BTreeMap<String, AgentView>, proposed| {
            let sights = stages::look(&in_force, agents);
            let holding = Holding {
                proposed,
                ..holding(&in_force, &sights)
            };
            assignments([holding], agents)
        };
        assert!(!told(&agents, None)["a"].message.leave_now, "it does not want to");
        agents.get_mut("a").unwrap().leaving = true;
        assert!(
            told(&agents, None)["a"].message.leave_now,
            "nothing is going to be moved"
        );
        let moving = told(&agents, Some(&next));
        assert!(!moving["a"].message.leave_now);
        assert_eq!(moving["b"].message.assignments[0].purpose(), Purpose::Load);
        agents.get_mut("b").unwrap().takes_purposes = false;
        assert!(
            !told(&agents, Some(&next)).contains_key("b"),
            "it would take it for one to serve"
        );
    }

    #[test]
    fn a_gateway_gets_the_heads_of_those_replicas_of_which_every_stage_serves() {
        let (model, in_force) = (fixture::model(), fixture::replicas(1, &[&["a", "b"], &["c"]]));
        let mut agents = fixture::agents(&["a", "b", "c"]);
        fixture::report(&mut agents, "a", 1, 0, ShardPhase::Serving);
        fixture::report_of(&mut agents, "c", 1, (1, 0), ShardPhase::Serving);
        let sights = stages::look(&in_force, &agents);
        let route = model_route(&model, Some((&in_force, &sights)), vec![1; 32], Waits::default());
        assert!(route.ready, "one serves");
        assert_eq!(route.head_endpoints, ["", "c:7000"]);
        let by_node = assignments([holding(&in_force, &sights)], &agents);
        let told = &by_node["b"].message.assignments[0].routes;
        let told: Vec<(u32, u32)> = told.iter().map(|route| (route.pipeline, route.stage)).collect();
        assert_eq!(told, [(0, 0), (1, 0)]);
    }

    #[test]
    fn a_gateway_gets_the_head_only_when_all_stages_serve() {
        let (model, in_force) = (fixture::model(), fixture::in_force(1, &["a", "b"]));
        let mut agents = fixture::agents(&["a", "b"]);
        fixture::report(&mut agents, "a", 1, 0, ShardPhase::Serving);
        let route = |agents: &_| {
            let sights = stages::look(&in_force, agents);
            model_route(
                &model,
                Some((&in_force, &sights)),
                vec![1; 32],
                waits("stage 1 loads", true),
            )
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
        let unplaced = model_route(&model, None, Vec::new(), waits("not placed", false));
        assert!(unplaced.head_endpoints.is_empty() && unplaced.envelope.is_none());
    }
}
