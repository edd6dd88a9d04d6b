//! What an agent says in its node's Lease: that it is there and the operator does not hear it, as `agent/src/discovery/lease.rs` says it.

use std::time::Duration;

use apimodel::{ApiServer, Key, kinds};
use crds::names::{APART, agent_lease};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::host::Life;
use crate::objects::INSTALLATION;

/// It is said anew this often.
const ANEW: Duration = Duration::from_secs(10);
/// An API server that is away is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// Nothing is to be said before something changes.
const IDLE: Duration = Duration::from_secs(3600);

/// Says it for as long as it is polled: while the agent lives, is not heard, and was heard before in this life.
pub async fn say(api: ApiServer, node: String, mut heard: watch::Receiver<bool>, mut life: watch::Receiver<Life>) {
    let (mut ever, mut said) = (false, false);
    loop {
        let (is_heard, lives) = (*heard.borrow_and_update(), *life.borrow_and_update());
        ever = lives != Life::Down && (ever || is_heard);
        let is_apart = ever && !is_heard;
        let mut wait = IDLE;
        if lives == Life::Up && (is_apart || said) {
            wait = match write(&api, &node, is_apart) {
                true if is_apart => ANEW,
                true => IDLE,
                false => AGAIN,
            };
            said = is_apart;
        }
        let goes_on = tokio::select! {
            biased;
            changed = heard.changed() => changed.is_ok(),
            changed = life.changed() => changed.is_ok(),
            () = tokio::time::sleep(wait) => true,
        };
        if !goes_on {
            return;
        }
    }
}

/// False where the API server is away.
fn write(api: &ApiServer, node: &str, is_apart: bool) -> bool {
    let Some(kind) = kinds::find("coordination.k8s.io", "v1", "leases").filter(|_| api.is_available()) else {
        return false;
    };
    let caller = api.caller(&format!("agent-{node}"));
    let at = Timestamp::try_from(caller.at).unwrap_or(Timestamp::UNIX_EPOCH);
    let key = Key::new(kind, INSTALLATION, &agent_lease(node));
    let written = api.apply(&key, "", &lease(&key, is_apart, at), &caller);
    assert!(written.is_ok(), "a Lease is taken: {written:?}");
    true
}

fn lease(key: &Key, is_apart: bool, at: Timestamp) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": key.name,
            "namespace": key.namespace,
            "annotations": is_apart.then(|| json!({ APART: "true" })),
        },
        // MicroTime: six decimal places.
        "spec": { "holderIdentity": key.name, "leaseDurationSeconds": 120, "renewTime": format!("{at:.6}") },
    })
}
