//! What the API server tells: whose devices this node's plugins and drivers give out, what a claimed device is, and which of our
//! reservations are being ended.

use super::identity::Identity;
use super::vendor::Vendor;
use crate::kubernetes::Way;
use crate::retry;
use apiclient::brief;
use crds::names::{RESERVATION_COMPONENT, RESERVATION_PREFIX};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::resource::v1::{DeviceAttribute, ResourceSlice};
use kube::api::ListParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use lifecycle::backoff::Backoff;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::watch;
use tokio_stream::StreamExt;

/// Plugins and drivers come with people's changes to a cluster.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// The API server answers in milliseconds; one that does not is as good as away.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Slices of one node: a few for each driver.
const SLICES_MAX: usize = 1024;
/// The bus address, by the name that all drivers agreed on.
const STANDARD_BUS: &str = "resource.kubernetes.io/pciBusID";

/// Driver, pool, device.
type Triple = (String, String, String);

/// What was read of the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Makers whose devices are given out on this node.
    pub managed: BTreeSet<Vendor>,
    /// Devices in ResourceSlices.
    devices: BTreeMap<Triple, Identity>,
    /// Reservation pods of this node that are being ended.
    pub ending: BTreeSet<String>,
    /// What could not be read.
    pub notes: Vec<String>,
}

impl Inventory {
    /// What a claimed device is; nothing where its slice is gone or was never read.
    pub fn slice_device(&self, driver: &str, pool: &str, device: &str) -> Option<&Identity> {
        self.devices
            .get(&(driver.to_owned(), pool.to_owned(), device.to_owned()))
    }

    /// From a Node and the slices that name it. Pure.
    pub fn of(node: &Node, slices: &[ResourceSlice]) -> Self {
        let capacity = node.status.as_ref().and_then(|status| status.capacity.as_ref());
        let mut inventory = Self {
            // A plugin that has gone leaves its resource behind, with none of it: its devices may come back any moment.
            managed: capacity
                .into_iter()
                .flat_map(BTreeMap::keys)
                .filter_map(|name| Vendor::of_resource(name))
                .collect(),
            ..Self::default()
        };
        for slice in slices {
            let Some(vendor) = Vendor::of_driver(&slice.spec.driver) else {
                continue;
            };
            inventory.managed.insert(vendor);
            for device in slice.spec.devices.iter().flatten() {
                let attribute = |name: &str| text(device.attributes.as_ref()?.get(name)?);
                let bus = [STANDARD_BUS, "pciBusID", "pcieBusID", "pciAddress", "pciAddr"];
                let identity = Identity::of_attributes(
                    attribute("uuid"),
                    attribute("parentUUID"),
                    bus.into_iter()
                        .find_map(attribute)
                        .or(address_in_name(vendor, &device.name).as_deref()),
                );
                if identity != Identity::default() {
                    let triple = (
                        slice.spec.driver.clone(),
                        slice.spec.pool.name.clone(),
                        device.name.clone(),
                    );
                    inventory.devices.insert(triple, identity);
                }
            }
        }
        inventory
    }
}

fn text(attribute: &DeviceAttribute) -> Option<&str> {
    attribute.string.as_deref()
}

/// Intel's driver names a device `0000-03-00-0-0x56a0`: its bus address and its model.
fn address_in_name(vendor: Vendor, name: &str) -> Option<String> {
    let parts: Vec<&str> = name.split('-').collect();
    match (vendor, parts.as_slice()) {
        (Vendor::Intel, [domain, bus, device, function, _model]) => Some(format!("{domain}:{bus}:{device}.{function}")),
        _ => None,
    }
}

/// Where the inventory is read, and for whom.
#[derive(Clone, Debug)]
pub struct Reader {
    /// The API server.
    pub way: Way,
    /// The Node.
    pub node: String,
    /// Namespace of the installation.
    pub namespace: String,
}

