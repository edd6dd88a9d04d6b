//! A stand-in kubelet: makes Node and Pod objects, obtains and renews pod-bound tokens, and projects ConfigMaps and Secrets
//! into files, so that a plain process has what a container would have.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret, ServiceAccount};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::plane::{ENROL_AUDIENCE, Plane};
use crate::wait::{Seen, until};
use crate::{Error, Result, file};

const FIELD_MANAGER: &str = "stand-in-kubelet";
/// What a kubelet asks for by default.
const TOKEN_SECONDS: i64 = 3600;
/// A kubelet renews a projected token when 80 % of its life is over.
const RENEW_FRACTION: f64 = 0.8;
/// After a failed renewal.
const RENEW_RETRY: Duration = Duration::from_secs(5);
/// A ConfigMap or Secret that a Pod mounts may be written by another Pod that has yet to start.
const VOLUME_LIMIT: Duration = Duration::from_secs(60);

/// What a process is to the cluster.
#[derive(Debug, Clone)]
pub struct PodSpec {
    pub namespace: String,
    pub name: String,
    pub node: String,
    pub service_account: String,
    pub labels: BTreeMap<String, String>,
}

/// A Pod object and the files that its process reads.
#[derive(Debug)]
pub struct RunningPod {
    pub spec: PodSpec,
    /// Token files, kubeconfig and projected volumes.
    pub dir: PathBuf,
    /// Kubeconfig with the Pod's own token.
    pub kubeconfig: PathBuf,
    /// Pod-bound token with the enrolment audience.
    pub enrol_token: PathBuf,
    renewal: JoinHandle<()>,
}

impl Drop for RunningPod {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

/// Makes objects in the name of a kubelet on every node.
#[derive(Clone)]
pub struct Kubelet {
    client: Client,
    dir: PathBuf,
}

impl Kubelet {
    /// Pods get their folders below `dir`.
    pub async fn new(plane: &Plane) -> Result<Self> {
        Ok(Self {
            client: plane.client().await?,
            dir: plane.dir().join("pods"),
        })
    }

    /// Makes the Node, ready.
    pub async fn add_node(&self, name: &str) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name, "kubernetes.io/os": "linux" } },
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        nodes.patch(name, &params, &Patch::Apply(&node)).await?;
        let status = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": name },
            "status": { "conditions": [{ "type": "Ready", "status": "True", "reason": "StandIn", "message": "processes instead of containers" }] },
        });
        nodes.patch_status(name, &params, &Patch::Apply(&status)).await?;
        Ok(())
    }

    /// Makes the Pod on its node and the files that its process needs. A Pod of that name that is left over is replaced.
    pub async fn start_pod(&self, plane: &Plane, spec: PodSpec) -> Result<RunningPod> {
        self.delete_pod(&spec).await?;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &spec.namespace);
        let pod: Pod = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": spec.name, "labels": spec.labels },
            "spec": {
                "nodeName": spec.node,
                "serviceAccountName": spec.service_account,
                "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": 0,
                "containers": [{ "name": "process", "image": "process.invalid/on-this-machine" }],
            },
        }))
        .map_err(|error| Error::Other(format!("pod {}: {error}", spec.name)))?;
        let pod = pods.create(&PostParams::default(), &pod).await?;
        let uid = pod.metadata.uid.unwrap_or_default();
        let running = json!({ "status": { "phase": "Running" } });
        pods.patch_status(&spec.name, &PatchParams::default(), &Patch::Merge(&running))
            .await?;

        let dir = self.dir.join(&spec.name);
        std::fs::create_dir_all(&dir).map_err(file(&dir))?;
        let tokens = Tokens {
            accounts: Api::namespaced(self.client.clone(), &spec.namespace),
            account: spec.service_account.clone(),
            pod: spec.name.clone(),
            uid,
            api_token: dir.join("token"),
            enrol_token: dir.join("enrol-token"),
        };
        let expires_in = tokens.write().await?;
        let kubeconfig = dir.join("kubeconfig");
        plane.write_kubeconfig(&kubeconfig, &tokens.api_token)?;
        let enrol_token = tokens.enrol_token.clone();
        let renewal = tokio::spawn(tokens.keep_fresh(expires_in));
        Ok(RunningPod {
            spec,
            dir,
            kubeconfig,
            enrol_token,
            renewal,
        })
    }

    /// Deletes the Pod at once, as the end of its node does. No such Pod is success.
    pub async fn delete_pod(&self, spec: &PodSpec) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &spec.namespace);
        ignore_missing(
            pods.delete(&spec.name, &DeleteParams::default().grace_period(0))
                .await
                .map(drop),
        )
    }

    pub async fn delete_node(&self, name: &str) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        ignore_missing(nodes.delete(name, &DeleteParams::default()).await.map(drop))
    }

    /// Projects one key of a ConfigMap into the Pod's folder, once it exists.
    pub async fn project_config_map(&self, pod: &RunningPod, name: &str, key: &str) -> Result<PathBuf> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &pod.spec.namespace);
        let text = until(&format!("ConfigMap {name} has {key}"), VOLUME_LIMIT, || async {
            let map = maps.get_opt(name).await?;
            let value = map.and_then(|map| map.data).and_then(|mut data| data.remove(key));
            Ok(value.map_or_else(|| Seen::Not("absent".into()), Seen::Done))
        })
        .await?;
        project(&pod.dir, key, text.as_bytes())
    }

    /// Projects one key of a Secret into the Pod's folder, once it exists.
    pub async fn project_secret(&self, pod: &RunningPod, name: &str, key: &str) -> Result<PathBuf> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &pod.spec.namespace);
        let bytes = until(&format!("Secret {name} has {key}"), VOLUME_LIMIT, || async {
            let secret = secrets.get_opt(name).await?;
            let value = secret
                .and_then(|secret| secret.data)
                .and_then(|mut data| data.remove(key));
            Ok(value.map_or_else(|| Seen::Not("absent".into()), |value| Seen::Done(value.0)))
        })
        .await?;
        project(&pod.dir, key, &bytes)
    }
}

