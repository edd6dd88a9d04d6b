//! Writing `DeviceGPUState`: server-side apply under this agent's field manager, only when there is news.

use super::events::{self, Events};
use super::report::{self, Seen};
use super::thresholds::{self, News};
use crate::devices::{DeviceState, Devices};
use crate::kubernetes::{ApiError, Way};
use crate::neighbours::sharing_label;
use crate::rates::ByDevice;
use crate::retry;
use crate::shard::drive::View;
use crate::shard::report::Holding;
use crds::names::{AGENT_FIELD_MANAGER, BACKEND_LABEL, GROUP, NODE_LABEL, VERSION};
use crds::{DeviceGPUState, DeviceGPUStateSpec, DeviceGPUStateStatus};
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::{Api, Resource};
use lifecycle::backoff::Backoff;
use serde_json::json;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Longest value of a label.
const LABEL_VALUE_MAX: usize = 63;
/// How often free main memory is looked at when nothing else happens. Reading it costs one small file.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// An object that someone else changed is noticed and mended within this.
const REFRESH_EVERY: Duration = Duration::from_secs(300);
/// Whether one of the objects is still there is asked so often: without them nothing can be placed on the node. They may all be gone at
/// once, with their definition.
const ASK_EVERY: Duration = Duration::from_secs(30);

/// What to publish, and as whom.
pub struct Publisher {
    /// The API server.
    pub way: Way,
    /// The node.
    pub node: String,
    /// The agent's pod: who tells of events.
    pub pod: String,
    /// The node's devices.
    pub devices: watch::Receiver<Arc<Devices>>,
    /// What they hold.
    pub view: watch::Receiver<Arc<View>>,
    /// How fast steps are on them.
    pub rates: watch::Receiver<Arc<ByDevice>>,
}

/// What the API server has of one device.
struct Written {
    about: ObjectReference,
    spec: DeviceGPUStateSpec,
    generation: Option<i64>,
    status: Option<DeviceGPUStateStatus>,
    /// When this agent wrote last.
    at: Option<Instant>,
    /// Since when there is news that can wait.
    drifts_since: Option<Instant>,
}

impl Written {
    fn of(object: &DeviceGPUState) -> Self {
        Self {
            about: object.object_ref(&()),
            spec: object.spec.clone(),
            generation: object.metadata.generation,
            status: object.status.clone(),
            at: None,
            drifts_since: None,
        }
    }

    /// Whether a status is worth a write now.
    fn wants(&mut self, status: &DeviceGPUStateStatus) -> bool {
        let Some(before) = &self.status else { return true };
        let news = thresholds::news(before, status);
        let is_due = match news {
            News::Urgent => true,
            News::CanWait => {
                let since = *self.drifts_since.get_or_insert_with(Instant::now);
                since.elapsed() >= thresholds::LASTING && self.at.is_none_or(|at| at.elapsed() >= thresholds::CALM)
            }
            News::None => false,
        };
        if is_due || news == News::None {
            self.drifts_since = None;
        }
        is_due
    }
}

/// One connection to the API server.
struct Session {
    api: Api<DeviceGPUState>,
    node_uid: String,
    events: Events,
    /// As listed when it began; by name.
    objects: BTreeMap<String, DeviceGPUState>,
    written: BTreeMap<String, Written>,
    /// The one that was asked for last.
    asked: Option<String>,
}

impl Session {
    /// Whether the API server still has what was written: another object each time.
    async fn has_the_next(&mut self) -> Result<bool, ApiError> {
        let after = self.asked.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.written.range::<String, _>((after, Bound::Unbounded)).next();
        let Some((name, _)) = next.or_else(|| self.written.first_key_value()) else {
            return Ok(true);
        };
        let name = name.clone();
        let found = self.api.get_metadata_opt(&name).await?;
        if found.is_none() {
            tracing::warn!(
                device = name,
                "somebody removed the object of a device; it is made anew"
            );
        }
        self.asked = Some(name);
        Ok(found.is_some())
    }

    /// The object of this name that is known, and no other that took its name since.
    fn only(&self, name: &str) -> DeleteParams {
        let written = self.written.get(name).and_then(|written| written.about.uid.clone());
        let listed = || self.objects.get(name)?.metadata.uid.clone();
        DeleteParams::default().preconditions(Preconditions {
            uid: written.or_else(listed),
            resource_version: None,
        })
    }
}

