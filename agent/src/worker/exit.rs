//! What the end of a worker means.

use crate::shard::observed::Fault;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// The weights do not load.
pub const BAD_WEIGHTS: &str = "BadWeights";

/// Exit codes that a worker gives reasons by.
const CODES: [(i32, &str, &str); 5] = [
    (
        64,
        "BadConfiguration",
        "the worker does not understand its configuration; agent and worker must be of one version",
    ),
    (65, BAD_WEIGHTS, "the engine refuses the weights"),
    (
        69,
        "BackendUnavailable",
        "the engine cannot use the device; check its driver",
    ),
    (
        71,
        "InsufficientMemory",
        "weights, cache and the largest step do not fit what the placement allows",
    ),
    (78, "UnsupportedCPU", "the processor lacks x86-64-v3 (AVX2, FMA, F16C)"),
];

/// The fault that a process left. `last_words` is the last line it wrote, if any.
pub fn fault(status: ExitStatus, last_words: Option<&str>) -> Fault {
    let known = status
        .code()
        .and_then(|code| CODES.iter().find(|(known, ..)| *known == code));
    let (reason, cause) = match known {
        Some((_, reason, cause)) => (*reason, (*cause).to_owned()),
        None if status.success() => ("Exited", "the worker ended without an error".to_owned()),
        None => match status.signal() {
            Some(signal) => ("Crashed", format!("the worker was ended by signal {signal}")),
            None => ("Crashed", format!("the worker ended with {status}")),
        },
    };
    let message = match last_words {
        Some(words) => format!("{cause}; its last line: {words}"),
        None => cause,
    };
    Fault::new(reason, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(raw: i32) -> Fault {
        fault(ExitStatus::from_raw(raw), Some("last"))
    }

    #[test]
    fn codes_become_reasons() {
        assert_eq!(after(65 << 8).reason, BAD_WEIGHTS);
        assert_eq!(after(78 << 8).reason, "UnsupportedCPU");
        assert_eq!(after(0).reason, "Exited");
        assert_eq!(after(1 << 8).reason, "Crashed");
    }

    #[test]
    fn a_signal_is_named_with_the_last_line() {
        let fault = after(9);
        assert_eq!(fault.reason, "Crashed");
        assert!(
            fault.message.contains("signal 9") && fault.message.ends_with("last"),
            "{}",
            fault.message
        );
    }
}
