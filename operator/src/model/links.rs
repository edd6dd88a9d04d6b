//! PURE: which agents measure the links to which, and what their reports come to as a graph.
//!
//! In a small cluster every agent measures to every other. In a large one each measures to ⌈4·log₂ n⌉ of them, so that the
//! whole grows with n·log n: 18 nodes are all pairs, a thousand have 40 peers each. The sample has strata: half of a node's
//! peers are of its own zone, where its stages will most likely go on, the others of the other zones in turn. Nodes that are
//! neighbours in a placement are always in it. A node that comes or goes changes the peers of a few others, not of all.

mod slow;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crds::NodeLinkState;
use proto::control::v1::{LinkPeer, LinkPeers};
use topology::{DevicePair, LinkReport, Links, NodeLabels};

use super::groups::Groups;
use crate::agents::AgentView;

pub use slow::SlowLinks;

/// Label of a Node's stratum.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// Peers of one agent in all: what its object has room for.
const PEERS_MAX: usize = 128;
/// Of these, neighbours in placements; a node of many models has some dozen.
const NEIGHBOURS_MAX: usize = 64;
/// Points that are thrown for one peer that is to be found; with a sparse ring most hit a new one at once.
const THROWS_PER_PEER: u64 = 8;
/// Places of each member on its ring: with a single one some members would have most of the ring, and others would never be hit.
const PLACES: u64 = 8;
/// The sample of every operator is the same, so that a new leader asks for no new links.
const SEED: u64 = 0x5348_4152_4457_5249;
/// Ages of reports are judged this often: what they come to changes within hours.
const JUDGE_EVERY_S: i64 = 600;

/// An agent that others can reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its node.
    pub node: String,
    /// host:port of its port for other agents.
    pub endpoint: String,
    /// Its stratum; may be empty.
    pub zone: String,
}

/// What is remembered from pass to pass, because it is expensive to compute and seldom changes.
#[derive(Debug, Default)]
pub struct Memory {
    members: Vec<Member>,
    neighbours: BTreeSet<(String, String)>,
    told: BTreeMap<String, Arc<LinkPeers>>,
    objects: Vec<Arc<NodeLinkState>>,
    judged_unix_s: i64,
    links: Links,
    slow: SlowLinks,
    groups: Arc<Groups>,
}

impl Memory {
    /// The links as they are reported; the same value for as long as nothing changes that counts.
    pub fn links(&mut self, objects: &[Arc<NodeLinkState>], now_unix_s: i64) -> Links {
        let same = self.objects.len() == objects.len()
            && self.objects.iter().zip(objects).all(|(a, b)| Arc::ptr_eq(a, b))
            && now_unix_s.abs_diff(self.judged_unix_s) < JUDGE_EVERY_S.unsigned_abs();
        if !same {
            let reports: Vec<LinkReport> = objects
                .iter()
                .flat_map(|object| LinkReport::from_state(object, now_unix_s))
                .collect();
            let pairs: Vec<DevicePair> = objects
                .iter()
                .flat_map(|object| DevicePair::from_state(object))
                .collect();
            let links = Links::build(&reports, &pairs);
            // Kept where it is equal: graphs that share it are compared at once.
            if links != self.links {
                self.links = links;
            }
            self.slow = SlowLinks::of(objects, now_unix_s);
            let groups = Groups::of(objects);
            if groups != *self.groups {
                self.groups = Arc::new(groups);
            }
            self.objects = objects.to_vec();
            self.judged_unix_s = now_unix_s;
        }
        self.links.clone()
    }

    /// Links that became slow, by what [`Memory::links`] was given last.
    pub fn slow(&self) -> &SlowLinks {
        &self.slow
    }

    /// Devices that work as one, by what [`Memory::links`] was given last.
    pub fn groups(&self) -> Arc<Groups> {
        Arc::clone(&self.groups)
    }

    /// Whom every agent is to measure to.
    pub fn peers(
        &mut self,
        members: Vec<Member>,
        neighbours: BTreeSet<(String, String)>,
    ) -> &BTreeMap<String, Arc<LinkPeers>> {
        if members != self.members || neighbours != self.neighbours {
            let before = std::mem::replace(&mut self.told, whom(&members, &neighbours, SEED));
            for (node, told) in &mut self.told {
                // Kept where it is equal: then nobody needs to compare it again.
                if let Some(same) = before.get(node).filter(|before| *before == told) {
                    told.clone_from(same);
                }
            }
            (self.members, self.neighbours) = (members, neighbours);
        }
        &self.told
    }
}

/// Agents that others can reach, in the order of their nodes.
pub fn members(agents: &BTreeMap<String, AgentView>, node_labels: &BTreeMap<String, NodeLabels>) -> Vec<Member> {
    let reached = agents.iter().filter(|(_, agent)| !agent.weights_endpoint.is_empty());
    reached
        .map(|(node, agent)| Member {
            node: node.clone(),
            endpoint: agent.weights_endpoint.clone(),
            zone: node_labels
                .get(node)
                .and_then(|labels| labels.get(ZONE_LABEL))
                .cloned()
                .unwrap_or_default(),
        })
        .collect()
}

