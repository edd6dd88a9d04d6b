//! `shardwright-supervise COMMAND [ARGUMENT]…`: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    let command: Vec<_> = std::env::args_os().skip(1).collect();
    agent::supervise::run(&command)
}
