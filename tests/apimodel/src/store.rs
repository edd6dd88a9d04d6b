//! PURE: the objects, and what each request makes of them, as kube-apiserver would.
//!
//! Not modelled: schemas (validation and defaults), admission, quotas, and owners' garbage but for
//! [`Store::orphans`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::fields::{self, Applied, Manager, Within};
use crate::kinds::{KINDS, Kind, Status};
use crate::object::{desired, identify, merge, restore_own, same_object, seconds, set};
use crate::selector::Selection;

/// What an object is found by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Index in [`KINDS`].
    kind: usize,
    /// Empty where the kind has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Key {
    /// Of an object of this kind.
    #[must_use]
    pub fn new(kind: &'static Kind, namespace: &str, name: &str) -> Self {
        let kind = KINDS.iter().position(|known| known == kind).unwrap_or(KINDS.len());
        Self {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> &'static Kind {
        &KINDS[self.kind]
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { namespace, name, .. } = self;
        let slash = if namespace.is_empty() { "" } else { "/" };
        write!(f, "{} {namespace}{slash}{name}", self.kind().kind)
    }
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// It is new.
    Added,
    /// It is another.
    Modified,
    /// It is gone.
    Deleted,
}

/// One change of one object.
#[derive(Debug)]
pub struct Change {
    /// Its `resourceVersion`.
    pub revision: u64,
    /// Which object.
    pub key: Key,
    /// What happened.
    pub happened: Happened,
    /// As it is now, or was last.
    pub object: Arc<Value>,
    /// As it was before.
    pub before: Option<Arc<Value>>,
    /// Whose request it was.
    pub by: Arc<str>,
    /// When.
    pub at: SystemTime,
}

#[derive(Debug, Clone)]
struct Entry {
    object: Arc<Value>,
    managers: Vec<Manager>,
}

/// Whose request it is, and when it comes.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The client.
    pub name: Arc<str>,
    /// Now.
    pub at: SystemTime,
}

/// Under which conditions an object is deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preconditions {
    /// It is this one.
    pub uid: Option<String>,
    /// It has not changed since.
    pub resource_version: Option<String>,
    /// Seconds that it is given to end; `None`: what it asks for itself.
    pub grace_seconds: Option<i64>,
}

/// All objects as they were once; what etcd calls a snapshot.
#[derive(Debug, Clone)]
pub struct Snapshot {
    objects: BTreeMap<Key, Entry>,
    revision: u64,
}

/// The objects, and every change that led to them.
#[derive(Debug)]
pub struct Store {
    objects: BTreeMap<Key, Entry>,
    revision: u64,
    made: u64,
    /// What watches are told, by revision.
    changes: Vec<Arc<Change>>,
    /// Changes up to this one are forgotten.
    compacted: u64,
    /// Every change ever, in order, also of a past that was undone.
    log: Vec<Arc<Change>>,
}

impl Default for Store {
    /// Without objects. Its versions begin above zero, which stands for "any" in requests.
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            revision: 1,
            made: 0,
            changes: Vec::new(),
            compacted: 0,
            log: Vec::new(),
        }
    }
}

type Answer = Result<(Arc<Value>, bool), Failure>;

impl Store {
    /// The latest `resourceVersion`.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Every change ever, in order, also of a past that was undone.
    #[must_use]
    pub fn log(&self) -> &[Arc<Change>] {
        &self.log
    }

