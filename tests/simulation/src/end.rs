//! How a world ended, made comparable with another end of the same story.

use std::collections::{BTreeMap, BTreeSet};

use apimodel::{Happened, kinds};
use crds::names::AUTHORITY_SINCE;
use serde_json::{Value, json};

use crate::world::{World, is_state};

/// How often one object was made and deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    made: usize,
    deleted: usize,
}

/// Objects, agents, and how often what was made and deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Every object, in JSON.
    objects: BTreeMap<String, String>,
    /// What each agent holds.
    agents: BTreeMap<String, String>,
    counts: BTreeMap<String, Count>,
}

impl End {
    /// Of the world as it is now.
    #[must_use]
    pub fn of(world: &World) -> Self {
        let names = names(world);
        let (mut objects, mut agents) = (BTreeMap::new(), BTreeMap::new());
        let mut counts: BTreeMap<String, Count> = BTreeMap::new();
        world.api.with(|store| {
            for (key, object) in store.all().filter(|(key, _)| is_state(key)) {
                let object = normal(key.kind(), object).to_string();
                objects.insert(renamed(&key.to_string(), &names), renamed(&object, &names));
            }
            for change in store.log().iter().filter(|change| is_state(&change.key)) {
                let object = renamed(&change.key.to_string(), &names);
                let count = counts.entry(object).or_default();
                match change.happened {
                    Happened::Added => count.made += 1,
                    Happened::Deleted => count.deleted += 1,
                    Happened::Modified => {}
                }
            }
        });
        for (node, host) in &world.hosts {
            let held = host.agent().holds();
            let mut held: Vec<String> = held.iter().map(|line| renamed(line, &names)).collect();
            held.sort();
            agents.insert(renamed(&format!("agent {node}"), &names), held.join("; "));
        }
        Self {
            objects,
            agents,
            counts,
        }
    }

    /// Every field of every object by its path, and what each agent holds.
    fn leaves(&self) -> BTreeMap<String, String> {
        let mut leaves = self.agents.clone();
        for (path, object) in &self.objects {
            flatten(path, &serde_json::from_str(object).unwrap_or_default(), &mut leaves);
        }
        leaves
    }

    /// What differs from another end, one line each; empty where nothing does.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        if self == other {
            return Vec::new();
        }
        let mut found = Vec::new();
        let (one, two) = (self.leaves(), other.leaves());
        let paths: BTreeSet<&String> = one.keys().chain(two.keys()).collect();
        for path in paths {
            let (one, two) = (one.get(path), two.get(path));
            if one != two {
                let shown = |leaf: Option<&String>| leaf.map_or_else(|| "nothing".to_owned(), String::clone);
                found.push(format!("{path}: {} became {}", shown(one), shown(two)));
            }
        }
        let objects: BTreeSet<&String> = self.counts.keys().chain(other.counts.keys()).collect();
        for object in objects {
            let count = |end: &Self| end.counts.get(object).copied().unwrap_or_default();
            let (one, two) = (count(self), count(other));
            if one != two {
                found.push(format!(
                    "{object}: made {} times instead of {}, deleted {} times instead of {}",
                    two.made, one.made, two.deleted, one.deleted
                ));
            }
        }
        found
    }
}

/// What stands for what in a comparison.
///
/// Uids are counted in the order in which objects are made, so objects are known by their names. Nodes that are alike are known
/// by what they do: which of them a model is given to depends on whose agent attached first, and that on the moment at which an
/// operator died. Nodes to which something happened (cordoned, a device lost, the agent gone) keep their names.
fn names(world: &World) -> Vec<(String, String)> {
    let mut names: Vec<(String, String)> = world.api.with(|store| {
        let named = store.log().iter().filter_map(|change| {
            let uid = change.object["metadata"]["uid"].as_str()?;
            Some((uid.to_owned(), change.key.to_string()))
        });
        named.collect::<BTreeMap<_, _>>().into_iter().collect()
    });
    let mut alike: BTreeSet<String> = world.nodes_alike();
    let mut placed: Vec<String> = Vec::new();
    world.api.with(|store| {
        for (_, object) in store.all() {
            let stages = object["status"]["placement"]["stages"].as_array();
            let nodes = stages.into_iter().flatten().filter_map(|stage| stage["node"].as_str());
            placed.extend(nodes.map(str::to_owned));
        }
    });
    placed.retain(|node| alike.remove(node));
    let mut rest: Vec<(Vec<String>, String)> = alike
        .into_iter()
        .map(|node| {
            let held = world.hosts[&node].agent().holds();
            (
                held.iter()
                    .map(|line| line.replace(&format!(" {node}-"), " "))
                    .collect(),
                node,
            )
        })
        .collect();
    rest.sort();
    let ordered = placed.into_iter().chain(rest.into_iter().map(|(_, node)| node));
    names.extend(ordered.enumerate().map(|(at, node)| (node, format!("node #{at}"))));
    names
}

/// An object without what two right ends may differ in.
fn normal(kind: &kinds::Kind, object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        // Counters and dates of the API server.
        for counted in ["resourceVersion", "uid", "creationTimestamp"] {
            metadata.remove(counted);
        }
    }
    for condition in object
        .pointer_mut("/status/conditions")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        // A date.
        condition
            .as_object_mut()
            .map(|fields| fields.remove("lastTransitionTime"));
    }
    if let Some(annotations) = object
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        // A date.
        annotations.remove(AUTHORITY_SINCE);
    }
    if let Some(placement) = object.pointer_mut("/status/placement").and_then(Value::as_object_mut) {
        // Signed, with a date in it; that it says what the view says is checked when it is taken over.
        placement.remove("envelope");
        // Of the moment of the decision: what lost to it among the agents that had attached by then.
        placement.remove("runnerUp");
    }
    if matches!(kind.plural, "secrets" | "configmaps") {
        // Keys are random. That a Secret is only written over step by step is an invariant of its own.
        for value in object["data"]
            .as_object_mut()
            .into_iter()
            .flat_map(|data| data.values_mut())
        {
            *value = json!("some");
        }
    }
    object
}

/// Puts names in the place of what they stand for.
fn renamed(text: &str, names: &[(String, String)]) -> String {
    names.iter().fold(text.to_owned(), |text, (from, to)| {
        if text.contains(from.as_str()) {
            text.replace(from, to)
        } else {
            text
        }
    })
}

fn flatten(path: &str, value: &Value, leaves: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                flatten(&format!("{path}.{name}"), value, leaves);
            }
        }
        Value::Array(items) => {
            for (at, value) in items.iter().enumerate() {
                // Conditions are told apart by their type and not by their place.
                let at = value["type"].as_str().map_or_else(|| at.to_string(), str::to_owned);
                flatten(&format!("{path}[{at}]"), value, leaves);
            }
        }
        leaf => {
            leaves.insert(path.to_owned(), leaf.to_string());
        }
    }
}
