//! PURE: which model holds what memory in a pass and puts what on links, in which order they come, and who is about to leave what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crds::names::members;
use crds::{InferenceModel, Yielded, YieldedLink};
use placement::{Plan, Problem};
use proto::control::v1::ShardStatus;
use topology::{HeldMemory, Traffic};

use super::decide::Decided;
use super::facts::Facts;
use super::in_force::InForce;
use super::reports::Reports;
use super::traffic::{Load, Sends};
use super::translate;
use super::yielding::{self, Needs, turn};
use crate::agents::AgentView;

/// Devices in the record of what a model gave up: its status has room for no more.
const YIELDED_DEVICES_MAX: usize = 64;

/// A model among the others.
#[derive(Debug, Clone)]
struct Rank {
    /// `<namespace>/<name>`.
    name: String,
    /// Higher ones may take what lower ones hold.
    priority: i32,
    /// Its place in the order of decisions.
    turn: usize,
    /// That it is asked for.
    tokens_per_second: Option<u32>,
    /// Of a link, what all may use together at that rate.
    link_percent: u64,
}

impl Rank {
    /// What it leaves to others on a link that carries so much: what it asks for is its own. All of it, if it asks for no rate.
    fn leaves(&self, load: &Load, link_bytes_per_second: u64) -> Option<u64> {
        self.tokens_per_second?;
        let allowed = u128::from(link_bytes_per_second) * u128::from(self.link_percent) / 100;
        let allowed = u64::try_from(allowed).unwrap_or(link_bytes_per_second);
        Some(allowed.saturating_sub(load.asked_bytes_per_second))
    }
}

/// What a model holds.
#[derive(Debug, Clone, Default)]
struct Held {
    /// The epoch of its placement.
    epoch: u64,
    memory: Vec<HeldMemory>,
    /// What it puts on links.
    loads: Vec<Load>,
    /// What it will put there beside that, as soon as others have left, or what it loads takes over.
    claimed: Vec<Load>,
}

/// Models and memory, by uid.
#[derive(Debug, Default)]
pub struct Holders {
    ranks: BTreeMap<String, Rank>,
    /// Which device has which memory.
    reports: Arc<Reports>,
    held: BTreeMap<String, Held>,
    /// What each model sends over a hop; of one whose source is not known yet, nothing is.
    sends: BTreeMap<String, Sends>,
    /// What models gave up in earlier passes.
    yielded: BTreeMap<String, Yielded>,
    /// What models give up in this pass, and all that they held.
    yielding: BTreeMap<String, (Yielded, Held)>,
}

