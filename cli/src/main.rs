//! `kubectl-shardwright`: looks at models and at the cluster, pins weights, asks for another authority. Works by itself and as a kubectl
//! plugin.

mod args;
mod authority;
mod failure;
mod kubectl;
mod model;
mod plan;
mod progress;
mod topology;

use std::io::Write;
use std::process::ExitCode;

use args::{Command, ModelCommand};
use failure::Failure;

fn main() -> ExitCode {
    // Fails only if a provider is installed already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let args = match args::read() {
        Ok(args) => args,
        Err(exit_code) => return exit_code,
    };
    let outcome = match args.command {
        Command::Model(ModelCommand::Index(command)) => model::index::run(&command, args.output),
        Command::Model(ModelCommand::Verify(command)) => model::verify::run(&command, args.output),
        Command::Model(ModelCommand::Show(command)) => model::show::run(&command, args.output),
        Command::Authority(command) => authority::run(&command, args.output),
        Command::Plan(command) => plan::run(&command, args.output),
        Command::Topology(command) => topology::run(&command, args.output),
    };
    match outcome.and_then(|text| print(&text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit_code()
        }
    }
}

fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::Unwritable(format!("writing the result failed: {error}")))
        }
        _ => Ok(()),
    }
}