impl Reader {
    /// Reads for as long as it is polled. `out` has a value after the first attempt, whatever came of it; an inventory that was read
    /// once is kept while the API server is away.
    pub async fn run(self, out: watch::Sender<Option<Inventory>>) {
        let mut backoff = Backoff::new(retry::API);
        loop {
            let failed = match self.way.client().await {
                Ok(client) => tokio::select! {
                    error = self.looks(&client, &out, &mut backoff) => error,
                    error = self.reservations(&client, &out) => error,
                },
                Err(error) => format!("no API server: {error}"),
            };
            out.send_modify(|known| {
                let note = super::clean(&format!("devices of DRA drivers are not known: {failed}"));
                known.get_or_insert_default().notes = vec![note];
            });
            tokio::time::sleep(backoff.failed()).await;
        }
    }

    /// Reads again and again; returns why it could not.
    async fn looks(&self, client: &Client, out: &watch::Sender<Option<Inventory>>, backoff: &mut Backoff) -> String {
        loop {
            let looked = match tokio::time::timeout(ANSWER_LIMIT, self.look(client)).await {
                Ok(Ok(looked)) => looked,
                Ok(Err(error)) => return brief(&error),
                Err(_) => return format!("the API server gave no answer within {ANSWER_LIMIT:?}"),
            };
            backoff.succeeded();
            out.send_if_modified(|known| {
                let ending = known.as_mut().map(|known| std::mem::take(&mut known.ending));
                let now = Inventory {
                    ending: ending.unwrap_or_default(),
                    ..looked
                };
                let news = known.as_ref() != Some(&now);
                *known = Some(now);
                news
            });
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn look(&self, client: &Client) -> kube::Result<Inventory> {
        let node: Node = Api::all(client.clone()).get(&self.node).await?;
        let slices: Api<ResourceSlice> = Api::all(client.clone());
        let of_node = ListParams::default()
            .fields(&format!("spec.nodeName={}", self.node))
            .limit(SLICES_MAX as u32);
        match slices.list(&of_node).await {
            Ok(slices) => Ok(Inventory::of(&node, &slices.items)),
            // Clusters before 1.34, or without the API; and rights that were taken away.
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => Ok(Inventory {
                notes: vec![format!(
                    "ResourceSlices (resource.k8s.io/v1) cannot be read ({}): devices of DRA drivers are not known",
                    status.code
                )],
                ..Inventory::of(&node, &[])
            }),
            Err(error) => Err(error),
        }
    }

    /// Watches this node's reservation pods; returns why it could not.
    async fn reservations(&self, client: &Client, out: &watch::Sender<Option<Inventory>>) -> String {
        let pods: Api<Pod> = Api::namespaced(client.clone(), &self.namespace);
        let config = watcher::Config::default()
            .fields(&format!("spec.nodeName={}", self.node))
            .labels(&format!("app.kubernetes.io/component={RESERVATION_COMPONENT}"));
        let events = watcher(pods, config).default_backoff();
        tokio::pin!(events);
        let mut reservations = Reservations::default();
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => reservations.apply(event),
                // It tries again by itself. Without it a reservation's end is seen when the kubelet gives the device to another.
                Err(error) => {
                    tracing::debug!(%error, "the node's reservation pods cannot be watched; trying again");
                    continue;
                }
            }
            out.send_if_modified(|known| match known {
                Some(known) if !reservations.filling && known.ending != reservations.ending => {
                    known.ending.clone_from(&reservations.ending);
                    true
                }
                _ => false,
            });
        }
        "the watch of reservation pods ended".to_owned()
    }
}

/// What a watch has said so far.
#[derive(Debug, Default)]
struct Reservations {
    ending: BTreeSet<String>,
    /// The list is on its way, and what is not there yet may still come.
    filling: bool,
}

impl Reservations {
    fn apply(&mut self, event: watcher::Event<Pod>) {
        let (pod, gone) = match event {
            watcher::Event::Init => {
                *self = Self {
                    filling: true,
                    ..Self::default()
                };
                return;
            }
            watcher::Event::InitDone => {
                self.filling = false;
                return;
            }
            watcher::Event::Apply(pod) | watcher::Event::InitApply(pod) => (pod, false),
            watcher::Event::Delete(pod) => (pod, true),
        };
        let metadata = pod.metadata;
        match metadata.name {
            Some(name) if metadata.deletion_timestamp.is_some() && !gone && name.starts_with(RESERVATION_PREFIX) => {
                self.ending.insert(name);
            }
            Some(name) => {
                self.ending.remove(&name);
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests;
