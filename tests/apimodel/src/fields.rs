//! PURE: who owns which field, as server-side apply knows it.
//!
//! Fields are leaves of the object. A list that merges by keys has one for each item and those inside; any other list is one.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::kinds::{Merge, merge};

/// One step from an object to a field of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Into a field.
    Field(String),
    /// To the item of a list with these keys, or this value, in JSON.
    Item(String),
}

/// Where a field is.
pub type Path = Vec<Step>;

/// Who wrote fields, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manager {
    /// The name that it gave itself.
    pub name: String,
    /// Whether it applies; else it updates.
    pub applies: bool,
    /// The subresource that it writes; empty for the object itself.
    pub subresource: String,
    /// What it owns.
    pub fields: BTreeSet<Path>,
}

impl Manager {
    /// Whether this is the entry of that writer.
    #[must_use]
    pub fn is(&self, name: &str, applies: bool, subresource: &str) -> bool {
        (self.name.as_str(), self.applies, self.subresource.as_str()) == (name, applies, subresource)
    }
}

/// What says which object is meant, and what the API server alone writes: nobody owns these.
const NOBODYS: [&[&str]; 12] = [
    &["apiVersion"],
    &["kind"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "uid"],
    &["metadata", "resourceVersion"],
    &["metadata", "generation"],
    &["metadata", "creationTimestamp"],
    &["metadata", "deletionTimestamp"],
    &["metadata", "deletionGracePeriodSeconds"],
    &["metadata", "managedFields"],
    &["metadata", "generateName"],
];

/// All fields of an object that can be owned, with their values.
#[must_use]
pub fn leaves(object: &Value) -> BTreeMap<Path, Value> {
    let mut found = BTreeMap::new();
    collect(object, &mut Vec::new(), &mut found);
    found.retain(|path, _| !NOBODYS.contains(&names(path).as_slice()));
    found
}

fn names(path: &[Step]) -> Vec<&str> {
    path.iter()
        .filter_map(|step| match step {
            Step::Field(name) => Some(name.as_str()),
            Step::Item(_) => None,
        })
        .collect()
}

fn collect(value: &Value, path: &mut Path, found: &mut BTreeMap<Path, Value>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                // What is null is not there.
                if !value.is_null() {
                    path.push(Step::Field(name.clone()));
                    collect(value, path, found);
                    path.pop();
                }
            }
        }
        Value::Array(items) => match merge(&names(path)) {
            Merge::Whole => {
                found.insert(path.clone(), value.clone());
            }
            how => {
                for item in items {
                    path.push(Step::Item(key(item, how)));
                    // The item as such; its fields follow.
                    found.insert(path.clone(), Value::Null);
                    if matches!(how, Merge::ByKeys(_)) {
                        collect(item, path, found);
                    }
                    path.pop();
                }
            }
        },
        leaf => {
            found.insert(path.clone(), leaf.clone());
        }
    }
}

fn key(item: &Value, how: Merge) -> String {
    match how {
        Merge::ByKeys(keys) => {
            let keys = keys
                .iter()
                .map(|key| ((*key).to_owned(), item.get(key).cloned().unwrap_or_default()));
            Value::Object(keys.collect()).to_string()
        }
        Merge::Whole | Merge::Set => item.to_string(),
    }
}

/// Puts a field into an object, and what leads to it.
pub fn put(object: &mut Value, path: &[Step], value: &Value) {
    let mut at = object;
    let mut walked: Vec<&str> = Vec::new();
    for step in path {
        match step {
            Step::Field(name) => {
                walked.push(name);
                if !at.is_object() {
                    *at = Value::Object(Map::new());
                }
                at = &mut at[name.as_str()];
            }
            Step::Item(wanted) => {
                if !at.is_array() {
                    *at = Value::Array(Vec::new());
                }
                let how = merge(&walked);
                let Value::Array(items) = at else { return };
                let known = items.iter().position(|item| key(item, how) == *wanted);
                let index = known.unwrap_or_else(|| {
                    items.push(serde_json::from_str(wanted).unwrap_or_default());
                    items.len() - 1
                });
                at = &mut items[index];
            }
        }
    }
    // An empty map says that there is one, and nothing of what others have in it.
    let is_there = at.is_object() && *value == Value::Object(Map::new());
    if !matches!(path.last(), Some(Step::Item(_))) && !is_there {
        *at = value.clone();
    }
}

