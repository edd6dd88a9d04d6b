//! Which backend a machine gets: the platform's order, what each said, and the CPU when nothing else works.

use crate::driver::Driver;
use crate::queued::Queued;
use crate::{Backend, BackendError, GpuBackend, GpuDevice, Platform, cpu, vulkan};
use std::path::Path;

/// What is known of a backend on this machine.
#[derive(Clone, Debug)]
pub struct BackendInfo {
    /// Which.
    pub backend: Backend,
    /// Its devices; empty where it cannot be used.
    pub devices: Vec<GpuDevice>,
    /// Why there are none.
    pub reason: Option<String>,
}

/// The backend that was chosen, and why the better ones were not.
pub struct Chosen {
    /// Initialised, with at least one device.
    pub backend: Box<dyn GpuBackend>,
    /// Of it.
    pub info: BackendInfo,
    /// The backends before it in the order, each with its reason.
    pub passed_over: Vec<BackendInfo>,
}

/// The driver of a backend; nothing where this build has none. `root` is "/" but in tests.
pub fn driver(backend: Backend, root: &Path) -> Option<Box<dyn Driver>> {
    match backend {
        Backend::Cpu => Some(cpu::driver(root)),
        Backend::Vulkan => Some(vulkan::driver(root)),
        Backend::Cuda => Some(Box::new(crate::cuda::CudaDriver::new())),
        Backend::Rocm => Some(Box::new(crate::rocm::RocmDriver::new(root))),
        // It only describes: crate::intel::describe.
        Backend::Intel => None,
    }
}

/// The first backend of `order` that has a device.
///
/// # Errors
/// None has: [`BackendError::Unavailable`] of the last, whose reason names those of all.
pub async fn choose(order: &[Backend], root: &Path) -> Result<Chosen, BackendError> {
    let mut passed_over = Vec::new();
    for backend in order {
        let (face, info) = ask(*backend, root).await;
        match face {
            Some(face) if !info.devices.is_empty() => {
                return Ok(Chosen {
                    backend: face,
                    info,
                    passed_over,
                });
            }
            _ => passed_over.push(info),
        }
    }
    let reasons: Vec<String> = passed_over
        .iter()
        .map(|info| {
            format!(
                "{}: {}",
                info.backend.name(),
                info.reason.as_deref().unwrap_or("no device")
            )
        })
        .collect();
    Err(BackendError::Unavailable {
        backend: order.last().copied().unwrap_or(Backend::Cpu),
        reason: format!("no backend has a device ({})", reasons.join("; ")),
    })
}

/// What every backend of this platform says, in the platform's order.
pub async fn detect_available_backends(root: &Path) -> Vec<BackendInfo> {
    let mut infos = Vec::new();
    for backend in Platform::current().order() {
        let (face, info) = ask(*backend, root).await;
        if let Some(face) = face {
            // It answered; that it does not let go changes nothing of the answer.
            let _ = face.shutdown().await;
        }
        infos.push(info);
    }
    infos
}

async fn ask(backend: Backend, root: &Path) -> (Option<Box<dyn GpuBackend>>, BackendInfo) {
    let failed = |reason: String| BackendInfo {
        backend,
        devices: Vec::new(),
        reason: Some(reason),
    };
    let Some(driver) = driver(backend, root) else {
        return (None, failed("it only describes devices".to_owned()));
    };
    let opened = async {
        let face = Queued::new(driver)?;
        face.initialize().await?;
        let devices = face.list_devices().await?;
        Ok::<_, BackendError>((face, devices))
    };
    match opened.await {
        Ok((face, devices)) => {
            let reason = devices.is_empty().then(|| "it has no device".to_owned());
            let info = BackendInfo {
                backend,
                devices,
                reason,
            };
            (Some(Box::new(face)), info)
        }
        Err(error) => (None, failed(error.to_string())),
    }
}
