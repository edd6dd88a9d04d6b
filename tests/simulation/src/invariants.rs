//! What must never be, whatever happens; checked over everything that ever happened in a world.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use apimodel::{Change, Happened, Seen, Verb};
use crds::names::{AUTHORITY_SECRET, LEADER_LEASE, members};
use serde_json::Value;

use crate::rotation;
use crate::world::World;

/// What a request breaks by itself: every delete says which object it means (I2), and no list may come out of an old cache (I1).
#[must_use]
pub fn of_request(seen: &Seen<'_>) -> Option<String> {
    let Seen { request, body, .. } = seen;
    if request.takes_an_old_list() {
        return Some(format!("I1: {} may be answered out of an old cache", request.text()));
    }
    let unnamed = request.verb == Verb::Delete && body["preconditions"]["uid"].is_null();
    unnamed.then(|| format!("I2: {} names no uid", request.text()))
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
    /// The leader's, and when it was written.
    lease: Option<(Value, SystemTime)>,
    judgement: Judgement,
}

/// Devices are left for what their agents say of them, and how many of late (I11).
#[derive(Default)]
struct Judgement {
    /// Those that people have not cordoned; true where their agents say that they are unfit.
    unfit: BTreeMap<String, bool>,
    cordoned_nodes: BTreeSet<String>,
    left: BTreeMap<String, SystemTime>,
}

/// Devices that are left within so long are counted together.
const WINDOW: Duration = Duration::from_secs(300);

