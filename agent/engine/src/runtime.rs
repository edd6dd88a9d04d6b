//! The process's backends and devices.
//!
//! ggml keeps one registry per process, so a [`Runtime`] is a view of it: loading twice gives the
//! same backends.

mod device;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::EngineError;
use crate::ffi::backend::{self, DeviceHandle, Idle, Kind, ThreadPool};
use crate::ffi::operators;
pub use device::{Device, GROUP_MEMBERS_MAX, VULKAN_DEVICES_VARIABLE, select_device};
use device::{is_selected, not_selected, visible_vulkan_devices};

const CPU: &str = "cpu";
const VULKAN: &str = "vulkan";

/// Accelerator backends whose modules are looked for beside the executable.
const ACCELERATORS: [&str; 5] = [VULKAN, "cuda", "hip", "sycl", "opencl"];

/// The environment variable that names a folder with backend modules beside those that came with the executable:
/// vendors' backends are built where the vendor's compiler is, and mounted.
pub const BACKEND_DIR_VARIABLE: &str = "SHARDWRIGHT_BACKEND_DIR";

/// Names of the backends whose modules this process has opened (ggml would open one twice).
static LOADED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// What sort of device it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// The processor.
    Cpu,
    /// A card of its own memory, by its driver's account.
    Gpu,
    /// Shares the processor's memory.
    IntegratedGpu,
    /// A library of accelerated operations.
    Other,
}

/// A device that this process can compute on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Backend name in lower case.
    pub backend: String,
    /// The index to ask for it in [`Device::Gpu`]; `None` for a Vulkan device that was not
    /// selected by index, and for the processor.
    pub index: Option<u32>,
    /// ggml's name, for example `Vulkan0`.
    pub name: String,
    /// The product's name.
    pub description: String,
    /// What sort of device it is.
    pub kind: DeviceKind,
    /// Free memory in bytes by the driver's account, 0 where it does not tell.
    pub memory_free_bytes: u64,
    /// Total memory in bytes by the driver's account, 0 where it does not tell.
    pub memory_total_bytes: u64,
}

/// Memory of a device at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// What anybody could still allocate.
    pub free_bytes: u64,
    /// All of it.
    pub total_bytes: u64,
}

/// The loaded backends. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// Where modules are looked for, in this order.
    folders: Vec<PathBuf>,
}

impl Runtime {
    /// Loads the CPU backend and every accelerator backend whose module is in `backend_dir` (the
    /// folder of the executable where `None`) or in the folder that [`BACKEND_DIR_VARIABLE`] names. An accelerator that does not start is left out.
    ///
    /// # Errors
    /// [`EngineError::UnsupportedCpu`] before anything is loaded;
    /// [`EngineError::BackendUnavailable`] where the CPU backend is missing.
    pub fn load(backend_dir: Option<&Path>) -> Result<Self, EngineError> {
        let runtime = Self::load_cpu(backend_dir)?;
        for name in ACCELERATORS {
            if let Err(error) = load_module(&runtime.folders, name) {
                tracing::debug!(backend = name, %error, "accelerator left out");
            }
        }
        Ok(runtime)
    }

    /// Loads no more than `device` needs: a CPU stage never opens a GPU driver.
    ///
    /// # Errors
    /// As [`Runtime::load`]; [`EngineError::BackendUnavailable`] also for the device's backend, and
    /// [`EngineError::DeviceNotSelected`] for a Vulkan device that [`select_device`] did not choose.
    pub fn load_for(backend_dir: Option<&Path>, device: &Device) -> Result<Self, EngineError> {
        let runtime = Self::load_cpu(backend_dir)?;
        let (backend, indices) = device.accelerators();
        if indices.is_empty() {
            return Ok(runtime);
        }
        if !is_selected(backend, indices) {
            return Err(not_selected(indices));
        }
        load_module(&runtime.folders, backend)?;
        Ok(runtime)
    }

    fn load_cpu(backend_dir: Option<&Path>) -> Result<Self, EngineError> {
        check_cpu()?;
        let mut folders = vec![backend_dir.map_or_else(beside_executable, Path::to_path_buf)];
        let named = std::env::var_os(BACKEND_DIR_VARIABLE).filter(|folder| !folder.is_empty());
        folders.extend(named.map(PathBuf::from));
        load_module(&folders, CPU)?;
        Ok(Self { folders })
    }

