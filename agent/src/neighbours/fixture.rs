//! A kubelet's PodResources service on a Unix socket, which says what a test wants.

use k8s_openapi::api::resource::v1::ResourceSlice;
use proto::kubelet::podresources::pod_resources_lister_server::{PodResourcesLister, PodResourcesListerServer};
use proto::kubelet::podresources::{
    AllocatableResourcesRequest, AllocatableResourcesResponse, ClaimResource, ContainerDevices, ContainerResources,
    DynamicResource, GetPodResourcesRequest, GetPodResourcesResponse, ListPodResourcesRequest,
    ListPodResourcesResponse, PodResources,
};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

/// What it says.
#[derive(Debug, Clone, Default)]
pub struct Script {
    pub pods: Vec<PodResources>,
    pub offered: Vec<ContainerDevices>,
    pub refuses: bool,
    /// It takes the question and says nothing.
    pub hangs: bool,
}

/// A kubelet that ends when it is dropped.
#[derive(Debug)]
pub struct FakeKubelet {
    dir: tempfile::TempDir,
    script: Arc<Mutex<Script>>,
    serving: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Service(Arc<Mutex<Script>>);

impl Service {
    async fn script(&self) -> Result<Script, Status> {
        let script = self.0.lock().unwrap().clone();
        if script.hangs {
            std::future::pending::<()>().await;
        }
        if script.refuses {
            return Err(Status::internal("the device manager is not ready"));
        }
        Ok(script)
    }
}

#[tonic::async_trait]
impl PodResourcesLister for Service {
    async fn list(&self, _: Request<ListPodResourcesRequest>) -> Result<Response<ListPodResourcesResponse>, Status> {
        let pod_resources = self.script().await?.pods;
        Ok(Response::new(ListPodResourcesResponse { pod_resources }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<AllocatableResourcesRequest>,
    ) -> Result<Response<AllocatableResourcesResponse>, Status> {
        let devices = self.script().await?.offered;
        Ok(Response::new(AllocatableResourcesResponse { devices }))
    }

    async fn get(&self, _: Request<GetPodResourcesRequest>) -> Result<Response<GetPodResourcesResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }
}

impl FakeKubelet {
    /// A node on which it is not started yet.
    pub fn absent() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            script: Arc::default(),
            serving: None,
        }
    }

    /// A kubelet that says so.
    pub fn saying(script: Script) -> Self {
        let mut kubelet = Self::absent();
        kubelet.says(script);
        kubelet.start();
        kubelet
    }

    pub fn says(&self, script: Script) {
        *self.script.lock().unwrap() = script;
    }

    pub fn start(&mut self) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let service = PodResourcesListerServer::new(Service(Arc::clone(&self.script)));
        let server = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(UnixListenerStream::new(listener));
        self.serving = Some(tokio::spawn(async {
            server.await.unwrap();
        }));
    }

    /// Ends it and takes its socket away, as a kubelet's restart does.
    pub fn stop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
        std::fs::remove_file(self.socket()).unwrap();
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("kubelet.sock")
    }

    pub fn root(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for FakeKubelet {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

pub fn devices(resource: &str, ids: &[&str]) -> ContainerDevices {
    ContainerDevices {
        resource_name: resource.to_owned(),
        device_ids: ids.iter().map(|&id| id.to_owned()).collect(),
    }
}

/// A pod with a container for each of these.
pub fn pod(name: &str, containers: Vec<ContainerDevices>) -> PodResources {
    let (namespace, name) = name.split_once('/').unwrap();
    let containers = containers
        .into_iter()
        .enumerate()
        .map(|(index, devices)| ContainerResources {
            name: format!("c{index}"),
            devices: vec![devices],
            dynamic_resources: Vec::new(),
        });
    PodResources {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        containers: containers.collect(),
    }
}

/// A pod whose container got a device by a claim.
pub fn claiming(name: &str, driver: &str, pool: &str, device: &str) -> PodResources {
    let mut pod = pod(name, vec![ContainerDevices::default()]);
    pod.containers[0].dynamic_resources = vec![DynamicResource {
        claim_name: "c".to_owned(),
        claim_namespace: pod.namespace.clone(),
        claim_resources: vec![ClaimResource {
            driver_name: driver.to_owned(),
            pool_name: pool.to_owned(),
            device_name: device.to_owned(),
        }],
    }];
    pod
}

/// Slices of NVIDIA's driver on worker-1, by device and UUID.
pub fn example_slices(devices: &[(&str, &str)]) -> Vec<ResourceSlice> {
    let devices: Vec<_> = devices
        .iter()
        .map(|(name, uuid)| serde_json::json!({ "name": name, "attributes": { "uuid": { "string": uuid } } }))
        .collect();
    let slice = serde_json::json!({
        "metadata": { "name": "s" },
        "spec": {
            "driver": "gpu.nvidia.com", "nodeName": "worker-1", "devices": devices,
            "pool": { "name": "worker-1", "generation": 1, "resourceSliceCount": 1 },
        },
    });
    vec![serde_json::from_value(slice).unwrap()]
}
