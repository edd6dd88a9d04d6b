//! ggml backends: modules opened at run time, their devices, and CPU thread pools.

use std::ffi::{CStr, CString, c_char};
use std::path::Path;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::{c_path, log, owned};

/// Opens a backend module and registers its devices with ggml.
///
/// Not to be called from two threads at once: ggml's registry has no lock.
pub(crate) fn load_module(path: &Path) -> Result<(), String> {
    log::install();
    let c_path = c_path(path)?;
    // SAFETY: the path is a NUL-terminated string that lives for the call.
    let (registry, errors) = log::with_errors(|| unsafe { sys::ggml_backend_load(c_path.as_ptr()) });
    if registry.is_null() {
        return Err(if errors.is_empty() {
            format!("ggml refused {}", path.display())
        } else {
            errors
        });
    }
    Ok(())
}

/// What a ggml device is, by its own account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Cpu,
    Gpu,
    IntegratedGpu,
    Other,
}

/// A device of a registered backend. ggml never frees devices, so the handle is valid for the
/// life of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeviceHandle(NonNull<sys::ggml_backend_device>);

// SAFETY: the pointee is immutable after registration and never freed.
unsafe impl Send for DeviceHandle {}
// SAFETY: as above; all calls on it are reads.
unsafe impl Sync for DeviceHandle {}

/// All devices of all registered backends, in registration order.
pub(crate) fn devices() -> Vec<DeviceHandle> {
    // SAFETY: reads of ggml's registry; registration is serialised by the runtime.
    let count = unsafe { sys::ggml_backend_dev_count() };
    (0..count)
        // SAFETY: the index is below the count.
        .filter_map(|index| NonNull::new(unsafe { sys::ggml_backend_dev_get(index) }))
        .map(DeviceHandle)
        .collect()
}

impl DeviceHandle {
    pub(super) fn as_ptr(self) -> sys::ggml_backend_dev_t {
        self.0.as_ptr()
    }

    /// ggml's name, for example `Vulkan0`.
    pub(crate) fn name(self) -> String {
        // SAFETY: a live device; ggml returns a NUL-terminated string it owns.
        unsafe { owned(sys::ggml_backend_dev_name(self.as_ptr())) }
    }

    /// The product's name.
    pub(crate) fn description(self) -> String {
        // SAFETY: as in `name`.
        unsafe { owned(sys::ggml_backend_dev_description(self.as_ptr())) }
    }

    /// The backend's name in lower case: `cpu`, `vulkan`, `cuda`, …
    pub(crate) fn backend(self) -> String {
        // SAFETY: a live device has a live registry, whose name ggml owns.
        let name = unsafe {
            let registry = sys::ggml_backend_dev_backend_reg(self.as_ptr());
            if registry.is_null() {
                return String::new();
            }
            owned(sys::ggml_backend_reg_name(registry))
        };
        name.to_ascii_lowercase()
    }

    pub(crate) fn kind(self) -> Kind {
        // SAFETY: a live device.
        match unsafe { sys::ggml_backend_dev_type(self.as_ptr()) } {
            sys::GGML_BACKEND_DEVICE_TYPE_CPU => Kind::Cpu,
            sys::GGML_BACKEND_DEVICE_TYPE_GPU => Kind::Gpu,
            sys::GGML_BACKEND_DEVICE_TYPE_IGPU => Kind::IntegratedGpu,
            _ => Kind::Other,
        }
    }

    /// (free, total) memory in bytes, as the driver tells it.
    pub(crate) fn memory_bytes(self) -> (u64, u64) {
        let (mut free, mut total) = (0usize, 0usize);
        // SAFETY: a live device and two valid places to write to.
        unsafe { sys::ggml_backend_dev_memory(self.as_ptr(), &raw mut free, &raw mut total) };
        (free as u64, total as u64)
    }

