//! Prometheus metrics, computed from what is known at the moment they are asked for.

use crate::discovery::report::object_name;
use crate::models::Counters;
use crate::shard::drive::View;
use device::GpuDevice;
use prometheus::{Encoder, IntGaugeVec, Opts, Registry, TextEncoder};
use proto::control::v1::ShardPhase;

/// The text of a scrape.
///
/// # Errors
/// A metric could not be encoded.
pub fn text(
    node: &str,
    devices: &[GpuDevice],
    view: &View,
    attached: bool,
    fetched: &Counters,
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
    device_gauges(&gauge, node, devices)?;
    let shards = gauge("shards", "Shards of this node by phase.", &["phase"])?;
    for phase in ["fetching", "verifying", "loading", "serving", "draining", "failed"] {
        shards.with_label_values(&[phase]).set(0);
    }
    let epoch = gauge(
        "shard_epoch",
        "Epoch of the placement a shard obeys.",
        &["model_uid", "pipeline", "stage"],
    )?;
    for status in &view.statuses {
        shards.with_label_values(&[phase_name(status.phase())]).inc();
        let (pipeline, stage) = (status.pipeline.to_string(), status.stage.to_string());
        epoch
            .with_label_values(&[status.model_uid.as_str(), &pipeline, &stage])
            .set(signed(status.epoch));
    }
    worker_failures(&registry, view.worker_failures)?;
    let mut bytes = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut bytes)?;
    String::from_utf8(bytes).map_err(|error| prometheus::Error::Msg(error.to_string()))
}

/// What is known of the devices, through `gauge`, which registers a metric.
fn device_gauges(
    gauge: &impl Fn(&str, &str, &[&str]) -> Result<IntGaugeVec, prometheus::Error>,
    node: &str,
    devices: &[GpuDevice],
) -> Result<(), prometheus::Error> {
    let device_labels = ["device", "kind"];
    let present = gauge(
        "device_verified",
        "Devices of this node; 1 when verified.",
        &device_labels,
    )?;
    let total = gauge("device_memory_bytes", "Memory the device has.", &device_labels)?;
    let usable = gauge(
        "device_memory_usable_bytes",
        "Memory that shards may use.",
        &device_labels,
    )?;
    let bandwidth = gauge(
        "device_bandwidth_bytes_per_second",
        "Measured memory bandwidth.",
        &device_labels,
    )?;
    for device in devices {
        let (name, kind) = (object_name(node, device), format!("{:?}", device.kind).to_lowercase());
        let labels = [name.as_str(), kind.as_str()];
        present
            .with_label_values(&labels)
            .set(i64::from(device.verification == device::Verification::Verified));
        total.with_label_values(&labels).set(signed(device.memory_total_bytes));
        usable
            .with_label_values(&labels)
            .set(signed(device.memory_usable_bytes));
        if let Some(measured) = device.measured.bandwidth_bytes_per_second {
            bandwidth.with_label_values(&labels).set(signed(measured.value));
        }
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
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::control::v1::ShardStatus;

    #[test]
    fn a_scrape_has_every_phase_and_the_epochs() {
        let status = ShardStatus {
            model_uid: "uid".into(),
            epoch: 7,
            phase: ShardPhase::Serving.into(),
            ..Default::default()
        };
        let view = View {
            statuses: vec![status],
            holdings: vec![],
            worker_failures: 3,
        };
        let fetched = Counters::new();
        fetched.received(crate::source::Kind::Hf, 12);
        let text = text("node-a", &[], &view, true, &fetched).unwrap();
        for line in [
            "shardwright_agent_attached 1",
            "shardwright_agent_shards{phase=\"serving\"} 1",
            "shardwright_agent_shards{phase=\"failed\"} 0",
            "shardwright_agent_shard_epoch{model_uid=\"uid\",pipeline=\"0\",stage=\"0\"} 7",
            "shardwright_agent_worker_failures_total 3",
            "shardwright_agent_fetch_bytes_total{source=\"hf\"} 12",
            "shardwright_agent_fetch_bytes_total{source=\"peer\"} 0",
            "shardwright_agent_fetch_seconds_count 0",
            "shardwright_agent_cache_bytes 0",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
