//! A kubelet's PodResources service on a Unix socket: which pods hold which devices.

use proto::kubelet::podresources::pod_resources_lister_server::{PodResourcesLister, PodResourcesListerServer};
use proto::kubelet::podresources::{
    AllocatableResourcesRequest, AllocatableResourcesResponse, ContainerDevices, ContainerResources,
    GetPodResourcesRequest, GetPodResourcesResponse, ListPodResourcesRequest, ListPodResourcesResponse, PodResources,
};
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

/// What it says. It serves for as long as the runtime lives.
#[derive(Clone, Default)]
pub struct Kubelet(Arc<Mutex<Vec<PodResources>>>);

impl Kubelet {
    /// Nobody holds anything yet. Needs a running runtime.
    pub fn start(socket: &Path) -> Self {
        let kubelet = Self::default();
        let listener = UnixListener::bind(socket).expect("a socket");
        let server = tonic::transport::Server::builder().add_service(PodResourcesListerServer::new(kubelet.clone()));
        tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
        kubelet
    }

    /// A pod of somebody else is given the device.
    pub fn give(&self, pod: &str, resource: &str, device: &str) {
        let devices = ContainerDevices {
            resource_name: resource.into(),
            device_ids: vec![device.into()],
        };
        let container = ContainerResources {
            name: "main".into(),
            devices: vec![devices],
            ..ContainerResources::default()
        };
        let held = PodResources {
            name: pod.into(),
            namespace: "default".into(),
            containers: vec![container],
        };
        self.0.lock().expect("nobody panicked with it").push(held);
    }
}

#[tonic::async_trait]
impl PodResourcesLister for Kubelet {
    async fn list(&self, _: Request<ListPodResourcesRequest>) -> Result<Response<ListPodResourcesResponse>, Status> {
        let pod_resources = self.0.lock().expect("nobody panicked with it").clone();
        Ok(Response::new(ListPodResourcesResponse { pod_resources }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<AllocatableResourcesRequest>,
    ) -> Result<Response<AllocatableResourcesResponse>, Status> {
        Ok(Response::new(AllocatableResourcesResponse::default()))
    }

    async fn get(&self, _: Request<GetPodResourcesRequest>) -> Result<Response<GetPodResourcesResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }
}
