//! The links of this node, as Prometheus reads them: in seconds and bytes, one series for each peer and direction.

use super::family::{Family, Type};
use crate::links::Seen;
use prometheus::Registry;

/// # Errors
/// A name is taken.
pub(super) fn collect(registry: &Registry, node: &str, seen: &Seen) -> Result<(), prometheus::Error> {
    let family = |kind, name: &str, help: &str, labels: &[&str]| {
        Family::register(registry, kind, &format!("shardwright_link_{name}"), help, labels)
    };
    let latency = family(
        Type::Gauge,
        "latency_seconds",
        "Time from this node to a peer over the connection that stages use: half of there and back, of the last rounds.",
        &["node", "peer", "kind", "quantile"],
    )?;
    let bandwidth = family(
        Type::Gauge,
        "bandwidth_bytes_per_second",
        "Rate of one stream between this node and a peer, the median of the last rounds.",
        &["node", "peer", "kind", "direction"],
    )?;
    let reachable = family(
        Type::Gauge,
        "reachable",
        "Whether the last attempts to measure a link went well.",
        &["node", "peer"],
    )?;
    for (peer, link) in &seen.links {
        use crate::links::Standing::{Measured, Pending, Unreachable};
        reachable.set(
            &[node, peer],
            match link.standing {
                Pending => None,
                Measured => Some(1.0),
                Unreachable => Some(0.0),
            },
        );
        let Some(figures) = &link.figures else { continue };
        let kind = link.kind.as_str();
        let seconds = |us: u64| Some(us as f64 / 1e6);
        latency.set(&[node, peer, kind, "0.5"], seconds(figures.latency_p50_us));
        latency.set(&[node, peer, kind, "0.99"], seconds(figures.latency_p99_us));
        bandwidth.set(&[node, peer, kind, "send"], Some(figures.send_bytes_per_second as f64));
        bandwidth.set(
            &[node, peer, kind, "receive"],
            Some(figures.receive_bytes_per_second as f64),
        );
    }
    let rounds = family(
        Type::Counter,
        "rounds_total",
        "Rounds of measuring that this node began.",
        &["outcome"],
    )?;
    for (outcome, count) in [
        ("measured", seen.tally.measured),
        ("put_off", seen.tally.refused),
        ("failed", seen.tally.failed),
    ] {
        rounds.set(&[outcome], Some(count as f64));
    }
    let filled = family(
        Type::Counter,
        "filled_seconds_total",
        "Time for which measuring filled this node's link.",
        &["side"],
    )?;
    filled.set(&["began"], Some(seen.tally.began_us as f64 / 1e6));
    filled.set(&["answered"], Some(seen.tally.answered_us as f64 / 1e6));
    Ok(())
}

#[cfg(test)]
mod tests;
