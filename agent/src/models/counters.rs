//! What was fetched, for metrics.

use crate::source::Kind;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry};

/// From a header to the slices of large models over slow lines, in seconds.
const SECONDS: [f64; 10] = [0.1, 0.5, 2.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1800.0, 7200.0];

/// Counts since the start. Clones count together.
#[derive(Clone, Debug)]
pub struct Counters {
    bytes: IntCounterVec,
    seconds: Histogram,
    cache_bytes: IntGauge,
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}

impl Counters {
    /// All zero.
    pub fn new() -> Self {
        let bytes = Opts::new(
            "shardwright_agent_fetch_bytes_total",
            "Bytes of models read, by where they came from.",
        );
        let bytes = IntCounterVec::new(bytes, &["source"]).expect("the name and the label are well-formed");
        for kind in Kind::ALL {
            bytes.with_label_values(&[kind.name()]);
        }
        let seconds = HistogramOpts::new(
            "shardwright_agent_fetch_seconds",
            "How long it took until a shard's missing pieces were here.",
        );
        let cache_bytes = IntGauge::new(
            "shardwright_agent_cache_bytes",
            "Bytes that models take on this node's disk.",
        );
        Self {
            bytes,
            seconds: Histogram::with_opts(seconds.buckets(SECONDS.to_vec())).expect("the name is well-formed"),
            cache_bytes: cache_bytes.expect("the name is well-formed"),
        }
    }

    /// Bytes that came.
    pub fn received(&self, kind: Kind, bytes: u64) {
        self.bytes.with_label_values(&[kind.name()]).inc_by(bytes);
    }

    /// Bytes that came from there since the start.
    pub fn bytes(&self, kind: Kind) -> u64 {
        self.bytes.with_label_values(&[kind.name()]).get()
    }

    /// A fetch that brought something has ended well.
    pub fn fetched(&self, seconds: f64) {
        self.seconds.observe(seconds);
    }

    /// What the models take on disk.
    pub fn cached(&self, bytes: u64) {
        self.cache_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Shows them in a scrape.
    ///
    /// # Errors
    /// A metric of the same name is there already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.bytes.clone()))?;
        registry.register(Box::new(self.seconds.clone()))?;
        registry.register(Box::new(self.cache_bytes.clone()))
    }
}
