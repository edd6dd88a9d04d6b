//! PURE: an object as JSON, and what is done with it as a whole.

use std::time::SystemTime;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::kinds::Kind;
use crate::store::Key;

/// What the API server alone writes stays.
pub(crate) fn restore_own(before: &Value, object: &mut Value) {
    for own in [
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "namespace",
        "name",
    ] {
        let value = before["metadata"][own].clone();
        set(&mut object["metadata"], own, value);
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
}

/// What people ask for: all but metadata and status.
pub(crate) fn desired(object: &Value) -> Vec<(&String, &Value)> {
    let fields = object.as_object().into_iter().flatten();
    fields
        .filter(|(name, _)| !matches!(name.as_str(), "metadata" | "status" | "apiVersion" | "kind"))
        .collect()
}

pub(crate) fn identify(kind: &Kind, object: &mut Value) {
    object["apiVersion"] = json!(kind.api_version());
    object["kind"] = json!(kind.kind);
    drop_nulls(object);
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.retain(|_, value| *value != json!([]) && *value != json!({}));
    }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

pub(crate) fn set(object: &mut Value, field: &str, value: Value) {
    match object.as_object_mut() {
        Some(fields) if value.is_null() => {
            fields.remove(field);
        }
        Some(fields) => {
            fields.insert(field.to_owned(), value);
        }
        None => {}
    }
}

/// RFC 7386.
pub(crate) fn merge(object: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    for (name, change) in changes {
        if change.is_null() {
            object.as_object_mut().map(|fields| fields.remove(name));
        } else {
            merge(&mut object[name.as_str()], change);
        }
    }
}

/// Refuses where the request says which object or version it means, and this is another.
pub(crate) fn same_object(key: &Key, live: &Value, request: &Value) -> Result<(), Failure> {
    let (live, request) = (&live["metadata"], &request["metadata"]);
    if let Some(uid) = request["uid"].as_str()
        && live["uid"] != uid
    {
        return Err(Failure::precondition(key, "UID", uid, &live["uid"]));
    }
    match request["resourceVersion"].as_str() {
        Some(version) if !version.is_empty() && live["resourceVersion"] != version => Err(Failure::modified(key)),
        _ => Ok(()),
    }
}

/// As objects have it.
pub(crate) fn seconds(time: SystemTime) -> String {
    let stamp = Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH);
    stamp.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
