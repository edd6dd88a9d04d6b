//! Writing the node's `NodeLinkState`: server-side apply under this agent's field manager, only when there is news, and events on
//! links that became slow; and reading what the administrator says in it.

use super::gate::Gate;
use super::thresholds::{self, News};
use super::{Seen, earlier, report, slow};
use crate::devices::Devices;
use crate::discovery::events::Events;
use crate::groups;
use crate::kubernetes::{ApiError, Way};
use crate::retry;
use crds::names::{AGENT_FIELD_MANAGER, GROUP, NODE_LABEL, VERSION};
use crds::{NodeLinkState, NodeLinkStateStatus};
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource};
use lifecycle::backoff::Backoff;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Longest value of a label.
const LABEL_VALUE_MAX: usize = 63;
/// What the administrator changed is read within this.
const REFRESH_EVERY: Duration = Duration::from_secs(300);
/// Whether the object is still there is asked so often: without it models are placed as if nothing was measured. It may be gone with
/// its definition.
const ASK_EVERY: Duration = Duration::from_secs(60);

/// What to publish.
pub struct Publisher {
    /// The API server.
    pub way: Way,
    /// The node, and the name of its object.
    pub node: String,
    /// The agent's pod: who tells of events.
    pub pod: String,
    /// The links.
    pub seen: watch::Receiver<Arc<Seen>>,
    /// The devices, for copies between them.
    pub devices: watch::Receiver<Arc<Devices>>,
    /// Those of them that may work as one.
    pub groups: watch::Receiver<groups::Told>,
    /// Told what the administrator says.
    pub gate: Arc<Gate>,
}

/// Of all sessions.
#[derive(Default)]
struct Told {
    /// When this agent wrote last: what an earlier life wrote is no reason to wait.
    wrote: Option<Instant>,
    events: Option<Events>,
}

/// What the API server has.
struct Written {
    api: Api<NodeLinkState>,
    about: ObjectReference,
    generation: Option<i64>,
    status: Option<NodeLinkStateStatus>,
}

