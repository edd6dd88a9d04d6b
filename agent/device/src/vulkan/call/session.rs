//! One logical device: buffers, copies between them, and products.
#![allow(unsafe_code)]

use super::{CallError, Loader};
use crate::driver::Precision;
use ash::vk;
use std::sync::Arc;
use std::time::Duration;

mod kernel;

/// Submissions are cut so that each takes well below a second on any device; one that needs longer than this is stuck.
const FENCE_LIMIT: Duration = Duration::from_secs(10);

fn at(call: &'static str) -> impl Fn(vk::Result) -> CallError {
    move |result| CallError::Failed { call, result }
}

/// What a device allows, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub(in crate::vulkan) struct Limits {
    /// Of one allocation.
    pub allocation_bytes: u64,
    /// Of one buffer that a kernel sees.
    pub storage_bytes: u64,
    /// Whether kernels of SPIR-V 1.3 run.
    pub kernels: bool,
    /// Whether kernels may read halves.
    pub halves: bool,
}

/// Where a buffer shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::vulkan) enum Place {
    /// In the heap that weights go to.
    Device,
    /// Where the host writes and reads.
    Staging,
}

/// A buffer bound to memory of its own. It lives until [`Session::destroy`].
pub(in crate::vulkan) struct Buffer {
    buffer: vk::Buffer,
    memory: vk::DeviceMemory,
    size_bytes: u64,
    allocated_bytes: u64,
    mappable: bool,
}

impl Buffer {
    /// What it took of the heap.
    pub(in crate::vulkan) fn allocated_bytes(&self) -> u64 {
        self.allocated_bytes
    }

    /// Whether the host reaches it quickly, for reading and for writing.
    pub(in crate::vulkan) fn mappable(&self) -> bool {
        self.mappable
    }
}

/// A copy between two buffers of one session.
pub(in crate::vulkan) struct Region<'a> {
    pub(in crate::vulkan) from: (&'a Buffer, u64),
    pub(in crate::vulkan) to: (&'a Buffer, u64),
    pub(in crate::vulkan) bytes: u64,
}

/// One logical device with a queue, a command buffer and a fence.
pub(in crate::vulkan) struct Session {
    device: ash::Device,
    memory: vk::PhysicalDeviceMemoryProperties,
    main_heap: u32,
    limits: Limits,
    queue: vk::Queue,
    pool: vk::CommandPool,
    commands: vk::CommandBuffer,
    fence: vk::Fence,
    kernels: [Option<kernel::Kernel>; 2],
    stuck: bool,
    // Last: the device's functions live in the library that it keeps open.
    loader: Arc<Loader>,
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.stuck {
            // Waiting for it would take for ever, and freeing what it still uses is not allowed; nor may its library go.
            std::mem::forget(Arc::clone(&self.loader));
            return;
        }
        // SAFETY: the driver destroyed its buffers; the queue is idle or lost after the wait; null handles are allowed.
        unsafe {
            let _ = self.device.device_wait_idle();
            for kernel in self.kernels.iter_mut().filter_map(Option::take) {
                kernel.destroy(&self.device);
            }
            self.device.destroy_fence(self.fence, None);
            self.device.destroy_command_pool(self.pool, None);
            self.device.destroy_device(None);
        }
    }
}