/// Takes a field out of an object, and what it leaves empty.
pub fn remove(object: &mut Value, path: &[Step]) {
    take(object, path, &mut Vec::new());
}

fn take<'p>(at: &mut Value, path: &'p [Step], walked: &mut Vec<&'p str>) {
    let Some((step, rest)) = path.split_first() else { return };
    match (step, at) {
        (Step::Field(name), Value::Object(fields)) => {
            walked.push(name);
            if rest.is_empty() {
                fields.remove(name);
            } else if let Some(inner) = fields.get_mut(name) {
                take(inner, rest, walked);
                let empty = inner.as_object().is_some_and(Map::is_empty) || inner.as_array().is_some_and(Vec::is_empty);
                if empty {
                    fields.remove(name);
                }
            }
        }
        (Step::Item(wanted), Value::Array(items)) => {
            let how = merge(walked);
            if rest.is_empty() {
                items.retain(|item| key(item, how) != *wanted);
            } else if let Some(inner) = items.iter_mut().find(|item| key(item, how) == *wanted) {
                take(inner, rest, walked);
            }
        }
        _ => {}
    }
}

/// The outcome of an apply.
#[derive(Debug, PartialEq, Eq)]
pub enum Applied {
    /// The object and its managers as they shall be.
    Done(Value, Vec<Manager>),
    /// Others own these fields and have set them otherwise.
    Conflict(Vec<String>),
}

/// Server-side apply of `wanted` to `live`. Only fields below `within` count, where it is not empty.
#[must_use]
pub fn apply(
    live: &Value,
    managers: &[Manager],
    wanted: &Value,
    (name, subresource, within): (&str, &str, Within),
    force: bool,
) -> Applied {
    let wanted: BTreeMap<Path, Value> = leaves(wanted)
        .into_iter()
        .filter(|(path, _)| within.has(path))
        .collect();
    let present = leaves(live);
    let others = |manager: &&Manager| !manager.is(name, true, subresource);
    let differs = |path: &Path| present.get(path).is_some_and(|value| *value != wanted[path]);
    let mut contested = BTreeSet::new();
    for manager in managers.iter().filter(others) {
        contested.extend(
            wanted
                .keys()
                .filter(|path| manager.fields.contains(*path) && differs(path)),
        );
    }
    if !contested.is_empty() && !force {
        return Applied::Conflict(contested.into_iter().map(|path| text(path)).collect());
    }
    let mut managers = managers.to_vec();
    for manager in managers
        .iter_mut()
        .filter(|manager| !manager.is(name, true, subresource))
    {
        manager.fields.retain(|path| !contested.contains(path));
    }
    let mut object = live.clone();
    let held = managers
        .iter()
        .find(|manager| manager.is(name, true, subresource))
        .map(|manager| manager.fields.clone());
    for path in held.iter().flatten().filter(|path| !wanted.contains_key(*path)) {
        let others = managers.iter().filter(|manager| !manager.is(name, true, subresource));
        // An item goes only when nobody owns anything in it.
        let is_held = |manager: &Manager| manager.fields.iter().any(|field| field.starts_with(path));
        if !others.into_iter().any(is_held) {
            remove(&mut object, path);
        }
    }
    for (path, value) in &wanted {
        put(&mut object, path, value);
    }
    managers.retain(|manager| !manager.is(name, true, subresource) && !manager.fields.is_empty());
    managers.push(Manager {
        name: name.to_owned(),
        applies: true,
        subresource: subresource.to_owned(),
        fields: wanted.into_keys().collect(),
    });
    Applied::Done(object, managers)
}

/// Which fields a request may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Within {
    /// All of them.
    Everything,
    /// The status.
    Status,
    /// All but the status.
    NotStatus,
}

impl Within {
    fn has(self, path: &[Step]) -> bool {
        let is_status = path.first() == Some(&Step::Field("status".to_owned()));
        match self {
            Self::Everything => true,
            Self::Status => is_status,
            Self::NotStatus => !is_status,
        }
    }
}

