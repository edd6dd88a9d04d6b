//! A plan at work: streams in a closed loop through queues, to see whether what the solver predicts comes about.
//!
//! ```text
//!      ┌────────────── the token's way back: latencies only ──────────────┐
//!      ▼                                                                  │
//!  stage 0 ─▶ link: one transfer at a time, then latency ─▶ stage 1 ─▶ … ─┘
//!  (queue of its memory pool: stages on one memory take turns)
//! ```
//!
//! Discrete events in whole nanoseconds; nothing is random, so the same arguments give the same numbers. The predictions of a
//! [`Plan`] are two ends of what is simulated: one stream alone takes [`Plan::latency_ns`] for each token, and with many
//! streams no more than one token every [`Plan::slowest_ns`] can come out. What lies between, and whether the second is
//! reached, depends on queues, which no formula of the solver knows.

mod line;
mod queues;

use crate::{Plan, Problem};
use line::{Line, Pass};
use queues::{Ended, Queues};

/// What a plan is given to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Streams that decode, each asking for its next token when it has one. None: only the prompt is processed.
    pub streams: u32,
    /// Streams that go through the stages together, as one micro-batch: weights are read once for all of them.
    pub batch_streams: u32,
    /// Tokens after which each stream ends.
    pub tokens_per_stream: u32,
    /// Comes when every stream has its first token.
    pub prompt: Option<Prompt>,
}

/// A prompt of a further stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prompt {
    pub tokens: u32,
    /// Goes through the stages in pieces of this many tokens; the next one follows when the first stage has done the last.
    pub chunk_tokens: u32,
    /// Arithmetic of one token for each byte of weights: two for each weight, so one for half precision and four for four bits.
    pub operations_per_weight_byte: u32,
}

/// What came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Simulated {
    pub tokens: u64,
    /// From the first token's start to the last one's end, filling and draining of the stages included.
    pub elapsed_ns: u64,
    /// Time of one token of one stream, waiting included; those of the first round, when nobody waited yet, aside.
    pub mean_latency_ns: u64,
    pub p99_latency_ns: u64,
    /// Share of the time in which each stage worked, in thousandths.
    pub stage_busy_permille: Vec<u32>,
    /// The same of the transfers after each stage but the last.
    pub link_busy_permille: Vec<u32>,
    /// From the prompt's coming to its first token.
    pub first_token_ns: Option<u64>,
}

impl Simulated {
    /// Tokens in a million seconds: whole numbers that can be compared exactly enough.
    pub fn tokens_per_megasecond(&self) -> u64 {
        let tokens = u128::from(self.tokens) * 1_000_000_000_000_000;
        u64::try_from(tokens / u128::from(self.elapsed_ns.max(1))).unwrap_or(u64::MAX)
    }
}

/// More passes than any question needs: the work is limited whatever is asked.
const MAX_PASSES: u64 = 1_000_000;

/// Lets a plan work. `None` where the plan names devices that the topology lacks, has no stages, or nothing is to be done.
pub fn simulate(problem: &Problem, plan: &Plan, workload: &Workload) -> Option<Simulated> {
    let line = Line::new(problem, plan)?;
    let batch = workload.batch_streams.max(1);
    let groups = group_sizes(workload.streams, batch);
    if groups.is_empty() && workload.prompt.is_none() {
        return None;
    }
    let mut run = Run::new(&line, workload, &groups);
    run.go();
    Some(run.result())
}

/// How many streams each micro-batch has: full ones, then what is left.
fn group_sizes(streams: u32, batch: u32) -> Vec<u32> {
    let full = streams / batch;
    let rest = streams % batch;
    let sizes = (0..full).map(|_| batch).chain((rest > 0).then_some(rest));
    sizes.collect()
}

/// One simulation under way.
struct Run {
    queues: Queues,
    groups: Vec<Group>,
    /// Jobs of the prompt's chunks, in order; the first of them is job number `groups.len()`.
    chunks: usize,
    prompt_began_ns: Option<u64>,
    first_token_ns: Option<u64>,
    passes_per_group: u64,
    done_ns: u64,
    latencies: Vec<(u64, u32)>,
    tokens: u64,
    stage_busy_ns: Vec<u64>,
    link_busy_ns: Vec<u64>,
}

/// A micro-batch: always the same streams.
struct Group {
    streams: u32,
    began_ns: u64,
    passes: u64,
}

