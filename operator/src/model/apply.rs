//! Writes statuses: server-side apply under our field manager, only what changed.

use std::sync::Arc;

use crds::{InferenceModel, InferenceModelStatus, names};
use futures::StreamExt;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::context::Context;
use crate::error::{CallError, call};

/// Writes under way: enough to keep a pass over many changed models short, few enough to be no burden.
const CONCURRENT: usize = 8;

/// A status to write.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The object as observed.
    pub model: Arc<InferenceModel>,
    /// The version of it that the status answers.
    pub version: Option<String>,
    /// What it shall say.
    pub status: InferenceModelStatus,
}

/// What became of it.
#[derive(Debug)]
pub struct Applied {
    /// Uid of the model.
    pub uid: String,
    /// The version that it made, if it was written.
    pub result: Result<Option<String>, CallError>,
}

/// Writes all, each by itself: one that fails does not keep the others from being written.
pub async fn apply(context: &Context, prepared: Vec<Prepared>) -> Vec<Applied> {
    let writes = prepared.into_iter().map(|prepared| write(context, prepared));
    futures::stream::iter(writes)
        .buffer_unordered(CONCURRENT)
        .collect()
        .await
}

async fn write(context: &Context, prepared: Prepared) -> Applied {
    let Prepared { model, version, status } = prepared;
    let (namespace, name) = (model.namespace().unwrap_or_default(), model.name_any());
    let uid = model.uid().unwrap_or_default();
    let api: Api<InferenceModel> = Api::namespaced(context.client.0.clone(), &namespace);
    let params = PatchParams::apply(names::OPERATOR_FIELD_MANAGER).force();
    let doing = format!("apply status of InferenceModel {namespace}/{name}");
    let meant = json!({ "namespace": namespace, "name": name, "uid": uid, "resourceVersion": version });
    let patch = body(&meant, &status);
    let written = call(doing, api.patch_status(&name, &params, &Patch::Apply(&patch))).await;
    match &written {
        Ok(_) => context.metrics.status_writes.inc(),
        Err(error) => context.metrics.errors.with_label_values(&[error.category()]).inc(),
    }
    Applied {
        uid,
        result: written.map(|model| model.metadata.resource_version),
    }
}

/// `meant` says which object in which version: the API refuses the write where anybody wrote it in between, and where it was deleted
/// and made anew, since no two objects have a version in common (the uid alone would not do: an apply of a status does not look at
/// it). So a leader that stood still for longer than its lease, and goes on with a decision of then, takes nothing back of what its
/// successor decided.
fn body(meant: &serde_json::Value, status: &InferenceModelStatus) -> serde_json::Value {
    json!({
        "apiVersion": format!("{}/{}", names::GROUP, names::VERSION),
        "kind": "InferenceModel",
        "metadata": meant,
        "status": status,
    })
}
