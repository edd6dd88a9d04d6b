//! A reservation as the API server is told of it.

use crds::names;
use serde_json::{Value, json};

use super::plan::Reservation;
use super::{Owner, Settings};

/// The node that a reservation is for: it is not in the pod's spec before the scheduler put it there.
pub const NODE_ANNOTATION: &str = "shardwright.dev/node";
/// The resource of which it holds one.
pub const RESOURCE_ANNOTATION: &str = "shardwright.dev/resource";
/// From the end's announcement to the end: the agent moves the layers of the device before another pod starts on it.
const ENDING_SECONDS: u32 = 10;

/// Labels that reservations are found by.
#[must_use]
pub fn selector() -> String {
    format!(
        "app.kubernetes.io/name=shardwright,app.kubernetes.io/component={}",
        names::RESERVATION_COMPONENT
    )
}

/// The pod.
#[must_use]
pub fn pod(reservation: &Reservation, settings: &Settings, owner: Option<&Owner>) -> Value {
    let Reservation {
        name,
        node,
        resource,
        tolerations,
    } = reservation;
    let mut spec = json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": ENDING_SECONDS + 5,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "seccompProfile": { "type": "RuntimeDefault" },
        },
        // By name and not by spec.nodeName: the scheduler must count what the pod asks for, and find its victim.
        "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [{
            "matchFields": [{ "key": "metadata.name", "operator": "In", "values": [node] }],
        }] } } },
        "tolerations": tolerations,
        "containers": [{
            "name": "reserve",
            "image": settings.image,
            "imagePullPolicy": "IfNotPresent",
            "lifecycle": { "preStop": { "sleep": { "seconds": ENDING_SECONDS } } },
            "resources": {
                "requests": { "cpu": "1m", "memory": "8Mi", resource: "1" },
                "limits": { "memory": "16Mi", resource: "1" },
            },
            "securityContext": {
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] },
            },
        }],
    });
    if !settings.priority_class.is_empty() {
        spec["priorityClassName"] = json!(settings.priority_class);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": settings.namespace,
            "labels": {
                "app.kubernetes.io/name": "shardwright",
                "app.kubernetes.io/component": names::RESERVATION_COMPONENT,
                "app.kubernetes.io/managed-by": names::OPERATOR_FIELD_MANAGER,
            },
            "annotations": {
                NODE_ANNOTATION: node,
                RESOURCE_ANNOTATION: resource,
                // It must keep no node that is to be removed.
                "cluster-autoscaler.kubernetes.io/safe-to-evict": "true",
            },
            "ownerReferences": owner.map(|owner| vec![owner]),
        },
        "spec": spec,
    })
}
