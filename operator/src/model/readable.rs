//! Objects of our kinds that this version cannot read.
//!
//! Definitions may be newer than the operator, as after a rollback, and then objects may say what it does not know. One of them must
//! not hide all others of its kind: it is told by name and passed over. Of a model as much is kept as can be read, for its placement
//! is in force, whatever else is asked for.

use std::fmt::Debug;

use crds::{DeviceGPUState, InferenceModel, NodeLinkState};
use futures::{Stream, StreamExt, future};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::runtime::watcher::{self, Event};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::metrics::Metrics;

/// Says why a model's spec counts for nothing. Never of a user: of an object that can be read it is removed.
const UNREADABLE: &str = "shardwright.dev/unreadable";
/// What to do about it.
const REMEDY: &str =
    "it asks for what this version of the operator does not know: upgrade the operator, or apply the object without it";

/// A kind of which an object may be kept in part.
pub trait Salvage: Sized {
    /// What can be read of an object that cannot be read as a whole, for the reason in `error`.
    fn salvage(object: Value, error: &str) -> Option<Self>;
}

impl Salvage for DeviceGPUState {
    fn salvage(_: Value, _: &str) -> Option<Self> {
        None
    }
}

impl Salvage for NodeLinkState {
    fn salvage(_: Value, _: &str) -> Option<Self> {
        None
    }
}

impl Salvage for InferenceModel {
    /// Its source, what is placed, and the reason; nothing else is asked of it.
    fn salvage(mut object: Value, error: &str) -> Option<Self> {
        object["spec"] = json!({ "source": object["spec"]["source"] });
        let status = object["status"].take();
        let placement = json!({ "placement": status["placement"] });
        let mut model = [status, placement, json!({})].into_iter().find_map(|status| {
            object["status"] = status;
            Self::deserialize(&object).ok()
        })?;
        let annotations = model.metadata.annotations.get_or_insert_default();
        annotations.insert(UNREADABLE.to_owned(), error.to_owned());
        Some(model)
    }
}

/// Why a model's spec cannot be read, and what to do about it.
#[must_use]
pub fn unreadable(model: &InferenceModel) -> Option<String> {
    let why = model.metadata.annotations.as_ref()?.get(UNREADABLE)?;
    Some(format!("the object cannot be read: {why}; {REMEDY}"))
}

/// Forgets all annotations but our own.
pub fn forget_annotations(metadata: &mut ObjectMeta) {
    if let Some(annotations) = &mut metadata.annotations {
        annotations.retain(|key, _| key == UNREADABLE);
    }
    metadata.annotations.take_if(|annotations| annotations.is_empty());
}

/// An object as far as it can be read.
#[derive(Debug, Clone)]
pub struct Guarded<K> {
    metadata: ObjectMeta,
    read: Option<K>,
    error: Option<String>,
}

impl<'de, K: Resource + Salvage + DeserializeOwned> Deserialize<'de> for Guarded<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Value::deserialize(deserializer)?;
        match K::deserialize(&object) {
            Ok(mut read) => {
                if let Some(annotations) = &mut read.meta_mut().annotations {
                    annotations.remove(UNREADABLE);
                }
                let metadata = read.meta().clone();
                Ok(Self {
                    metadata,
                    read: Some(read),
                    error: None,
                })
            }
            Err(error) => {
                let error = error.to_string();
                let metadata = ObjectMeta::deserialize(&object["metadata"]).map_err(D::Error::custom)?;
                Ok(Self {
                    metadata,
                    read: K::salvage(object, &error),
                    error: Some(error),
                })
            }
        }
    }
}

impl<K: Resource> Resource for Guarded<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dynamic: &Self::DynamicType) -> std::borrow::Cow<'_, str> {
        K::kind(dynamic)
    }

    fn group(dynamic: &Self::DynamicType) -> std::borrow::Cow<'_, str> {
        K::group(dynamic)
    }

    fn version(dynamic: &Self::DynamicType) -> std::borrow::Cow<'_, str> {
        K::version(dynamic)
    }

    fn plural(dynamic: &Self::DynamicType) -> std::borrow::Cow<'_, str> {
        K::plural(dynamic)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The events of objects that can be read; the others are told by name.
