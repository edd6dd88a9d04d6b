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

/// The cut, and how it was found.
///
/// # Errors
/// When the pair cannot be started or asked.
pub async fn cut(session: &Session, network: &Network) -> Result<(u32, Value)> {
    let header = read_model(&assets::model()?)?;
    let pieces = gguf::pieces(&header).map_err(trying("the model"))?;
    let (layers, allowed) = (pieces.layer_count(), pieces.allowed_cuts());
    if let Some(cut) = session.cut {
        return Ok((cut, json!("given on the command line")));
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
    let cut = choose(layers, &allowed, &work).ok_or_else(|| failed("the cut", "this model cannot be cut"))?;
    let [decode_ideal, prefill_ideal] = work.map(|costs| costs.ideal(layers, cut));
    let found = json!({
        "rule": "the cut whose worse ideal speed-up, of eight streams and of a prefill, is best; from measured compute times",
        "output_head_in_layers": { "eight_streams": work[0].output / work[0].layer, "prefill": work[1].output / work[1].layer },
        "ideal": { "eight_streams": decode_ideal, "prefill": prefill_ideal },
    });
    Ok((cut, found))
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