fn ignore_missing(result: kube::Result<()>) -> Result<()> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => Ok(other?),
    }
}

fn project(dir: &Path, key: &str, bytes: &[u8]) -> Result<PathBuf> {
    let path = dir.join(key);
    write_atomically(&path, bytes)?;
    Ok(path)
}

/// Readers see the old content or the new, as with a kubelet's projected volumes.
fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let fresh = path.with_extension("fresh");
    std::fs::write(&fresh, bytes).map_err(file(&fresh))?;
    std::fs::rename(&fresh, path).map_err(file(path))
}

/// The two tokens of one Pod.
struct Tokens {
    accounts: Api<ServiceAccount>,
    account: String,
    pod: String,
    uid: String,
    api_token: PathBuf,
    enrol_token: PathBuf,
}

impl Tokens {
    /// Asks for both tokens and writes them; returns how long they live.
    async fn write(&self) -> Result<Duration> {
        write_atomically(&self.api_token, self.request(Vec::new()).await?.as_bytes())?;
        let audience = vec![ENROL_AUDIENCE.to_owned()];
        write_atomically(&self.enrol_token, self.request(audience).await?.as_bytes())?;
        Ok(Duration::from_secs(TOKEN_SECONDS.unsigned_abs()))
    }

    async fn request(&self, audiences: Vec<String>) -> Result<String> {
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences,
                expiration_seconds: Some(TOKEN_SECONDS),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: Some(self.pod.clone()),
                    uid: Some(self.uid.clone()),
                }),
            },
            ..TokenRequest::default()
        };
        let answer = self
            .accounts
            .create_token_request(&self.account, &PostParams::default(), &request)
            .await?;
        let token = answer.status.map(|status| status.token);
        token.ok_or_else(|| Error::Other(format!("no token for service account {}", self.account)))
    }

    async fn keep_fresh(self, mut expires_in: Duration) {
        loop {
            tokio::time::sleep(expires_in.mul_f64(RENEW_FRACTION)).await;
            loop {
                match self.write().await {
                    Ok(fresh) => {
                        expires_in = fresh;
                        break;
                    }
                    Err(error) => {
                        tracing::warn!(pod = %self.pod, %error, "cannot renew the tokens");
                        tokio::time::sleep(RENEW_RETRY).await;
                    }
                }
            }
        }
    }
}
