//! Using a Vulkan device: one mebibyte in and out, then timed copies within it.
#![allow(unsafe_code)]

use super::call::Loader;
use super::parse::{Exercise, Facts, main_heap};
use crate::{Figure, Measured, VERIFICATION_BYTES, Verification, verification_pattern};
use ash::vk;
use std::time::{Duration, Instant};

/// A copy of a mebibyte takes microseconds; a device that needs longer than this is stuck.
const FENCE_LIMIT: Duration = Duration::from_secs(2);
/// Long enough for several copies on the slowest renderer.
const MEASURE_FOR: Duration = Duration::from_millis(150);
/// Larger than the caches of today's cards (the largest has 256 MiB of last-level cache, most have 32 or less).
const MEASURE_BYTES: u64 = 128 << 20;
/// Of the heap, what a measurement may take with each of its two buffers.
const HEAP_SHARE: u64 = 16;
const SMALLEST_MEASURE_BYTES: u64 = 4 << 20;
const COPIES_LIMIT: usize = 64;
const LAUNCHES: usize = 16;

/// A step that did not work, as "what: why".
#[derive(Debug, thiserror::Error)]
#[error("{step}: {result}")]
struct StepError {
    step: &'static str,
    result: vk::Result,
}

fn at(step: &'static str) -> impl Fn(vk::Result) -> StepError {
    move |result| StepError { step, result }
}

/// Verifies the device, and measures it if that went well.
pub fn exercise(loader: &Loader, facts: &Facts, now_unix_s: u64) -> Exercise {
    let nothing = |verification| Exercise {
        verification,
        measured: Measured::default(),
    };
    let session = match Session::open(loader, facts.index) {
        Ok(session) => session,
        Err(reason) => return nothing(Verification::CouldNotMeasure { reason }),
    };
    match session.round_trip() {
        Ok(true) => {}
        Ok(false) => {
            return nothing(Verification::Failed {
                reason: "1 MiB copied in and out came back changed".to_owned(),
            });
        }
        Err(error) => {
            return nothing(Verification::CouldNotMeasure {
                reason: error.to_string(),
            });
        }
    }
    let heap_bytes = main_heap(&facts.heaps).map_or(0, |heap| heap.budget_bytes.unwrap_or(heap.size_bytes));
    Exercise {
        verification: Verification::Verified,
        measured: Measured {
            bandwidth_bytes_per_second: session.bandwidth(heap_bytes, now_unix_s),
            launch_ns: session.launch_ns(now_unix_s),
            ..Measured::default()
        },
    }
}

/// One logical device with a queue, a command buffer and a fence.
struct Session<'a> {
    device: ash::Device,
    memory: vk::PhysicalDeviceMemoryProperties,
    queue: vk::Queue,
    pool: vk::CommandPool,
    commands: vk::CommandBuffer,
    fence: vk::Fence,
    _loader: &'a Loader,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // SAFETY: buffers borrow the session and are gone; the queue is idle or lost after the wait.
        unsafe {
            let _ = self.device.device_wait_idle();
            self.device.destroy_fence(self.fence, None);
            self.device.destroy_command_pool(self.pool, None);
            self.device.destroy_device(None);
        }
    }
}

/// A buffer bound to memory of its own.
struct Buffer<'a> {
    device: &'a ash::Device,
    buffer: vk::Buffer,
    memory: vk::DeviceMemory,
    size_bytes: u64,
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        // SAFETY: no submitted work refers to the buffer: every submission is waited for, and a wait that fails is
        // followed by waiting for the idle device.
        unsafe {
            let _ = self.device.device_wait_idle();
            self.device.destroy_buffer(self.buffer, None);
            self.device.free_memory(self.memory, None);
        }
    }
}

impl<'a> Session<'a> {
    fn open(loader: &'a Loader, index: u32) -> Result<Self, String> {
        let handle = loader.handle(index).map_err(|error| error.to_string())?;
        let instance = loader.instance();
        // SAFETY: `handle` came from this instance.
        let families = unsafe { instance.get_physical_device_queue_family_properties(handle) };
        let family = families
            .iter()
            .position(|family| family.queue_flags.contains(vk::QueueFlags::COMPUTE))
            .ok_or("it has no queue that computes")? as u32;
        let priorities = [1.0];
        let queues = [vk::DeviceQueueCreateInfo::default()
            .queue_family_index(family)
            .queue_priorities(&priorities)];
        let info = vk::DeviceCreateInfo::default().queue_create_infos(&queues);
        // SAFETY: `info` names an existing queue family and outlives the call.
        let device = unsafe { instance.create_device(handle, &info, None) }
            .map_err(|result| at("vkCreateDevice")(result).to_string())?;
        // SAFETY: `handle` came from this instance.
        let memory = unsafe { instance.get_physical_device_memory_properties(handle) };
        // SAFETY: queue 0 of `family` was asked for above.
        let queue = unsafe { device.get_device_queue(family, 0) };
        let mut session = Session {
            device,
            memory,
            queue,
            pool: vk::CommandPool::null(),
            commands: vk::CommandBuffer::null(),
            fence: vk::Fence::null(),
            _loader: loader,
        };
        session.allocate_commands(family).map_err(|error| error.to_string())?;
        Ok(session)
    }