    /// Opens llama.cpp's RPC module, for comparisons.
    ///
    /// # Errors
    /// [`EngineError::BackendUnavailable`] where it is missing.
    pub(crate) fn load_rpc(&self) -> Result<(), EngineError> {
        load_module(&self.folders, "rpc")
    }

    /// The processor as a device.
    pub(crate) fn processor() -> Result<DeviceHandle, EngineError> {
        let cpu = backend::devices().into_iter().find(|device| device.kind() == Kind::Cpu);
        cpu.ok_or_else(|| EngineError::BackendUnavailable {
            backend: CPU.into(),
            cause: "it has no device".to_owned(),
        })
    }

    /// Memory of an accelerator by its driver's account, now; `None` for the processor, and where the driver does not tell. A group
    /// has as many times what the member with the least has: whatever it holds, each member holds a part of.
    pub fn memory(&self, device: &Device) -> Option<DeviceMemory> {
        let members = self.accelerators(device).ok()?;
        let each = members.iter().map(|member| member.memory_bytes());
        let (free_bytes, total_bytes) = each.reduce(|a, b| (a.0.min(b.0), a.1.min(b.1)))?;
        let count = members.len() as u64;
        (total_bytes > 0).then_some(DeviceMemory {
            free_bytes: free_bytes.saturating_mul(count),
            total_bytes: total_bytes.saturating_mul(count),
        })
    }

    /// Operators of unusual architectures that a device has no kernel for, by its backend's own answer: ggml computes them on the
    /// processor instead, and takes everything there and back for it.
    ///
    /// # Errors
    /// [`EngineError::DeviceUnavailable`] and [`EngineError::BackendUnavailable`] where the device is not there.
    pub fn missing_operators(&self, device: &Device) -> Result<Vec<&'static str>, EngineError> {
        let mut handles = self.accelerators(device)?;
        if handles.is_empty() {
            handles.push(Self::processor()?);
        }
        let mut missing = Vec::new();
        for name in handles.into_iter().filter_map(operators::missing).flatten() {
            if !missing.contains(&name) {
                missing.push(name);
            }
        }
        Ok(missing)
    }

    /// All devices of the loaded backends.
    pub fn devices(&self) -> Vec<DeviceInfo> {
        enumerate().into_iter().map(|(_, info)| info).collect()
    }

    /// The accelerators behind `device`, in its order; none for the processor.
    pub(crate) fn accelerators(&self, device: &Device) -> Result<Vec<DeviceHandle>, EngineError> {
        let (backend, indices) = device.accelerators();
        let members = 2..=GROUP_MEMBERS_MAX as usize;
        if matches!(device, Device::Group { .. }) && !members.contains(&indices.len()) {
            let cause = format!(
                "a group of {} devices: it must have 2 to {GROUP_MEMBERS_MAX}",
                indices.len()
            );
            return Err(EngineError::BadConfig { cause });
        }
        if indices.is_empty() {
            return Ok(Vec::new());
        }
        let mut left = enumerate();
        let mut handles = Vec::with_capacity(indices.len());
        for index in indices {
            let wanted = |(_, info): &(DeviceHandle, DeviceInfo)| info.backend == backend && info.index == Some(*index);
            let Some(place) = left.iter().position(wanted) else {
                return Err(unavailable(backend, indices, *index));
            };
            // Each serves once, also where one index is two devices.
            handles.push(left.remove(place).0);
        }
        Ok(handles)
    }

    /// A thread pool for a context on `device`.
    pub(crate) fn thread_pool(&self, device: &Device, idle: Idle) -> Result<ThreadPool, EngineError> {
        let threads = match device {
            Device::Cpu { threads } => *threads,
            // The processor only copies inputs there.
            Device::Gpu { .. } | Device::Group { .. } => 1,
        };
        let cpu = Self::processor()?;
        ThreadPool::new(cpu, threads, idle).map_err(|cause| EngineError::BadConfig { cause })
    }
}

