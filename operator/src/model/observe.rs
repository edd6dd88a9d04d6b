//! The stores that the control loop decides on: models, devices, links and the labels of nodes, kept current by watches.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::pin::{Pin, pin};
use std::sync::Arc;

use crds::names::INSTALL_KINDS;
use crds::{DeviceGPUState, InferenceModel, NodeLinkState};
use futures::{FutureExt, Stream, StreamExt};
use k8s_openapi::api::core::v1::Node;
use kube::api::{ListParams, PartialObjectMeta};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{self, Lookup, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use tokio::sync::watch;
use topology::NodeLabels;

use super::readable::{forget_annotations, readable};
use crate::error::{CallError, call};
use crate::metrics::Metrics;
use crate::retry;
use crate::watching::{events, explain};
use lifecycle::backoff::Backoff;

/// Objects of one answer, where all are listed: each comes with who wrote which field, which is many times what is kept of it.
const PAGE: u32 = 100;

/// The present state of what is watched. Holds for as long as its [`Watches`] run.
#[derive(Clone)]
pub struct Stores {
    models: Store<InferenceModel>,
    devices: Store<DeviceGPUState>,
    links: Store<NodeLinkState>,
    nodes: Store<PartialObjectMeta<Node>>,
    cordoned: Store<PartialObjectMeta<Node>>,
}

/// Everything that was watched, at one moment.
#[derive(Debug, Default, Clone)]
pub struct Observed {
    /// All that are not being deleted.
    pub models: Vec<Arc<InferenceModel>>,
    /// All.
    pub devices: Vec<Arc<DeviceGPUState>>,
    /// All, in the order of their names.
    pub links: Vec<Arc<NodeLinkState>>,
    /// Labels by node.
    pub node_labels: BTreeMap<String, NodeLabels>,
    /// Nodes that are cordoned: `spec.unschedulable`, as `kubectl drain` sets it.
    pub cordoned: BTreeSet<String>,
}

/// Keeps the stores current while it is polled; never ends.
pub type Watches = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Waits until the API server knows our kinds, telling what is missing; but for the one of links, without which models are placed as if
/// no link was measured. Whether that is known, too.
pub async fn kinds_served(client: &Client, metrics: &Metrics) -> bool {
    let mut backoff = Backoff::new(retry::API);
    loop {
        let (models, devices, links) = tokio::join!(
            is_served::<InferenceModel>(client, "list InferenceModels"),
            is_served::<DeviceGPUState>(client, "list DeviceGPUStates"),
            is_served::<NodeLinkState>(client, "list NodeLinkStates"),
        );
        let found = (|| Ok::<_, CallError>((models? && devices?, links?)))();
        match found {
            Ok((true, links)) => {
                if !links {
                    tracing::error!(
                        "the API server does not know NodeLinkStates: models are placed without what was measured of links; {INSTALL_KINDS}"
                    );
                }
                return links;
            }
            Ok((false, _)) => {
                metrics.errors.with_label_values(&["api_not_found"]).inc();
                tracing::error!(
                    "the API server does not know the kinds of shardwright.dev/v1alpha1; install the chart's CRDs: {INSTALL_KINDS}"
                );
            }
            Err(error) => {
                metrics.errors.with_label_values(&[error.category()]).inc();
                tracing::error!(%error, "cannot read our objects; trying again");
            }
        }
        tokio::time::sleep(backoff.failed()).await;
    }
}

/// Whether the API server knows a kind. Its objects need not be readable.
async fn is_served<K>(client: &Client, doing: &str) -> Result<bool, CallError>
where
    K: Resource<DynamicType = ()> + Clone + Debug,
{
    let api: Api<PartialObjectMeta<K>> = Api::all(client.clone());
    match call(doing, api.list(&ListParams::default().limit(1))).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The stores, empty at first, and what fills them. `changed` is told of every change.
#[must_use]
pub fn watch_all(client: &Client, metrics: &Metrics, changed: &watch::Sender<u64>) -> (Stores, Watches) {
    let (models, models_writer) = reflector::store();
    let (devices, devices_writer) = reflector::store();
    let (links, links_writer) = reflector::store();
    let (nodes, nodes_writer) = reflector::store();
    let (cordoned, cordoned_writer) = reflector::store();
    let config = watcher::Config::default().page_size(PAGE);
    // The API selects by it, so that the objects themselves need not be read.
    let unschedulable = config.clone().fields("spec.unschedulable=true");
    let watches = futures::future::join5(
        drive(
            "InferenceModels",
            models_writer,
            readable(events(Api::all(client.clone()), config.clone()), metrics).modify(unmanaged::<InferenceModel>),
            metrics,
            changed,
        ),
        drive(
            "DeviceGPUStates",
            devices_writer,
            readable(events(Api::all(client.clone()), config.clone()), metrics).modify(slim),
            metrics,
            changed,
        ),
        drive(
            "NodeLinkStates",
            links_writer,
            readable(events(Api::all(client.clone()), config.clone()), metrics).modify(unmanaged::<NodeLinkState>),
            metrics,
            changed,
        ),
        // Labels only: the rest of a Node is large and changes every few minutes.
        drive(
            "Nodes",
            nodes_writer,
            events(Api::<PartialObjectMeta<Node>>::all(client.clone()), config).modify(unmanaged),
            metrics,
            changed,
        ),
        drive(
            "cordoned Nodes",
            cordoned_writer,
            events(Api::<PartialObjectMeta<Node>>::all(client.clone()), unschedulable).modify(unmanaged),
            metrics,
            changed,
        ),
    );
    let stores = Stores {
        models,
        devices,
        links,
        nodes,
        cordoned,
    };
    (stores, Box::pin(watches.map(drop)))
}

/// Who wrote which field is several times what was written, and nothing here asks for it.
fn unmanaged<K: Resource>(object: &mut K) {
    let metadata = object.meta_mut();
    metadata.managed_fields = None;
    forget_annotations(metadata);
}

/// Of a device only what placements are made of; see [`topology::DeviceReport::from_state`].
fn slim(device: &mut DeviceGPUState) {
    unmanaged(device);
    device.metadata.labels = None;
    device.metadata.owner_references = None;
    if let Some(status) = &mut device.status {
        status.backends = Vec::new();
        status.architecture = None;
        status.driver = None;
        status.pci_address = None;
        status.uuid = None;
        status.memory = None;
        status.throttle_reasons = Vec::new();
        status.shards = Vec::new();
    }
}

fn drive<K>(
    what: &'static str,
    writer: Writer<K>,
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send + 'static,
    metrics: &Metrics,
    changed: &watch::Sender<u64>,
) -> impl Future<Output = ()> + Send + 'static
where
    K: Lookup + Clone + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone + Send + Sync,
{
    let (metrics, changed) = (metrics.clone(), changed.clone());
    async move {
        let mut events = pin!(reflector::reflector(writer, events));
        while let Some(event) = events.next().await {
            match event {
                Ok(_) => changed.send_modify(|count| *count = count.wrapping_add(1)),
                Err(error) => {
                    metrics.errors.with_label_values(&["watch"]).inc();
                    let error = explain(&error);
                    tracing::warn!(error, "the watch of {what} broke; it begins again");
                }
            }
        }
    }
}

impl Stores {
    /// Waits until all are filled for the first time, that of links only where their kind is known.
    pub async fn filled(&self, with_links: bool) {
        let links = async {
            if with_links {
                let _ = self.links.wait_until_ready().await;
            }
        };
        // An error means that the writer is gone, and with it whoever waits here.
        let _ = tokio::join!(
            self.models.wait_until_ready(),
            self.devices.wait_until_ready(),
            links,
            self.nodes.wait_until_ready(),
            self.cordoned.wait_until_ready()
        );
    }

    /// Everything at this moment.
    #[must_use]
    pub fn observe(&self) -> Observed {
        let mut models = self.models.state();
        models.retain(|model| model.metadata.deletion_timestamp.is_none() && model.metadata.uid.is_some());
        let labels = |node: Arc<PartialObjectMeta<Node>>| {
            Some((
                node.metadata.name.clone()?,
                NodeLabels::new(node.metadata.labels.clone().unwrap_or_default()),
            ))
        };
        let mut links = self.links.state();
        // The store has no order, and what is remembered of the links goes by it.
        links.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        Observed {
            models,
            devices: self.devices.state(),
            links,
            node_labels: self.nodes.state().into_iter().filter_map(labels).collect(),
            cordoned: self
                .cordoned
                .state()
                .iter()
                .filter_map(|node| node.metadata.name.clone())
                .collect(),
        }
    }
}

impl std::fmt::Debug for Stores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stores(..)")
    }
}

#[cfg(test)]
mod tests {
    use topology::DeviceReport;

    use super::*;
    use crate::model::fixture;

    #[test]
    fn what_is_left_of_a_device_reports_the_same() {
        let mut device = (*fixture::cpu("a", 1 << 30)).clone();
        device.metadata.managed_fields = Some(vec![Default::default()]);
        let status = device.status.as_mut().expect("a status");
        status.driver = Some("of today".to_owned());
        status.temperature_celsius = Some(70);
        let before = DeviceReport::from_state(&device);
        slim(&mut device);
        assert!(before.is_some());
        assert_eq!(DeviceReport::from_state(&device), before);
        assert_eq!(device.metadata.managed_fields, None);
        assert_eq!(device.status.and_then(|status| status.driver), None);
    }
}
