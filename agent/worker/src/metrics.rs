//! What a worker counts. The agent asks for the text over the control socket and exposes it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::core::Collector;
use prometheus::{
    CounterVec, Encoder, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::control::Pace;
use crate::head::schedule::{CellUse, Tally};
use crate::stage::pace::{Computed, StagePace};
use crate::stage::reach::Reach;

/// Upper bounds in seconds, from a decode step of a small slice to a prefill step on a slow device.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Work in seconds from which on a ratio says something: less is the moment in which an idle pipeline forgets a sequence.
const LEAST_WORK_S: f64 = 0.01;

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
    /// How long those waited that were seated.
    pub queue_wait_seconds: Histogram,
    /// On the head: steps composed and not answered.
    pub steps_in_flight: IntGauge,
    /// On the head: cache positions by `state`: `used`, `reserved`, `kept`, `total`.
    pub kv_cells: IntGaugeVec,
    /// On the head: sequences that began with another one's prefix.
    pub prefix_hits: IntCounter,
    /// On the head: positions that these did not compute.
    pub prefix_tokens: IntCounter,
    /// On the head: prefixes given up for cells, slots or memory.
    pub prefix_evictions: IntCounter,
    /// On the head: prefixes kept now.
    pub prefixes_kept: IntGauge,
    /// On the head: tokens that were drafted and computed before they were known.
    pub draft_tokens: IntCounter,
    /// On the head: of these, the ones that came.
    pub accepted_draft_tokens: IntCounter,
    /// On the head: compute time of each `stage`.
    stage_busy_seconds: CounterVec,
    /// On the head: time that each `stage` did not compute while steps were under way.
    pub stage_bubble_seconds: CounterVec,
    /// On the head: the part of the last second of work that each `stage` computed.
    pub stage_busy_ratio: GaugeVec,
    pace: Arc<Mutex<StagePace>>,
    reach: Arc<Mutex<Reach>>,
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
        let options = |name: &str, help: &str| Opts::new(format!("shardwright_worker_{name}"), help);
        let steps = options("steps_total", "Steps executed, by outcome.");
        let cells = options("kv_cells", "Cache positions of every stage, by state.");
        let busy = options(
            "stage_busy_seconds_total",
            "Time that each stage computed, as the head heard.",
        );
        let bubbles = options(
            "stage_bubble_seconds_total",
            "Time that each stage did not compute while steps were under way.",
        );
        let ratio = options(
            "stage_busy_ratio",
            "Part of the last second of work that each stage computed.",
        );
        let metrics = Self {
            registry: Registry::new(),
            steps: IntCounterVec::new(steps, &["outcome"])?,
            rows: counter("rows_total", "Rows computed.")?,
            tokens: counter("tokens_total", "Tokens emitted by the head.")?,
            compute_seconds: seconds("compute_seconds", "Time of a step in this stage's engine.")?,
            hop_seconds: seconds("hop_seconds", "Time of a step between all later stages.")?,
            active_sequences: gauge("active_sequences", "Sequences that hold a slot.")?,
            queue_length: gauge("queue_length", "Requests that wait for a slot.")?,
            queue_wait_seconds: seconds("queue_wait_seconds", "Time that a request waited until it was seated.")?,
            steps_in_flight: gauge("steps_in_flight", "Steps composed and not answered.")?,
            kv_cells: IntGaugeVec::new(cells, &["state"])?,
            prefix_hits: counter(
                "prefix_hits_total",
                "Sequences that began with a kept or running prefix.",
            )?,
            prefix_tokens: counter(
                "prefix_reused_tokens_total",
                "Positions that were reused instead of computed.",
            )?,
            prefix_evictions: counter(
                "prefix_evictions_total",
                "Kept prefixes given up for cells, slots or memory.",
            )?,
            prefixes_kept: gauge("prefixes_kept", "Prefixes kept for reuse.")?,
            draft_tokens: counter(
                "draft_tokens_total",
                "Tokens that were drafted from the text before them and computed by stages that would have idled.",
            )?,
            accepted_draft_tokens: counter("accepted_draft_tokens_total", "Drafted tokens that came.")?,
            stage_busy_seconds: CounterVec::new(busy, &["stage"])?,
            stage_bubble_seconds: CounterVec::new(bubbles, &["stage"])?,
            stage_busy_ratio: GaugeVec::new(ratio, &["stage"])?,
            pace: Arc::default(),
            reach: Arc::default(),
        };
        metrics.register()?;
        Ok(metrics)
    }

    fn register(&self) -> Result<(), prometheus::Error> {
        let collectors: [Box<dyn Collector>; 19] = [
            Box::new(self.steps.clone()),
            Box::new(self.rows.clone()),
            Box::new(self.tokens.clone()),
            Box::new(self.compute_seconds.clone()),
            Box::new(self.hop_seconds.clone()),
            Box::new(self.active_sequences.clone()),
            Box::new(self.queue_length.clone()),
            Box::new(self.queue_wait_seconds.clone()),
            Box::new(self.steps_in_flight.clone()),
            Box::new(self.kv_cells.clone()),
            Box::new(self.prefix_hits.clone()),
            Box::new(self.prefix_tokens.clone()),
            Box::new(self.prefix_evictions.clone()),
            Box::new(self.prefixes_kept.clone()),
            Box::new(self.draft_tokens.clone()),
            Box::new(self.accepted_draft_tokens.clone()),
            Box::new(self.stage_busy_seconds.clone()),
            Box::new(self.stage_bubble_seconds.clone()),
            Box::new(self.stage_busy_ratio.clone()),
        ];
        for collector in collectors {
            self.registry.register(collector)?;
        }
        Ok(())
    }

    /// A step of this stage ended: what was computed, or why not.
    pub fn record_step(&self, outcome: Result<Computed, &'static str>) {
        match outcome {
            Ok(step) => {
                self.steps.with_label_values(&["ok"]).inc();
                self.rows.inc_by(step.rows as u64);
                self.compute_seconds.observe(seconds(step.compute_us));
                self.with_pace(|pace| pace.computed(step));
            }
            Err(reason) => self.steps.with_label_values(&[reason]).inc(),
        }
    }

    /// What a step took beyond all stages' compute, microseconds. `alone`: of one row, and with no other step under way, so that
    /// it waited for nothing.
    pub fn record_hops(&self, hop_us: u64, alone: bool) {
        self.hop_seconds.observe(seconds(hop_us));
        if alone {
            self.with_pace(|pace| pace.hopped(hop_us));
        }
    }

    /// How fast the stage is, as it is told now; nothing before enough was measured.
    pub fn pace(&self, now: Instant) -> Option<Pace> {
        Some(self.with_pace(|pace| pace.told(now))).filter(|pace| *pace != Pace::default())
    }

    fn with_pace<T>(&self, act: impl FnOnce(&mut StagePace) -> T) -> T {
        // A panic in between leaves figures that are still figures.
        act(&mut self.pace.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// An attempt to dial the next stage by this route begins; it ends with what this gives.
    pub fn dialling(&self, route: u64) -> Dialling {
        let began = Instant::now();
        self.with_reach(|reach| reach.dials(route, began));
        Dialling {
            metrics: self.clone(),
            route,
            began,
        }
    }

    /// The connection to the next stage by this route broke before anything was answered over it.
    pub fn record_barren(&self, route: u64, cause: String) {
        self.with_reach(|reach| reach.broke(route, Instant::now(), cause));
    }

    /// The same connection was given up, because nothing was heard over it for so long.
    pub fn record_silence(&self, route: u64, silence: Duration, cause: String) {
        let now = Instant::now();
        let since = now.checked_sub(silence).unwrap_or(now);
        self.with_reach(|reach| reach.fell_silent(route, since, now, cause));
    }

    /// The next stage has answered the first step of a connection.
    pub fn record_answer(&self) {
        self.with_reach(Reach::answered);
    }

    /// Why the next stage cannot be reached by this route, where that is news.
    pub fn next_unreachable(&self, route: u64) -> Option<String> {
        self.with_reach(|reach| reach.told(route, Instant::now()).map(str::to_owned))
    }

    fn with_reach<T>(&self, act: impl FnOnce(&mut Reach) -> T) -> T {
        act(&mut self.reach.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A request waited so long for its seat, microseconds.
    pub fn record_queue_wait(&self, waited_us: u64) {
        self.queue_wait_seconds.observe(seconds(waited_us));
    }

    /// How the caches are used now.
    pub fn record_cells(&self, cells: &CellUse) {
        let states = [
            ("used", cells.used),
            ("reserved", cells.reserved),
            ("kept", cells.kept),
            ("total", cells.cells),
        ];
        for (state, cells) in states {
            let cells = i64::try_from(cells).unwrap_or(i64::MAX);
            self.kv_cells.with_label_values(&[state]).set(cells);
        }
    }

    /// What came of kept prefixes and of drafts between two looks at the schedule.
    pub fn record_tally(&self, before: &Tally, now: &Tally) {
        self.prefix_hits.inc_by(now.prefix_hits - before.prefix_hits);
        self.prefix_tokens.inc_by(now.reused_tokens - before.reused_tokens);
        self.prefix_evictions.inc_by(now.evictions - before.evictions);
        self.draft_tokens.inc_by(now.drafts - before.drafts);
        self.accepted_draft_tokens
            .inc_by(now.accepted_drafts - before.accepted_drafts);
    }

    /// On the head: a stage of the pipeline computed so long on a step, microseconds.
    pub fn record_stage(&self, stage: u32, compute_us: u64) {
        let busy = self.stage_busy_seconds.with_label_values(&[&stage.to_string()]);
        busy.inc_by(seconds(compute_us));
    }

    /// What [`Metrics::record_stage`] was told of a stage, seconds.
    pub fn stage_busy_s(&self, stage: u32) -> f64 {
        self.stage_busy_seconds.with_label_values(&[&stage.to_string()]).get()
    }

    /// Steps were under way for some time, of which a stage computed a part.
    pub fn record_occupancy(&self, stage: u32, worked_s: f64, computed_s: f64) {
        let stage = stage.to_string();
        let bubbles = self.stage_bubble_seconds.with_label_values(&[&stage]);
        bubbles.inc_by((worked_s - computed_s).max(0.0));
        if worked_s >= LEAST_WORK_S {
            let ratio = self.stage_busy_ratio.with_label_values(&[&stage]);
            ratio.set((computed_s / worked_s).clamp(0.0, 1.0));
        }
    }

    /// Another pipeline begins, perhaps with fewer stages: what was said of those of the last one does not hold any more.
    pub fn forget_occupancy(&self) {
        self.stage_busy_ratio.reset();
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

/// An attempt to dial the next stage. Dropped, it was given up by whoever made it.
#[derive(Debug)]
pub struct Dialling {
    metrics: Metrics,
    route: u64,
    began: Instant,
}

impl Dialling {
    /// It has ended, for a cause where it failed.
    pub fn ended(self, cause: Option<String>) {
        let (route, began) = (self.route, self.began);
        let reach = |reach: &mut Reach| reach.dialled(route, began, Instant::now(), cause);
        self.metrics.with_reach(reach);
    }
}

impl Drop for Dialling {
    fn drop(&mut self) {
        self.metrics.with_reach(Reach::gave_up);
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}
