//! One stage against llama.cpp's own loop: the same build, threads and file.
//!
//! The stage is a worker process that holds the whole model, asked over mutual TLS as a gateway asks; llama.cpp runs with its
//! defaults in a process of its own. The bars are of one compute thread: a core is left for the stage's bytes and for the client,
//! which llama.cpp's loop has neither of. With all cores computing these take their time from the stage; that is told as a figure.

use serde_json::json;

use crate::driver::Driver;
use crate::error::Result;
use crate::peer::{Peer, PeerSpec, Question};
use crate::pinning::Seat;
use crate::prompts::prompt;
use crate::report::{Report, ratio};
use crate::session::Session;
use crate::timing::best;
use crate::worker_rig::{Pipeline, PipelineSpec, StageSpec, layers, runtime};

/// Compute threads whose ratios have bars, and of the run with every core computing.
const THREADS: [u32; 2] = [1, 2];
const DECODE_TOKENS: usize = 128;
const DECODE_PROMPT: usize = 16;
const PREFILL_TOKENS: usize = 512;
const CONTEXT_LENGTH: u32 = 1024;

/// Measures decoding and prefill, and notes them.
///
/// # Errors
/// When either side cannot be started or asked.
pub async fn measure(session: &Session, report: &mut Report) -> Result<()> {
    for threads in THREADS {
        let found = with_threads(session, threads).await?;
        if threads == THREADS[0] {
            report.set(
                "one_stage.decode_ratio",
                ratio(best(&found.decode.1), best(&found.decode.0)),
            );
            report.set(
                "one_stage.prefill_ratio",
                ratio(best(&found.prefill.1), best(&found.prefill.0)),
            );
        }
        report.figures(
            &format!("one_stage_{threads}_threads"),
            json!({
                "threads": threads,
                "decode_tokens": DECODE_TOKENS,
                "prefill_tokens": PREFILL_TOKENS,
                "decode_ratio": ratio(best(&found.decode.1), best(&found.decode.0)),
                "prefill_ratio": ratio(best(&found.prefill.1), best(&found.prefill.0)),
                "whole_decode_tok_s": found.decode.0,
                "stage_decode_tok_s": found.decode.1,
                "whole_prefill_tok_s": found.prefill.0,
                "stage_prefill_tok_s": found.prefill.1,
            }),
        );
    }
    Ok(())
}

/// Tokens per second of llama.cpp and of the stage, round by round.
#[derive(Default)]
struct Found {
    decode: (Vec<f64>, Vec<f64>),
    prefill: (Vec<f64>, Vec<f64>),
}

async fn with_threads(session: &Session, threads: u32) -> Result<Found> {
    let name = format!("one-stage-{threads}");
    let directory = session.directory(&name)?;
    session.say(&format!(
        "one stage: {threads} threads: starting a worker and llama.cpp"
    ));
    let spec = PeerSpec::alone(threads, CONTEXT_LENGTH, 1)?;
    let mut whole = Peer::start("whole", &Seat::anywhere(), &spec, &directory).await?;
    let spec = PipelineSpec {
        name,
        stages: vec![StageSpec {
            seat: Seat::anywhere(),
            end_layer: layers()?,
            threads,
            address: "127.0.0.1".to_owned(),
        }],
        runtime: runtime(CONTEXT_LENGTH, 1),
        keep_awake: true,
        speculate: true,
    };
    let stage = Pipeline::start(&session.realm, &spec, &directory, Ok).await?;
    let driver = Driver::connect(&session.realm, &stage).await?;

    let mut found = Found::default();
    for round in 1..=session.rounds {
        let seed = round as u64;
        let question = Question::Decode(prompt(seed, DECODE_PROMPT), DECODE_TOKENS);
        found.decode.0.push(whole.ask(&question).await?);
        found.decode.1.push(driver.measure(&question).await?);
        let question = Question::Prefill(prompt(seed, PREFILL_TOKENS));
        found.prefill.0.push(whole.ask(&question).await?);
        found.prefill.1.push(driver.measure(&question).await?);
        let last = |rates: &[f64]| rates.last().copied().unwrap_or(0.0);
        session.say(&format!(
            "one stage: {threads} threads: round {round} of {}: decode {:.1} (llama.cpp {:.1}), prefill {:.1} ({:.1}) tok/s",
            session.rounds,
            last(&found.decode.1),
            last(&found.decode.0),
            last(&found.prefill.1),
            last(&found.prefill.0)
        ));
    }
    Ok(found)
}
