//! The kubelet's PodResources service: one call for what pods hold, one for what plugins offer.

use super::clean;
use super::vendor::Vendor;
use proto::kubelet::podresources::pod_resources_lister_client::PodResourcesListerClient;
use proto::kubelet::podresources::{
    AllocatableResourcesRequest, AllocatableResourcesResponse, ListPodResourcesRequest, ListPodResourcesResponse,
};
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

/// The kubelet answers from memory. It must be shorter than the pause between two questions.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// What the kubelet's own client accepts.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// More devices than a node can give to pods; what comes after is not read.
const HELD_MAX: usize = 16 << 10;

/// A pod, as the kubelet names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Bounded, without control characters.
    pub namespace: String,
    /// The same.
    pub name: String,
}

impl fmt::Display for Pod {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// A device's name, which is the choice of whoever gives it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// A device plugin's.
    Plugin(String),
    /// A DRA driver's, as in its ResourceSlice.
    Claim {
        driver: String,
        pool: String,
        device: String,
    },
}

/// One device that one pod holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Who holds it.
    pub pod: Pod,
    /// Whose it is.
    pub vendor: Vendor,
    /// Which it is.
    pub name: Name,
}

impl fmt::Display for Held {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Name::Plugin(name) => write!(formatter, "{} {name:?}", self.vendor.name()),
            Name::Claim { driver, pool, device } => write!(formatter, "{driver} {pool:?} {device:?}"),
        }
    }
}

/// One answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// What pods hold, in the kubelet's order; only what a [`Vendor`] makes.
    pub held: Vec<Held>,
    /// Makers whose devices plugins offer.
    pub offered: BTreeSet<Vendor>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// There is no kubelet, or its folder is not mounted.
    #[error("there is no socket at {0}")]
    Absent(PathBuf),
    /// It is there and does not say.
    #[error("the kubelet did not tell which pods hold devices: {0}")]
    Silent(String),
}

/// A connection that is made when it is needed, and made anew when it broke.
#[derive(Debug)]
pub struct Kubelet {
    socket: PathBuf,
    client: Option<PodResourcesListerClient<Channel>>,
}

impl Kubelet {
    /// Nothing is opened yet.
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            client: None,
        }
    }

    /// Asks once; answers within a second.
    ///
    /// # Errors
    /// No socket, no answer in time, a refusal, or an answer of more than 16 MiB.
    pub async fn ask(&mut self) -> Result<Listing, KubeletError> {
        // Another kubelet may have made the socket anew, and an old connection to the one that is gone still looks whole.
        if !self.socket.exists() {
            self.client = None;
            return Err(KubeletError::Absent(self.socket.clone()));
        }
        let answer = tokio::time::timeout(ANSWER_LIMIT, self.both()).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {ANSWER_LIMIT:?}")),
        };
        answer.map_err(|why| {
            self.client = None;
            KubeletError::Silent(clean(&why))
        })
    }

    async fn both(&mut self) -> Result<Listing, String> {
        let client = match &mut self.client {
            Some(client) => client,
            empty => empty.insert(connect(&self.socket)?),
        };
        let failed = |status: tonic::Status| format!("{:?}: {}", status.code(), status.message());
        let held = client
            .list(Request::new(ListPodResourcesRequest {}))
            .await
            .map_err(failed)?;
        let offered = client
            .get_allocatable_resources(Request::new(AllocatableResourcesRequest {}))
            .await;
        let offered = match offered {
            Ok(offered) => offered.into_inner(),
            // Kubelets that were told not to.
            Err(status) if status.code() == Code::Unimplemented => AllocatableResourcesResponse::default(),
            Err(status) => return Err(failed(status)),
        };
        Ok(Listing::from_answers(held.into_inner(), &offered))
    }
}

fn connect(socket: &Path) -> Result<PodResourcesListerClient<Channel>, String> {
    let address = socket.to_str().ok_or("the socket's path is no UTF-8")?;
    let endpoint = Endpoint::from_shared(format!("unix://{address}")).map_err(|error| error.to_string())?;
    Ok(PodResourcesListerClient::new(endpoint.connect_lazy()).max_decoding_message_size(ANSWER_BYTES_MAX))
}

impl Listing {
    fn from_answers(list: ListPodResourcesResponse, offered: &AllocatableResourcesResponse) -> Self {
        let mut held = Vec::new();
        for resources in list.pod_resources {
            let pod = Pod {
                namespace: clean(&resources.namespace),
                name: clean(&resources.name),
            };
            for container in resources.containers {
                for devices in container.devices {
                    let Some(vendor) = Vendor::of_resource(&devices.resource_name) else {
                        continue;
                    };
                    held.extend(devices.device_ids.into_iter().map(|id| Held {
                        pod: pod.clone(),
                        vendor,
                        name: Name::Plugin(clean(&id)),
                    }));
                }
                let claims = container.dynamic_resources.into_iter();
                held.extend(claims.flat_map(|claim| claim.claim_resources).filter_map(|claimed| {
                    Some(Held {
                        pod: pod.clone(),
                        vendor: Vendor::of_driver(&claimed.driver_name)?,
                        name: Name::Claim {
                            driver: clean(&claimed.driver_name),
                            pool: clean(&claimed.pool_name),
                            device: clean(&claimed.device_name),
                        },
                    })
                }));
                held.truncate(HELD_MAX);
            }
        }
        let offered = offered
            .devices
            .iter()
            .filter(|devices| !devices.device_ids.is_empty())
            .filter_map(|devices| Vendor::of_resource(&devices.resource_name))
            .collect();
        Self { held, offered }
    }
}

#[cfg(test)]
mod tests;
