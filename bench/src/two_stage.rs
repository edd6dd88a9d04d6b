//! Two stages on two hosts with one core each: against the whole model on one core, and against llama.cpp's RPC backend over the
//! same links, with the same split and the same pinning.
//!
//! llama.cpp is spread in two ways; after the first round only the faster one of each kind of work goes on.

pub mod balance;
pub mod contestants;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::error::Result;
use crate::netns::{Host, Network};
use crate::peer::Question;
use crate::prompts::{prompt, texts};
use crate::report::{Report, ratio};
use crate::session::Session;
use crate::timing::best;

use contestants::{Arrangement, Contestant, DELAY_US, Links, STREAMS, ours, rpc, whole, without_drafts};

/// What the whole model on one core is called.
const WHOLE: &str = "whole";
/// What two of them are called, each on its core at the same time: no cut of one model computes faster on these cores.
const TWO_WHOLES: &str = "two_at_once";
/// What the sides without drafts are called.
const WITHOUT_DRAFTS: &str = "without_drafts";
const DRAFT_TOKENS: &str = "shardwright_worker_draft_tokens_total";
const ACCEPTED_DRAFT_TOKENS: &str = "shardwright_worker_accepted_draft_tokens_total";
const SHORT_PROMPT: usize = 16;
const STREAM_TOKENS: usize = 64;
const PREFILL_TOKENS: usize = 1024;
const ONE_TOKENS: usize = 96;
/// A token goes to the tail as activations and comes back as a number.
const CROSSINGS: f64 = 2.0;
/// Tokens that wake everybody up before the first round.
const WARM_UP_TOKENS: usize = 8;

/// What is asked of everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    Eight,
    Prefill,
    One,
    OneDelayed,
}

impl Work {
    const ALL: [Self; 4] = [Self::Eight, Self::Prefill, Self::One, Self::OneDelayed];

    fn name(self) -> &'static str {
        match self {
            Self::Eight => "eight_streams",
            Self::Prefill => "prefill",
            Self::One => "one_stream",
            Self::OneDelayed => "one_stream_1ms",
        }
    }

    /// Asked one after the other, the same of everybody. How fast one stream is depends on what it says: it is asked all texts.
    fn questions(self, round: usize, texts: &[Vec<i32>]) -> Vec<Question> {
        let seed = 1000 * round as u64;
        match self {
            Self::Eight => {
                let prompts = (1..=u64::from(STREAMS)).map(|stream| prompt(seed + stream, SHORT_PROMPT));
                vec![Question::Together(prompts.collect(), STREAM_TOKENS)]
            }
            Self::Prefill => vec![Question::Prefill(prompt(seed + 100, PREFILL_TOKENS))],
            Self::One | Self::OneDelayed => {
                let questions = texts.iter().map(|text| Question::Decode(text.clone(), ONE_TOKENS));
                questions.collect()
            }
        }
    }

    /// Whether a side is asked for it: where everybody has rows to compute there are no drafts, and nothing to compare.
    fn concerns(self, name: &str) -> bool {
        !name.starts_with(WITHOUT_DRAFTS) || matches!(self, Self::One | Self::OneDelayed)
    }
}

/// Rates of everybody in every round.
#[derive(Debug, Default)]
struct Samples(BTreeMap<(Work, String), Vec<f64>>);

impl Samples {
    fn push(&mut self, work: Work, name: &str, rate: f64) {
        self.0.entry((work, name.to_owned())).or_default().push(rate);
    }

    /// The best of one side; 0 where it was not asked.
    fn best(&self, work: Work, name: &str) -> f64 {
        self.0.get(&(work, name.to_owned())).map_or(0.0, |rates| best(rates))
    }

    /// The best of all sides of a family.
    fn best_of(&self, work: Work, family: &str) -> f64 {
        let names = self
            .0
            .iter()
            .filter(|((of, name), _)| *of == work && name.starts_with(family));
        names.map(|(_, rates)| best(rates)).fold(0.0, f64::max)
    }

    /// Sides of a family that were clearly slower than its best, as work and name.
    fn slower(&self, family: &str) -> BTreeSet<(Work, String)> {
        let keys = self.0.keys().filter(|(_, name)| name.starts_with(family));
        keys.filter(|(work, name)| self.best(*work, name) < CLEARLY_SLOWER * self.best_of(*work, family))
            .cloned()
            .collect()
    }

    fn to_json(&self) -> Value {
        let mut all = json!({});
        for ((work, name), rates) in &self.0 {
            all[work.name()][name] = json!(rates);
        }
        all
    }
}

/// A side below this share of its family's best is left out after the first round: a disturbed round does not cost so much.
const CLEARLY_SLOWER: f64 = 0.8;

