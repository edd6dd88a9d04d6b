//! A long prefix that two prompts share: the time to the second one's first token against the first one's.

use serde_json::json;

use crate::driver::Driver;
use crate::error::{Result, failed};
use crate::netns::Network;
use crate::prompts::prompt;
use crate::report::{Report, ratio};
use crate::session::Session;
use crate::timing::shortest;
use crate::two_stage::contestants::pair;
use crate::worker_rig::{Pipeline, layers, runtime};

/// Tokens that the prompts have in common.
const SHARED_TOKENS: usize = 2048;
/// Tokens of them that must have been kept: all but what a step may leave over.
const SHARED_KEPT_TOKENS: u32 = 2048 - 128;
/// Tokens of its own that each has after them.
const OWN_TOKENS: usize = 16;
const ANSWER_TOKENS: usize = 2;
const CONTEXT_LENGTH: u32 = 2304;
/// Kept prefixes: one per round would do.
const PREFIXES: u32 = 4;
/// Each takes a prefill of two thousand tokens.
const MAX_ROUNDS: usize = 2;

/// Measures both over two stages, and notes their ratio.
///
/// # Errors
/// When the pipeline cannot be started or asked.
pub async fn measure(session: &Session, network: &Network, report: &mut Report) -> Result<()> {
    let directory = session.directory("prefix")?;
    let mut runtime = runtime(CONTEXT_LENGTH, 1);
    runtime.prefix_sequences = PREFIXES;
    runtime.kv_cells = CONTEXT_LENGTH * (PREFIXES + 1);
    let cut = session.cut.map_or_else(|| layers().map(|layers| layers / 2), Ok)?;
    let spec = pair("prefix", network, cut, runtime)?;
    let pipeline = Pipeline::start(&session.realm, &spec, &directory, Ok).await?;
    let driver = Driver::connect(&session.realm, &pipeline).await?;

    let (mut cold, mut warm, mut cached) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=session.rounds.min(MAX_ROUNDS) {
        let seed = 100 * round as u64;
        let shared = prompt(seed, SHARED_TOKENS);
        let with = |own: u64| [shared.clone(), prompt(seed + own, OWN_TOKENS)].concat();
        let first = driver.ask_sharing(&with(1), ANSWER_TOKENS).await?;
        let second = driver.ask_sharing(&with(2), ANSWER_TOKENS).await?;
        if second.cached_tokens < SHARED_KEPT_TOKENS {
            let kept = second.cached_tokens;
            return Err(failed(
                "prefix",
                format!("only {kept} of {SHARED_TOKENS} shared tokens were kept"),
            ));
        }
        cold.push(first.time_to_first_token().as_secs_f64());
        warm.push(second.time_to_first_token().as_secs_f64());
        cached.push(second.cached_tokens);
        session.say(&format!(
            "prefix: round {round}: first token after {:.2} s, then {:.2} s with {} tokens kept",
            first.time_to_first_token().as_secs_f64(),
            second.time_to_first_token().as_secs_f64(),
            second.cached_tokens
        ));
    }
    report.set("prefix_ttft_ratio", ratio(shortest(&warm), shortest(&cold)));
    report.figures(
        "prefix",
        json!({
            "shared_tokens": SHARED_TOKENS,
            "own_tokens": OWN_TOKENS,
            "cold_ttft_s": cold,
            "warm_ttft_s": warm,
            "cached_tokens": cached,
        }),
    );
    Ok(())
}
