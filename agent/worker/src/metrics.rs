//! What a worker counts. The agent asks for the text over the control socket and exposes it.

use prometheus::{Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};

/// Upper bounds in seconds, from a decode step of a small slice to a prefill step on a slow device.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// All metrics of one worker.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// Steps by `outcome`: `ok`, or the reason of the failure.
    pub steps: IntCounterVec,
    /// Rows computed.
    pub rows: IntCounter,
    /// Tokens emitted by the head.
    pub tokens: IntCounter,
    /// Time of each step in this stage's engine.
    pub compute_seconds: Histogram,
    /// Time of each step on the wire and in the queues of all later stages.
    pub hop_seconds: Histogram,
    /// Sequences that hold a slot.
    pub active_sequences: IntGauge,
    /// Requests that wait for a slot.
    pub queue_length: IntGauge,
}

impl Metrics {
    /// Fresh metrics in a registry of their own.
    ///
    /// # Errors
    /// When a name is malformed or taken twice.
    pub fn new() -> Result<Self, prometheus::Error> {
        let seconds = |name: &str, help: &str| {
            let options = HistogramOpts::new(format!("shardwright_worker_{name}"), help);
            Histogram::with_opts(options.buckets(SECONDS.to_vec()))
        };
        let counter = |name: &str, help: &str| IntCounter::new(format!("shardwright_worker_{name}"), help);
        let gauge = |name: &str, help: &str| IntGauge::new(format!("shardwright_worker_{name}"), help);
        let steps = Opts::new("shardwright_worker_steps_total", "Steps executed, by outcome.");
        let metrics = Self {
            registry: Registry::new(),
            steps: IntCounterVec::new(steps, &["outcome"])?,
            rows: counter("rows_total", "Rows computed.")?,
            tokens: counter("tokens_total", "Tokens emitted by the head.")?,
            compute_seconds: seconds("compute_seconds", "Time of a step in this stage's engine.")?,
            hop_seconds: seconds("hop_seconds", "Time of a step between all later stages.")?,
            active_sequences: gauge("active_sequences", "Sequences that hold a slot.")?,
            queue_length: gauge("queue_length", "Requests that wait for a slot.")?,
        };
        metrics.registry.register(Box::new(metrics.steps.clone()))?;
        metrics.registry.register(Box::new(metrics.rows.clone()))?;
        metrics.registry.register(Box::new(metrics.tokens.clone()))?;
        metrics.registry.register(Box::new(metrics.compute_seconds.clone()))?;
        metrics.registry.register(Box::new(metrics.hop_seconds.clone()))?;
        metrics.registry.register(Box::new(metrics.active_sequences.clone()))?;
        metrics.registry.register(Box::new(metrics.queue_length.clone()))?;
        Ok(metrics)
    }

    /// A step of this stage ended; `rows` computed in `compute_us`, or why not.
    pub fn record_step(&self, outcome: Result<(usize, u64), &'static str>) {
        match outcome {
            Ok((rows, compute_us)) => {
                self.steps.with_label_values(&["ok"]).inc();
                self.rows.inc_by(rows as u64);
                self.compute_seconds.observe(seconds(compute_us));
            }
            Err(reason) => self.steps.with_label_values(&[reason]).inc(),
        }
    }

    /// What a step took beyond all stages' compute, microseconds.
    pub fn record_hops(&self, hop_us: u64) {
        self.hop_seconds.observe(seconds(hop_us));
    }

    /// The text exposition format.
    ///
    /// # Errors
    /// When the encoder fails, which takes a metric without a name.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}
