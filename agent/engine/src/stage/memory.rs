//! What a stage takes, as llama.cpp allocated it.

use crate::ffi::log::{Buffer, Purpose};

/// Memory of a loaded stage: the sizes of the buffers that llama.cpp allocated, to the hundredth of a MiB, not an
/// estimate. A group's is as many times what the member with the most has as there are members: each may use an equal part of
/// what the group may. All weights and the cache have been written once; the compute buffers are as large as the largest step
/// needs, and [`super::Stage::warm_up`] writes to them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageMemory {
    /// Weights on the stage's device.
    pub weights_bytes: u64,
    /// Keys and values on the stage's device.
    pub kv_bytes: u64,
    /// What graphs compute in, and their outputs, on the stage's device.
    pub compute_bytes: u64,
    /// All that an accelerator's stage has in host memory: staging buffers, and layers that were left there.
    pub host_bytes: u64,
}

impl StageMemory {
    /// What counts against the budget of the stage's device.
    pub fn device_bytes(&self) -> u64 {
        self.weights_bytes + self.kv_bytes + self.compute_bytes
    }

    /// Adds up buffers of a stage on the processor, or on so many accelerators. Of a buffer that is divided among several, llama.cpp
    /// tells the size of the largest part.
    pub(super) fn of(buffers: &[Buffer], accelerators: usize) -> Self {
        let mut memory = Self::default();
        for buffer in buffers {
            let on_host = buffer.name.starts_with("CPU") || buffer.name.ends_with("_Host");
            let (sum, parts) = match buffer.purpose {
                _ if accelerators > 0 && on_host => (&mut memory.host_bytes, 1),
                Purpose::Weights => (&mut memory.weights_bytes, accelerators.max(1)),
                Purpose::Cache => (&mut memory.kv_bytes, accelerators.max(1)),
                Purpose::Compute => (&mut memory.compute_bytes, accelerators.max(1)),
            };
            *sum += buffer.bytes * parts as u64;
        }
        memory
    }
}
