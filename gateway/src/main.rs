//! The gateway process.

use std::process::ExitCode;

use gateway::template::child;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|first| first == child::ARGUMENT) {
        return child::run();
    }
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
