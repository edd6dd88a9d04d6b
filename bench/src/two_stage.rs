//! Two stages on two hosts with one core each: against the whole model on one core, and against llama.cpp's RPC backend over the
//! same links, with the same split and the same pinning.
//!
//! Streams and prompts are each measured with the cut that is balanced for them: a token's output head counts as several layers where
//! tokens are decoded, and for nothing in a prompt. What one cut for both reaches is measured beside it.
//!
//! llama.cpp is spread in two ways; after the first round only the faster one of each kind of work goes on.

pub mod balance;
pub mod contestants;
mod samples;
mod sides;
mod work;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::error::Result;
use crate::netns::{Host, Network};
use crate::peer::Question;
use crate::prompts::{prompt, texts};
use crate::report::{Report, ratio};
use crate::session::Session;

use balance::Cuts;
use contestants::{Contestant, DELAY_US, STREAMS, whole};
use samples::Samples;
use sides::{Asked, ONE_CUT, OURS, RPC, WHOLE, WITHOUT_DRAFTS};
use work::{ONE_TOKENS, PREFILL_TOKENS, SHORT_PROMPT, STREAM_TOKENS, Work};

/// What two whole models are called, each on its core at the same time: no cut of one model computes faster on these cores.
const TWO_WHOLES: &str = "two_at_once";
const DRAFT_TOKENS: &str = "shardwright_worker_draft_tokens_total";
const ACCEPTED_DRAFT_TOKENS: &str = "shardwright_worker_accepted_draft_tokens_total";
/// A token goes to the tail as activations and comes back as a number.
const CROSSINGS: f64 = 2.0;
/// Tokens that wake everybody up before the first round.
const WARM_UP_TOKENS: usize = 8;

/// Measures everything, and notes it.
///
/// # Errors
/// When a side cannot be started or asked.
pub async fn measure(session: &Session, network: &Network, report: &mut Report) -> Result<()> {
    let (cuts, balance) = balance::cuts(session, network).await?;
    let Cuts { decode, prefill, both } = cuts;
    session.say(&format!(
        "two stages: cut after layer {decode} for streams, {prefill} for prompts, {both} for both; starting everybody"
    ));
    let mut sides = sides::start(session, network, cuts).await?;
    let mut on_the_other_core = whole(session, network, "another_whole", Host::Tail).await?;
    let everybody = sides.iter_mut().map(|asked| &mut asked.side);
    for side in everybody.chain([&mut on_the_other_core]) {
        side.ask(&Question::Decode(prompt(1, SHORT_PROMPT), WARM_UP_TOKENS))
            .await?;
    }
    let mut samples = Samples::default();
    let mut retired = BTreeSet::new();
    let texts = texts()?;
    for round in 1..=session.rounds {
        for work in Work::ALL {
            let questions = work.questions(round, &texts);
            take_turns(session, &mut sides, work, &questions, &retired, &mut samples).await?;
            if let (Work::Eight | Work::Prefill, [question], Some(whole)) =
                (work, &questions[..], find(&mut sides, WHOLE))
            {
                let (here, there) = futures::join!(whole.ask(question), on_the_other_core.ask(question));
                samples.push(work, TWO_WHOLES, here? + there?);
            }
        }
        if round == 1 {
            retired = samples.slower(RPC);
        }
    }
    let drafts = drafts(&sides).await?;
    // Drafts overlap: beside them nothing can be told apart.
    let overhead_us = match find(&mut sides, WITHOUT_DRAFTS) {
        Some(ours) => wire_us(ours).await?,
        None => None,
    };
    note(report, &samples);
    report.figures(
        "two_stage",
        json!({
            "links": network.describe(),
            "slow_links": { "one_way_us": DELAY_US, "jitter_us": session.jitter_us },
            "cut_after_layer": { "streams": decode, "prompts": prefill, "one_cut": both },
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

fn find<'s>(sides: &'s mut [Asked], name: &str) -> Option<&'s mut Contestant> {
    let mut sides = sides.iter_mut().map(|asked| &mut asked.side);
    sides.find(|side| side.name == name)
}

/// Everybody whom it concerns once, but for those who were found slower than their own kind.
async fn take_turns(
    session: &Session,
    sides: &mut [Asked],
    work: Work,
    questions: &[Question],
    retired: &BTreeSet<(Work, String)>,
    samples: &mut Samples,
) -> Result<()> {
    let mut line = format!("two stages: {}:", work.name());
    for Asked { side, works } in sides {
        if !works.contains(&work) || retired.contains(&(work, side.name.clone())) {
            continue;
        }
        let mut rates = Vec::new();
        for question in questions {
            rates.push(side.ask(question).await?);
        }
        let rate = harmonic_mean(&rates);
        line += &format!(" {} {rate:.1}", side.name);
        samples.push(work, &side.name, rate);
    }
    session.say(&format!("{line} tok/s"));
    Ok(())
}

fn note(report: &mut Report, samples: &Samples) {
    let against = |work, ours, family| ratio(samples.best_of(work, ours), samples.best_of(work, family));
    for (name, work, family) in [
        ("eight_vs_one_core", Work::Eight, WHOLE),
        ("prefill_vs_one_core", Work::Prefill, WHOLE),
        ("one_vs_one_core", Work::One, WHOLE),
        ("one_vs_rpc", Work::One, RPC),
        ("eight_vs_rpc", Work::Eight, RPC),
        ("prefill_vs_rpc", Work::Prefill, RPC),
        ("one_vs_rpc_1ms", Work::OneDelayed, RPC),
    ] {
        report.set(&format!("two_stage.{name}"), against(work, OURS, family));
    }
    for (name, work, family) in [
        ("one_vs_one_core", Work::One, WHOLE),
        ("one_vs_rpc", Work::One, RPC),
        ("one_vs_rpc_1ms", Work::OneDelayed, RPC),
    ] {
        let name = format!("two_stage.{name}_without_drafts");
        report.set(&name, against(work, WITHOUT_DRAFTS, family));
    }
    for (name, work) in [("eight", Work::Eight), ("prefill", Work::Prefill)] {
        let name = format!("two_stage.{name}_vs_one_core");
        report.set(&format!("{name}_one_cut"), against(work, ONE_CUT, WHOLE));
        report.set(&format!("{name}_ceiling"), against(work, TWO_WHOLES, WHOLE));
    }
    let ceiling = with_wire(samples.best_of(Work::One, WHOLE), CROSSINGS * DELAY_US as f64);
    let ceiling = ratio(ceiling, samples.best_of(Work::OneDelayed, RPC));
    report.set("two_stage.one_vs_rpc_1ms_ceiling", ceiling);
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
async fn drafts(sides: &[Asked]) -> Result<Value> {
    let mut all = json!({});
    for Asked { side, .. } in sides {
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
    use super::{harmonic_mean, with_wire};

    #[test]
    fn the_slower_of_two_texts_counts_for_more() {
        assert!((harmonic_mean(&[100.0, 50.0]) - 200.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn slow_links_cost_a_stream_their_latency_at_every_token() {
        // 8 ms of computing and 2 ms of wire.
        assert!((with_wire(125.0, 2000.0) - 100.0).abs() < 1e-9);
    }
}
