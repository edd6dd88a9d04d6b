//! Health, readiness and metrics, over HTTPS.
//!
//! - `/healthz`: 500 once the control loop of a leader has stood still; a restart then helps.
//! - `/readyz`: 200 as soon as all ports are served, leader or not: a replica in waiting is a sound one.
//! - `/metrics`: the text exposition format.

use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::clock;
use crate::metrics::Metrics;

/// The loop looks around every ten seconds at the latest and each of its calls is limited to five: a minute of silence
/// is no slowness.
const STALLED_AFTER: Duration = Duration::from_secs(60);

/// What the probes are told.
#[derive(Debug, Default)]
pub struct Health {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    ready: bool,
    beat: Option<Instant>,
}

impl Health {
    /// All ports are served.
    pub fn ready(&self, ready: bool) {
        self.with(|inner| inner.ready = ready);
    }

    /// The control loop is alive. `None`: it is not meant to run.
    pub fn beat(&self, at: Option<Instant>) {
        self.with(|inner| inner.beat = at);
    }

    fn is_ready(&self) -> bool {
        self.with(|inner| inner.ready)
    }

    fn is_stalled(&self, now: Instant) -> bool {
        self.with(|inner| {
            inner
                .beat
                .is_some_and(|beat| now.saturating_duration_since(beat) > STALLED_AFTER)
        })
    }

    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The routes of the admin port.
pub fn router(health: Arc<Health>, metrics: Metrics) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(health)
        .route(
            "/metrics",
            get(move || async move { ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], metrics.exposition()) }),
        )
}

async fn healthz(State(health): State<Arc<Health>>) -> impl IntoResponse {
    if health.is_stalled(clock::now()) {
        (StatusCode::INTERNAL_SERVER_ERROR, "the control loop stands still\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

async fn readyz(State(health): State<Arc<Health>>) -> impl IntoResponse {
    if health.is_ready() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting or stopping\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn probes_hear_whether_it_is_ready_and_whether_its_loop_goes_round() {
        let health = Arc::new(Health::default());
        let ready = async || readyz(State(Arc::clone(&health))).await.into_response().status();
        let alive = async || healthz(State(Arc::clone(&health))).await.into_response().status();
        assert_eq!(ready().await, StatusCode::SERVICE_UNAVAILABLE);
        health.ready(true);
        assert_eq!((ready().await, alive().await), (StatusCode::OK, StatusCode::OK));
        health.beat(clock::now().checked_sub(STALLED_AFTER + Duration::from_secs(1)));
        assert_eq!(alive().await, StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn only_a_loop_that_should_run_and_does_not_is_stalled() {
        let (health, start) = (Health::default(), Instant::now());
        let later = start + STALLED_AFTER + Duration::from_secs(1);
        assert!(!health.is_stalled(later), "never led");
        health.beat(Some(start));
        assert!(!health.is_stalled(start + STALLED_AFTER));
        assert!(health.is_stalled(later));
        health.beat(None);
        assert!(!health.is_stalled(later), "leads no longer");
    }
}
