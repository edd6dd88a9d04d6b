//! What to do about reservations. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crds::names;
use k8s_openapi::api::core::v1::{Node, Pod, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{Count, Settings};

/// Without an agent for this long a node's reservations are given back: an agent that is replaced is away for less.
pub const AGENT_GRACE: Duration = Duration::from_secs(300);
/// A pod that the kubelet refused is tried again after this long; what refused it needs time, too.
const REFUSED_FOR: Duration = Duration::from_secs(30);
/// More devices than a node has, so that one absurd number makes no thousands of pods.
const DEVICES_MAX: u32 = 256;

/// Something to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Make this pod.
    Reserve(Reservation),
    /// End this pod, if it is still the one with that uid.
    Release {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
        /// For the log.
        why: &'static str,
    },
}

/// A pod that is wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct Reservation {
    /// Name of the pod.
    pub name: String,
    /// Where it runs.
    pub node: String,
    /// The extended resource of which it holds one.
    pub resource: String,
    /// What the agent there tolerates.
    pub tolerations: Vec<Toleration>,
}

/// What is seen, all of one moment.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// All nodes.
    pub nodes: Vec<Node>,
    /// The agents' pods.
    pub agents: Vec<Pod>,
    /// Reservation pods.
    pub reservations: Vec<Pod>,
}

/// All that is remembered between two plans. By our own clock: the dates in objects are those of others.
#[derive(Debug, Default)]
pub struct Remembered {
    /// When each node's agent was last seen.
    agents: BTreeMap<String, Instant>,
    /// By uid, when a pod that has ended was first seen so.
    ended: BTreeMap<String, Instant>,
}

/// Whether a pod may ask for one of this resource and get a whole device, or a part of one that is a device to us.
#[must_use]
pub fn is_device(resource: &str) -> bool {
    match resource.split_once('/') {
        Some(("nvidia.com", name)) => name == "gpu" || name == "gpu.shared" || name.starts_with("mig-"),
        Some(("amd.com", _)) => true,
        Some(("gpu.intel.com", name)) => matches!(name, "i915" | "xe"),
        _ => false,
    }
}

/// What has to be done, the same for the same observation. `remembered` is brought up to date.
pub fn plan(observed: &Observed, settings: &Settings, remembered: &mut Remembered, now: Instant) -> Vec<Action> {
    let Remembered { agents: seen, ended } = remembered;
    let agents = agents(&observed.agents);
    let nodes: BTreeMap<&str, &Node> = observed
        .nodes
        .iter()
        .filter_map(|node| Some((node.metadata.name.as_deref()?, node)))
        .collect();
    for node in agents.keys() {
        seen.insert((*node).to_owned(), now);
    }
    let mut held: BTreeMap<(&str, &str), Vec<&Pod>> = BTreeMap::new();
    let mut actions = Vec::new();
    for pod in &observed.reservations {
        let Some((node, resource)) = place(pod) else {
            actions.extend(release(pod, "it is no reservation of this version"));
            continue;
        };
        // A new leader gives an agent the same time as one that saw it go.
        let since = *seen.entry(node.to_owned()).or_insert(now);
        let why = if !settings.enabled {
            Some("devices are not reserved any more")
        } else if !nodes.contains_key(node) {
            Some("its node is gone")
        } else if now.saturating_duration_since(since) >= AGENT_GRACE {
            Some("its node has no agent")
        } else if is_over(pod, ended, now) {
            Some("it was refused or evicted")
        } else {
            None
        };
        match why {
            Some(why) => actions.extend(release(pod, why)),
            None => held.entry((node, resource)).or_default().push(pod),
        }
    }
    let uids = observed
        .reservations
        .iter()
        .filter_map(|pod| pod.metadata.uid.as_deref());
    let uids: BTreeSet<&str> = uids.collect();
    ended.retain(|uid, _| uids.contains(uid.as_str()));
    let present: BTreeSet<&str> = held.keys().map(|(node, _)| *node).collect();
    seen.retain(|node, _| agents.contains_key(node.as_str()) || present.contains(node.as_str()));
    if settings.enabled {
        actions.extend(surplus(&held, settings.count));
        let taken: BTreeSet<&str> = observed.reservations.iter().filter_map(name).collect();
        for (node, tolerations) in &agents {
            if let Some(node) = nodes.get(node).filter(|node| takes_pods(node)) {
                actions.extend(wanted(node, tolerations, &held, &taken, settings.count));
            }
        }
    }
    actions
}

