//! `shardwright-operator`: parse, log, run; everything else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Fails only when a provider is installed already, which is then the one we want.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let settings = match operator::args::Settings::from_process() {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    operator::run::start(settings)
}
