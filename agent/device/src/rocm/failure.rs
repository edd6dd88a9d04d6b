//! What HIP's refusals mean. Pure but for a look whether `/dev/kfd` is there.

use super::call::Refusal;
use crate::BackendError;
use std::path::Path;

/// `hipErrorOutOfMemory`.
pub(super) const OUT_OF_MEMORY: i32 = 2;
/// `hipErrorNoDevice`.
const NO_DEVICE: i32 = 100;
/// `hipErrorNoDevice`, and `hipErrorInvalidDevice`, which ROCm 5 says instead when it starts without a card.
pub(super) const NO_DEVICES: [i32; 2] = [NO_DEVICE, 101];

/// After these the card, or this process's hold of it, does not come back: no device (of one that was listed), errors of
/// its memory that were not mended (214), a fault at an address (700), a launch that timed out (702), a context that is
/// gone (709), a kernel that died (719). Source: `hipError_t` in hip_runtime_api.h.
const LOST: [i32; 6] = [NO_DEVICE, 214, 700, 702, 709, 719];

/// A refusal, typed. `unplugged` is whether the kernel has lost the card.
pub(super) fn meaning(refusal: Refusal, words: &str, device: String, unplugged: bool) -> BackendError {
    if unplugged {
        return BackendError::Lost {
            device,
            reason: format!("it is not on the bus any more ({} says {words})", refusal.call),
        };
    }
    if LOST.contains(&refusal.code) {
        return BackendError::Lost {
            device,
            reason: format!("{} says {words}", refusal.call),
        };
    }
    BackendError::Failed {
        call: refusal.call,
        reason: format!("{device}: {words}"),
    }
}

/// HIP counts no device.
pub(super) fn no_card(root: &Path) -> String {
    let remedy = if root.join("dev/kfd").exists() {
        "join the groups render and video, and see ROCm's list of supported cards"
    } else {
        "load amdgpu, and mount /dev/kfd and /dev/dri into the container"
    };
    format!("HIP is here and finds no card it can use; {remedy}")
}

/// HIP does not start.
pub(super) fn not_started(call: &str, words: &str) -> String {
    format!("{call} says {words}; install a ROCm that fits the kernel's amdgpu driver")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(code: i32, unplugged: bool) -> BackendError {
        let refusal = Refusal {
            call: "hipMemcpy",
            code,
        };
        meaning(refusal, &format!("error {code}"), "rocm0".to_owned(), unplugged)
    }

    #[test]
    fn a_card_that_does_not_come_back_is_lost_and_a_wrong_argument_is_a_failure() {
        for code in LOST {
            assert!(matches!(meant(code, false), BackendError::Lost { .. }), "{code}");
        }
        for code in [1, 3, 17, 101, 999] {
            assert!(matches!(meant(code, false), BackendError::Failed { .. }), "{code}");
            assert!(matches!(meant(code, true), BackendError::Lost { .. }), "{code}");
        }
    }

    #[test]
    fn what_is_missing_is_said_with_what_would_mend_it() {
        let root = tempfile::tempdir().unwrap();
        assert!(no_card(root.path()).contains("/dev/kfd"));
        std::fs::create_dir(root.path().join("dev")).unwrap();
        std::fs::write(root.path().join("dev/kfd"), "").unwrap();
        assert!(no_card(root.path()).contains("groups render and video"));
    }
}