impl Session {
    /// Makes a logical device of the physical one at `index`, whose weights go to the heap `main_heap`.
    pub(in crate::vulkan) fn open(loader: Arc<Loader>, index: u32, main_heap: u32) -> Result<Self, CallError> {
        let handle = loader.handle(index)?;
        let limits = loader.limits(handle);
        let instance = loader.instance();
        // SAFETY: `handle` came from this instance.
        let families = unsafe { instance.get_physical_device_queue_family_properties(handle) };
        let family = families
            .iter()
            .position(|family| family.queue_flags.contains(vk::QueueFlags::COMPUTE))
            .ok_or(at("choosing a queue that computes")(
                vk::Result::ERROR_FEATURE_NOT_PRESENT,
            ))? as u32;
        let priorities = [1.0];
        let queues = [vk::DeviceQueueCreateInfo::default()
            .queue_family_index(family)
            .queue_priorities(&priorities)];
        let mut storage = vk::PhysicalDevice16BitStorageFeatures::default().storage_buffer16_bit_access(true);
        let mut float = vk::PhysicalDeviceShaderFloat16Int8Features::default().shader_float16(true);
        let mut info = vk::DeviceCreateInfo::default().queue_create_infos(&queues);
        if limits.halves {
            info = info.push_next(&mut storage).push_next(&mut float);
        }
        // SAFETY: `info` names an existing queue family and features that the device has, and outlives the call.
        let device = unsafe { instance.create_device(handle, &info, None) }.map_err(at("vkCreateDevice"))?;
        // SAFETY: `handle` came from this instance.
        let memory = unsafe { instance.get_physical_device_memory_properties(handle) };
        // SAFETY: queue 0 of `family` was asked for above.
        let queue = unsafe { device.get_device_queue(family, 0) };
        let mut session = Session {
            device,
            memory,
            main_heap,
            limits,
            queue,
            pool: vk::CommandPool::null(),
            commands: vk::CommandBuffer::null(),
            fence: vk::Fence::null(),
            kernels: [None, None],
            stuck: false,
            loader,
        };
        session.allocate_commands(family)?;
        Ok(session)
    }

    pub(in crate::vulkan) fn limits(&self) -> Limits {
        self.limits
    }

    fn allocate_commands(&mut self, family: u32) -> Result<(), CallError> {
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

    /// A new buffer, its content undefined.
    pub(in crate::vulkan) fn buffer(&self, size_bytes: u64, place: Place) -> Result<Buffer, CallError> {
        let info = vk::BufferCreateInfo::default()
            .size(size_bytes)
            .usage(
                vk::BufferUsageFlags::TRANSFER_SRC
                    | vk::BufferUsageFlags::TRANSFER_DST
                    | vk::BufferUsageFlags::STORAGE_BUFFER,
            )
            .sharing_mode(vk::SharingMode::EXCLUSIVE);
        // SAFETY: the device is alive.
        let buffer = unsafe { self.device.create_buffer(&info, None) }.map_err(at("vkCreateBuffer"))?;
        let mut made = Buffer {
            buffer,
            memory: vk::DeviceMemory::null(),
            size_bytes,
            allocated_bytes: 0,
            mappable: false,
        };
        match self.bind(&mut made, place) {
            Ok(()) => Ok(made),
            Err(error) => {
                self.destroy(made);
                Err(error)
            }
        }
    }

    fn bind(&self, made: &mut Buffer, place: Place) -> Result<(), CallError> {
        // SAFETY: the buffer is new and of this device; the memory is its own and as large as it needs.
        unsafe {
            let needs = self.device.get_buffer_memory_requirements(made.buffer);
            let (kind, flags) = memory_type(&self.memory, needs.memory_type_bits, place, self.main_heap).ok_or(at(
                "choosing a memory type",
            )(
                vk::Result::ERROR_FEATURE_NOT_PRESENT,
            ))?;
            let allocate = vk::MemoryAllocateInfo::default()
                .allocation_size(needs.size)
                .memory_type_index(kind);
            made.memory = self
                .device
                .allocate_memory(&allocate, None)
                .map_err(at("vkAllocateMemory"))?;
            made.allocated_bytes = needs.size;
            made.mappable = flags.contains(READABLE);
            self.device
                .bind_buffer_memory(made.buffer, made.memory, 0)
                .map_err(at("vkBindBufferMemory"))
        }
    }

    /// Frees a buffer.
    #[expect(clippy::needless_pass_by_value, reason = "what was freed cannot be used any more")]
    pub(in crate::vulkan) fn destroy(&self, buffer: Buffer) {
        if self.stuck {
            return;
        }
        // SAFETY: no submitted work refers to the buffer: every submission is waited for, and one whose end was not seen
        // makes the session stuck. Null handles are allowed.
        unsafe {
            self.device.destroy_buffer(buffer.buffer, None);
            self.device.free_memory(buffer.memory, None);
        }
    }

    /// Copies bytes into a buffer that the host reaches.
    pub(in crate::vulkan) fn write(&self, buffer: &Buffer, offset: u64, bytes: &[u8]) -> Result<(), CallError> {
        assert!(
            offset + bytes.len() as u64 <= buffer.size_bytes,
            "the bytes fit their buffer"
        );
        // SAFETY: host-visible, coherent memory of at least `offset + bytes.len()` bytes, mapped nowhere else, not in use.
        unsafe {
            let mapped = self
                .device
                .map_memory(buffer.memory, 0, vk::WHOLE_SIZE, vk::MemoryMapFlags::empty())
                .map_err(at("vkMapMemory"))?;
            let target = mapped.cast::<u8>().add(offset as usize);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len());
            self.device.unmap_memory(buffer.memory);
        }
        Ok(())
    }

