//! Objects of the installation, through kubectl: apply, look, wait.

use std::time::Duration;

use serde_json::{Value, json};

use super::{START_LIMIT, Stack, run};
use crate::wait::{Seen, until};
use crate::{Error, Result};

impl Stack {
    /// What `kubectl` prints, as the administrator.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        run(self.plane.kubectl()?.args(arguments))
    }

    /// `kubectl apply` of a manifest.
    pub fn apply(&self, manifest: &Value) -> Result<()> {
        let path = self.plane.dir().join("apply.json");
        std::fs::write(&path, manifest.to_string()).map_err(crate::file(&path))?;
        self.kubectl(&["apply", "-f", &path.to_string_lossy()]).map(drop)
    }

    /// An InferenceModel as the API server has it now.
    pub fn model(&self, namespace: &str, name: &str) -> Result<Value> {
        let text = self.kubectl(&["get", "inferencemodel", "-n", namespace, name, "-o", "json"])?;
        serde_json::from_str(&text).map_err(|error| Error::Other(format!("kubectl printed no JSON: {error}")))
    }

    /// Waits until `condition` of the model has `status`, for the present generation; returns the model.
    pub async fn wait_for_condition(
        &mut self,
        namespace: &str,
        name: &str,
        condition: &str,
        status: &str,
        limit: Duration,
    ) -> Result<Value> {
        let what = format!("InferenceModel {namespace}/{name} has {condition}={status}");
        let mut look = || -> Result<Seen<Value>> {
            self.check()?;
            let model = self.model(namespace, name)?;
            let found = condition_of(&model, condition);
            let current = found["observedGeneration"] == model["metadata"]["generation"];
            if current && found["status"] == status {
                return Ok(Seen::Done(model));
            }
            Ok(Seen::Not(model["status"]["conditions"].to_string()))
        };
        until(&what, limit, || std::future::ready(look())).await
    }

    /// Waits until that many NodeLinkStates have all their peers measured; returns them.
    pub async fn wait_for_links(&mut self, count: usize) -> Result<Vec<Value>> {
        let mut look = || -> Result<Seen<Vec<Value>>> {
            self.check()?;
            let text = self.kubectl(&["get", "nodelinkstates", "-o", "json"])?;
            let list: Value = serde_json::from_str(&text).unwrap_or_default();
            let mut items = list["items"].as_array().cloned().unwrap_or_default();
            items.retain(|item| condition_of(item, "Measured")["reason"] == "AllMeasured");
            Ok(if items.len() >= count {
                Seen::Done(items)
            } else {
                Seen::Not(format!("{} measured of {list}", items.len()))
            })
        };
        until(&format!("the links of {count} nodes are measured"), START_LIMIT, || {
            std::future::ready(look())
        })
        .await
    }

    /// Waits until that many DeviceGPUStates are Ready.
    pub async fn wait_for_devices(&mut self, count: usize) -> Result<()> {
        let mut look = || -> Result<Seen<()>> {
            self.check()?;
            let text = self.kubectl(&["get", "devicegpustates", "-o", "json"])?;
            let list: Value = serde_json::from_str(&text).unwrap_or_default();
            let ready = list["items"].as_array().map_or(0, |items| {
                items
                    .iter()
                    .filter(|item| condition_of(item, "Ready")["status"] == "True")
                    .count()
            });
            Ok(if ready >= count {
                Seen::Done(())
            } else {
                Seen::Not(format!("{ready} ready"))
            })
        };
        until(&format!("{count} devices are Ready"), START_LIMIT, || {
            std::future::ready(look())
        })
        .await
    }
}

/// One condition of an object, or null.
pub fn condition_of(object: &Value, condition: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions.and_then(|list| list.iter().find(|item| item["type"] == condition));
    found.cloned().unwrap_or(json!(null))
}