impl Run {
    fn new(line: &Line<'_>, workload: &Workload, groups: &[u32]) -> Self {
        let mut queues = Queues::new(line.servers);
        for streams in groups {
            queues.add(line.route(&Pass::Decode { streams: *streams }));
        }
        let mut chunks = 0;
        if let Some(prompt) = workload.prompt {
            let size = prompt.chunk_tokens.max(1);
            let mut left = prompt.tokens.max(1);
            while left > 0 {
                let tokens = left.min(size);
                left -= tokens;
                chunks += 1;
                queues.add(line.route(&Pass::Chunk {
                    tokens,
                    is_last: left == 0,
                    operations_per_weight_byte: prompt.operations_per_weight_byte,
                }));
            }
        }
        let count = u64::try_from(groups.len()).unwrap_or(u64::MAX).max(1);
        let passes_per_group = u64::from(workload.tokens_per_stream.max(1)).min(MAX_PASSES.div_ceil(count));
        let group = |streams: &u32| Group {
            streams: *streams,
            began_ns: 0,
            passes: 0,
        };
        Self {
            queues,
            groups: groups.iter().map(group).collect(),
            chunks,
            prompt_began_ns: None,
            first_token_ns: None,
            passes_per_group,
            done_ns: 0,
            latencies: Vec::new(),
            tokens: 0,
            stage_busy_ns: vec![0; line.stage_server.len()],
            link_busy_ns: vec![0; line.link_server.len()],
        }
    }

    fn go(&mut self) {
        for group in 0..self.groups.len() {
            self.queues.start(group, 0);
        }
        self.begin_prompt(0);
        while let Some(ended) = self.queues.next() {
            self.note_work(ended);
            if ended.job >= self.groups.len() {
                self.chunk_went_on(ended);
            } else if ended.is_last {
                self.pass_ended(ended);
            }
        }
    }

    /// The prompt comes once every stream has a token.
    fn begin_prompt(&mut self, at_ns: u64) {
        let all_have_one = self.groups.iter().all(|group| group.passes > 0);
        if self.chunks > 0 && self.prompt_began_ns.is_none() && all_have_one {
            self.prompt_began_ns = Some(at_ns);
            self.queues.start(self.groups.len(), at_ns);
        }
    }

    fn pass_ended(&mut self, ended: Ended) {
        let per_group = self.passes_per_group;
        let group = &mut self.groups[ended.job];
        if group.passes > 0 {
            self.latencies.push((ended.at_ns - group.began_ns, group.streams));
        }
        group.passes += 1;
        group.began_ns = ended.at_ns;
        self.tokens += u64::from(group.streams);
        self.done_ns = ended.at_ns;
        if group.passes < per_group {
            self.queues.start(ended.job, ended.at_ns);
        }
        self.begin_prompt(ended.at_ns);
    }

    fn chunk_went_on(&mut self, ended: Ended) {
        let last = self.groups.len() + self.chunks - 1;
        if ended.visit == 0 && ended.job < last {
            self.queues.start(ended.job + 1, ended.at_ns);
        }
        if ended.is_last && ended.job == last {
            let began_ns = self.prompt_began_ns.unwrap_or(0);
            self.first_token_ns = Some(ended.at_ns - began_ns);
            self.done_ns = self.done_ns.max(ended.at_ns);
        }
    }

    /// Visits of a route come by threes: stage, transfer, latency.
    fn note_work(&mut self, ended: Ended) {
        let (part, ns) = (ended.visit / 3, self.queues.visit(ended.job, ended.visit).ns);
        let busy_ns = match ended.visit % 3 {
            0 => self.stage_busy_ns.get_mut(part),
            1 => self.link_busy_ns.get_mut(part),
            _ => None,
        };
        if let Some(busy_ns) = busy_ns.filter(|_| !ended.is_last) {
            *busy_ns = busy_ns.saturating_add(ns);
        }
    }

    fn result(mut self) -> Simulated {
        let elapsed_ns = self.done_ns;
        let permille = |busy_ns: &u64| {
            let share = u128::from(*busy_ns) * 1000 / u128::from(elapsed_ns.max(1));
            u32::try_from(share).unwrap_or(u32::MAX)
        };
        self.latencies.sort_unstable();
        let streams: u64 = self.latencies.iter().map(|(_, streams)| u64::from(*streams)).sum();
        let sum_ns: u128 = self
            .latencies
            .iter()
            .map(|(ns, s)| u128::from(*ns) * u128::from(*s))
            .sum();
        let mean_ns = sum_ns.checked_div(u128::from(streams)).unwrap_or(0);
        Simulated {
            tokens: self.tokens,
            elapsed_ns,
            mean_latency_ns: u64::try_from(mean_ns).unwrap_or(u64::MAX),
            p99_latency_ns: percentile_ns(&self.latencies, streams),
            stage_busy_permille: self.stage_busy_ns.iter().map(permille).collect(),
            link_busy_permille: self.link_busy_ns.iter().map(permille).collect(),
            first_token_ns: self.first_token_ns,
        }
    }
}

/// The time that 99 of 100 tokens do not exceed; `sorted` has times and how many tokens took each.
fn percentile_ns(sorted: &[(u64, u32)], tokens: u64) -> u64 {
    let rank = (u128::from(tokens) * 99).div_ceil(100);
    let mut seen = 0_u128;
    let reached = sorted.iter().find(|(_, streams)| {
        seen += u128::from(*streams);
        seen >= rank
    });
    reached.map_or(0, |(ns, _)| *ns)
}

#[cfg(test)]
mod tests;