/// Nodes that have an agent, and what it tolerates there.
fn agents(pods: &[Pod]) -> BTreeMap<&str, &[Toleration]> {
    pods.iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .filter_map(|pod| {
            let spec = pod.spec.as_ref()?;
            Some((
                spec.node_name.as_deref()?,
                spec.tolerations.as_deref().unwrap_or_default(),
            ))
        })
        .collect()
}

fn takes_pods(node: &Node) -> bool {
    let spec = node.spec.as_ref();
    node.metadata.deletion_timestamp.is_none() && spec.is_none_or(|spec| spec.unschedulable != Some(true))
}

/// One pod more for each resource of which more is wanted and for which none is waiting.
fn wanted<'a>(
    node: &'a Node,
    tolerations: &'a [Toleration],
    held: &'a BTreeMap<(&str, &str), Vec<&Pod>>,
    taken: &'a BTreeSet<&str>,
    count: Count,
) -> impl Iterator<Item = Action> + 'a {
    let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    let name = node.metadata.name.as_deref().unwrap_or_default();
    allocatable
        .into_iter()
        .flatten()
        .filter(|(resource, _)| is_device(resource))
        .filter_map(move |(resource, quantity)| {
            let pods = held.get(&(name, resource.as_str())).map_or(&[][..], Vec::as_slice);
            let there = whole(quantity);
            let most = match count {
                Count::All => there,
                Count::AtMost(most) => there.min(most),
            };
            let more = u32::try_from(pods.len()).is_ok_and(|pods| pods < most);
            // One at a time: one that waits says that there is none free.
            let settled = pods
                .iter()
                .all(|pod| is_bound(pod) && pod.metadata.deletion_timestamp.is_none());
            if !more || !settled {
                return None;
            }
            let free = (0..=DEVICES_MAX)
                .map(|index| names::reservation_pod(name, resource, index))
                .find(|name| !taken.contains(name.as_str()))?;
            Some(Action::Reserve(Reservation {
                name: free,
                node: name.to_owned(),
                resource: resource.clone(),
                tolerations: carried(tolerations),
            }))
        })
}

/// Pods above a number that was lowered; those that wait first, then the last ones made.
fn surplus(held: &BTreeMap<(&str, &str), Vec<&Pod>>, count: Count) -> Vec<Action> {
    let Count::AtMost(most) = count else {
        return Vec::new();
    };
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let mut actions = Vec::new();
    for pods in held.values().filter(|pods| pods.len() > most) {
        let mut pods = pods.clone();
        pods.sort_by_key(|pod| (!is_bound(pod), pod.metadata.creation_timestamp.clone(), name(pod)));
        let over = pods.into_iter().skip(most);
        actions.extend(over.filter_map(|pod| release(pod, "fewer devices are to be held")));
    }
    actions
}

/// What the agent's pod tolerates of its owner's will; the rest came with being a DaemonSet's.
fn carried(tolerations: &[Toleration]) -> Vec<Toleration> {
    let own = |toleration: &&Toleration| {
        let key = toleration.key.as_deref().unwrap_or_default();
        !key.starts_with("node.kubernetes.io/")
    };
    tolerations.iter().filter(own).cloned().collect()
}

/// Node and resource of a pod, as they were written on it.
fn place(pod: &Pod) -> Option<(&str, &str)> {
    let written = pod.metadata.annotations.as_ref()?;
    Some((
        written.get(super::object::NODE_ANNOTATION)?,
        written.get(super::object::RESOURCE_ANNOTATION)?,
    ))
}

fn name(pod: &Pod) -> Option<&str> {
    pod.metadata.name.as_deref()
}

fn is_bound(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some())
}

/// It ended, which it never does by itself, and was first seen so long enough ago to try again.
fn is_over(pod: &Pod, ended: &mut BTreeMap<String, Instant>, now: Instant) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let uid = pod.metadata.uid.as_ref();
    let Some(uid) = uid.filter(|_| matches!(phase, Some("Failed" | "Succeeded"))) else {
        return false;
    };
    let since = *ended.entry(uid.clone()).or_insert(now);
    now.saturating_duration_since(since) >= REFUSED_FOR
}

/// Nothing where it is being ended already.
fn release(pod: &Pod, why: &'static str) -> Option<Action> {
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    Some(Action::Release {
        name: pod.metadata.name.clone()?,
        uid: pod.metadata.uid.clone()?,
        why,
    })
}

/// Extended resources are whole numbers.
fn whole(quantity: &Quantity) -> u32 {
    quantity.0.parse::<u32>().unwrap_or(0).min(DEVICES_MAX)
}

#[cfg(test)]
mod tests;