impl Holders {
    /// Nobody holds anything yet.
    #[must_use]
    pub fn new<'m>(models: impl IntoIterator<Item = &'m InferenceModel>, reports: Arc<Reports>) -> Self {
        let mut models: Vec<&InferenceModel> = models.into_iter().collect();
        models.sort_by(|a, b| turn(a).cmp(&turn(b)));
        let rank = |(turn, model): (usize, &InferenceModel)| {
            let metadata = &model.metadata;
            let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref());
            let rate = model.spec.placement.min_tokens_per_second;
            let percent = model.spec.placement.max_link_percent;
            let rank = Rank {
                name: format!("{}/{}", namespace.unwrap_or_default(), name.unwrap_or_default()),
                priority: model.spec.priority,
                turn,
                tokens_per_second: rate.and_then(|rate| u32::try_from(rate).ok()),
                link_percent: percent.map_or(100, |percent| u64::try_from(percent).unwrap_or(100).min(100)),
            };
            Some((metadata.uid.clone()?, rank))
        };
        Self {
            ranks: models.into_iter().enumerate().filter_map(rank).collect(),
            reports,
            ..Self::default()
        }
    }

    /// What the model is. Comes before what it holds.
    pub fn knows(&mut self, uid: &str, facts: &Facts) {
        let asked = self.ranks.get(uid).and_then(|rank| rank.tokens_per_second);
        self.sends.insert(uid.to_owned(), Sends::of(facts, asked));
    }

    /// The model holds what this placement takes, and nothing else.
    pub fn hold(&mut self, uid: &str, in_force: &InForce) {
        let held = Held {
            epoch: in_force.placement.epoch,
            memory: translate::held(in_force).collect(),
            loads: self.loads(uid, in_force),
            claimed: Vec::new(),
        };
        self.held.insert(uid.to_owned(), held);
    }

    /// The model gave something up in an earlier pass.
    pub fn has_yielded(&mut self, uid: &str, record: &Yielded) {
        self.yielded.insert(uid.to_owned(), record.clone());
    }

    /// What models decided later must reckon with.
    pub fn heed(&mut self, uid: &str, decided: &Decided) {
        if let Some(new) = &decided.new_in_force {
            self.hold(uid, new);
        }
        if !decided.claims.is_empty() {
            // Beside what it holds, which it leaves only for what it waits for.
            let held = self.held.entry(uid.to_owned()).or_default();
            held.memory.extend(decided.claims.iter().cloned());
            held.claimed.extend(decided.claimed_links.iter().cloned());
        }
        for (lower, record) in &decided.takes {
            let held = self.held.remove(lower).unwrap_or_default();
            self.yielding.insert(lower.clone(), (record.clone(), held));
        }
    }

    /// What others hold, were the memory of some of them free.
    #[must_use]
    pub fn beside(&self, uid: &str, freed: &[&str]) -> Vec<HeldMemory> {
        let others = self.held.iter().filter(|(other, _)| *other != uid);
        others
            .filter(|(other, _)| !freed.contains(&other.as_str()))
            .flat_map(|(_, held)| held.memory.clone())
            .collect()
    }

    /// What others put on links, were some of them not there. `rate`: bytes per second that a link carries.
    ///
    /// Those of higher priority keep their share, or else they would take it back; and so does, towards all that are decided after it,
    /// whoever waits for a link that another yields.
    #[must_use]
    pub fn traffic_beside(&self, uid: &str, freed: &[&str], rate: impl Fn(&str, &str) -> u64) -> Vec<Traffic> {
        let own = self.ranks.get(uid).map(|rank| rank.priority);
        let mut traffic = Vec::new();
        for (other, held) in &self.held {
            if other == uid || freed.contains(&other.as_str()) {
                continue;
            }
            let (rank, by) = (self.ranks.get(other), self.name(other));
            let is_higher = rank.zip(own).is_some_and(|(rank, own)| rank.priority > own);
            let loads = held.loads.iter().map(|load| (load, is_higher));
            for (load, keeps) in loads.chain(held.claimed.iter().map(|load| (load, true))) {
                let keeper = rank.filter(|_| keeps);
                traffic.push(Traffic {
                    from_node: load.from_node.clone(),
                    to_node: load.to_node.clone(),
                    bytes_per_second: load.bytes_per_second,
                    by: by.clone(),
                    leaves_bytes_per_second: keeper
                        .and_then(|rank| rank.leaves(load, rate(&load.from_node, &load.to_node))),
                });
            }
        }
        traffic
    }

    /// What a placement of a model puts on links.
    fn loads(&self, uid: &str, in_force: &InForce) -> Vec<Load> {
        let sends = self.sends.get(uid);
        sends.map_or_else(Vec::new, |sends| sends.loads(in_force))
    }

    /// What must be left on links for plans of a problem of a model, while it waits.
    #[must_use]
    pub fn loads_of_plans(&self, uid: &str, problem: &Problem, plans: &[Plan]) -> Vec<Load> {
        let sends = self.sends.get(uid);
        sends.map_or_else(Vec::new, |sends| sends.loads_of_plans(problem, plans))
    }

    /// What a placement that is loaded beside the one in force will put on links beyond it.
    #[must_use]
    pub fn further_loads(&self, uid: &str, next: &InForce) -> Vec<Load> {
        let present = self.held.get(uid).map_or(&[][..], |held| &held.loads);
        let next = self.loads(uid, next).into_iter();
        next.filter_map(|load| load.beyond(present)).collect()
    }

    /// Whether a model holds or claims memory.
    #[must_use]
    pub fn holds(&self, uid: &str) -> bool {
        self.held.contains_key(uid)
    }

    /// What the model must give up in this pass.
    #[must_use]
    pub fn yields(&self, uid: &str) -> Option<&Yielded> {
        self.yielding.get(uid).map(|(record, _)| record)
    }

    /// Those of lower priority that hold something, by uid, the first to yield first.
    #[must_use]
    pub fn lower(&self, uid: &str) -> Vec<&str> {
        let Some(own) = self.ranks.get(uid) else {
            return Vec::new();
        };
        let holders = self.held.iter().filter(|(_, held)| !held.memory.is_empty());
        let ranked = holders.filter_map(|(other, _)| Some((other.as_str(), self.ranks.get(other)?)));
        let mut lower: Vec<(&str, &Rank)> = ranked.filter(|(_, rank)| rank.priority < own.priority).collect();
        lower.sort_by_key(|(_, rank)| std::cmp::Reverse(rank.turn));
        lower.into_iter().map(|(other, _)| other).collect()
    }

    /// The model's name, for people.
    #[must_use]
    pub fn name(&self, uid: &str) -> String {
        self.ranks
            .get(uid)
            .map_or_else(|| uid.to_owned(), |rank| rank.name.clone())
    }

    /// Other models, by name, that yield memory or links which plans would use, or yielded them and are still there: those whose
    /// record is not written yet, and those of whose given-up epoch a node of the plans still reports a shard.
    #[must_use]
    pub fn leaving(
        &self,
        uid: &str,
        plans: &[Plan],
        agents: &BTreeMap<String, AgentView>,
    ) -> BTreeMap<String, &Yielded> {
        let (pools, links) = (self.pools_of(plans), links_of(plans));
        let is_used = |load: &Load| links.contains(&(load.from_node.as_str(), load.to_node.as_str()));
        let meets = |held: &Held| !self.shared(held, &pools).is_empty() || held.loads.iter().any(is_used);
        let now = self
            .yielding
            .iter()
            .filter(|(other, (_, held))| *other != uid && meets(held));
        let stages = plans.iter().flat_map(|plan| &plan.stages);
        let nodes: BTreeSet<&str> = stages.map(|stage| stage.node.as_str()).collect();
        let before = self.yielded.iter().filter(|(other, record)| {
            let given_up = |shard: &ShardStatus| {
                shard.model_uid == **other && i64::try_from(shard.epoch).is_ok_and(|epoch| epoch <= record.epoch)
            };
            // Its record goes when a model is placed anew: until it has left everywhere, others must be able to see it.
            let mut near = agents
                .iter()
                .filter(|(node, _)| *other == uid || nodes.contains(node.as_str()));
            near.any(|(_, agent)| agent.shards.iter().any(given_up))
        });
        let leaving = before.chain(now.map(|(other, (record, _))| (other, record)));
        leaving.map(|(other, record)| (self.name(other), record)).collect()
    }

    /// What a lower model gives up for a plan of a higher one.
    #[must_use]
    pub fn record(&self, uid: &str, plan: &Plan, lower: &str, needs: Needs) -> Yielded {
        let priority = |uid: &str| self.ranks.get(uid).map_or(0, |rank| rank.priority);
        let held = self.held.get(lower).cloned().unwrap_or_default();
        let devices = match needs.memory {
            true => self.shared(&held, &self.pools_of(std::slice::from_ref(plan))),
            false => BTreeSet::new(),
        };
        Yielded {
            to: self.name(uid),
            to_uid: uid.to_owned(),
            to_priority: priority(uid),
            priority: priority(lower),
            devices: devices
                .into_iter()
                .take(YIELDED_DEVICES_MAX)
                .map(str::to_owned)
                .collect(),
            links: needs.links.into_iter().collect(),
            epoch: i64::try_from(held.epoch).unwrap_or(i64::MAX),
        }
    }

    /// What others gave up for plans of this model, for people.
    #[must_use]
    pub fn took(&self, uid: &str, plans: &[Plan]) -> Option<String> {
        let (pools, links) = (self.pools_of(plans), links_of(plans));
        let used = |device: &String| self.reports.pool_of(device).is_some_and(|pool| pools.contains(pool));
        let goes_over = |link: &YieldedLink| links.contains(&(link.from.as_str(), link.to.as_str()));
        let taken = self.yielded.iter().filter(|(_, record)| {
            let meets = record.devices.iter().any(used) || record.links.iter().any(goes_over);
            record.to_uid == uid && meets
        });
        yielding::took(taken.map(|(other, record)| (self.name(other), record)))
    }

    /// The memory pools that plans use.
    fn pools_of(&self, plans: &[Plan]) -> BTreeSet<&str> {
        let stages = plans.iter().flat_map(|plan| &plan.stages);
        let devices = stages.flat_map(|stage| members(&stage.device));
        devices.filter_map(|device| self.reports.pool_of(device)).collect()
    }

    /// The single devices that a model holds memory on in any of these pools.
    fn shared<'h>(&self, held: &'h Held, pools: &BTreeSet<&str>) -> BTreeSet<&'h str> {
        let devices = held.memory.iter().flat_map(|memory| members(&memory.device));
        devices
            .filter(|device| self.reports.pool_of(device).is_some_and(|pool| pools.contains(pool)))
            .collect()
    }
}

/// The links that plans go over.
fn links_of(plans: &[Plan]) -> BTreeSet<(&str, &str)> {
    let hops = plans.iter().flat_map(|plan| plan.stages.windows(2));
    hops.filter_map(|hop| match hop {
        [from, to] => Some((from.node.as_str(), to.node.as_str())),
        _ => None,
    })
    .collect()
}