    /// Takes so much of the device's memory, in as few buffers as it allows.
    ///
    /// # Errors
    /// ggml's account of the refusal; nothing is taken then.
    pub(crate) fn allocate(self, bytes: u64) -> Result<Vec<Held>, String> {
        // SAFETY: a live device, whose kind of buffer lives as long.
        let (kind, most) = unsafe {
            let kind = sys::ggml_backend_dev_buffer_type(self.as_ptr());
            (kind, sys::ggml_backend_buft_get_max_size(kind))
        };
        let most = most.max(LEAST_BUFFER_BYTES);
        let mut left = usize::try_from(bytes).unwrap_or(usize::MAX);
        let mut held = Vec::new();
        while left > 0 {
            let piece = left.min(most);
            // SAFETY: a live kind of buffer; null where there is no memory.
            let (buffer, errors) = log::with_errors(|| unsafe { sys::ggml_backend_buft_alloc_buffer(kind, piece) });
            let Some(buffer) = NonNull::new(buffer) else {
                return Err(errors);
            };
            held.push(Held(buffer));
            left -= piece;
        }
        Ok(held)
    }

    /// A function that the device's backend offers by name.
    fn function(self, name: &CStr) -> Option<NonNull<std::ffi::c_void>> {
        // SAFETY: a live device and a NUL-terminated name.
        unsafe {
            let registry = sys::ggml_backend_dev_backend_reg(self.as_ptr());
            if registry.is_null() {
                return None;
            }
            NonNull::new(sys::ggml_backend_reg_get_proc_address(registry, name.as_ptr()))
        }
    }
}

/// Buffers of devices may be so large, whatever a backend says: it bounds their number.
const LEAST_BUFFER_BYTES: usize = 64 << 20;

/// Memory of a device, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Held(NonNull<sys::ggml_backend_buffer>);

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: allocated by ggml, and freed once.
        unsafe { sys::ggml_backend_buffer_free(self.0.as_ptr()) };
    }
}

type AddServer = unsafe extern "C" fn(*const c_char) -> sys::ggml_backend_reg_t;
type StartServer = unsafe extern "C" fn(*const c_char, *const c_char, usize, usize, *mut sys::ggml_backend_dev_t);

/// A function that a loaded backend offers by name.
fn backend_function(backend: &CStr, name: &CStr) -> Option<NonNull<std::ffi::c_void>> {
    // SAFETY: NUL-terminated names; registries live as long as the process.
    unsafe {
        let registry = sys::ggml_backend_reg_by_name(backend.as_ptr());
        if registry.is_null() {
            return None;
        }
        NonNull::new(sys::ggml_backend_reg_get_proc_address(registry, name.as_ptr()))
    }
}

/// The first device of the llama.cpp RPC server at `endpoint`, as a device of this process. The RPC module must be
/// loaded. llama.cpp ends the process where the server goes away later.
pub(crate) fn rpc_device(endpoint: &str) -> Result<DeviceHandle, String> {
    let endpoint = CString::new(endpoint).map_err(|_| "the endpoint holds a NUL byte".to_owned())?;
    let add = backend_function(c"RPC", c"ggml_backend_rpc_add_server").ok_or("the RPC module is not loaded")?;
    // SAFETY: ggml documents this name with this signature; the endpoint lives for the call.
    let (device, errors) = log::with_errors(|| unsafe {
        let add = std::mem::transmute::<NonNull<std::ffi::c_void>, AddServer>(add);
        let registry = add(endpoint.as_ptr());
        if registry.is_null() || sys::ggml_backend_reg_dev_count(registry) == 0 {
            return std::ptr::null_mut();
        }
        sys::ggml_backend_reg_dev_get(registry, 0)
    });
    NonNull::new(device)
        .map(DeviceHandle)
        .ok_or_else(|| format!("no device at {}: {errors}", endpoint.to_string_lossy()))
}

