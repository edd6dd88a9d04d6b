//! What the end of a worker means.

use crate::shard::observed::Fault;
use crds::conditions::reason;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// The weights do not load.
pub const BAD_WEIGHTS: &str = "BadWeights";
/// The device was lost, or what the worker had on it, while it computed.
pub const DEVICE_LOST: &str = "DeviceLost";

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
        reason::INSUFFICIENT_MEMORY,
        "weights, cache and the largest step do not fit what the placement allows",
    ),
    (78, "UnsupportedCPU", "the processor lacks x86-64-v3 (AVX2, FMA, F16C)"),
];

/// What ggml's backends write of a device that is lost before they end the process: Vulkan's, and what CUDA and HIP call their errors
/// 214, 700, 702 and 719.
const LOST: [&str; 6] = [
    "device lost",
    "ErrorDeviceLost",
    "uncorrectable ECC error encountered",
    "an illegal memory access was encountered",
    "the launch timed out and was terminated",
    "unspecified launch failure",
];

/// Whether a reason of [`fault`] says more than that the worker ended.
pub fn explains(reason: &str) -> bool {
    reason == DEVICE_LOST || CODES.iter().any(|(_, known, _)| *known == reason)
}

/// The fault that a process left. `last_lines` are the last that it wrote.
pub fn fault(status: ExitStatus, last_lines: &[String]) -> Fault {
    let known = status
        .code()
        .and_then(|code| CODES.iter().find(|(known, ..)| *known == code));
    let (reason, cause) = match known {
        Some((_, reason, cause)) => (*reason, (*cause).to_owned()),
        None if status.success() => ("Exited", "the worker ended without an error".to_owned()),
        None => match (status.signal(), lost(last_lines)) {
            (Some(signal), Some(line)) => {
                let message =
                    format!("the worker's device was lost under it, which ended it by signal {signal}: {line}");
                return Fault::new(DEVICE_LOST, message);
            }
            (Some(signal), None) => ("Crashed", format!("the worker was ended by signal {signal}")),
            (None, _) => ("Crashed", format!("the worker ended with {status}")),
        },
    };
    let message = match last_lines.last() {
        Some(words) => format!("{cause}; its last line: {words}"),
        None => cause,
    };
    Fault::new(reason, message)
}

/// The first line that tells of a lost device.
fn lost(lines: &[String]) -> Option<&String> {
    lines.iter().find(|line| LOST.iter().any(|words| line.contains(words)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(raw: i32) -> Fault {
        left(raw, &["last"])
    }

    fn left(raw: i32, lines: &[&str]) -> Fault {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        fault(ExitStatus::from_raw(raw), &lines)
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

    #[test]
    fn a_process_that_ggml_ended_for_its_device_says_so_in_the_backends_words() {
        let vulkan = [
            "ggml_vulkan: device lost on Vulkan0",
            "terminate called after throwing an instance of 'vk::DeviceLostError'",
            "  what():  vk::Queue::submit: ErrorDeviceLost",
        ];
        let cuda = [
            "CUDA error: an illegal memory access was encountered",
            "  current device: 0, in function ggml_backend_cuda_synchronize at ggml-cuda.cu:2911",
            "ggml-cuda.cu:98: CUDA error",
        ];
        for lines in [vulkan, cuda] {
            let fault = left(6, &lines);
            assert_eq!(fault.reason, DEVICE_LOST);
            assert!(fault.message.ends_with(lines[0]), "{}", fault.message);
        }
        let code = left(69 << 8, &vulkan);
        assert_eq!(code.reason, "BackendUnavailable", "it knew what to say by itself");
        assert_eq!(left(6, &["CUDA error: out of memory"]).reason, "Crashed");
    }
}
