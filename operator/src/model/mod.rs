//! The controller that owns placement: one loop over a consistent snapshot of everything.
//!
//! Placement is one decision over all devices, so models are not reconciled each by itself: two that were decided at the
//! same time would take the same memory. The loop is woken by any change, waits [`BATCH`] for more of them (a maximum,
//! not a quiet period: it cannot be put off for ever) and does one pass, see [`pass`].

pub mod access;
pub mod apply;
pub mod assign;
pub mod away;
pub mod carry_over;
pub mod decide;
pub mod facts;
pub mod failures;
#[cfg(test)]
mod fixture;
pub mod gain;
pub mod groups;
pub mod holders;
pub mod in_force;
pub mod inspect;
pub mod learned;
pub mod learned_pace;
pub mod leaving;
pub mod links;
pub mod moving;
pub mod observe;
pub mod observed_pace;
pub mod pass;
pub mod progress;
pub mod publish;
pub mod quarantine;
pub mod readable;
pub mod replicas;
pub mod reports;
pub mod secrets;
pub mod sign;
pub mod stages;
pub mod standby;
pub mod status;
pub mod term;
pub mod traffic;
pub mod translate;
pub mod unheard;
pub mod validate;
pub mod vanished;
pub mod yielding;

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::admin::Health;
use crate::agents::Agents;
use crate::clock;
use crate::context::Context;
use crate::retry;
use crate::routes::Routes;
use lifecycle::backoff::Backoff;
use observe::Stores;
use pass::Loop;
use publish::Events;
use secrets::Secrets;
use term::Term;

/// Changes that come together are decided together.
pub const BATCH: Duration = Duration::from_millis(20);
/// A thousand models at once are decided and published in parts: a placement that is ready to be published does not wait for them.
const SLICE: Duration = Duration::from_millis(400);
/// Without any change the loop still looks around this often, and shows that it is alive.
const IDLE: Duration = Duration::from_secs(10);

/// Runs the control loop; ends only by being dropped, when the leadership ends.
pub async fn lead(context: &Context, agents: &Agents, routes: &Routes, health: &Health) {
    health.beat(None);
    let with_links = observe::kinds_served(&context.client.0, &context.metrics).await;
    let (changed, changes) = watch::channel(0);
    let (stores, watches) = observe::watch_all(&context.client.0, &context.metrics, &changed);
    let ended = CancellationToken::new();
    // Dropped with this future, which ends the task that sends events.
    let _ended = ended.clone().drop_guard();
    let events = Events::start(context, ended);
    tokio::select! {
        () = watches => tracing::error!("the watches ended"),
        () = async {
            stores.filled(with_links).await;
            control(context, agents, routes, health, &stores, events, changes).await;
        } => {}
    }
}

async fn control(
    context: &Context,
    agents: &Agents,
    routes: &Routes,
    health: &Health,
    stores: &Stores,
    events: Events,
    mut changes: watch::Receiver<u64>,
) {
    tracing::info!("stores filled, control loop begins");
    let mut agent_changes = agents.changes();
    let mut writes = Backoff::new(retry::API);
    let mut control = Loop {
        context,
        agents,
        routes,
        health,
        events,
        term: Term::begin(clock::now()),
        secrets: Secrets::default(),
        settled: false,
        slice: SLICE,
        writes_failed: false,
    };
    loop {
        let began = clock::now();
        health.beat(Some(began));
        changes.mark_unchanged();
        agent_changes.mark_unchanged();
        let outcome = control.pass(stores.observe(), began, context.wall.timestamp()).await;
        context.metrics.pass_seconds.observe(began.elapsed().as_secs_f64());
        let mut wake = began + IDLE;
        if let Some(at) = outcome.wakes_at {
            wake = wake.min(at);
        }
        if outcome.failed_writes > 0 {
            wake = wake.min(clock::now() + writes.failed());
        } else {
            writes.succeeded();
        }
        tokio::select! {
            _ = changes.changed() => {}
            _ = agent_changes.changed() => {}
            () = tokio::time::sleep_until(wake.into()) => {}
        }
        tokio::time::sleep(BATCH).await;
    }
}
