//! Where the two stages are cut: measured on a pair that is cut in the middle.

use serde_json::{Value, json};

use super::contestants::{Contestant, Links, STREAMS, ours};
use crate::cut::{Costs, choose};
use crate::error::{Result, failed, trying};
use crate::netns::Network;
use crate::peer::Question;
use crate::prompts::prompt;
use crate::session::Session;
use crate::worker_rig::read_model;
use localplane::assets;

/// The workers' own count of time in the engine.
pub const COMPUTE_SECONDS: &str = "shardwright_worker_compute_seconds_sum";
const DECODE_TOKENS: usize = 24;
const PREFILL_TOKENS: usize = 504;
const REPEATS: usize = 3;

/// Where a model is cut: the last layer of the first stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cuts {
    /// Balanced for streams that are decoded together.
    pub decode: u32,
    /// Balanced for prompts.
    pub prefill: u32,
    /// The one whose worse ideal of the two is best.
    pub both: u32,
}

/// The cuts, and how they were found.
///
/// # Errors
/// When the pair cannot be started or asked.
pub async fn cuts(session: &Session, network: &Network) -> Result<(Cuts, Value)> {
    let header = read_model(&assets::model()?)?;
    let pieces = gguf::pieces(&header).map_err(trying("the model"))?;
    let (layers, allowed) = (pieces.layer_count(), pieces.allowed_cuts());
    if let Some(cut) = session.cut {
        let cuts = Cuts {
            decode: cut,
            prefill: cut,
            both: cut,
        };
        return Ok((cuts, json!("given on the command line")));
    }
    let middle = layers / 2;
    session.say(&format!(
        "two stages: measuring the balance of a cut after layer {middle} of {layers}"
    ));
    let mut pair = ours(session, network, middle, Links::Bare, "balance").await?;
    // Both stages have computed once before anything counts.
    stage_seconds(&mut pair, &Question::Decode(prompt(1, 2), 2)).await?;
    let prompts = (1..=u64::from(STREAMS)).map(|stream| prompt(stream, 2)).collect();
    let decode = stage_seconds(&mut pair, &Question::Together(prompts, DECODE_TOKENS)).await?;
    let prefill = stage_seconds(&mut pair, &Question::Prefill(prompt(9, PREFILL_TOKENS))).await?;
    let work = [decode, prefill].map(|[head, tail]| Costs::from_stages(head, tail, middle, layers));
    let best =
        |work: &[Costs]| choose(layers, &allowed, work).ok_or_else(|| failed("the cut", "this model cannot be cut"));
    let cuts = Cuts {
        decode: best(&work[..1])?,
        prefill: best(&work[1..])?,
        both: best(&work)?,
    };
    let [decode, prefill] = work;
    let found = json!({
        "rule": "for each kind of work the cut whose ideal speed-up is best, and the one whose worse ideal of both is; from measured compute times",
        "output_head_in_layers": { "eight_streams": decode.output / decode.layer, "prefill": prefill.output / prefill.layer },
        "ideal": { "eight_streams": decode.ideal(layers, cuts.decode), "prefill": prefill.ideal(layers, cuts.prefill) },
        "ideal_with_one_cut": { "eight_streams": decode.ideal(layers, cuts.both), "prefill": prefill.ideal(layers, cuts.both) },
    });
    Ok((cuts, found))
}

/// Seconds that each of the two stages computes for this: the least of a few times, because a disturbance only adds.
async fn stage_seconds(pair: &mut Contestant, question: &Question) -> Result<[f64; 2]> {
    let mut least = [f64::INFINITY; 2];
    for _ in 0..REPEATS {
        let before = both(pair).await?;
        pair.ask(question).await?;
        let after = both(pair).await?;
        for (least, (after, before)) in least.iter_mut().zip(after.into_iter().zip(before)) {
            *least = least.min(after - before);
        }
    }
    Ok(least)
}

async fn both(pair: &Contestant) -> Result<[f64; 2]> {
    let missing = || {
        failed(
            "the balance",
            format!("the workers do not count {COMPUTE_SECONDS}; give --cut"),
        )
    };
    let pipeline = pair.pipeline().ok_or_else(missing)?;
    match pipeline.metric(COMPUTE_SECONDS).await?.as_slice() {
        [Some(head), Some(tail)] => Ok([*head, *tail]),
        _ => Err(missing()),
    }
}
