//! The CustomResourceDefinitions as YAML that an API server of today accepts and a person can read.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};

use crate::{DeviceGPUState, InferenceModel, NodeLinkState};

const HEADER: &str = "# Generated from the Rust types in crds/; regenerate with: cargo run -p crds --bin crdgen -- charts/shardwright/crds\n";

/// Every whole number below this is exact as a 64-bit float.
const MAX_EXACT_FLOAT: f64 = 9_007_199_254_740_992.0;

/// One file: its name and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub file_name: String,
    pub yaml: String,
}

/// A manifest could not be written as YAML.
#[derive(Debug, thiserror::Error)]
#[error("the definition of {kind} cannot be written as YAML: {cause}")]
pub struct ManifestError {
    kind: String,
    cause: String,
}

/// All kinds, one manifest each, in the order of their file names.
pub fn manifests() -> Result<Vec<Manifest>, ManifestError> {
    [DeviceGPUState::crd(), InferenceModel::crd(), NodeLinkState::crd()]
        .iter()
        .map(manifest)
        .collect()
}

fn manifest(crd: &CustomResourceDefinition) -> Result<Manifest, ManifestError> {
    let plural = &crd.spec.names.plural;
    let failed = |cause: String| ManifestError {
        kind: crd.spec.names.kind.clone(),
        cause,
    };
    let mut value = serde_json::to_value(crd).map_err(|e| failed(e.to_string()))?;
    tidy(&mut value);
    let body = serde_saphyr::to_string(&sorted(value)).map_err(|e| failed(e.to_string()))?;
    Ok(Manifest {
        file_name: format!("{}_{plural}.yaml", crd.spec.group),
        yaml: format!("{HEADER}{body}"),
    })
}

/// Optional means absent, never null; conditions get the limits that Kubernetes' own types have.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("nullable");
            // Sizes that a JSON Schema of Rust integers adds and structural schemas do not know.
            if matches!(
                map.get("format").and_then(Value::as_str),
                Some("uint32" | "uint64" | "uint8")
            ) {
                map.remove("format");
            }
            if let Some(conditions) = map.get_mut("conditions").filter(|c| c.get("items").is_some()) {
                conditions["items"] = condition_schema();
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Number(number) => {
            // Limits come out of the derive as floating numbers: a person expects `maximum: 64`.
            let whole = number
                .as_f64()
                .filter(|n| n.fract() == 0.0 && n.abs() < MAX_EXACT_FLOAT);
            if let Some(whole) = whole.filter(|_| number.is_f64()) {
                *value = json!(whole as i64);
            }
        }
        _ => {}
    }
}

fn condition_schema() -> Value {
    json!({
        "type": "object",
        "required": ["lastTransitionTime", "message", "reason", "status", "type"],
        "properties": {
            "lastTransitionTime": {
                "description": "When the status last changed.",
                "type": "string",
                "format": "date-time",
            },
            "message": {"description": "For a person.", "type": "string", "maxLength": 32768},
            "observedGeneration": {
                "description": "metadata.generation that the condition answers.",
                "type": "integer",
                "format": "int64",
                "minimum": 0,
            },
            "reason": {
                "description": "One CamelCase word.",
                "type": "string",
                "minLength": 1,
                "maxLength": 1024,
                "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
            },
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "type": {
                "type": "string",
                "maxLength": 316,
                "pattern": "^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
            },
        },
    })
}

/// The same value with the keys of every object in order, whatever the map of this build of the JSON library does.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(String, Value)> = map.into_iter().collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().map(|(key, value)| (key, sorted(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