    /// One object.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, key: &Key) -> Result<Arc<Value>, Failure> {
        let found = self.objects.get(key).map(|entry| entry.object.clone());
        found.ok_or_else(|| Failure::not_found(key))
    }

    /// The selected objects of a kind, in the order of their names.
    #[must_use]
    pub fn list(&self, kind: &'static Kind, selection: &Selection) -> Vec<Arc<Value>> {
        let first = Key::new(kind, "", "");
        let of_kind = self
            .objects
            .range(first.clone()..)
            .take_while(|(key, _)| key.kind == first.kind);
        of_kind
            .map(|(_, entry)| &entry.object)
            .filter(|object| selection.has(object))
            .cloned()
            .collect()
    }

    /// All objects.
    pub fn all(&self) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        self.objects.iter().map(|(key, entry)| (key, &entry.object))
    }

    /// The change that follows a revision, of a kind and visible up to a revision.
    ///
    /// # Errors
    /// Changes after that revision are forgotten.
    pub fn next_change(&self, kind: &'static Kind, after: u64, visible: u64) -> Result<Option<Arc<Change>>, Failure> {
        if after < self.compacted {
            return Err(Failure::expired(after, self.compacted));
        }
        let from = self.changes.partition_point(|change| change.revision <= after);
        let found = self.changes[from..]
            .iter()
            .take_while(|change| change.revision <= visible);
        let mut found = found.filter(|change| change.key.kind() == kind);
        Ok(found.next().cloned())
    }

    /// The changes that follow a revision, of a past that was not undone.
    pub(crate) fn since(&self, revision: u64) -> Vec<Arc<Change>> {
        let from = self.changes.partition_point(|change| change.revision <= revision);
        self.changes[from..].to_vec()
    }

    /// Forgets all changes so far: watches that are not up to date have to list again.
    pub fn compact(&mut self) {
        self.compacted = self.revision;
        self.changes.clear();
    }

    /// Everything as it is now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            objects: self.objects.clone(),
            revision: self.revision,
        }
    }

    /// Everything as it was then, the revision too: what an operator of etcd does who restores a snapshot.
    pub fn restore(&mut self, snapshot: &Snapshot) {
        self.objects = snapshot.objects.clone();
        self.revision = snapshot.revision;
        self.compacted = self.revision;
        self.changes.clear();
    }

    /// Makes an object.
    ///
    /// # Errors
    /// It exists, or says of which version it is.
    pub fn create(&mut self, kind: &'static Kind, namespace: &str, mut object: Value, caller: &Caller) -> Answer {
        if object["metadata"]["name"].is_null()
            && let Some(prefix) = object["metadata"]["generateName"].as_str().map(str::to_owned)
        {
            object["metadata"]["name"] = json!(format!("{prefix}{:05x}", self.made));
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let key = Key::new(kind, namespace, &name);
        if object["metadata"]["resourceVersion"]
            .as_str()
            .is_some_and(|version| !version.is_empty())
        {
            return Err(Failure::new(
                500,
                "",
                "resourceVersion should not be set on objects to be created",
            ));
        }
        if self.objects.contains_key(&key) {
            return Err(Failure::exists(&key));
        }
        self.begin(&key, &mut object, caller);
        let managers = fields::updated(&[], &json!({}), &object, (&caller.name, ""));
        Ok((self.commit(&key, object, managers, caller), true))
    }

    fn begin(&mut self, key: &Key, object: &mut Value, caller: &Caller) {
        let kind = key.kind();
        self.made += 1;
        identify(kind, object);
        if kind.status == Status::Subresource {
            object.as_object_mut().map(|fields| fields.remove("status"));
        }
        if kind.plural == "pods" {
            object["status"] = json!({ "phase": "Pending", "qosClass": "Burstable" });
        }
        let metadata = &mut object["metadata"];
        if kind.namespaced {
            metadata["namespace"] = json!(key.namespace);
        }
        metadata["uid"] = json!(format!("00000000-0000-4000-8000-{:012x}", self.made));
        metadata["creationTimestamp"] = json!(seconds(caller.at));
        if kind.counts_generations {
            metadata["generation"] = json!(1);
        }
        for own in ["deletionTimestamp", "deletionGracePeriodSeconds", "managedFields"] {
            metadata.as_object_mut().map(|fields| fields.remove(own));
        }
    }

    /// Replaces an object or its status.
    ///
    /// # Errors
    /// There is none, or it is not the one that is meant, or not in the version that is meant.
    pub fn replace(&mut self, key: &Key, subresource: &str, object: Value, caller: &Caller) -> Answer {
        let live = self.entry(key)?.clone();
        let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        if version.is_empty() && !key.kind().replaced_blindly {
            let message = "metadata.resourceVersion: Invalid value: 0: must be specified for an update";
            return Err(Failure::invalid(key, message));
        }
        same_object(key, &live.object, &object)?;
        Ok((self.update(key, &live, subresource, object, caller), false))
    }

    /// Patches an object or its status, as of RFC 7386.
    ///
    /// # Errors
    /// As of [`Store::replace`].
    pub fn merge(&mut self, key: &Key, subresource: &str, patch: &Value, caller: &Caller) -> Answer {
        let live = self.entry(key)?.clone();
        same_object(key, &live.object, patch)?;
        let mut object = (*live.object).clone();
        merge(&mut object, patch);
        Ok((self.update(key, &live, subresource, object, caller), false))
    }

    /// Server-side apply, of an object or its status.
    ///
    /// # Errors
    /// It is not the object that is meant, or others own fields of it; for a status, that there is no object.
    pub fn apply(
        &mut self,
        key: &Key,
        subresource: &str,
        wanted: &Value,
        (manager, force): (&str, bool),
        caller: &Caller,
    ) -> Answer {
        let kind = key.kind();
        let within = match (subresource, kind.status) {
            ("status", _) => Within::Status,
            (_, Status::Field) => Within::Everything,
            _ => Within::NotStatus,
        };
        let Ok(live) = self.entry(key).cloned() else {
            if !subresource.is_empty() {
                return Err(Failure::not_found(key));
            }
            if wanted["metadata"]["uid"].is_string() {
                return Err(Failure::no_such_uid(key, wanted));
            }
            let mut object = wanted.clone();
            object["metadata"]["name"] = json!(key.name);
            self.begin(key, &mut object, caller);
            let owned = fields::apply(&json!({}), &[], wanted, (manager, subresource, within), force);
            let Applied::Done(_, managers) = owned else {
                return Err(Failure::bad_request("a new object cannot be contested"));
            };
            return Ok((self.commit(key, object, managers, caller), true));
        };
        // An apply may not change a uid, and one of a status does not look at it.
        let mut wanted = wanted.clone();
        if subresource == "status" {
            set(&mut wanted["metadata"], "uid", Value::Null);
        } else if wanted["metadata"]["uid"].is_string() && wanted["metadata"]["uid"] != live.object["metadata"]["uid"] {
            return Err(Failure::invalid(key, "metadata.uid: Invalid value: field is immutable"));
        }
        let wanted = &wanted;
        same_object(key, &live.object, wanted)?;
        let applied = fields::apply(
            &live.object,
            &live.managers,
            wanted,
            (manager, subresource, within),
            force,
        );
        match applied {
            Applied::Conflict(fields) => Err(Failure::contested(&fields)),
            Applied::Done(object, managers) => Ok((self.commit(key, object, managers, caller), false)),
        }
    }

    fn update(&mut self, key: &Key, live: &Entry, subresource: &str, object: Value, caller: &Caller) -> Arc<Value> {
        let mut next = object;
        if subresource == "status" {
            let status = next["status"].take();
            next = (*live.object).clone();
            set(&mut next, "status", status);
        } else if key.kind().status != Status::Field {
            set(&mut next, "status", live.object["status"].clone());
        }
        identify(key.kind(), &mut next);
        let managers = fields::updated(&live.managers, &live.object, &next, (&caller.name, subresource));
        self.commit(key, next, managers, caller)
    }

    /// Deletes an object, or marks it where somebody has to finish first.
    ///
    /// # Errors
    /// There is none, or not the one that is meant.
    pub fn delete(&mut self, key: &Key, only: &Preconditions, caller: &Caller) -> Result<(Arc<Value>, bool), Failure> {
        let live = self.entry(key)?.clone();
        let metadata = &live.object["metadata"];
        for (field, wanted, found) in [
            ("UID", &only.uid, &metadata["uid"]),
            ("ResourceVersion", &only.resource_version, &metadata["resourceVersion"]),
        ] {
            if let Some(wanted) = wanted
                && *found != wanted.as_str()
            {
                return Err(Failure::precondition(key, field, wanted, found));
            }
        }
        let held = metadata["finalizers"].as_array().is_some_and(|held| !held.is_empty());
        let spec = &live.object["spec"];
        let runs = key.kind().plural == "pods" && spec["nodeName"].is_string();
        let grace = only
            .grace_seconds
            .or_else(|| spec["terminationGracePeriodSeconds"].as_i64())
            .filter(|_| runs)
            .unwrap_or(0);
        if !held && grace == 0 {
            return Ok((self.remove(key, &live, caller), true));
        }
        if metadata["deletionTimestamp"].is_string() {
            return Ok((live.object, false));
        }
        let mut object = (*live.object).clone();
        object["metadata"]["deletionTimestamp"] = json!(seconds(caller.at));
        object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        if let Some(generation) = metadata["generation"].as_i64() {
            object["metadata"]["generation"] = json!(generation + 1);
        }
        Ok((self.put(key, object, live.managers, caller), false))
    }

    /// What belongs to objects that are gone.
    #[must_use]
    pub fn orphans(&self) -> Vec<Key> {
        let uids: Vec<Value> = self
            .all()
            .map(|(_, object)| object["metadata"]["uid"].clone())
            .collect();
        let lost = |object: &Value| {
            let owners = object["metadata"]["ownerReferences"].as_array();
            owners.is_some_and(|owners| !owners.is_empty() && owners.iter().all(|owner| !uids.contains(&owner["uid"])))
        };
        let orphans = self.all().filter(|(_, object)| lost(object));
        orphans.map(|(key, _)| key.clone()).collect()
    }

    /// Takes an object over as another API server has it since this revision; `None`: it is gone.
    pub(crate) fn take_over(&mut self, key: &Key, object: Option<Value>, revision: u64, caller: &Caller) {
        let before = self.objects.get(key).map(|entry| entry.object.clone());
        self.revision = self.revision.max(revision);
        let Some(mut object) = object else {
            self.objects.remove(key);
            if let Some(last) = before.clone() {
                self.record(key, Happened::Deleted, last, before, caller);
            }
            return;
        };
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
        let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
        if before
            .as_deref()
            .is_some_and(|before| version(before) == version(&object))
        {
            return;
        }
        let object = Arc::new(object);
        let entry = Entry {
            object: object.clone(),
            managers: Vec::new(),
        };
        self.objects.insert(key.clone(), entry);
        let happened = match before {
            Some(_) => Happened::Modified,
            None => Happened::Added,
        };
        self.record(key, happened, object, before, caller);
    }

    fn entry(&self, key: &Key) -> Result<&Entry, Failure> {
        self.objects.get(key).ok_or_else(|| Failure::not_found(key))
    }

    /// Stores what differs; what is being deleted and held by nobody any more goes.
    fn commit(&mut self, key: &Key, mut object: Value, managers: Vec<Manager>, caller: &Caller) -> Arc<Value> {
        let live = self.objects.get(key).cloned();
        if let Some(Entry {
            object: before,
            managers: known,
        }) = &live
        {
            restore_own(before, &mut object);
            // Who owns what is a part of the object.
            if object == **before && same_managers(&managers, known) {
                return before.clone();
            }
            if key.kind().counts_generations && desired(before) != desired(&object) {
                let generation = before["metadata"]["generation"].as_i64().unwrap_or(0);
                object["metadata"]["generation"] = json!(generation + 1);
            }
            let metadata = &object["metadata"];
            let held = metadata["finalizers"].as_array().is_some_and(|held| !held.is_empty());
            let waits = metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) > 0;
            if metadata["deletionTimestamp"].is_string() && !held && !waits {
                let entry = Entry {
                    object: Arc::new(object),
                    managers,
                };
                return self.remove(key, &entry, caller);
            }
        }
        self.put(key, object, managers, caller)
    }

    fn put(&mut self, key: &Key, mut object: Value, managers: Vec<Manager>, caller: &Caller) -> Arc<Value> {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let object = Arc::new(object);
        let entry = Entry {
            object: object.clone(),
            managers,
        };
        let before = self.objects.insert(key.clone(), entry).map(|entry| entry.object);
        let happened = if before.is_some() {
            Happened::Modified
        } else {
            Happened::Added
        };
        self.record(key, happened, object.clone(), before, caller);
        object
    }

    fn remove(&mut self, key: &Key, last: &Entry, caller: &Caller) -> Arc<Value> {
        self.revision += 1;
        let before = self.objects.remove(key).map(|entry| entry.object);
        // As it was stored last: what the request that ended it changed besides is told to nobody.
        let mut object = before.as_deref().unwrap_or(&last.object).clone();
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        self.record(key, Happened::Deleted, Arc::new(object), before, caller);
        // Watches are told under the version of the end; whoever asked for it is answered with the last one.
        last.object.clone()
    }

    fn record(
        &mut self,
        key: &Key,
        happened: Happened,
        object: Arc<Value>,
        before: Option<Arc<Value>>,
        caller: &Caller,
    ) {
        let change = Arc::new(Change {
            revision: self.revision,
            key: key.clone(),
            happened,
            object,
            before,
            by: caller.name.clone(),
            at: caller.at,
        });
        self.changes.push(change.clone());
        self.log.push(change);
    }
}

fn same_managers(one: &[Manager], two: &[Manager]) -> bool {
    one.len() == two.len() && one.iter().all(|manager| two.contains(manager))
}
