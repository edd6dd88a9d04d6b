//! The log of a process: to standard error, filtered by `SHARDWRIGHT_LOG`.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// The variable that holds the filter, such as `info,operator=debug`.
pub const FILTER_VARIABLE: &str = "SHARDWRIGHT_LOG";

/// How log lines look.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One line for people; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts the log, once per process. A filter that cannot be parsed counts as `info`.
pub fn to_stderr(format: Format) {
    let filter = EnvFilter::try_from_env(FILTER_VARIABLE).unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        // A reader that has gone away must not stop the work: by default the complaint about it panics where the line was written.
        .log_internal_errors(false);
    match format {
        Format::Text => log.init(),
        Format::Json => log.json().init(),
    }
}
