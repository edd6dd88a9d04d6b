//! One stage against llama.cpp's own loop: the same build, threads and file.
//!
//! The stage is a worker process that holds the whole model, asked over mutual TLS as a gateway asks; llama.cpp runs with its
//! defaults in a process of its own.

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

const THREADS: u32 = 2;
const DECODE_TOKENS: usize = 128;
const DECODE_PROMPT: usize = 16;
const PREFILL_TOKENS: usize = 512;
const CONTEXT_LENGTH: u32 = 1024;

/// Measures decoding and prefill, and notes them.
///
/// # Errors
/// When either side cannot be started or asked.
pub async fn measure(session: &Session, report: &mut Report) -> Result<()> {
    let directory = session.directory("one-stage")?;
    session.say("one stage: starting a worker and llama.cpp");
    let spec = PeerSpec::alone(THREADS, CONTEXT_LENGTH, 1)?;
    let mut whole = Peer::start("whole", &Seat::anywhere(), &spec, &directory).await?;
    let spec = PipelineSpec {
        name: "stage".to_owned(),
        stages: vec![StageSpec {
            seat: Seat::anywhere(),
            end_layer: layers()?,
            threads: THREADS,
            address: "127.0.0.1".to_owned(),
        }],
        runtime: runtime(CONTEXT_LENGTH, 1),
    };
    let stage = Pipeline::start(&session.realm, &spec, &directory, Ok).await?;
    let driver = Driver::connect(&session.realm, &stage).await?;

    let mut decode = (Vec::new(), Vec::new());
    let mut prefill = (Vec::new(), Vec::new());
    for round in 1..=session.rounds {
        let seed = round as u64;
        let question = Question::Decode(prompt(seed, DECODE_PROMPT), DECODE_TOKENS);
        decode.0.push(whole.ask(&question).await?);
        decode.1.push(driver.measure(&question).await?);
        let question = Question::Prefill(prompt(seed, PREFILL_TOKENS));
        prefill.0.push(whole.ask(&question).await?);
        prefill.1.push(driver.measure(&question).await?);
        let last = |rates: &[f64]| rates.last().copied().unwrap_or(0.0);
        session.say(&format!(
            "one stage: round {round} of {}: decode {:.1} (llama.cpp {:.1}), prefill {:.1} ({:.1}) tok/s",
            session.rounds,
            last(&decode.1),
            last(&decode.0),
            last(&prefill.1),
            last(&prefill.0)
        ));
    }
    report.set("one_stage.decode_ratio", ratio(best(&decode.1), best(&decode.0)));
    report.set("one_stage.prefill_ratio", ratio(best(&prefill.1), best(&prefill.0)));
    report.figures(
        "one_stage",
        json!({
            "threads": THREADS,
            "decode_tokens": DECODE_TOKENS,
            "prefill_tokens": PREFILL_TOKENS,
            "whole_decode_tok_s": decode.0,
            "stage_decode_tok_s": decode.1,
            "whole_prefill_tok_s": prefill.0,
            "stage_prefill_tok_s": prefill.1,
        }),
    );
    Ok(())
}
