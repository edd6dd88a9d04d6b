//! What the gateway counts, in Prometheus' text format.

use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Buckets of serving latencies, seconds: those of vLLM, so that dashboards made for it fit.
const FIRST_TOKEN_BUCKETS: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
];
const INTER_TOKEN_BUCKETS: [f64; 19] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
const DURATION_BUCKETS: [f64; 20] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0,
];

/// All metrics of one gateway.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Answers by HTTP status.
    pub requests: IntCounterVec,
    /// Request to first token, seconds.
    pub first_token: Histogram,
    /// Between two tokens of one answer, seconds.
    pub inter_token: Histogram,
    /// Request to the end of its answer, seconds; answered ones only.
    pub duration: Histogram,
    /// Answers in progress.
    pub active_streams: IntGauge,
    /// Answers that ended with an error after they had begun.
    pub interrupted_streams: IntCounter,
    /// Answers that went on after the loss of the workers that had begun them, once for each loss.
    pub resumed_streams: IntCounter,
    /// From the loss of the workers to the next token of the answer, seconds.
    pub standstill: Histogram,
    /// Tokens of prompts.
    pub prompt_tokens: IntCounter,
    /// Tokens of prompts that the workers had kept from earlier requests.
    pub cached_prompt_tokens: IntCounter,
    /// Tokens of answers.
    pub completion_tokens: IntCounter,
    /// Tokenisers that died and were replaced.
    pub tokenizer_restarts: IntCounter,
    /// 1 while routes follow the operator, 0 while the last ones known are used.
    pub operator_connected: IntGauge,
    /// What is left of each `certificate`, seconds, below zero once it has ended: the gateway's `own`, and that for `users` where
    /// one is given.
    pub certificate_remaining: IntGaugeVec,
}

impl Metrics {
    /// All at zero.
    ///
    /// # Errors
    /// When a name is not valid, which tests rule out.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let metrics = Self {
            requests: IntCounterVec::new(
                options("requests_total", "HTTP requests on the user port, by status."),
                &["code"],
            )?,
            first_token: histogram(
                "time_to_first_token_seconds",
                "From request to first token.",
                &FIRST_TOKEN_BUCKETS,
            )?,
            inter_token: histogram(
                "inter_token_seconds",
                "Between two tokens of one answer.",
                &INTER_TOKEN_BUCKETS,
            )?,
            duration: histogram(
                "request_duration_seconds",
                "From request to the end of its answer.",
                &DURATION_BUCKETS,
            )?,
            active_streams: IntGauge::with_opts(options("active_streams", "Answers in progress."))?,
            interrupted_streams: IntCounter::with_opts(options(
                "interrupted_streams_total",
                "Answers that ended with an error after they had begun.",
            ))?,
            resumed_streams: IntCounter::with_opts(options(
                "resumed_streams_total",
                "Answers that went on after the loss of the workers that had begun them, once for each loss.",
            ))?,
            standstill: histogram(
                "standstill_seconds",
                "From the loss of the workers to the next token of the answer.",
                &FIRST_TOKEN_BUCKETS,
            )?,
            prompt_tokens: IntCounter::with_opts(options("prompt_tokens_total", "Tokens of prompts."))?,
            cached_prompt_tokens: IntCounter::with_opts(options(
                "cached_prompt_tokens_total",
                "Tokens of prompts that were kept from earlier requests.",
            ))?,
            completion_tokens: IntCounter::with_opts(options("completion_tokens_total", "Tokens of answers."))?,
            tokenizer_restarts: IntCounter::with_opts(options(
                "tokenizer_restarts_total",
                "Tokenisers that died and were replaced.",
            ))?,
            operator_connected: IntGauge::with_opts(options(
                "operator_connected",
                "1 while routes follow the operator.",
            ))?,
            certificate_remaining: IntGaugeVec::new(
                options(
                    "certificate_remaining_seconds",
                    "Until a certificate ends; below zero once it has.",
                ),
                &["certificate"],
            )?,
            registry: registry.clone(),
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.first_token.clone()))?;
        registry.register(Box::new(metrics.inter_token.clone()))?;
        registry.register(Box::new(metrics.duration.clone()))?;
        registry.register(Box::new(metrics.active_streams.clone()))?;
        registry.register(Box::new(metrics.interrupted_streams.clone()))?;
        registry.register(Box::new(metrics.resumed_streams.clone()))?;
        registry.register(Box::new(metrics.standstill.clone()))?;
        registry.register(Box::new(metrics.prompt_tokens.clone()))?;
        registry.register(Box::new(metrics.cached_prompt_tokens.clone()))?;
        registry.register(Box::new(metrics.completion_tokens.clone()))?;
        registry.register(Box::new(metrics.tokenizer_restarts.clone()))?;
        registry.register(Box::new(metrics.operator_connected.clone()))?;
        registry.register(Box::new(metrics.certificate_remaining.clone()))?;
        Ok(metrics)
    }

    /// The text to serve.
    ///
    /// # Errors
    /// When a metric cannot be written as text.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }
}

fn options(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("shardwright_gateway")
}

fn histogram(name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, prometheus::Error> {
    let options = HistogramOpts {
        common_opts: options(name, help),
        buckets: buckets.to_vec(),
    };
    Histogram::with_opts(options)
}
