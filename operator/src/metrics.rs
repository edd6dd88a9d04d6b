//! What the operator counts, as `shardwright_operator_*`. Every label has a fixed set of values, but for the stages of models, of
//! which there are as many as placements have.

use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

/// One pass of the control loop: from a millisecond (nothing to do) to its slow calls of seconds.
const PASS_BUCKETS_S: [f64; 9] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];

/// All metrics of the process; clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// 1 while this replica leads.
    pub leader: IntGauge,
    /// Agents attached to this replica.
    pub agents: IntGauge,
    /// Agents that are not heard and counted all the same, for most went at once.
    pub agents_unheard: IntGauge,
    /// Gateways that watch the routes.
    pub gateways: IntGauge,
    /// Models by `state`: `ready`, `placed`, `waiting`.
    pub models: IntGaugeVec,
    /// Devices that are judged unfit and not left, for too many were left of late.
    pub devices_held: IntGauge,
    /// How far the measured time of a stage is from the predicted one, by `namespace`, `model` and `stage`: 0.3 is 30 % slower.
    pub prediction_error_ratio: GaugeVec,
    /// Tokens behind that, by the same labels.
    pub prediction_tokens: IntGaugeVec,
    /// Duration of a pass over all models.
    pub pass_seconds: Histogram,
    /// Placements by `outcome`: `placed`, `refused`.
    pub placements: IntCounterVec,
    /// Inspections by `outcome`: `resolved`, `failed`.
    pub inspections: IntCounterVec,
    /// Status writes.
    pub status_writes: IntCounter,
    /// Enrolments by `role` and `outcome`: `issued`, `refused`, `failed`, `limited`.
    pub enrolments: IntCounterVec,
    /// Leaves issued to workers.
    pub worker_leaves: IntCounter,
    /// What is left of each `certificate`, seconds, below zero once it has ended: this replica's `own`, the `authority`'s, and while one
    /// takes another's place that of the `other_authority`.
    pub certificate_remaining: IntGaugeVec,
    /// 1 for the `phase` in which the authority is: `steady`, `prepared`, `active`.
    pub authority_phase: IntGaugeVec,
    /// Events that were not sent since too many waited.
    pub events_dropped: IntCounter,
    /// Failures by `category`.
    pub errors: IntCounterVec,
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Panics
    /// Never: names are distinct and well-formed, as the test of this module proves.
    #[must_use]
    pub fn new() -> Self {
        Self::try_new().expect("metric names are constants, distinct and well-formed")
    }

    fn try_new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some("shardwright_operator".to_owned()), None)?;
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let models = IntGaugeVec::new(Opts::new("models", "InferenceModels by state"), &["state"])?;
        registry.register(Box::new(models.clone()))?;
        let stage = ["namespace", "model", "pipeline", "stage"];
        let error = Opts::new(
            "prediction_error_ratio",
            "Measured time of a stage for one token / predicted time - 1",
        );
        let prediction_error_ratio = GaugeVec::new(error, &stage)?;
        registry.register(Box::new(prediction_error_ratio.clone()))?;
        let tokens = Opts::new("prediction_tokens", "Tokens behind prediction_error_ratio");
        let prediction_tokens = IntGaugeVec::new(tokens, &stage)?;
        registry.register(Box::new(prediction_tokens.clone()))?;
        let pass =
            HistogramOpts::new("pass_seconds", "Duration of a pass over all models").buckets(PASS_BUCKETS_S.into());
        let pass_seconds = Histogram::with_opts(pass)?;
        registry.register(Box::new(pass_seconds.clone()))?;
        let remaining = Opts::new(
            "certificate_remaining_seconds",
            "Until a certificate ends; below zero once it has",
        );
        let certificate_remaining = IntGaugeVec::new(remaining, &["certificate"])?;
        registry.register(Box::new(certificate_remaining.clone()))?;
        let phase = Opts::new(
            "authority_phase",
            "1 for the phase in which the authority is; told by the leader",
        );
        let authority_phase = IntGaugeVec::new(phase, &["phase"])?;
        registry.register(Box::new(authority_phase.clone()))?;
        let build = IntGaugeVec::new(
            Opts::new("build_info", "Always 1; the label is the version"),
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(build))?;
        Ok(Self {
            leader: gauge("leader", "1 while this replica leads")?,
            agents: gauge("agents_attached", "Agents attached to this replica")?,
            agents_unheard: gauge(
                "agents_unheard",
                "Agents that are not heard and counted all the same, for most went at once",
            )?,
            gateways: gauge("gateways_watching", "Gateways that watch the routes")?,
            models,
            devices_held: gauge(
                "devices_held",
                "Devices that are judged unfit and not left, for too many were left within minutes",
            )?,
            prediction_error_ratio,
            prediction_tokens,
            pass_seconds,
            placements: counters("placements_total", "Placements decided", &["outcome"])?,
            inspections: counters("inspections_total", "Sources inspected", &["outcome"])?,
            status_writes: counter("status_writes_total", "Status writes")?,
            enrolments: counters("enrolments_total", "Enrolments asked for", &["role", "outcome"])?,
            worker_leaves: counter("worker_leaves_total", "Leaves issued to workers")?,
            certificate_remaining,
            authority_phase,
            events_dropped: counter("events_dropped_total", "Events not sent since too many waited")?,
            errors: counters("errors_total", "Failures by category", &["category"])?,
            registry,
        })
    }

    /// The text exposition format.
    #[must_use]
    pub fn exposition(&self) -> Vec<u8> {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "cannot encode the metrics");
        }
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_carries_our_prefix() {
        let metrics = Metrics::new();
        metrics.errors.with_label_values(&["api_timeout"]).inc();
        let text = String::from_utf8(metrics.exposition()).unwrap();
        assert!(text.contains("shardwright_operator_errors_total{category=\"api_timeout\"} 1"));
        assert!(text.contains("shardwright_operator_build_info"));
        let foreign = |line: &&str| !line.starts_with('#') && !line.starts_with("shardwright_operator_");
        assert_eq!(text.lines().find(foreign), None);
    }
}