/// Who owns what after `name` changed `before` to `after` without applying.
#[must_use]
pub fn updated(managers: &[Manager], before: &Value, after: &Value, (name, subresource): (&str, &str)) -> Vec<Manager> {
    let (before, after) = (leaves(before), leaves(after));
    let changed: BTreeSet<Path> = after
        .iter()
        .filter(|(path, value)| before.get(*path) != Some(value))
        .map(|(path, _)| path.clone())
        .collect();
    let mut managers = managers.to_vec();
    for manager in &mut managers {
        let own = manager.is(name, false, subresource);
        manager
            .fields
            .retain(|path| after.contains_key(path) && (own || !changed.contains(path)));
        if own {
            manager.fields.extend(changed.iter().cloned());
        }
    }
    if !changed.is_empty() && !managers.iter().any(|manager| manager.is(name, false, subresource)) {
        managers.push(Manager {
            name: name.to_owned(),
            applies: false,
            subresource: subresource.to_owned(),
            fields: changed,
        });
    }
    managers.retain(|manager| !manager.fields.is_empty());
    managers
}

fn text(path: &[Step]) -> String {
    path.iter().fold(String::new(), |text, step| match step {
        Step::Field(name) => text + "." + name,
        Step::Item(key) => text + "[" + key + "]",
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn done(applied: Applied) -> (Value, Vec<Manager>) {
        match applied {
            Applied::Done(object, managers) => (object, managers),
            Applied::Conflict(fields) => panic!("conflict over {fields:?}"),
        }
    }

    const ALL: Within = Within::Everything;

    #[test]
    fn what_is_not_applied_any_more_goes_unless_another_owns_it_too() {
        let (object, managers) = done(apply(
            &json!({}),
            &[],
            &json!({"data": {"a": 1, "b": 2}}),
            ("x", "", ALL),
            false,
        ));
        let (object, managers) = done(apply(
            &object,
            &managers,
            &json!({"data": {"b": 2}}),
            ("y", "", ALL),
            false,
        ));
        let (object, _) = done(apply(
            &object,
            &managers,
            &json!({"data": {"c": 3}}),
            ("x", "", ALL),
            false,
        ));
        assert_eq!(object, json!({"data": {"b": 2, "c": 3}}));
    }

    #[test]
    fn another_value_for_anothers_field_is_a_conflict_unless_forced() {
        let (object, managers) = done(apply(
            &json!({}),
            &[],
            &json!({"data": {"a": 1}}),
            ("x", "", ALL),
            false,
        ));
        let contested = apply(&object, &managers, &json!({"data": {"a": 2}}), ("y", "", ALL), false);
        assert_eq!(contested, Applied::Conflict(vec![".data.a".into()]));
        let (object, managers) = done(apply(
            &object,
            &managers,
            &json!({"data": {"a": 2}}),
            ("y", "", ALL),
            true,
        ));
        assert_eq!(object, json!({"data": {"a": 2}}));
        assert_eq!(managers.len(), 1, "nothing is left to the first: {managers:?}");
    }

    #[test]
    fn items_with_keys_merge_and_other_lists_are_one_field() {
        let mine = json!({"status": {"conditions": [{"type": "A", "status": "True"}], "stages": [1, 2]}});
        let (object, managers) = done(apply(&json!({}), &[], &mine, ("x", "status", ALL), false));
        let theirs = json!({"status": {"conditions": [{"type": "B", "status": "True"}]}});
        let (object, managers) = done(apply(&object, &managers, &theirs, ("y", "status", ALL), false));
        let mine = json!({"status": {"stages": [3]}});
        let (object, _) = done(apply(&object, &managers, &mine, ("x", "status", ALL), false));
        assert_eq!(
            object,
            json!({"status": {"conditions": [{"type": "B", "status": "True"}], "stages": [3]}})
        );
    }

    #[test]
    fn who_updates_a_field_takes_it_from_those_who_had_it() {
        let (object, managers) = done(apply(
            &json!({}),
            &[],
            &json!({"data": {"a": 1, "b": 1}}),
            ("x", "", ALL),
            false,
        ));
        let after = json!({"data": {"a": 2, "b": 1}});
        let managers = updated(&managers, &object, &after, ("kubectl", ""));
        let contested = apply(
            &after,
            &managers,
            &json!({"data": {"a": 1, "b": 1}}),
            ("x", "", ALL),
            false,
        );
        assert_eq!(contested, Applied::Conflict(vec![".data.a".into()]));
    }
}