/// Measures everything, and notes it.
///
/// # Errors
/// When a side cannot be started or asked.
pub async fn measure(session: &Session, network: &Network, report: &mut Report) -> Result<()> {
    let (cut, balance) = balance::cut(session, network).await?;
    session.say(&format!("two stages: cut after layer {cut}; starting everybody"));
    let mut bare = vec![
        ours(session, network, cut, Links::Bare, "two_stages").await?,
        without_drafts(session, network, cut, Links::Bare, WITHOUT_DRAFTS).await?,
        whole(session, network, WHOLE, Host::Head).await?,
        rpc(session, network, cut, Arrangement::Servers, Links::Bare, "rpc_servers").await?,
        rpc(
            session,
            network,
            cut,
            Arrangement::LocalHead,
            Links::Bare,
            "rpc_local_head",
        )
        .await?,
    ];
    let mut delayed = vec![
        ours(session, network, cut, Links::Delayed, "two_stages_1ms").await?,
        without_drafts(session, network, cut, Links::Delayed, "without_drafts_1ms").await?,
        rpc(
            session,
            network,
            cut,
            Arrangement::Servers,
            Links::Delayed,
            "rpc_servers_1ms",
        )
        .await?,
        rpc(
            session,
            network,
            cut,
            Arrangement::LocalHead,
            Links::Delayed,
            "rpc_local_head_1ms",
        )
        .await?,
    ];
    let mut on_the_other_core = whole(session, network, "another_whole", Host::Tail).await?;
    for contestant in bare.iter_mut().chain(&mut delayed).chain([&mut on_the_other_core]) {
        contestant
            .ask(&Question::Decode(prompt(1, SHORT_PROMPT), WARM_UP_TOKENS))
            .await?;
    }
    let mut samples = Samples::default();
    let mut retired = BTreeSet::new();
    let texts = texts()?;
    for round in 1..=session.rounds {
        for work in Work::ALL {
            let questions = work.questions(round, &texts);
            let sides = if work == Work::OneDelayed {
                &mut delayed
            } else {
                &mut bare
            };
            take_turns(session, sides, work, &questions, &retired, &mut samples).await?;
            if let (Work::Eight | Work::Prefill, [question]) = (work, &questions[..])
                && let Some(whole) = bare.iter_mut().find(|side| side.name == WHOLE)
            {
                let (here, there) = futures::join!(whole.ask(question), on_the_other_core.ask(question));
                samples.push(work, TWO_WHOLES, here? + there?);
            }
        }
        if round == 1 {
            retired = samples.slower("rpc");
        }
    }
    let drafts = drafts(&bare, &delayed).await?;
    // Drafts overlap: beside them nothing can be told apart.
    let overhead_us = match bare.iter_mut().find(|side| side.name == WITHOUT_DRAFTS) {
        Some(ours) => wire_us(ours).await?,
        None => None,
    };
    note(report, &samples);
    report.figures(
        "two_stage",
        json!({
            "links": network.describe(),
            "slow_links": { "one_way_us": DELAY_US, "jitter_us": session.jitter_us },
            "cut_after_layer": cut,
            "balance": balance,
            "streams": STREAMS,
            "stream_tokens": STREAM_TOKENS,
            "prefill_tokens": PREFILL_TOKENS,
            "one_stream_tokens": ONE_TOKENS,
            "tok_s": samples.to_json(),
            "drafts": drafts,
            "one_token_beside_compute_us": overhead_us,
        }),
    );
    Ok(())
}

/// Everybody once, but for those who were found slower than their own kind.
async fn take_turns(
    session: &Session,
    sides: &mut [Contestant],
    work: Work,
    questions: &[Question],
    retired: &BTreeSet<(Work, String)>,
    samples: &mut Samples,
) -> Result<()> {
    let mut line = format!("two stages: {}:", work.name());
    for contestant in sides {
        if !work.concerns(&contestant.name) || retired.contains(&(work, contestant.name.clone())) {
            continue;
        }
        let mut rates = Vec::new();
        for question in questions {
            rates.push(contestant.ask(question).await?);
        }
        let rate = harmonic_mean(&rates);
        line += &format!(" {} {rate:.1}", contestant.name);
        samples.push(work, &contestant.name, rate);
    }
    session.say(&format!("{line} tok/s"));
    Ok(())
}

