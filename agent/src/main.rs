//! `shardwright-agent`: parse, log, run; everything else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Fails only when a provider is installed already, which is then the one we want.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match agent::args::from_process() {
        Ok(agent::args::Command::Probe(probe)) => agent::probe::run(&probe),
        Ok(agent::args::Command::Watch(watch)) => agent::devices::readings::run(&watch),
        Ok(agent::args::Command::Run(settings)) => agent::run::start(*settings),
        Err(code) => code,
    }
}
