//! A compiled kernel of three storage buffers, ready to be dispatched.

use super::{CallError, at};
use crate::driver::Precision;
use crate::vulkan::kernels::{PRODUCT, PRODUCT_HALF};
use ash::vk;

/// What belongs to one kernel; destroyed by [`Kernel::destroy`].
#[derive(Clone, Copy, Default)]
pub(super) struct Kernel {
    module: vk::ShaderModule,
    bindings: vk::DescriptorSetLayout,
    layout: vk::PipelineLayout,
    pipeline: vk::Pipeline,
    pool: vk::DescriptorPool,
    set: vk::DescriptorSet,
}

impl Kernel {
    pub(super) fn new(device: &ash::Device, precision: Precision) -> Result<Self, CallError> {
        let code = match precision {
            Precision::F32 => PRODUCT,
            Precision::F16 => PRODUCT_HALF,
        };
        let mut kernel = Kernel::default();
        match kernel.build(device, code) {
            Ok(()) => Ok(kernel),
            Err(error) => {
                // SAFETY: nothing was submitted with it.
                unsafe { kernel.destroy(device) };
                Err(error)
            }
        }
    }

    fn build(&mut self, device: &ash::Device, code: &[u8]) -> Result<(), CallError> {
        let (words, _) = code.as_chunks::<4>();
        let words: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let bindings = [0, 1, 2].map(|binding| {
            vk::DescriptorSetLayoutBinding::default()
                .binding(binding)
                .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                .descriptor_count(1)
                .stage_flags(vk::ShaderStageFlags::COMPUTE)
        });
        let sizes = [vk::DescriptorPoolSize::default()
            .ty(vk::DescriptorType::STORAGE_BUFFER)
            .descriptor_count(bindings.len() as u32)];
        // SAFETY: the device is alive, the code is valid SPIR-V that a test compiled, every structure outlives its call,
        // and what was made before a failure is destroyed by the caller.
        unsafe {
            let info = vk::ShaderModuleCreateInfo::default().code(&words);
            self.module = device
                .create_shader_module(&info, None)
                .map_err(at("vkCreateShaderModule"))?;
            let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
            self.bindings = device
                .create_descriptor_set_layout(&info, None)
                .map_err(at("vkCreateDescriptorSetLayout"))?;
            let layouts = [self.bindings];
            let info = vk::PipelineLayoutCreateInfo::default().set_layouts(&layouts);
            self.layout = device
                .create_pipeline_layout(&info, None)
                .map_err(at("vkCreatePipelineLayout"))?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(self.module)
                .name(c"main");
            let info = [vk::ComputePipelineCreateInfo::default()
                .stage(stage)
                .layout(self.layout)];
            self.pipeline = device
                .create_compute_pipelines(vk::PipelineCache::null(), &info, None)
                .map_err(|(_, result)| at("vkCreateComputePipelines")(result))?
                .first()
                .copied()
                .ok_or(at("vkCreateComputePipelines")(vk::Result::ERROR_UNKNOWN))?;
            let info = vk::DescriptorPoolCreateInfo::default().max_sets(1).pool_sizes(&sizes);
            self.pool = device
                .create_descriptor_pool(&info, None)
                .map_err(at("vkCreateDescriptorPool"))?;
            let info = vk::DescriptorSetAllocateInfo::default()
                .descriptor_pool(self.pool)
                .set_layouts(&layouts);
            self.set = device
                .allocate_descriptor_sets(&info)
                .map_err(at("vkAllocateDescriptorSets"))?
                .first()
                .copied()
                .ok_or(at("vkAllocateDescriptorSets")(vk::Result::ERROR_UNKNOWN))?;
        }
        Ok(())
    }

    /// What the next dispatch reads and writes.
    pub(super) fn set(&self, device: &ash::Device, buffers: [vk::Buffer; 3]) {
        let infos = buffers.map(|buffer| [vk::DescriptorBufferInfo::default().buffer(buffer).range(vk::WHOLE_SIZE)]);
        let writes: [_; 3] = std::array::from_fn(|binding| {
            vk::WriteDescriptorSet::default()
                .dst_set(self.set)
                .dst_binding(binding as u32)
                .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                .buffer_info(&infos[binding])
        });
        // SAFETY: the set is in no pending submission, the buffers are alive.
        unsafe { device.update_descriptor_sets(&writes, &[]) };
    }

    /// Records one product of `groups` x `groups` tiles.
    pub(super) fn dispatch(&self, device: &ash::Device, commands: vk::CommandBuffer, groups: u32) {
        // SAFETY: the command buffer is being recorded; the buffers of the set are as long as the tiles ask for.
        unsafe {
            device.cmd_bind_pipeline(commands, vk::PipelineBindPoint::COMPUTE, self.pipeline);
            device.cmd_bind_descriptor_sets(
                commands,
                vk::PipelineBindPoint::COMPUTE,
                self.layout,
                0,
                &[self.set],
                &[],
            );
            device.cmd_dispatch(commands, groups, groups, 1);
        }
    }

    /// # Safety
    /// No pending submission uses it.
    pub(super) unsafe fn destroy(self, device: &ash::Device) {
        // SAFETY: the caller's promise; null handles are allowed.
        unsafe {
            device.destroy_descriptor_pool(self.pool, None);
            device.destroy_pipeline(self.pipeline, None);
            device.destroy_pipeline_layout(self.layout, None);
            device.destroy_descriptor_set_layout(self.bindings, None);
            device.destroy_shader_module(self.module, None);
        }
    }
}