pub fn readable<K>(
    events: impl Stream<Item = watcher::Result<Event<Guarded<K>>>> + Send + 'static,
    metrics: &Metrics,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static
where
    K: Resource<DynamicType = ()> + Send + 'static,
{
    let metrics = metrics.clone();
    let read = move |guarded: Guarded<K>| {
        if let Some(error) = &guarded.error {
            metrics.errors.with_label_values(&["unreadable"]).inc();
            tracing::error!(
                kind = %K::kind(&()),
                namespace = guarded.metadata.namespace.as_deref().unwrap_or_default(),
                name = guarded.metadata.name.as_deref().unwrap_or_default(),
                error,
                "an object cannot be read; {REMEDY}"
            );
        }
        guarded.read
    };
    events.filter_map(move |event| {
        future::ready(match event {
            Ok(Event::Apply(object)) => read(object).map(|object| Ok(Event::Apply(object))),
            Ok(Event::InitApply(object)) => read(object).map(|object| Ok(Event::InitApply(object))),
            // The last version that could be read stays known until all are listed anew.
            Ok(Event::Delete(object)) => object.read.map(|object| Ok(Event::Delete(object))),
            Ok(Event::Init) => Some(Ok(Event::Init)),
            Ok(Event::InitDone) => Some(Ok(Event::InitDone)),
            Err(error) => Some(Err(error)),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixture;

    fn read<K: Resource + Salvage + DeserializeOwned>(object: &Value) -> Guarded<K> {
        serde_json::from_value(object.clone()).expect("objects have metadata")
    }

    fn model() -> Value {
        serde_json::to_value(fixture::model()).expect("a model")
    }

    #[test]
    fn what_can_be_read_is_what_it_says_whatever_users_claim() {
        let mut object = model();
        object["metadata"]["annotations"] = json!({ UNREADABLE: "so it is said", "mine": "kept" });
        let mut found = read::<InferenceModel>(&object).read.expect("a model");
        assert_eq!(unreadable(&found), None);
        forget_annotations(&mut found.metadata);
        assert_eq!(found.metadata.annotations, None);
    }

    #[test]
    fn of_a_model_that_asks_for_something_unknown_source_and_status_are_kept_and_why_is_said() {
        let mut object = model();
        object["spec"]["determinism"] = json!("Later");
        object["status"] = json!({ "stagesReady": "2/2" });
        let mut found = read::<InferenceModel>(&object).read.expect("a part of it");
        assert_eq!(found.spec.source, fixture::model().spec.source);
        let status = found.status.clone().expect("a status");
        assert_eq!(status.stages_ready.as_deref(), Some("2/2"));
        forget_annotations(&mut found.metadata);
        let why = unreadable(&found).expect("a reason");
        for part in ["Later", "Strict", "upgrade the operator"] {
            assert!(why.contains(part), "{part} in {why}");
        }
        object["status"]["conditions"] = json!("of another kind");
        let found = read::<InferenceModel>(&object).read.expect("a part of it");
        let status = found.status.expect("a status");
        assert_eq!(
            (status.stages_ready, status.conditions.len()),
            (None, 0),
            "only what is placed counts"
        );
    }

    #[test]
    fn of_another_object_or_one_without_a_source_nothing_is_kept_but_its_name() {
        let mut object = model();
        object["spec"]["source"] = json!(7);
        let found = read::<InferenceModel>(&object);
        assert!(found.read.is_none() && found.error.is_some());
        assert_eq!(found.meta().name, fixture::model().metadata.name);
        let mut device = serde_json::to_value(&*fixture::cpu("a", 1 << 30)).expect("a device");
        assert!(read::<DeviceGPUState>(&device).read.is_some());
        device["status"] = json!([]);
        assert!(read::<DeviceGPUState>(&device).read.is_none());
    }
}