impl Publisher {
    /// Publishes for as long as it is polled, once the operator has told of peers.
    pub async fn run(mut self) {
        if self.seen.wait_for(|seen| seen.told).await.is_err() {
            return;
        }
        let first = Instant::now();
        let mut told = Told::default();
        let mut backoff = Backoff::new(retry::API);
        loop {
            match self.session(first, &mut told, &mut backoff).await {
                // To read everything anew; not a failure.
                Ok(()) => {}
                Err(error) => {
                    let wait = backoff.failed();
                    tracing::warn!(%error, wait_ms = wait.as_millis() as u64, "links are not published; trying again");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// Reads the object, makes it where it is not, and writes the news for a while.
    async fn session(&mut self, first: Instant, told: &mut Told, backoff: &mut Backoff) -> Result<(), ApiError> {
        let mut written = self.present(&mut told.events).await?;
        self.tell_earlier(written.status.as_ref());
        let refresh_at = Instant::now() + REFRESH_EVERY;
        let mut ask_at = Instant::now() + ASK_EVERY;
        loop {
            if Instant::now() >= ask_at {
                ask_at = Instant::now() + ASK_EVERY;
                if written.api.get_metadata_opt(&self.node).await?.is_none() {
                    tracing::warn!("somebody removed the object of the node's links; it is made anew");
                    return Ok(());
                }
            }
            let seen = Arc::clone(&self.seen.borrow_and_update());
            let devices = Arc::clone(&self.devices.borrow_and_update());
            let wishes = self.gate.wishes().borrow().clone();
            let grouped = self.groups.borrow_and_update().clone();
            let mut status = report::status(
                &self.node,
                &seen,
                &devices.states,
                &wishes,
                written.status.as_ref(),
                written.generation,
                Timestamp::now(),
            );
            status.groups = groups::report::told(grouped.as_deref().map(Vec::as_slice), written.status.as_ref());
            let due = due(written.status.as_ref(), &status, first, told.wrote);
            if due.is_some_and(|due| due <= Instant::now()) {
                write(&written.api, &self.node, &status).await?;
                tracing::debug!(peers = status.peers_measured, "links written");
                let news = slow::news(written.status.as_ref(), &status);
                for note in &news {
                    tracing::warn!("{} {}", note.reason, note.message);
                }
                if let Some(events) = &told.events {
                    events.publish(&written.about, news);
                }
                written.status = Some(status);
                told.wrote = Some(Instant::now());
                continue;
            }
            // Not before: an object that may be read and not written is no success.
            backoff.succeeded();
            tokio::select! {
                () = tokio::time::sleep_until(refresh_at) => return Ok(()),
                () = tokio::time::sleep_until(ask_at) => {}
                () = tokio::time::sleep_until(due.unwrap_or(refresh_at)), if due.is_some() => {}
                changed = self.seen.changed() => if changed.is_err() {
                    // The agent is ending.
                    std::future::pending::<()>().await;
                },
                // Whoever measures may have ended; its last word stands.
                Ok(()) = self.groups.changed() => {}
                // Only copies between devices are read, which are news when anything else is, or at the next look.
                Ok(()) = self.devices.changed(), if written.status.is_none() => {}
            }
        }
    }

    async fn present(&self, events: &mut Option<Events>) -> Result<Written, ApiError> {
        let client = self.way.client().await?;
        events.get_or_insert_with(|| Events::start(client.clone(), &self.pod));
        let api: Api<NodeLinkState> = Api::all(client.clone());
        let object = match api.get_opt(&self.node).await? {
            Some(object) => object,
            None => {
                let node: Node = Api::all(client).get(&self.node).await?;
                let uid = node.metadata.uid.ok_or_else(|| ApiError::NoUid(self.node.clone()))?;
                self.apply(&api, &uid).await?
            }
        };
        let wishes = report::wishes(&object.spec);
        self.gate
            .wishes()
            .send_if_modified(|current| std::mem::replace(current, wishes.clone()) != wishes);
        Ok(Written {
            api,
            about: object.object_ref(&()),
            generation: object.metadata.generation,
            status: object.status,
        })
    }

    /// What was there when it was first read, nothing included, is of an earlier life.
    fn tell_earlier(&self, status: Option<&NodeLinkStateStatus>) {
        self.gate.earlier().send_if_modified(|told| {
            let is_first = told.is_none();
            if is_first {
                *told = Some(Arc::new(status.map(earlier::of).unwrap_or_default()));
            }
            is_first
        });
    }

    async fn apply(&self, api: &Api<NodeLinkState>, node_uid: &str) -> Result<NodeLinkState, ApiError> {
        let labels = if self.node.len() <= LABEL_VALUE_MAX {
            json!({ NODE_LABEL: self.node })
        } else {
            json!({})
        };
        let object = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": "NodeLinkState",
            "metadata": {
                "name": self.node,
                "labels": labels,
                "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": self.node, "uid": node_uid }],
            },
            "spec": {},
        });
        Ok(api.patch(&self.node, &parameters(), &Patch::Apply(object)).await?)
    }
}

/// When a status is to be written, if at all. Pure.
fn due(
    written: Option<&NodeLinkStateStatus>,
    now: &NodeLinkStateStatus,
    first: Instant,
    wrote: Option<Instant>,
) -> Option<Instant> {
    let news = written.map_or(News::Urgent, |written| thresholds::news(written, now));
    let patience = match (news, wrote) {
        (News::None, _) => return None,
        // What an earlier life measured counts for hours: better than links that have yet to have their turn.
        (_, None) if thresholds::may_gather(now) => thresholds::GATHER,
        (_, None) => Duration::ZERO,
        (News::Urgent, Some(_)) => thresholds::GATHER,
        (News::CanWait, Some(_)) => thresholds::CALM,
    };
    Some(wrote.unwrap_or(first) + patience)
}

async fn write(api: &Api<NodeLinkState>, node: &str, status: &NodeLinkStateStatus) -> Result<(), ApiError> {
    let object = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "NodeLinkState",
        "metadata": { "name": node },
        "status": status,
    });
    api.patch_status(node, &parameters(), &Patch::Apply(object)).await?;
    Ok(())
}

fn parameters() -> PatchParams {
    PatchParams::apply(AGENT_FIELD_MANAGER).force()
}

#[cfg(test)]
mod tests;
