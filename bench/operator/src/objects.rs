//! What agents, kubelets and people write to the API server, as they write it: server-side apply, each under its own name.

use std::sync::atomic::{AtomicU64, Ordering};

use crds::names::{AGENT_FIELD_MANAGER, GROUP, VERSION, agent_lease};
use crds::{DeviceGPUState, DeviceGPUStateStatus, InferenceModel};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use localplane::stack::NAMESPACE;
use localplane::{Error, Result};
use serde_json::json;

use crate::cluster;

/// As agents have it: three renewals may fail.
const LEASE_SECONDS: i32 = 120;

/// Writes objects, and counts the writes.
pub struct Objects {
    client: Client,
    writes: AtomicU64,
}

impl Objects {
    pub fn new(client: Client) -> Self {
        Self {
            client,
            writes: AtomicU64::new(0),
        }
    }

    /// Requests that changed something, so far.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// A Node as kubelets keep it, and its devices as its agent reports them once they are measured.
    pub async fn node(&self, node: usize, devices: usize) -> Result<()> {
        let name = cluster::node_name(node);
        let nodes: Api<Node> = Api::all(self.client.clone());
        let kubelet = PatchParams::apply("kubelet").force();
        let object = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": name, "labels": cluster::node_labels(node) },
        });
        let made = nodes.patch(&name, &kubelet, &Patch::Apply(&object)).await?;
        let status = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": name },
            "status": { "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "played" }] },
        });
        nodes.patch_status(&name, &kubelet, &Patch::Apply(&status)).await?;
        let uid = made.metadata.uid.unwrap_or_default();
        for device in 0..devices {
            self.device(node, device, &uid).await?;
        }
        self.writes.fetch_add(2, Ordering::Relaxed);
        Ok(())
    }

    async fn device(&self, node: usize, device: usize, node_uid: &str) -> Result<()> {
        let name = cluster::device_name(node, device);
        let api: Api<DeviceGPUState> = Api::all(self.client.clone());
        let object = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": "DeviceGPUState",
            "metadata": {
                "name": name,
                "labels": cluster::device_labels(node),
                "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": cluster::node_name(node), "uid": node_uid }],
            },
            "spec": {},
        });
        api.patch(&name, &agent(), &Patch::Apply(&object)).await?;
        self.writes.fetch_add(1, Ordering::Relaxed);
        let status = cluster::device_status((node, device), Vec::new(), false, Timestamp::now());
        self.device_status(&name, &status).await
    }

    /// What an agent says of a device.
    pub async fn device_status(&self, name: &str, status: &DeviceGPUStateStatus) -> Result<()> {
        let api: Api<DeviceGPUState> = Api::all(self.client.clone());
        let object = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": "DeviceGPUState",
            "metadata": { "name": name },
            "status": status,
        });
        api.patch_status(name, &agent(), &Patch::Apply(&object)).await?;
        self.writes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Renews the Lease of a node's agent.
    pub async fn lease(&self, node: &str) -> Result<()> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), NAMESPACE);
        let name = agent_lease(node);
        let object = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": name },
            "spec": {
                "holderIdentity": format!("shardwright-agent-{node}"),
                "leaseDurationSeconds": LEASE_SECONDS,
                "renewTime": format!("{:.6}", Timestamp::now()),
            },
        });
        api.patch(&name, &agent(), &Patch::Apply(&object)).await?;
        self.writes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// A model, as a person applies it.
    pub async fn model(&self, model: usize) -> Result<()> {
        let api: Api<InferenceModel> = Api::namespaced(self.client.clone(), cluster::NAMESPACE);
        let person = PatchParams::apply("kubectl").force();
        let object = cluster::model(model);
        api.patch(&cluster::model_name(model), &person, &Patch::Apply(&object))
            .await?;
        self.writes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Writes of anybody that the API server has carried out since its start.
    pub async fn writes_served(&self) -> Result<f64> {
        let request = http::Request::get("/metrics").body(Vec::new());
        let request = request.map_err(|error| Error::Other(error.to_string()))?;
        let text = self.client.request_text(request).await?;
        let is_write = |line: &&str| {
            line.starts_with("apiserver_request_total{")
                && ["APPLY", "POST", "PUT", "PATCH", "DELETE"]
                    .iter()
                    .any(|verb| line.contains(&format!("verb=\"{verb}\"")))
        };
        let count = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
        Ok(text.lines().filter(is_write).filter_map(count).sum())
    }
}

fn agent() -> PatchParams {
    PatchParams::apply(AGENT_FIELD_MANAGER).force()
}