impl Histories {
    fn take(&mut self, change: &Change, broken: &mut Vec<String>) {
        if change.revision <= self.revision {
            // The store went back: what is compared with is what it went back to.
            self.epochs.clear();
            self.placements.clear();
            self.lease = None;
            self.judgement = Judgement::default();
        }
        self.revision = change.revision;
        match change.key.kind().plural {
            "inferencemodels" => self.model(change, broken),
            "leases" => self.lease(change, broken),
            "secrets" => Self::secret(change, broken),
            "devicegpustates" | "nodes" => self.judgement.take(change),
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
        self.judgement.of_model(change, broken);
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

    /// Keys are never written over, but where one authority takes another's place, step by step (I2).
    fn secret(change: &Change, broken: &mut Vec<String>) {
        let Some(before) = &change.before else { return };
        let (old, new) = (&before["data"], &change.object["data"]);
        let rotates = change.key.name == AUTHORITY_SECRET && rotation::is_a_step(old, new);
        if change.happened == Happened::Modified && old != new && !rotates {
            broken.push(format!("I2: {} wrote over the keys of {}", change.by, change.key));
        }
    }

    /// The leader's lease passes from one holder to another only when it has lapsed or was given back (I3), by the API server's clock:
    /// those of operators differ.
    fn lease(&mut self, change: &Change, broken: &mut Vec<String>) {
        if change.key.name != LEADER_LEASE {
            return;
        }
        let spec = change.object["spec"].clone();
        if let Some((before, renewed)) = self.lease.replace((spec.clone(), change.at)) {
            let (from, to) = (&before["holderIdentity"], &spec["holderIdentity"]);
            let held = from.as_str().is_some_and(|holder| !holder.is_empty());
            if held && from != to && to != "" {
                let lasts = Duration::from_secs(before["leaseDurationSeconds"].as_u64().unwrap_or(0));
                if renewed + lasts > change.at {
                    broken.push(format!("I3: {to} took the lease of {from} before it lapsed"));
                }
            }
        }
    }
}

impl Judgement {
    fn take(&mut self, change: &Change) {
        let (name, object) = (change.key.name.clone(), &change.object);
        let gone = change.happened == Happened::Deleted;
        if change.key.kind().plural == "nodes" {
            match object["spec"]["unschedulable"] == true && !gone {
                true => self.cordoned_nodes.insert(name),
                false => self.cordoned_nodes.remove(&name),
            };
            return;
        }
        let conditions = object["status"]["conditions"].as_array();
        let against = |condition: &Value| condition["type"] == "Healthy" && condition["status"] == "False";
        let unfit = conditions.into_iter().flatten().any(against);
        match object["spec"]["cordoned"] == true || gone {
            true => self.unfit.remove(&name),
            false => self.unfit.insert(name, unfit),
        };
    }

    /// Of devices that are unfit, at most half are left within the window though all of their pipelines serve, without a person
    /// who edits the model or cordons anything (I11).
    fn of_model(&mut self, change: &Change, broken: &mut Vec<String>) {
        let Some(before) = &change.before else { return };
        let (old, new) = (&before["status"]["placement"], &change.object["status"]["placement"]);
        if old["generation"] != new["generation"] {
            return;
        }
        let stages = |placement: &Value| placement["stages"].as_array().cloned().unwrap_or_default();
        let (old, new) = (stages(old), stages(new));
        let devices = |stage: &Value| {
            let name = stage["device"].as_str().unwrap_or_default();
            members(name).map(str::to_owned).collect::<Vec<String>>()
        };
        let kept: BTreeSet<String> = new.iter().flat_map(devices).collect();
        let moves = |stage: &Value| {
            stage["node"]
                .as_str()
                .is_some_and(|node| self.cordoned_nodes.contains(node))
        };
        let serves = |stage: &Value| {
            let known = devices(stage).iter().all(|name| self.unfit.contains_key(name));
            known && stage["phase"] == "Serving" && !moves(stage)
        };
        for stage in &old {
            let pipeline: Vec<&Value> = old
                .iter()
                .filter(|other| other["pipeline"] == stage["pipeline"])
                .collect();
            let did_serve = pipeline.into_iter().all(serves);
            for name in devices(stage) {
                let unfit = self.unfit.get(&name) == Some(&true);
                if unfit && !kept.contains(&name) && did_serve {
                    self.left.insert(name, change.at);
                }
            }
        }
        let late = |at: &SystemTime| change.at.duration_since(*at).is_ok_and(|passed| passed < WINDOW);
        let still = |name: &str| self.unfit.get(name) == Some(&true);
        let left: Vec<&String> = self
            .left
            .iter()
            .filter(|(name, at)| late(at) && still(name))
            .map(|(name, _)| name)
            .collect();
        let most = (self.unfit.len() / 2).max(1);
        if left.len() > most {
            broken.push(format!(
                "I11: {left:?} of {} devices are left within five minutes",
                self.unfit.len()
            ));
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use apimodel::{Key, kinds};
    use serde_json::json;

    use super::*;

    /// Four devices, all unfit, and a model that leaves so many of them one by one, so long apart.
    fn left(count: usize, apart: Duration, phase: &str) -> Vec<String> {
        let ours = |plural| kinds::find("shardwright.dev", "v1alpha1", plural).unwrap();
        let change = |plural: &'static str, name: &str, object: Value, before: Option<Value>, at: Duration| Change {
            revision: 1,
            key: Key::new(ours(plural), "", name),
            happened: Happened::Modified,
            object: Arc::new(object),
            before: before.map(Arc::new),
            by: "operator-0".into(),
            at: SystemTime::UNIX_EPOCH + at,
        };
        let names = ["a", "b", "c", "d"];
        let unfit = json!({ "status": { "conditions": [{ "type": "Healthy", "status": "False" }] } });
        let (mut judgement, mut broken) = (Judgement::default(), Vec::new());
        for name in names {
            judgement.take(&change("devicegpustates", name, unfit.clone(), None, Duration::ZERO));
        }
        let placed =
            |device: &str| json!({ "status": { "placement": { "stages": [{ "device": device, "phase": phase }] } } });
        for (at, device) in (0..).zip(&names[..count]) {
            let (before, after) = (placed(device), placed("sound"));
            let moved = change("inferencemodels", "m", after, Some(before), apart * at);
            judgement.of_model(&moved, &mut broken);
        }
        broken
    }

    #[test]
    fn more_than_half_of_the_devices_left_within_the_window_is_told_and_nothing_else_is() {
        let second = Duration::from_secs(1);
        assert_eq!(left(2, second, "Serving"), Vec::<String>::new());
        let broken = left(3, second, "Serving");
        assert!(broken.len() == 1 && broken[0].starts_with("I11"), "{broken:?}");
        assert_eq!(left(3, WINDOW / 2, "Serving"), Vec::<String>::new());
        assert_eq!(left(4, second, "Failed"), Vec::<String>::new());
    }
}