/// How many peers each of `nodes` has: ⌈4·log₂ n⌉, all of them where there are no more.
pub fn sample_size(nodes: usize) -> usize {
    let to_the_fourth = (nodes as u128).saturating_pow(4);
    let log = 128 - to_the_fourth.saturating_sub(1).leading_zeros() as usize;
    nodes.saturating_sub(1).min(log)
}

/// Whom every member is to measure to.
pub fn whom(
    members: &[Member],
    neighbours: &BTreeSet<(String, String)>,
    seed: u64,
) -> BTreeMap<String, Arc<LinkPeers>> {
    let size = sample_size(members.len());
    let by_node: BTreeMap<&str, usize> = members
        .iter()
        .enumerate()
        .map(|(at, m)| (m.node.as_str(), at))
        .collect();
    let mut chosen: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); members.len()];
    for (a, b) in neighbours {
        let (Some(a), Some(b)) = (by_node.get(a.as_str()), by_node.get(b.as_str())) else {
            continue;
        };
        for (from, to) in [(*a, *b), (*b, *a)] {
            if from != to && chosen[from].len() < NEIGHBOURS_MAX {
                chosen[from].insert(to);
            }
        }
    }
    let near = chosen.clone();
    let rings = Rings::new(members, seed);
    for (at, member) in members.iter().enumerate() {
        if size + 1 == members.len() {
            chosen[at].extend((0..members.len()).filter(|other| *other != at));
        } else {
            rings.choose(at, member, size, seed, &mut chosen[at]);
        }
    }
    let peer = |at: usize, neighbour| LinkPeer {
        node: members[at].node.clone(),
        endpoint: members[at].endpoint.clone(),
        neighbour,
    };
    members
        .iter()
        .zip(chosen.iter().zip(&near))
        .map(|(member, (chosen, near))| {
            let peers = chosen.iter().take(PEERS_MAX);
            let peers = peers.map(|at| peer(*at, near.contains(at))).collect();
            (member.node.clone(), Arc::new(LinkPeers { peers }))
        })
        .collect()
}

/// The members of each zone on a ring, in places that chance has given them: a point that is thrown hits the next one.
struct Rings<'a> {
    zones: BTreeMap<&'a str, Vec<(u64, usize)>>,
}

impl<'a> Rings<'a> {
    fn new(members: &'a [Member], seed: u64) -> Self {
        let mut zones: BTreeMap<&str, Vec<(u64, usize)>> = BTreeMap::new();
        for (at, member) in members.iter().enumerate() {
            let places = (0..PLACES).map(|place| (hash(!seed, &[member.node.as_bytes(), &place.to_le_bytes()]), at));
            zones.entry(&member.zone).or_default().extend(places);
        }
        zones.values_mut().for_each(|ring| ring.sort_unstable());
        Self { zones }
    }

    /// Adds `size` peers to those that are chosen already.
    fn choose(&self, own: usize, member: &Member, size: usize, seed: u64, chosen: &mut BTreeSet<usize>) {
        let most = (chosen.len() + size).min(PEERS_MAX);
        let home: Vec<&Vec<(u64, usize)>> = self.zones.get(member.zone.as_str()).into_iter().collect();
        let others: Vec<&Vec<(u64, usize)>> = self
            .zones
            .iter()
            .filter(|(zone, _)| **zone != member.zone)
            .map(|(_, ring)| ring)
            .collect();
        // Whatever half the one side does not have, the other takes.
        let half = chosen.len() + size.div_ceil(2);
        let thrower = Thrower { own, member, seed };
        thrower.throw(&home, if others.is_empty() { most } else { half.min(most) }, chosen);
        thrower.throw(&others, most, chosen);
        thrower.throw(&home, most, chosen);
    }
}

struct Thrower<'a> {
    own: usize,
    member: &'a Member,
    seed: u64,
}

impl Thrower<'_> {
    /// Throws at the rings in turn until `most` are chosen, or nothing new is hit any more; then takes who is left, in order.
    fn throw(&self, rings: &[&Vec<(u64, usize)>], most: usize, chosen: &mut BTreeSet<usize>) {
        if rings.is_empty() {
            return;
        }
        let throws = most.saturating_sub(chosen.len()) as u64 * THROWS_PER_PEER;
        // Each node begins with another zone.
        let first = hash(self.seed, &[self.member.node.as_bytes()]) as usize % rings.len();
        for number in 0..throws {
            if chosen.len() >= most {
                return;
            }
            let ring = rings[(first + number as usize) % rings.len()];
            let point = hash(self.seed, &[self.member.node.as_bytes(), &number.to_le_bytes()]);
            let next = ring.partition_point(|(place, _)| *place < point);
            if let Some((_, hit)) = ring.get(next).or(ring.first())
                && *hit != self.own
            {
                chosen.insert(*hit);
            }
        }
        for (_, at) in rings.iter().flat_map(|ring| ring.iter()) {
            if chosen.len() >= most {
                return;
            }
            if *at != self.own {
                chosen.insert(*at);
            }
        }
    }
}

/// FNV-1a, stirred once more: it must not change between releases, or all links would be measured anew.
fn hash(seed: u64, parts: &[&[u8]]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.iter().chain(&[0xff]));
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325 ^ seed, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests;