/// Serves `device` to llama.cpp's RPC clients, one after the other, until the listener fails. The RPC module must be
/// loaded.
pub(crate) fn rpc_serve(endpoint: &str, threads: usize, device: DeviceHandle) -> Result<(), String> {
    let endpoint = CString::new(endpoint).map_err(|_| "the endpoint holds a NUL byte".to_owned())?;
    let start = backend_function(c"RPC", c"ggml_backend_rpc_start_server").ok_or("the RPC module is not loaded")?;
    let mut devices = [device.as_ptr()];
    // SAFETY: ggml documents this name with this signature; all arguments live for the call, and a null cache folder
    // means none.
    unsafe {
        let start = std::mem::transmute::<NonNull<std::ffi::c_void>, StartServer>(start);
        start(endpoint.as_ptr(), std::ptr::null(), threads, 1, devices.as_mut_ptr());
    }
    Ok(())
}

/// Sets an environment variable if that is safe, that is while this is the only thread; `false`
/// where it is not.
#[expect(
    clippy::disallowed_methods,
    reason = "ggml reads its devices from nowhere else; no other thread runs"
)]
pub(crate) fn set_environment(name: &str, value: &str) -> bool {
    let threads = std::fs::read_dir("/proc/self/task").map_or(usize::MAX, Iterator::count);
    if threads != 1 || CString::new(value).is_err() {
        return false;
    }
    // SAFETY: no other thread exists that could read the environment meanwhile.
    unsafe { std::env::set_var(name, value) };
    true
}

type NewPool = unsafe extern "C" fn(*mut sys::ggml_threadpool_params) -> *mut sys::ggml_threadpool;
type FreePool = unsafe extern "C" fn(*mut sys::ggml_threadpool);

/// What compute threads do between two graphs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Idle {
    /// They sleep: a stage that waits for its neighbour must not spin on the core that the
    /// neighbour needs.
    Sleep,
    /// They spin for a while, as llama.cpp's do by default: a little faster when alone.
    Spin,
}

/// Compute threads of one context.
#[derive(Debug)]
pub(crate) struct ThreadPool {
    pool: NonNull<sys::ggml_threadpool>,
    free: FreePool,
    threads: i32,
}

// SAFETY: the pool is handed to ggml, which locks it itself; we only free it, once.
unsafe impl Send for ThreadPool {}

impl ThreadPool {
    /// A pool of `threads` (the calling thread of each decode is one of them) on the CPU backend
    /// behind `cpu`.
    pub(crate) fn new(cpu: DeviceHandle, threads: u32, idle: Idle) -> Result<Self, String> {
        let missing = || "the CPU backend offers no thread pools".to_owned();
        let new = cpu.function(c"ggml_threadpool_new").ok_or_else(missing)?;
        let free = cpu.function(c"ggml_threadpool_free").ok_or_else(missing)?;
        // SAFETY: ggml documents these two names with these two signatures.
        let (new, free) = unsafe {
            (
                std::mem::transmute::<NonNull<std::ffi::c_void>, NewPool>(new),
                std::mem::transmute::<NonNull<std::ffi::c_void>, FreePool>(free),
            )
        };
        let threads = i32::try_from(threads)
            .ok()
            .filter(|threads| (1..=MAX_THREADS).contains(threads))
            .ok_or_else(|| format!("{threads} threads are not between 1 and {MAX_THREADS}"))?;
        // SAFETY: a plain struct filled by ggml; `new` copies it.
        let pool = unsafe {
            let mut params = sys::ggml_threadpool_params_default(threads);
            if idle == Idle::Sleep {
                params.poll = 0;
            }
            new(&raw mut params)
        };
        let pool = NonNull::new(pool).ok_or_else(|| "ggml made no thread pool".to_owned())?;
        Ok(Self { pool, free, threads })
    }

    /// Number of threads, the calling one included.
    pub(super) fn threads(&self) -> i32 {
        self.threads
    }

    pub(super) fn as_ptr(&self) -> *mut sys::ggml_threadpool {
        self.pool.as_ptr()
    }
}

/// `GGML_MAX_N_THREADS`; more is an assertion in ggml.
const MAX_THREADS: i32 = 512;

impl Drop for ThreadPool {
    fn drop(&mut self) {
        // SAFETY: made by the matching `new`; the context that used it is gone (see `Context`).
        unsafe { (self.free)(self.pool.as_ptr()) };
    }
}
