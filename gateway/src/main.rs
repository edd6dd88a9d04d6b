//! The gateway process.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Fails only if a provider is installed already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let args = match gateway::args::Args::from_environment() {
        Ok(args) => args,
        Err(exit_code) => return exit_code,
    };
    lifecycle::log::to_stderr(args.log_format);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no threads to run on");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(async { gateway::run::run(args, gateway::run::termination()?, |_| {}).await }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the gateway ends");
            error.exit_code()
        }
    }
}
