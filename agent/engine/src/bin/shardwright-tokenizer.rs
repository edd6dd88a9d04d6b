//! Serves a vocabulary over standard streams; see `engine::tokenizer` for the protocol.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use engine::tokenizer::{TokenizerError, run};
use tracing_subscriber::EnvFilter;

/// Exit code for a vocabulary that cannot be used (`EX_DATAERR`).
const BAD_VOCABULARY: u8 = 65;

/// Turns text into tokens: one JSON request a line in, one JSON answer a line out.
#[derive(Parser)]
#[command(name = "shardwright-tokenizer", version)]
struct Args {
    /// A GGUF file with a tokenizer; weights are not needed.
    #[arg(long)]
    vocabulary: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_from_env("SHARDWRIGHT_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter);
    log.with_writer(std::io::stderr).init();
    let Err(error) = run(&args.vocabulary) else {
        return ExitCode::SUCCESS;
    };
    tracing::error!(%error, "the tokenizer ends");
    match error {
        TokenizerError::Stream(_) => ExitCode::FAILURE,
        _ => ExitCode::from(BAD_VOCABULARY),
    }
}
