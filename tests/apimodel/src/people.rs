//! What those write who are no client of the operator's kind: people, agents, the parts of a cluster.

use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};

use crate::ApiServer;
use crate::failure::Failure;
use crate::kinds::Kind;
use crate::object::identify;
use crate::real::{Real, path};
use crate::store::{Caller, Key, Preconditions};

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

impl ApiServer {
    /// Makes an object.
    ///
    /// # Errors
    /// It exists.
    pub fn create(
        &self,
        kind: &'static Kind,
        namespace: &str,
        mut object: Value,
        caller: &Caller,
    ) -> Result<(), Failure> {
        let Some(real) = self.real() else {
            return self.with(|store| store.create(kind, namespace, object, caller).map(drop));
        };
        identify(kind, &mut object);
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let key = Key::new(kind, namespace, name);
        let at = path(kind, namespace, "", "");
        self.write(&real, (&Method::POST, &at, JSON), &object, (&key, caller))
    }

    /// Patches an object or a part of it by RFC 7386.
    ///
    /// # Errors
    /// There is none.
    pub fn merge(&self, key: &Key, subresource: &str, patch: &Value, caller: &Caller) -> Result<(), Failure> {
        let Some(real) = self.real() else {
            return self.with(|store| store.merge(key, subresource, patch, caller).map(drop));
        };
        let at = path(key.kind(), &key.namespace, &key.name, subresource);
        self.write(&real, (&Method::PATCH, &at, MERGE), patch, (key, caller))
    }

    /// Applies an object or a part of it, whoever owns its fields.
    ///
    /// # Errors
    /// It is refused.
    pub fn apply(&self, key: &Key, subresource: &str, object: &Value, caller: &Caller) -> Result<(), Failure> {
        let Some(real) = self.real() else {
            let manager = (caller.name.as_ref(), true);
            return self.with(|store| store.apply(key, subresource, object, manager, caller).map(drop));
        };
        let mut object = object.clone();
        identify(key.kind(), &mut object);
        let at = path(key.kind(), &key.namespace, &key.name, subresource);
        let at = format!("{at}?fieldManager={}&force=true", caller.name);
        self.write(&real, (&Method::PATCH, &at, APPLY), &object, (key, caller))
    }

    /// Deletes an object; `grace_seconds`: as [`Preconditions::grace_seconds`].
    ///
    /// # Errors
    /// There is none.
    pub fn delete(&self, key: &Key, grace_seconds: Option<i64>, caller: &Caller) -> Result<(), Failure> {
        let Some(real) = self.real() else {
            let only = Preconditions {
                grace_seconds,
                ..Preconditions::default()
            };
            return self.with(|store| store.delete(key, &only, caller).map(drop));
        };
        let at = path(key.kind(), &key.namespace, &key.name, "");
        let body = grace_seconds.map_or(Value::Null, |seconds| json!({ "gracePeriodSeconds": seconds }));
        self.write(&real, (&Method::DELETE, &at, JSON), &body, (key, caller))
    }

    /// Puts a pod on a node, as a scheduler does.
    ///
    /// # Errors
    /// There is none.
    pub fn bind(&self, pod: &Key, node: &str, caller: &Caller) -> Result<(), Failure> {
        let Some(real) = self.real() else {
            let bound = json!({ "spec": { "nodeName": node } });
            return self.merge(pod, "", &bound, caller);
        };
        let at = path(pod.kind(), &pod.namespace, &pod.name, "binding");
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": { "name": pod.name }, "target": { "kind": "Node", "name": node },
        });
        self.write(&real, (&Method::POST, &at, JSON), &binding, (pod, caller))
    }

    /// Deletes what belongs to objects that are gone.
    pub fn collect_garbage(&self, caller: &Caller) {
        for orphan in self.with(|store| store.orphans()) {
            // Each is there: it was just listed.
            let _ = self.delete(&orphan, None, caller);
        }
    }

    fn write(
        &self,
        real: &Arc<Real>,
        (method, path, content): (&Method, &str, &str),
        body: &Value,
        (key, caller): (&Key, &Caller),
    ) -> Result<(), Failure> {
        let (code, answer) = real.ask(method, path, content, body);
        if code >= 300 {
            let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
            let text = |field: &str| answer[field].as_str().unwrap_or_default().to_owned();
            return Err(Failure::new(code, &text("reason"), text("message")));
        }
        real.look(self, key, caller);
        Ok(())
    }
}