    fn allocate_commands(&mut self, family: u32) -> Result<(), StepError> {
        let pool = vk::CommandPoolCreateInfo::default()
            .queue_family_index(family)
            .flags(vk::CommandPoolCreateFlags::RESET_COMMAND_BUFFER);
        // SAFETY: the device is alive; what is made is destroyed in drop, where null handles are allowed.
        unsafe {
            self.pool = self
                .device
                .create_command_pool(&pool, None)
                .map_err(at("vkCreateCommandPool"))?;
            let commands = vk::CommandBufferAllocateInfo::default()
                .command_pool(self.pool)
                .command_buffer_count(1);
            self.commands = self
                .device
                .allocate_command_buffers(&commands)
                .map_err(at("vkAllocateCommandBuffers"))?
                .first()
                .copied()
                .ok_or(at("vkAllocateCommandBuffers")(vk::Result::ERROR_UNKNOWN))?;
            self.fence = self
                .device
                .create_fence(&vk::FenceCreateInfo::default(), None)
                .map_err(at("vkCreateFence"))?;
        }
        Ok(())
    }

    /// Copies a pattern to the device and back. True when it came back whole.
    fn round_trip(&self) -> Result<bool, StepError> {
        let size = VERIFICATION_BYTES as u64;
        let host = vk::MemoryPropertyFlags::HOST_VISIBLE | vk::MemoryPropertyFlags::HOST_COHERENT;
        let source = self.buffer(size, host)?;
        let inside = self.buffer(size, vk::MemoryPropertyFlags::DEVICE_LOCAL)?;
        let back = self.buffer(size, host)?;
        let pattern = verification_pattern();
        self.write(&source, &pattern)?;
        self.copy(&source, &inside)?;
        self.copy(&inside, &back)?;
        Ok(self.read(&back)? == pattern)
    }

    /// Copies within the device for a while. Nothing when a buffer could not be had or a copy failed.
    fn bandwidth(&self, heap_bytes: u64, now_unix_s: u64) -> Option<Figure> {
        let size = MEASURE_BYTES.min(heap_bytes / HEAP_SHARE) / 4096 * 4096;
        if size < SMALLEST_MEASURE_BYTES {
            return None;
        }
        let local = vk::MemoryPropertyFlags::DEVICE_LOCAL;
        let (from, to) = (self.buffer(size, local).ok()?, self.buffer(size, local).ok()?);
        // The first copies touch fresh pages and wake the memory clock.
        self.copy(&from, &to).ok()?;
        self.copy(&to, &from).ok()?;
        let start = Instant::now();
        let mut taken = Vec::new();
        while taken.len() < COPIES_LIMIT && start.elapsed() < MEASURE_FOR {
            let one = Instant::now();
            self.copy(&from, &to).ok()?;
            taken.push(one.elapsed());
        }
        let samples = taken.len() as u32;
        let seconds = median(taken)?.as_secs_f64();
        let value = (2.0 * size as f64 / seconds) as u64;
        (value > 0).then_some(Figure {
            value,
            samples,
            measured_unix_s: now_unix_s,
        })
    }

    fn launch_ns(&self, now_unix_s: u64) -> Option<Figure> {
        let mut taken = Vec::new();
        for _ in 0..LAUNCHES {
            let one = Instant::now();
            self.submit(|_, _| {}).ok()?;
            taken.push(one.elapsed());
        }
        median(taken).map(|taken| Figure {
            value: (taken.as_nanos() as u64).max(1),
            samples: LAUNCHES as u32,
            measured_unix_s: now_unix_s,
        })
    }