impl Publisher {
    /// Publishes for as long as it is polled.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(retry::API);
        let mut events = None;
        loop {
            let outcome = self.session(&mut events, &mut backoff).await;
            let wait = backoff.failed();
            if let Err(error) = outcome {
                tracing::warn!(%error, wait_ms = wait.as_millis() as u64, "devices are not published; trying again");
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Writes everything once and then the news; returns at the first error, and regularly to look at everything again.
    async fn session(&mut self, events: &mut Option<Events>, backoff: &mut Backoff) -> Result<(), ApiError> {
        let mut session = self.begin(events).await?;
        let refresh_at = Instant::now() + REFRESH_EVERY;
        let mut ask_at = Instant::now() + ASK_EVERY;
        while Instant::now() < refresh_at {
            if Instant::now() >= ask_at {
                ask_at = Instant::now() + ASK_EVERY;
                if !session.has_the_next().await? {
                    return Ok(());
                }
            }
            let devices = Arc::clone(&self.devices.borrow_and_update());
            let holdings = self.view.borrow_and_update().holdings.clone();
            let rates = Arc::clone(&self.rates.borrow_and_update());
            if devices.ready {
                self.write_news(&mut session, &devices, &holdings, &rates).await?;
            }
            // After the news: a card that fails must not wait until one that is gone could be removed.
            if devices.complete {
                self.remove_stale(&mut session, &devices).await?;
            }
            backoff.succeeded();
            tokio::select! {
                changed = self.view.changed() => if changed.is_err() {
                    return Ok(());
                },
                changed = self.devices.changed() => if changed.is_err() {
                    return Ok(());
                },
                // Whoever measures may have ended; its last word stands.
                Ok(()) = self.rates.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
        Ok(())
    }

    async fn begin(&self, events: &mut Option<Events>) -> Result<Session, ApiError> {
        let client = self.way.client().await?;
        let node: Node = Api::all(client.clone()).get(&self.node).await?;
        let node_uid = node.metadata.uid.ok_or_else(|| ApiError::NoUid(self.node.clone()))?;
        let events = events
            .get_or_insert_with(|| Events::start(client.clone(), &self.pod))
            .clone();
        let api: Api<DeviceGPUState> = Api::all(client);
        let ours = if self.has_label() {
            ListParams::default().labels(&format!("{NODE_LABEL}={}", self.node))
        } else {
            ListParams::default()
        };
        let listed = api.list(&ours).await?.items;
        let named = |object: DeviceGPUState| Some((object.metadata.name.clone()?, object));
        Ok(Session {
            api,
            node_uid,
            events,
            objects: listed.into_iter().filter_map(named).collect(),
            written: BTreeMap::new(),
            asked: None,
        })
    }

    async fn write_news(
        &self,
        session: &mut Session,
        devices: &Devices,
        holdings: &[Holding],
        rates: &ByDevice,
    ) -> Result<(), ApiError> {
        let host_free_bytes = device::cpu::memory(Path::new("/")).ok().map(|memory| memory.free_bytes);
        for state in &devices.states {
            let name = report::object_name(&self.node, &state.device);
            if !session.written.contains_key(&name) {
                let written = self.present(session, &name, state).await?;
                session.written.insert(name.clone(), written);
            }
            let Some(written) = session.written.get_mut(&name) else {
                continue;
            };
            let seen = Seen {
                state,
                spec: Some(&written.spec),
                host_free_bytes,
                holdings,
                rates: rates.get(&name),
            };
            let before = written.status.as_ref();
            let status = report::status(&self.node, &seen, before, written.generation, Timestamp::now());
            if !written.wants(&status) {
                continue;
            }
            apply_status(&session.api, &name, &status).await?;
            tracing::debug!(device = name, "device state written");
            session
                .events
                .publish(&written.about, events::transitions(written.status.as_ref(), &status));
            written.status = Some(status);
            written.at = Some(Instant::now());
        }
        Ok(())
    }

    /// What the API server has of a device, whose object is made where it is not as it should be.
    async fn present(&self, session: &Session, name: &str, state: &DeviceState) -> Result<Written, ApiError> {
        let labels = self.labels(state);
        let object = session.objects.get(name);
        match object.filter(|object| is_as_applied(object, name, &labels, &session.node_uid)) {
            Some(object) => Ok(Written::of(object)),
            None => {
                let applied = self
                    .apply_object(&session.api, &session.node_uid, name, &labels)
                    .await?;
                Ok(Written::of(&applied))
            }
        }
    }

    fn labels(&self, state: &DeviceState) -> BTreeMap<&str, &str> {
        let mut labels = BTreeMap::from([(BACKEND_LABEL, state.device.backend.name())]);
        labels.extend(sharing_label(&state.availability));
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
    ) -> Result<DeviceGPUState, ApiError> {
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

    /// Removes the objects of devices that are gone.
    async fn remove_stale(&self, session: &mut Session, devices: &Devices) -> Result<(), ApiError> {
        let present = |name: &String| devices.named(&self.node, name).is_some();
        // Without a label the list is of all nodes: an object that says nothing yet may be another's.
        let of_this_node = |object: &DeviceGPUState| {
            let node = object.status.as_ref().map(|status| &status.node);
            node.map_or(self.has_label(), |node| *node == self.node)
        };
        let listed = session.objects.iter().filter(|(_, object)| of_this_node(object));
        let known = listed.map(|(name, _)| name).chain(session.written.keys());
        let stale: Vec<String> = known.filter(|name| !present(name)).cloned().collect();
        for name in stale {
            tracing::info!(device = name, "the device is gone; removing its object");
            match session.api.delete(&name, &session.only(&name)).await {
                // Gone, or another one by now, which the next look at everything finds.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                outcome => {
                    outcome?;
                }
            }
            session.objects.remove(&name);
            session.written.remove(&name);
        }
        Ok(())
    }
}

async fn apply_status(api: &Api<DeviceGPUState>, name: &str, status: &DeviceGPUStateStatus) -> Result<(), ApiError> {
    let object = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "DeviceGPUState",
        "metadata": { "name": name },
        "status": status,
    });
    api.patch_status(name, &parameters(), &Patch::Apply(object)).await?;
    Ok(())
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
