//! What must never be, whatever happens; checked over everything that ever happened in a world.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use apimodel::{Change, Happened, Seen, Verb};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use crate::world::World;

/// What a request breaks by itself: every delete says which object it means (I2).
#[must_use]
pub fn of_request(seen: &Seen<'_>) -> Option<String> {
    let unnamed = seen.request.verb == Verb::Delete && seen.body["preconditions"]["uid"].is_null();
    unnamed.then(|| format!("I2: {} names no uid", seen.request.text()))
}

/// What the history of a world breaks. A store that went back begins another history; agents remember across it.
#[must_use]
pub fn of_history(world: &World) -> Vec<String> {
    let mut broken = Vec::new();
    world.api.with(|store| {
        let mut histories = Histories::default();
        for change in store.log() {
            histories.take(change, &mut broken);
        }
    });
    for host in world.hosts.values() {
        broken.append(&mut host.agent().violations);
    }
    broken
}

#[derive(Default)]
struct Histories {
    /// Of models: the latest epoch, in the latest past.
    epochs: BTreeMap<String, u64>,
    /// Of models and epochs: the stages.
    placements: BTreeMap<(String, u64), Value>,
    revision: u64,
    lease: Option<Value>,
}

impl Histories {
    fn take(&mut self, change: &Change, broken: &mut Vec<String>) {
        if change.revision <= self.revision {
            // The store went back: what is compared with is what it went back to.
            self.epochs.clear();
            self.placements.clear();
            self.lease = None;
        }
        self.revision = change.revision;
        match change.key.kind().plural {
            "inferencemodels" => self.model(change, broken),
            "leases" => self.lease(change, broken),
            _ => {}
        }
    }

    fn model(&mut self, change: &Change, broken: &mut Vec<String>) {
        let object = &change.object;
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        if change.happened == Happened::Deleted {
            self.epochs.remove(&uid);
            return;
        }
        if let Some(before) = &change.before
            && before["spec"] != object["spec"]
            && change.by.as_ref() != "user"
        {
            broken.push(format!("I2: {} changed the spec of {}", change.by, change.key));
        }
        let placement = &object["status"]["placement"];
        let Some(epoch) = placement["epoch"].as_u64() else {
            return;
        };
        let latest = self.epochs.entry(uid.clone()).or_insert(epoch);
        if epoch < *latest {
            broken.push(format!("I3: {} went from epoch {latest} to {epoch}", change.key));
        }
        *latest = epoch;
        let stages: Vec<Value> = placement["stages"]
            .as_array()
            .into_iter()
            .flatten()
            .map(place)
            .collect();
        let stages = Value::from(stages);
        let known = self.placements.entry((uid, epoch)).or_insert_with(|| stages.clone());
        if *known != stages {
            broken.push(format!("I3: {} has two placements of epoch {epoch}", change.key));
        }
    }

    /// A lease passes from one holder to another only when it has lapsed or was given back (I3).
    fn lease(&mut self, change: &Change, broken: &mut Vec<String>) {
        let spec = change.object["spec"].clone();
        if let Some(before) = self.lease.replace(spec.clone()) {
            let (from, to) = (&before["holderIdentity"], &spec["holderIdentity"]);
            let held = from.as_str().is_some_and(|holder| !holder.is_empty());
            if held && from != to && to != "" {
                let renewed = before["renewTime"]
                    .as_str()
                    .and_then(|text| text.parse::<Timestamp>().ok());
                let lasts = Duration::from_secs(before["leaseDurationSeconds"].as_u64().unwrap_or(0));
                let lapses = renewed.map(|renewed| SystemTime::from(renewed) + lasts);
                if lapses.is_some_and(|lapses| lapses > change.at) {
                    broken.push(format!("I3: {to} took the lease of {from} before it lapsed"));
                }
            }
        }
    }
}

/// Where a stage is; what it does is no part of the placement.
fn place(stage: &Value) -> Value {
    let fields = ["pipeline", "index", "device", "firstLayer", "endLayer"];
    fields.map(|field| stage[field].clone()).to_vec().into()
}

/// What a settled world breaks: every model that can be served is, in one epoch everywhere, and nobody holds anything else (I1, I3).
#[must_use]
pub fn of_end(world: &World, all_ready: bool) -> Vec<String> {
    let mut broken = Vec::new();
    let mut present = BTreeSet::new();
    let models: Vec<_> = world.api.with(|store| {
        let models = store.all().filter(|(key, _)| key.kind().plural == "inferencemodels");
        models.map(|(key, object)| (key.to_string(), object.clone())).collect()
    });
    for (name, model) in &models {
        let uid = model["metadata"]["uid"].as_str().unwrap_or_default();
        present.insert(uid.to_owned());
        let status = &model["status"];
        if status["observedGeneration"] != model["metadata"]["generation"] {
            broken.push(format!("I1: the status of {name} is of another generation"));
        }
        let conditions = status["conditions"].as_array();
        let is_ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
        let ready = conditions.into_iter().flatten().any(is_ready);
        if all_ready && !ready {
            let why = conditions
                .into_iter()
                .flatten()
                .find(|condition| condition["type"] == "Ready");
            let why = why.map_or_else(String::new, |ready| ready["message"].to_string());
            broken.push(format!("I1: {name} is not ready: {why}"));
        }
        let Some(epoch) = status["placement"]["epoch"].as_u64() else {
            continue;
        };
        for stage in status["placement"]["stages"].as_array().into_iter().flatten() {
            let Some(host) = stage["node"].as_str().and_then(|node| world.hosts.get(node)) else {
                continue;
            };
            let accepted = host.agent().accepted().get(uid).map(|placement| placement.epoch);
            if ready && accepted != Some(epoch) {
                let node = &host.node;
                broken.push(format!(
                    "I3: {node} has accepted {accepted:?} of {name}, whose epoch is {epoch}"
                ));
            }
        }
    }
    if all_ready {
        for host in world.hosts.values() {
            let held = host.agent().holds();
            let foreign = |line: &&String| !present.iter().any(|uid| line.starts_with(uid.as_str()));
            broken.extend(
                held.iter()
                    .filter(foreign)
                    .map(|line| format!("I2: {} still holds {line}", host.node)),
            );
        }
    }
    broken
}
