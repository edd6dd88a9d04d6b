//! How a process ends that cannot use its command line.

use std::process::ExitCode;

/// `EX_USAGE` of sysexits.h: the configuration is wrong and a restart will not mend it.
pub const EXIT_BAD_CONFIGURATION: u8 = 64;

/// Tells what is wrong with a command line, on stderr, or what its `--help` or `--version` asked for; gives the exit code to end with.
#[must_use]
pub fn tell(error: &clap::Error) -> ExitCode {
    // Nobody is left to tell when stderr is closed.
    let _ = error.print();
    if error.use_stderr() {
        ExitCode::from(EXIT_BAD_CONFIGURATION)
    } else {
        ExitCode::SUCCESS
    }
}
