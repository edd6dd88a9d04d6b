//! Writing `DeviceGPUState`: server-side apply under this agent's field manager, only when there is news.

use super::report::{self, Seen};
use crate::retry;
use crate::shard::drive::View;
use crate::shard::report::Holding;
use crds::names::{AGENT_FIELD_MANAGER, BACKEND_LABEL, GROUP, NODE_LABEL, VERSION};
use crds::{DeviceGPUState, DeviceGPUStateStatus};
use device::{GpuDevice, Pool};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client};
use lifecycle::backoff::Backoff;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Longest value of a label.
const LABEL_VALUE_MAX: usize = 63;
/// How often free memory is looked at. Reading it costs one small file; writing it depends on the threshold.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// An object that someone else changed or removed is noticed and mended within this.
const REFRESH_EVERY: Duration = Duration::from_secs(300);

/// What to publish, and as whom.
pub struct Publisher {
    /// The node.
    pub node: String,
    /// Its devices.
    pub devices: Arc<Vec<GpuDevice>>,
    /// What they hold.
    pub view: watch::Receiver<Arc<View>>,
}

/// Why the API server does not have what it should.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// No configuration.
    #[error("no way to the Kubernetes API: {0}; run in a pod or set KUBECONFIG")]
    Config(#[from] kube::config::InferConfigError),
    /// A request failed.
    #[error("Kubernetes API: {0}")]
    Api(#[from] kube::Error),
    /// The Node has no uid, so it was not read from an API server.
    #[error("Node {0} has no uid")]
    NoUid(String),
}

/// A client from the pod's or the user's configuration.
///
/// # Errors
/// No configuration, or one that cannot be used.
pub async fn client() -> Result<Client, PublishError> {
    let mut config = kube::Config::infer().await?;
    // A wedged API server must not hold up what comes next.
    config.connect_timeout = Some(Duration::from_secs(5));
    config.read_timeout = Some(Duration::from_secs(15));
    Ok(Client::try_from(config)?)
}

impl Publisher {
    /// Publishes for as long as it is polled.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(retry::API);
        loop {
            let outcome = self.session(&mut backoff).await;
            let wait = backoff.failed();
            if let Err(error) = outcome {
                tracing::warn!(%error, wait_ms = wait.as_millis() as u64, "devices are not published; trying again");
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Writes everything once and then the news; returns at the first error, and regularly to look at everything again.
    async fn session(&mut self, backoff: &mut Backoff) -> Result<(), PublishError> {
        let client = client().await?;
        let node: Node = Api::all(client.clone()).get(&self.node).await?;
        let uid = node
            .metadata
            .uid
            .ok_or_else(|| PublishError::NoUid(self.node.clone()))?;
        let api: Api<DeviceGPUState> = Api::all(client);
        let present = self.remove_stale(&api).await?;
        let mut written: BTreeMap<String, DeviceGPUStateStatus> = BTreeMap::new();
        let refresh_at = tokio::time::Instant::now() + REFRESH_EVERY;
        while tokio::time::Instant::now() < refresh_at {
            let holdings = self.view.borrow_and_update().holdings.clone();
            self.write_news(&api, &uid, &present, &holdings, &mut written).await?;
            backoff.succeeded();
            tokio::select! {
                changed = self.view.changed() => if changed.is_err() {
                    return Ok(());
                },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
        Ok(())
    }

    async fn write_news(
        &self,
        api: &Api<DeviceGPUState>,
        node_uid: &str,
        present: &[DeviceGPUState],
        holdings: &[Holding],
        written: &mut BTreeMap<String, DeviceGPUStateStatus>,
    ) -> Result<(), PublishError> {
        let host_free_bytes = device::cpu::memory(Path::new("/")).ok().map(|memory| memory.free_bytes);
        for device in self.devices.iter() {
            let name = report::object_name(&self.node, device);
            let free_bytes = match (&device.pool, host_free_bytes) {
                (Pool::Host, Some(free_bytes)) => free_bytes.min(device.memory_total_bytes),
                _ => device.memory_free_bytes,
            };
            let seen = Seen {
                device,
                free_bytes,
                holdings,
            };
            let (before, generation) = match written.get(&name) {
                Some(before) => (Some(before.clone()), before.observed_generation),
                None => {
                    let labels = self.labels(device);
                    let as_applied = |object: &&DeviceGPUState| is_as_applied(object, &name, &labels, node_uid);
                    let object = match present.iter().find(as_applied) {
                        Some(object) => object.clone(),
                        None => self.apply_object(api, node_uid, &name, &labels).await?,
                    };
                    (object.status, object.metadata.generation)
                }
            };
            let status = report::status(&self.node, &seen, before.as_ref(), generation, Timestamp::now());
            let news = before.as_ref().is_none_or(|before| report::is_news(before, &status));
            if news {
                self.apply_status(api, &name, &status).await?;
                tracing::debug!(device = name, "device state written");
            }
            written.insert(name, if news { status } else { before.unwrap_or(status) });
        }
        Ok(())
    }

    fn labels(&self, device: &GpuDevice) -> BTreeMap<&str, &str> {
        let mut labels = BTreeMap::from([(BACKEND_LABEL, device.backend.name())]);
        if self.has_label() {
            labels.insert(NODE_LABEL, &self.node);
        }
        labels
    }

    /// Whether the node's name fits a label, so that its objects can be listed by it.
    fn has_label(&self) -> bool {
        self.node.len() <= LABEL_VALUE_MAX
    }

    async fn apply_object(
        &self,
        api: &Api<DeviceGPUState>,
        node_uid: &str,
        name: &str,
        labels: &BTreeMap<&str, &str>,
    ) -> Result<DeviceGPUState, PublishError> {
        let object = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": "DeviceGPUState",
            "metadata": {
                "name": name,
                "labels": labels,
                "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": self.node, "uid": node_uid }],
            },
            "spec": {},
        });
        Ok(api.patch(name, &parameters(), &Patch::Apply(object)).await?)
    }

    async fn apply_status(
        &self,
        api: &Api<DeviceGPUState>,
        name: &str,
        status: &DeviceGPUStateStatus,
    ) -> Result<(), PublishError> {
        let object = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": "DeviceGPUState",
            "metadata": { "name": name },
            "status": status,
        });
        api.patch_status(name, &parameters(), &Patch::Apply(object)).await?;
        Ok(())
    }

    /// Removes the objects of devices that are gone; gives all that were there before.
    async fn remove_stale(&self, api: &Api<DeviceGPUState>) -> Result<Vec<DeviceGPUState>, PublishError> {
        let ours = if self.has_label() {
            ListParams::default().labels(&format!("{NODE_LABEL}={}", self.node))
        } else {
            ListParams::default()
        };
        let present: Vec<String> = self
            .devices
            .iter()
            .map(|device| report::object_name(&self.node, device))
            .collect();
        let objects = api.list(&ours).await?.items;
        for object in &objects {
            // Without a label the list is of all nodes: an object that says nothing yet may be another's.
            let node = object.status.as_ref().map(|status| &status.node);
            let of_this_node = node.map_or(self.has_label(), |node| *node == self.node);
            let Some(name) = object
                .metadata
                .name
                .as_ref()
                .filter(|name| of_this_node && !present.contains(name))
            else {
                continue;
            };
            tracing::info!(device = name, "the device is gone; removing its object");
            match api.delete(name, &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                outcome => {
                    outcome?;
                }
            }
        }
        Ok(objects)
    }
}

/// Whether an object says already what would be applied: a regular look at everything is no reason to write.
fn is_as_applied(object: &DeviceGPUState, name: &str, labels: &BTreeMap<&str, &str>, node_uid: &str) -> bool {
    let metadata = &object.metadata;
    let held = |key: &str| metadata.labels.as_ref()?.get(key).map(String::as_str);
    metadata.name.as_deref() == Some(name)
        && labels.iter().all(|(key, value)| held(key) == Some(*value))
        && metadata
            .owner_references
            .iter()
            .flatten()
            .any(|owner| owner.uid == node_uid)
}

fn parameters() -> PatchParams {
    PatchParams::apply(AGENT_FIELD_MANAGER).force()
}

#[cfg(test)]
mod tests;