/// Why the one of `indices` is not to be had.
fn unavailable(backend: &str, indices: &[u32], index: u32) -> EngineError {
    if !is_selected(backend, indices) {
        return not_selected(indices);
    }
    let found: Vec<_> = enumerate().into_iter().map(|(_, info)| info.name).collect();
    EngineError::DeviceUnavailable {
        backend: backend.to_owned(),
        index,
        found: found.join(", "),
    }
}

fn enumerate() -> Vec<(DeviceHandle, DeviceInfo)> {
    let visible = visible_vulkan_devices();
    let mut seen: Vec<(String, u32)> = Vec::new();
    backend::devices()
        .into_iter()
        .map(|handle| {
            let backend = handle.backend();
            let ordinal = match seen.iter_mut().find(|(name, _)| *name == backend) {
                Some((_, count)) => {
                    *count += 1;
                    *count
                }
                None => {
                    seen.push((backend.clone(), 0));
                    0
                }
            };
            let index = match backend.as_str() {
                CPU => None,
                VULKAN => visible.as_ref().and_then(|all| all.get(ordinal as usize)).copied(),
                _ => Some(ordinal),
            };
            let (memory_free_bytes, memory_total_bytes) = handle.memory_bytes();
            let info = DeviceInfo {
                backend,
                index,
                name: handle.name(),
                description: handle.description(),
                kind: match handle.kind() {
                    Kind::Cpu => DeviceKind::Cpu,
                    Kind::Gpu => DeviceKind::Gpu,
                    Kind::IntegratedGpu => DeviceKind::IntegratedGpu,
                    Kind::Other => DeviceKind::Other,
                },
                memory_free_bytes,
                memory_total_bytes,
            };
            (handle, info)
        })
        .collect()
}

/// Opens the module of `backend` unless this process has it already.
fn load_module(folders: &[PathBuf], backend: &str) -> Result<(), EngineError> {
    // Also keeps two threads from registering at once. A panic elsewhere leaves the list valid.
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if loaded.iter().any(|name| name == backend) {
        return Ok(());
    }
    let unavailable = |cause| EngineError::BackendUnavailable {
        backend: backend.to_owned(),
        cause,
    };
    if backend.is_empty() || !backend.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(unavailable("that is not a backend's name".to_owned()));
    }
    let name = format!("libggml-{backend}.so");
    let modules = folders.iter().map(|folder| folder.join(&name));
    let Some(module) = modules.clone().find(|module| module.is_file()) else {
        let looked: Vec<_> = modules.map(|module| module.display().to_string()).collect();
        return Err(unavailable(format!("there is no {}", looked.join(", nor a "))));
    };
    backend::load_module(&module).map_err(unavailable)?;
    loaded.push(backend.to_owned());
    Ok(())
}

/// The folder of the executable.
fn beside_executable() -> PathBuf {
    std::env::current_exe()
        .ok()
        .and_then(|file| file.parent().map(Path::to_path_buf))
        .unwrap_or_else(|| PathBuf::from("."))
}

/// The build's baseline; without it the first decode is an illegal instruction.
#[cfg(target_arch = "x86_64")]
fn check_cpu() -> Result<(), EngineError> {
    have_all(&[
        ("AVX", is_x86_feature_detected!("avx")),
        ("AVX2", is_x86_feature_detected!("avx2")),
        ("BMI1", is_x86_feature_detected!("bmi1")),
        ("BMI2", is_x86_feature_detected!("bmi2")),
        ("F16C", is_x86_feature_detected!("f16c")),
        ("FMA", is_x86_feature_detected!("fma")),
        ("LZCNT", is_x86_feature_detected!("lzcnt")),
        ("MOVBE", is_x86_feature_detected!("movbe")),
    ])
}

#[cfg(target_arch = "x86_64")]
fn have_all(needed: &[(&'static str, bool)]) -> Result<(), EngineError> {
    let missing: Vec<_> = needed
        .iter()
        .filter(|(_, present)| !present)
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(EngineError::UnsupportedCpu {
        missing: missing.join(", "),
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn check_cpu() -> Result<(), EngineError> {
    Ok(())
}

#[cfg(test)]
mod tests;