    /// Copies bytes out of a buffer that the host reaches.
    pub(in crate::vulkan) fn read(&self, buffer: &Buffer, offset: u64, bytes: &mut [u8]) -> Result<(), CallError> {
        assert!(
            offset + bytes.len() as u64 <= buffer.size_bytes,
            "the bytes are in their buffer"
        );
        // SAFETY: as in `write`; whatever filled the memory was waited for.
        unsafe {
            let mapped = self
                .device
                .map_memory(buffer.memory, 0, vk::WHOLE_SIZE, vk::MemoryMapFlags::empty())
                .map_err(at("vkMapMemory"))?;
            let source = mapped.cast::<u8>().add(offset as usize);
            std::ptr::copy_nonoverlapping(source, bytes.as_mut_ptr(), bytes.len());
            self.device.unmap_memory(buffer.memory);
        }
        Ok(())
    }

    /// Copies between buffers, in order; regions do not overlap. Complete when it returns.
    pub(in crate::vulkan) fn copy(&mut self, regions: &[Region<'_>]) -> Result<(), CallError> {
        self.submit(|device, commands| {
            for Region { from, to, bytes } in regions {
                assert!(from.1 + bytes <= from.0.size_bytes && to.1 + bytes <= to.0.size_bytes);
                let region = [vk::BufferCopy::default()
                    .src_offset(from.1)
                    .dst_offset(to.1)
                    .size(*bytes)];
                // SAFETY: both buffers are bound, long enough, and outlive the submission, which is waited for.
                unsafe { device.cmd_copy_buffer(commands, from.0.buffer, to.0.buffer, &region) };
                barrier(device, commands);
            }
        })
    }

    /// Submits nothing and waits for it.
    pub(in crate::vulkan) fn launch(&mut self) -> Result<(), CallError> {
        self.submit(|_, _| {})
    }

    /// Computes a product of `groups` x `groups` tiles `repeats` times. Complete when it returns.
    pub(in crate::vulkan) fn multiply(
        &mut self,
        precision: Precision,
        buffers: [&Buffer; 3],
        groups: u32,
        repeats: u32,
    ) -> Result<(), CallError> {
        let slot = match precision {
            Precision::F32 => 0,
            Precision::F16 => 1,
        };
        let kernel = match self.kernels[slot] {
            Some(kernel) => kernel,
            None => *self.kernels[slot].insert(kernel::Kernel::new(&self.device, precision)?),
        };
        kernel.set(&self.device, buffers.map(|buffer| buffer.buffer));
        self.submit(|device, commands| {
            for _ in 0..repeats {
                kernel.dispatch(device, commands, groups);
                barrier(device, commands);
            }
        })
    }

    /// Records, submits, and waits.
    fn submit(&mut self, record: impl FnOnce(&ash::Device, vk::CommandBuffer)) -> Result<(), CallError> {
        if self.stuck {
            return Err(at("waiting for the device")(vk::Result::TIMEOUT));
        }
        let begin = vk::CommandBufferBeginInfo::default().flags(vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT);
        // SAFETY: the command buffer is not pending: the last submission was waited for, or the session is stuck.
        unsafe {
            self.device
                .begin_command_buffer(self.commands, &begin)
                .map_err(at("vkBeginCommandBuffer"))?;
            record(&self.device, self.commands);
            self.device
                .end_command_buffer(self.commands)
                .map_err(at("vkEndCommandBuffer"))?;
            let commands = [self.commands];
            let submits = [vk::SubmitInfo::default().command_buffers(&commands)];
            self.device
                .queue_submit(self.queue, &submits, self.fence)
                .map_err(at("vkQueueSubmit"))?;
            let waited = self
                .device
                .wait_for_fences(&[self.fence], true, FENCE_LIMIT.as_nanos() as u64);
            // After a lost device nothing is pending any more; after anything else it may be.
            self.stuck = !matches!(waited, Ok(()) | Err(vk::Result::ERROR_DEVICE_LOST));
            waited.map_err(at("waiting for the device"))?;
            self.device.reset_fences(&[self.fence]).map_err(at("vkResetFences"))
        }
    }
}

/// What one command wrote is seen by the next, and by the host.
fn barrier(device: &ash::Device, commands: vk::CommandBuffer) {
    let work = vk::PipelineStageFlags::TRANSFER | vk::PipelineStageFlags::COMPUTE_SHADER;
    let seen = [vk::MemoryBarrier::default()
        .src_access_mask(vk::AccessFlags::MEMORY_WRITE | vk::AccessFlags::MEMORY_READ)
        .dst_access_mask(vk::AccessFlags::MEMORY_WRITE | vk::AccessFlags::MEMORY_READ)];
    // SAFETY: the command buffer is being recorded on this device.
    unsafe {
        device.cmd_pipeline_barrier(
            commands,
            work,
            work | vk::PipelineStageFlags::HOST,
            vk::DependencyFlags::empty(),
            &seen,
            &[],
            &[],
        );
    }
}

const VISIBLE: vk::MemoryPropertyFlags = vk::MemoryPropertyFlags::from_raw(
    vk::MemoryPropertyFlags::HOST_VISIBLE.as_raw() | vk::MemoryPropertyFlags::HOST_COHERENT.as_raw(),
);
/// Reading uncached memory goes over the bus word by word.
const READABLE: vk::MemoryPropertyFlags =
    vk::MemoryPropertyFlags::from_raw(VISIBLE.as_raw() | vk::MemoryPropertyFlags::HOST_CACHED.as_raw());

/// The first memory type of those allowed by `bits` that fits best. Types stand in the order that their driver prefers.
fn memory_type(
    memory: &vk::PhysicalDeviceMemoryProperties,
    bits: u32,
    place: Place,
    main_heap: u32,
) -> Option<(u32, vk::MemoryPropertyFlags)> {
    let types = || {
        memory
            .memory_types_as_slice()
            .iter()
            .enumerate()
            .filter(|(index, _)| bits & (1 << index) != 0)
            .filter(|(_, kind)| {
                !kind
                    .property_flags
                    .intersects(vk::MemoryPropertyFlags::LAZILY_ALLOCATED | vk::MemoryPropertyFlags::PROTECTED)
            })
    };
    let with = |flags| types().find(move |(_, kind)| kind.property_flags.contains(flags));
    let found = match place {
        Place::Device => {
            let own = || types().filter(|(_, kind)| kind.heap_index == main_heap);
            // Where the heap is the host's anyway, there is such a type, and no copy is needed to reach it.
            own()
                .find(|(_, kind)| kind.property_flags.contains(READABLE))
                .or_else(|| own().next())
        }
        Place::Staging => with(READABLE).or_else(|| with(VISIBLE)),
    };
    found.map(|(index, kind)| (index as u32, kind.property_flags))
}
