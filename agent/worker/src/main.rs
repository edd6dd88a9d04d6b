//! The process that holds one shard.

use clap::Parser;
use clap::error::ErrorKind;
use worker::args::Args;
use worker::run::Exit;

fn main() {
    // Taken already means that something chose it before us, which nothing does.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let exit = match Args::try_parse() {
        Ok(args) => args.run(),
        Err(error) => {
            // Standard error is all there is to tell it to.
            let _ = error.print();
            match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Drained,
                _ => Exit::Config,
            }
        }
    };
    std::process::exit(exit as i32);
}