fn note(report: &mut Report, samples: &Samples) {
    let ours = |work| samples.best(work, "two_stages");
    let against = |work, family| ratio(ours(work), samples.best_of(work, family));
    report.set("two_stage.eight_vs_one_core", against(Work::Eight, WHOLE));
    report.set("two_stage.prefill_vs_one_core", against(Work::Prefill, WHOLE));
    let ceiling = |work| ratio(samples.best(work, TWO_WHOLES), samples.best(work, WHOLE));
    report.set("two_stage.eight_vs_one_core_ceiling", ceiling(Work::Eight));
    report.set("two_stage.prefill_vs_one_core_ceiling", ceiling(Work::Prefill));
    report.set("two_stage.one_vs_one_core", against(Work::One, WHOLE));
    report.set("two_stage.one_vs_rpc", against(Work::One, "rpc"));
    report.set("two_stage.eight_vs_rpc", against(Work::Eight, "rpc"));
    report.set("two_stage.prefill_vs_rpc", against(Work::Prefill, "rpc"));
    let plain = samples.best(Work::One, WITHOUT_DRAFTS);
    report.set(
        "two_stage.one_vs_one_core_without_drafts",
        ratio(plain, samples.best_of(Work::One, WHOLE)),
    );
    report.set(
        "two_stage.one_vs_rpc_without_drafts",
        ratio(plain, samples.best_of(Work::One, "rpc")),
    );
    let delayed = |rate| ratio(rate, samples.best_of(Work::OneDelayed, "rpc"));
    report.set(
        "two_stage.one_vs_rpc_1ms",
        delayed(samples.best(Work::OneDelayed, "two_stages_1ms")),
    );
    report.set(
        "two_stage.one_vs_rpc_1ms_without_drafts",
        delayed(samples.best(Work::OneDelayed, "without_drafts_1ms")),
    );
    let ceiling = with_wire(samples.best_of(Work::One, WHOLE), CROSSINGS * DELAY_US as f64);
    report.set("two_stage.one_vs_rpc_1ms_ceiling", delayed(ceiling));
}

/// The rate of a stream whose every token takes `wire_us` more than at `rate`: what two stages over slow links would reach
/// if nothing but the links were added to the whole model's computing.
fn with_wire(rate: f64, wire_us: f64) -> f64 {
    1.0 / (1.0 / rate + wire_us / 1e6)
}

/// What a token takes beside the two stages' computing: wire, queues and the driver, both ways; `None` where it is not counted.
async fn wire_us(ours: &mut Contestant) -> Result<Option<f64>> {
    let before = compute_seconds(ours).await?;
    // One token of prompt: all steps are alike.
    let rate = ours.ask(&Question::Decode(prompt(7, 1), ONE_TOKENS)).await?;
    let after = compute_seconds(ours).await?;
    Ok(before.zip(after).map(|(before, after)| {
        let compute = (after - before) / ONE_TOKENS as f64;
        (1.0 / rate - compute) * 1e6
    }))
}

/// The rate over all of several pieces of work of equal size.
fn harmonic_mean(rates: &[f64]) -> f64 {
    rates.len() as f64 / rates.iter().map(|rate| 1.0 / rate).sum::<f64>()
}

/// Tokens that were drafted and accepted by those of ours who draft.
async fn drafts(bare: &[Contestant], delayed: &[Contestant]) -> Result<Value> {
    let mut all = json!({});
    for side in bare.iter().chain(delayed) {
        let Some(pipeline) = side.pipeline() else { continue };
        let sum = |of_stages: Vec<Option<f64>>| of_stages.into_iter().flatten().sum::<f64>();
        all[&side.name] = json!({
            "drafted": sum(pipeline.metric(DRAFT_TOKENS).await?),
            "accepted": sum(pipeline.metric(ACCEPTED_DRAFT_TOKENS).await?),
        });
    }
    Ok(all)
}

async fn compute_seconds(contestant: &Contestant) -> Result<Option<f64>> {
    let Some(pipeline) = contestant.pipeline() else {
        return Ok(None);
    };
    let stages = pipeline.metric(balance::COMPUTE_SECONDS).await?;
    Ok(stages.into_iter().sum())
}

#[cfg(test)]
mod tests {
    use super::{Samples, Work, harmonic_mean, with_wire};

    #[test]
    fn the_slower_of_two_texts_counts_for_more() {
        assert!((harmonic_mean(&[100.0, 50.0]) - 200.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn slow_links_cost_a_stream_their_latency_at_every_token() {
        // 8 ms of computing and 2 ms of wire.
        assert!((with_wire(125.0, 2000.0) - 100.0).abs() < 1e-9);
    }

    #[test]
    fn only_the_clearly_slower_of_a_family_retires_and_only_from_that_work() {
        let mut samples = Samples::default();
        for (work, servers, local) in [
            (Work::One, 30.0, 31.0),
            (Work::Prefill, 100.0, 70.0),
            (Work::Eight, 20.0, 30.0),
        ] {
            samples.push(work, "two_stages", 10.0);
            samples.push(work, "rpc_servers", servers);
            samples.push(work, "rpc_local_head", local);
        }
        let slower: Vec<_> = samples.slower("rpc").into_iter().collect();
        assert_eq!(
            slower,
            [
                (Work::Eight, "rpc_servers".to_owned()),
                (Work::Prefill, "rpc_local_head".to_owned()),
            ]
        );
        assert_eq!(samples.best_of(Work::One, "rpc"), 31.0);
        assert_eq!(samples.best(Work::OneDelayed, "two_stages"), 0.0);
    }
}