    fn buffer(&self, size_bytes: u64, wanted: vk::MemoryPropertyFlags) -> Result<Buffer<'_>, StepError> {
        let info = vk::BufferCreateInfo::default()
            .size(size_bytes)
            .usage(vk::BufferUsageFlags::TRANSFER_SRC | vk::BufferUsageFlags::TRANSFER_DST)
            .sharing_mode(vk::SharingMode::EXCLUSIVE);
        // SAFETY: the device is alive; handles that were made are owned by `made` from here on, and destroying or
        // freeing a null handle is allowed.
        unsafe {
            let buffer = self.device.create_buffer(&info, None).map_err(at("vkCreateBuffer"))?;
            let mut made = Buffer {
                device: &self.device,
                buffer,
                memory: vk::DeviceMemory::null(),
                size_bytes,
            };
            let needs = self.device.get_buffer_memory_requirements(buffer);
            let kind = self
                .memory
                .memory_types_as_slice()
                .iter()
                .enumerate()
                .position(|(index, kind)| {
                    needs.memory_type_bits & (1 << index) != 0 && kind.property_flags.contains(wanted)
                })
                .ok_or(at("choosing a memory type")(vk::Result::ERROR_FEATURE_NOT_PRESENT))?;
            let allocate = vk::MemoryAllocateInfo::default()
                .allocation_size(needs.size)
                .memory_type_index(kind as u32);
            made.memory = self
                .device
                .allocate_memory(&allocate, None)
                .map_err(at("vkAllocateMemory"))?;
            self.device
                .bind_buffer_memory(buffer, made.memory, 0)
                .map_err(at("vkBindBufferMemory"))?;
            Ok(made)
        }
    }

    fn write(&self, buffer: &Buffer<'_>, bytes: &[u8]) -> Result<(), StepError> {
        assert!(bytes.len() as u64 <= buffer.size_bytes, "the pattern fits its buffer");
        // SAFETY: host-visible, coherent memory of at least `bytes.len()` bytes, not mapped elsewhere, not in use.
        unsafe {
            let mapped = self
                .device
                .map_memory(buffer.memory, 0, buffer.size_bytes, vk::MemoryMapFlags::empty())
                .map_err(at("vkMapMemory"))?;
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), mapped.cast::<u8>(), bytes.len());
            self.device.unmap_memory(buffer.memory);
        }
        Ok(())
    }

    fn read(&self, buffer: &Buffer<'_>) -> Result<Vec<u8>, StepError> {
        // SAFETY: as in `write`; the copy that filled the memory was waited for.
        unsafe {
            let mapped = self
                .device
                .map_memory(buffer.memory, 0, buffer.size_bytes, vk::MemoryMapFlags::empty())
                .map_err(at("vkMapMemory"))?;
            let bytes = std::slice::from_raw_parts(mapped.cast::<u8>(), buffer.size_bytes as usize).to_vec();
            self.device.unmap_memory(buffer.memory);
            Ok(bytes)
        }
    }

    fn copy(&self, from: &Buffer<'_>, to: &Buffer<'_>) -> Result<(), StepError> {
        let size = from.size_bytes.min(to.size_bytes);
        self.submit(|device, commands| {
            let region = [vk::BufferCopy::default().size(size)];
            // SAFETY: both buffers are bound, large enough, and outlive the submission, which is waited for.
            unsafe { device.cmd_copy_buffer(commands, from.buffer, to.buffer, &region) };
        })
    }

    /// Records, submits, and waits.
    fn submit(&self, record: impl FnOnce(&ash::Device, vk::CommandBuffer)) -> Result<(), StepError> {
        let begin = vk::CommandBufferBeginInfo::default().flags(vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT);
        // The host reads what the last copy wrote.
        let visible = [vk::MemoryBarrier::default()
            .src_access_mask(vk::AccessFlags::TRANSFER_WRITE)
            .dst_access_mask(vk::AccessFlags::HOST_READ | vk::AccessFlags::TRANSFER_READ)];
        // SAFETY: the command buffer is not pending: the last submission was waited for, or failed and ended the session.
        unsafe {
            self.device
                .begin_command_buffer(self.commands, &begin)
                .map_err(at("vkBeginCommandBuffer"))?;
            record(&self.device, self.commands);
            self.device.cmd_pipeline_barrier(
                self.commands,
                vk::PipelineStageFlags::TRANSFER,
                vk::PipelineStageFlags::HOST | vk::PipelineStageFlags::TRANSFER,
                vk::DependencyFlags::empty(),
                &visible,
                &[],
                &[],
            );
            self.device
                .end_command_buffer(self.commands)
                .map_err(at("vkEndCommandBuffer"))?;
            let commands = [self.commands];
            let submits = [vk::SubmitInfo::default().command_buffers(&commands)];
            self.device
                .queue_submit(self.queue, &submits, self.fence)
                .map_err(at("vkQueueSubmit"))?;
            self.device
                .wait_for_fences(&[self.fence], true, FENCE_LIMIT.as_nanos() as u64)
                .map_err(at("waiting for the device"))?;
            self.device.reset_fences(&[self.fence]).map_err(at("vkResetFences"))
        }
    }
}

fn median(mut taken: Vec<Duration>) -> Option<Duration> {
    taken.sort_unstable();
    taken.get(taken.len() / 2).copied()
}
