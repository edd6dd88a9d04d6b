//! `localplane`: a real control plane on this machine, bare or with the demo on it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use localplane::demo;
use localplane::plane::{Plane, clear};

#[derive(Parser)]
#[command(about = "A real kube-apiserver and etcd on loopback, for the demo and the tests")]
struct Arguments {
    /// Data, keys and logs: a new folder, an empty one, or that of an earlier run, which is emptied first.
    #[arg(long)]
    dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start the control plane, print its kubeconfig, and stay until interrupted.
    Up,
    /// Split a model over two backends and stream an answer.
    Demo {
        /// Stay until interrupted, after everything is shown.
        #[arg(long)]
        keep: bool,
        /// Ask this instead.
        #[arg(long)]
        prompt: Option<String>,
    },
}

// One thread: children die with the thread that started them.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // Only what concerns a reader: the client's complaints while a server starts are expected.
    let filter = tracing_subscriber::EnvFilter::new("warn,kube_client=off");
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let arguments = Arguments::parse();
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("localplane: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> localplane::Result<()> {
    let dir = arguments.dir;
    clear(&dir)?;
    match arguments.command {
        Command::Up => {
            let plane = Plane::start(&dir).await?;
            println!("export KUBECONFIG={}", plane.kubeconfig().display());
            demo::wait_for_signal().await
        }
        Command::Demo { keep, prompt } => {
            let options = demo::Options { keep, prompt };
            if keep {
                return demo::run(&dir, &options).await;
            }
            tokio::select! {
                done = demo::run(&dir, &options) => done,
                // Dropping the demo kills what it started.
                signal = demo::wait_for_signal() => signal.and(Err(localplane::Error::Other("interrupted".into()))),
            }
        }
    }
}
