//! Prometheus metrics, computed from what is known at the moment they are asked for.

mod dcgm;
mod family;
mod gpu;
mod links;
pub mod workers;

use crate::devices::Devices;
use crate::links::Seen;
use crate::models::Counters;
use crate::shard::drive::View;
use family::{Family, Type};
use identity::seconds_until;
use prometheus::{Encoder, IntGaugeVec, Opts, Registry, TextEncoder};
use proto::control::v1::{ShardPhase, ShardStatus};
use std::time::SystemTime;

/// The text of a scrape. `dcgm`: NVIDIA's cards are told of once more, under the names of NVIDIA's exporter.
///
/// # Errors
/// A metric could not be encoded.
pub fn text(
    node: &str,
    devices: &Devices,
    view: &View,
    attached: bool,
    fetched: &Counters,
    seen: &Seen,
    dcgm: bool,
) -> Result<String, prometheus::Error> {
    let registry = Registry::new();
    fetched.register(&registry)?;
    let gauge = |name: &str, help: &str, labels: &[&str]| -> Result<IntGaugeVec, prometheus::Error> {
        let gauge = IntGaugeVec::new(Opts::new(format!("shardwright_agent_{name}"), help), labels)?;
        registry.register(Box::new(gauge.clone()))?;
        Ok(gauge)
    };
    gauge("attached", "Whether the stream to the operator stands.", &[])?
        .with_label_values::<&str>(&[])
        .set(i64::from(attached));
    gpu::collect(&registry, node, devices)?;
    links::collect(&registry, node, seen)?;
    if dcgm {
        dcgm::collect(&registry, node, devices)?;
    }
    asking(&registry, devices)?;
    shards(&registry, view)?;
    worker_failures(&registry, view.worker_failures)?;
    encoded(&registry)
}

/// The same of certificates: when each one ends, by whose it is.
///
/// # Errors
/// A metric could not be encoded.
pub fn certificates(ends: &[(&str, SystemTime)], now: SystemTime) -> Result<String, prometheus::Error> {
    let registry = Registry::new();
    let options = Opts::new(
        "shardwright_agent_certificate_remaining_seconds",
        "Until a certificate ends; below zero once it has. Of the workers', the one that ends first.",
    );
    let remaining = IntGaugeVec::new(options, &["certificate"])?;
    registry.register(Box::new(remaining.clone()))?;
    for (certificate, end) in ends {
        remaining
            .with_label_values(&[certificate])
            .set(seconds_until(*end, now));
    }
    encoded(&registry)
}

fn encoded(registry: &Registry) -> Result<String, prometheus::Error> {
    let mut bytes = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut bytes)?;
    String::from_utf8(bytes).map_err(|error| prometheus::Error::Msg(error.to_string()))
}

/// What the shards do. One that serves and is loaded for the next placement counts as both.
fn shards(registry: &Registry, view: &View) -> Result<(), prometheus::Error> {
    let gauge = |name: &str, help: &str, labels: &[&str]| -> Result<IntGaugeVec, prometheus::Error> {
        let gauge = IntGaugeVec::new(Opts::new(format!("shardwright_agent_{name}"), help), labels)?;
        registry.register(Box::new(gauge.clone()))?;
        Ok(gauge)
    };
    let shards = gauge("shards", "Shards of this node by phase.", &["phase"])?;
    for phase in PHASES {
        shards.with_label_values(&[phase_name(phase)]).set(0);
    }
    let epoch = gauge(
        "shard_epoch",
        "Epoch of the placement a shard obeys.",
        &["model_uid", "pipeline", "stage"],
    )?;
    let serves = |status: &&ShardStatus| status.phase() == ShardPhase::Serving;
    let proposed = |status: &&ShardStatus| matches!(status.phase(), ShardPhase::Loaded | ShardPhase::Fetched);
    for status in &view.statuses {
        shards.with_label_values(&[phase_name(status.phase())]).inc();
    }
    let others = view
        .statuses
        .iter()
        .filter(|status| !serves(status) && !proposed(status));
    // Last: what serves counts where a proposal has something else in the same place.
    for status in others.chain(view.statuses.iter().filter(serves)) {
        let (pipeline, stage) = (status.pipeline.to_string(), status.stage.to_string());
        epoch
            .with_label_values(&[status.model_uid.as_str(), &pipeline, &stage])
            .set(signed(status.epoch));
    }
    Ok(())
}

const PHASES: [ShardPhase; 8] = [
    ShardPhase::Fetching,
    ShardPhase::Verifying,
    ShardPhase::Fetched,
    ShardPhase::Loading,
    ShardPhase::Loaded,
    ShardPhase::Serving,
    ShardPhase::Draining,
    ShardPhase::Failed,
];

/// How the drivers were asked, and how often that failed.
fn asking(registry: &Registry, devices: &Devices) -> Result<(), prometheus::Error> {
    let counters = &devices.counters;
    for (name, help, counts) in [
        ("probes_total", "Probes of drivers that were started.", &counters.probes),
        (
            "probe_failures_total",
            "Probes that did not answer, or ended badly.",
            &counters.probes_failed,
        ),
        (
            "watcher_restarts_total",
            "Readers of drivers that had to be started again.",
            &counters.watchers_restarted,
        ),
    ] {
        let name = format!("shardwright_agent_device_{name}");
        let family = Family::register(registry, Type::Counter, &name, help, &["backend"])?;
        for (backend, count) in counts {
            family.set(&[backend.name()], Some(*count as f64));
        }
    }
    for (name, help, count) in [
        (
            "device_readings_total",
            "Readings of devices that came.",
            counters.readings,
        ),
        (
            "kmsg_spoofed_total",
            "Lines in the kernel's log that read like a driver's and were written by a process.",
            counters.spoofed_events,
        ),
    ] {
        let family = Family::register(registry, Type::Counter, &format!("shardwright_agent_{name}"), help, &[])?;
        family.set(&[], Some(count as f64));
    }
    Ok(())
}

fn worker_failures(registry: &Registry, count: u64) -> Result<(), prometheus::Error> {
    let failures = prometheus::IntCounter::new(
        "shardwright_agent_worker_failures_total",
        "Workers that ended without having been asked to.",
    )?;
    registry.register(Box::new(failures.clone()))?;
    failures.inc_by(count);
    Ok(())
}

fn phase_name(phase: ShardPhase) -> &'static str {
    match phase {
        ShardPhase::Unspecified | ShardPhase::Fetching => "fetching",
        ShardPhase::Verifying => "verifying",
        ShardPhase::Loading => "loading",
        ShardPhase::Serving => "serving",
        ShardPhase::Draining => "draining",
        ShardPhase::Failed => "failed",
        ShardPhase::Loaded => "loaded",
        ShardPhase::Fetched => "fetched",
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
