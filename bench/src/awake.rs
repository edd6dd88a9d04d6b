//! What it is worth that stages keep their cores awake while they wait for each other: two pairs of two stages, alike but for
//! that, and the whole model on one core beside them, in many short turns.

use serde_json::json;

use crate::error::Result;
use crate::netns::{Host, Network};
use crate::peer::Question;
use crate::prompts::prompt;
use crate::report::{Report, ratio};
use crate::session::Session;
use crate::timing::percentile;
use crate::two_stage::balance;
use crate::two_stage::contestants::{Contestant, Links, STREAMS, asleep, ours, whole};

const PROMPT: usize = 16;
const TOKENS: usize = 48;
/// Turns of one stream in each round.
const TURNS: usize = 4;
/// Streams that keep both stages busy, where there is little to wait for: once in each round.
const TOGETHER_TOKENS: usize = 24;

/// Measures all, and notes medians.
///
/// # Errors
/// When a side cannot be started or asked.
pub async fn measure(session: &Session, network: &Network, report: &mut Report) -> Result<()> {
    let (cuts, _) = balance::cuts(session, network).await?;
    let cut = cuts.both;
    let mut sides = [
        ours(session, network, cut, Links::Bare, "awake").await?,
        asleep(session, network, cut, "asleep").await?,
        whole(session, network, "whole", Host::Head).await?,
    ];
    for side in &mut sides {
        side.ask(&Question::Decode(prompt(1, PROMPT), TOKENS)).await?;
    }
    let (mut one, mut eight) = (Vec::new(), Vec::new());
    for round in 1..=session.rounds {
        let seed = 100 * round as u64;
        for turn in 0..TURNS {
            let question = Question::Decode(prompt(seed + turn as u64, PROMPT), TOKENS);
            one.push(ask(session, &mut sides, round + turn, "one stream", &question).await?);
        }
        let prompts = (1..=u64::from(STREAMS)).map(|stream| prompt(seed + stream, PROMPT));
        let question = Question::Together(prompts.collect(), TOGETHER_TOKENS);
        eight.push(ask(session, &mut sides, round, "eight streams", &question).await?);
    }
    for (name, rates) in [("one_stream", one), ("eight_streams", eight)] {
        let found = json!({
            "awake_vs_asleep": median_ratio(&rates, 0, 1),
            "awake_vs_one_core": median_ratio(&rates, 0, 2),
            "asleep_vs_one_core": median_ratio(&rates, 1, 2),
        });
        session.say(&format!("awake: {name}: medians {found}"));
        let figures = json!({ "cut_after_layer": cut, "medians": found, "tok_s_awake_asleep_whole": rates });
        report.figures(&format!("awake_{name}"), figures);
    }
    Ok(())
}

/// Everybody once; who comes first changes from turn to turn.
async fn ask(
    session: &Session,
    sides: &mut [Contestant; 3],
    turn: usize,
    what: &str,
    question: &Question,
) -> Result<[f64; 3]> {
    let mut found = [0.0; 3];
    for offset in 0..sides.len() {
        let side = (turn + offset) % sides.len();
        found[side] = sides[side].ask(question).await?;
    }
    let [awake, asleep, whole] = found;
    session.say(&format!(
        "awake: {what}: awake {awake:.1}, asleep {asleep:.1}, whole {whole:.1} tok/s"
    ));
    Ok(found)
}

/// The median over all turns of one side's rate against another's: both were asked within moments.
fn median_ratio(rates: &[[f64; 3]], side: usize, other: usize) -> f64 {
    let ratios = rates.iter().filter_map(|rates| ratio(rates[side], rates[other]));
    percentile(&mut ratios.collect::<Vec<_>>(), 0.5)
}
