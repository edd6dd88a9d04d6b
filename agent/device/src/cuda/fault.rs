//! What NVIDIA's numbers for failure mean for a device. Pure; numbers and their texts are those of the CUDA driver API
//! reference (`CUresult`) and the NVML reference (`nvmlReturn_t`).

/// A `CUresult` other than success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Code(pub(super) u32);

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// There is not enough memory; nothing else is wrong.
    OutOfMemory,
    /// The context is gone for good, and with it what was on the device.
    Lost,
    /// The library is of another version than the kernel's driver.
    Mismatch,
    /// The call failed; the next may not.
    Other,
}

/// That the peers' access was there before.
pub(super) const PEER_ACCESS_ALREADY_ENABLED: Code = Code(704);

impl Code {
    /// What follows from it.
    pub(super) fn class(self) -> Class {
        match self.0 {
            2 => Class::OutOfMemory,
            // The card is unavailable, has uncorrectable errors of memory or link, or its context is corrupt: each of
            // these "leaves the process in an inconsistent state" by the reference.
            46 | 214 | 220 | 226 | 700 | 702 | 709 | 710 | 714..=719 | 721 => Class::Lost,
            803 => Class::Mismatch,
            _ => Class::Other,
        }
    }

    /// The reference's name, and what it means to a person where the name does not say.
    pub(super) fn text(self) -> String {
        let meaning = match self.0 {
            1 => "CUDA_ERROR_INVALID_VALUE",
            2 => "CUDA_ERROR_OUT_OF_MEMORY",
            3 => "CUDA_ERROR_NOT_INITIALIZED",
            4 => "CUDA_ERROR_DEINITIALIZED",
            34 => "CUDA_ERROR_STUB_LIBRARY: this libcuda is for building only; install the driver",
            46 => "CUDA_ERROR_DEVICE_UNAVAILABLE: the card is in use exclusively or has failed",
            100 => "CUDA_ERROR_NO_DEVICE: the driver shows no card to this process",
            101 => "CUDA_ERROR_INVALID_DEVICE",
            200 => "CUDA_ERROR_INVALID_IMAGE",
            201 => "CUDA_ERROR_INVALID_CONTEXT",
            209 => "CUDA_ERROR_NO_BINARY_FOR_GPU",
            214 => "CUDA_ERROR_ECC_UNCORRECTABLE: its memory has errors that cannot be mended",
            217 => "CUDA_ERROR_PEER_ACCESS_UNSUPPORTED",
            218 => "CUDA_ERROR_INVALID_PTX",
            220 => "CUDA_ERROR_NVLINK_UNCORRECTABLE",
            221 => "CUDA_ERROR_JIT_COMPILER_NOT_FOUND: libnvidia-ptxjitcompiler is missing beside libcuda",
            222 => "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
            226 => "CUDA_ERROR_CONTAINED",
            500 => "CUDA_ERROR_NOT_FOUND",
            700 => "CUDA_ERROR_ILLEGAL_ADDRESS",
            702 => "CUDA_ERROR_LAUNCH_TIMEOUT",
            704 => "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED",
            709 => "CUDA_ERROR_CONTEXT_IS_DESTROYED",
            714 => "CUDA_ERROR_HARDWARE_STACK_ERROR",
            715 => "CUDA_ERROR_ILLEGAL_INSTRUCTION",
            716 => "CUDA_ERROR_MISALIGNED_ADDRESS",
            719 => "CUDA_ERROR_LAUNCH_FAILED",
            721 => "CUDA_ERROR_TENSOR_MEMORY_LEAK",
            800 => "CUDA_ERROR_NOT_PERMITTED",
            801 => "CUDA_ERROR_NOT_SUPPORTED",
            802 => "CUDA_ERROR_SYSTEM_NOT_READY: the fabric manager, which the links between cards need, does not run",
            803 => {
                "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (DriverMismatch): the library and the kernel's driver are of \
                 different versions; restart the node or reload the driver"
            }
            804 => {
                "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE: the compatibility library is not for this card; take it off \
                 the library path"
            }
            999 => "CUDA_ERROR_UNKNOWN: the driver gives no reason; the kernel's log may",
            other => return format!("CUDA error {other}"),
        };
        meaning.to_owned()
    }
}

/// A `nvmlReturn_t` other than success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NvmlCode(pub(super) u32);

impl NvmlCode {
    /// A handle or an address that is none.
    pub(super) const INVALID_ARGUMENT: Self = Self(2);
    /// This library has no such function.
    pub(super) const FUNCTION_NOT_FOUND: Self = Self(13);
    /// The library is of another version than the kernel's driver.
    pub(super) const VERSION_MISMATCH: Self = Self(18);

    /// Why the card must be counted as lost, if it must.
    pub(super) fn lost(self) -> Option<&'static str> {
        match self.0 {
            15 => Some("NVML_ERROR_GPU_IS_LOST: it has fallen off the bus or is not reachable otherwise"),
            16 => Some("NVML_ERROR_RESET_REQUIRED: it needs a reset before it can be used again"),
            28 => Some("NVML_ERROR_GPU_NOT_FOUND: it is not there any more"),
            _ => None,
        }
    }

    /// Whether the card is not this process's business: NVML counts cards that a container was not given.
    pub(super) fn hides(self) -> bool {
        matches!(self.0, 2 | 4 | 6)
    }

    /// For a person, with what would mend it.
    pub(super) fn text(self) -> String {
        if let Some(reason) = self.lost() {
            return reason.to_owned();
        }
        let meaning = match self.0 {
            1 => "NVML_ERROR_UNINITIALIZED",
            2 => "NVML_ERROR_INVALID_ARGUMENT",
            3 => "NVML_ERROR_NOT_SUPPORTED",
            4 => "NVML_ERROR_NO_PERMISSION: this process may not speak to the driver",
            6 => "NVML_ERROR_NOT_FOUND",
            7 => "NVML_ERROR_INSUFFICIENT_SIZE",
            9 => "NVML_ERROR_DRIVER_NOT_LOADED: load the nvidia kernel module",
            10 => "NVML_ERROR_TIMEOUT",
            12 => "NVML_ERROR_LIBRARY_NOT_FOUND",
            13 => "NVML_ERROR_FUNCTION_NOT_FOUND",
            17 => "NVML_ERROR_OPERATING_SYSTEM",
            18 => {
                "NVML_ERROR_LIB_RM_VERSION_MISMATCH (DriverMismatch): the library and the kernel's driver are of \
                 different versions; restart the node or reload the driver"
            }
            999 => "NVML_ERROR_UNKNOWN: the driver gives no reason; the kernel's log may",
            other => return format!("NVML error {other}"),
        };
        meaning.to_owned()
    }
}

#[cfg(test)]
mod tests;
