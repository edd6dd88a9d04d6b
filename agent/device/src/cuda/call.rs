//! Calls into libcuda, the driver's own library. cudarc finds and holds it; each symbol is looked up once, so that one a
//! driver lacks is an answer and no panic, and results are kept as numbers, because a newer driver returns codes that
//! an enumeration made today does not have.
#![allow(unsafe_code)]

use super::fault::Code;
use super::text;
use crate::{Selection, UNPLUGGED};
use cudarc::driver::sys;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

/// More cards than any machine has; a driver that reports more is not believed.
const DEVICE_LIMIT: i32 = 64;
/// For names and addresses; the driver is told one byte less.
const TEXT_BYTES: usize = 256;

type Address = u64;

/// Why CUDA cannot be used at all.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum OpenFault {
    /// No libcuda.
    #[error("no libcuda.so.1; install NVIDIA's driver, or give the container its libraries")]
    NoLibrary,
    /// libcuda is of a time before this program's needs.
    #[error("libcuda has no {0}; install a newer driver of NVIDIA")]
    NoFunction(&'static str),
    /// It is here and does not start.
    #[error("cuInit failed: {}", .0.text())]
    Refused(Code),
}

macro_rules! functions {
    ($($field:ident = $symbol:literal ($($argument:ty),*);)*) => {
        /// The functions used, by the names that the reference has for them.
        struct Functions {
            $($field: unsafe extern "C" fn($($argument),*) -> u32,)*
        }

        impl Functions {
            /// Call only where the library is known to be present: cudarc panics otherwise.
            fn load() -> Result<Self, OpenFault> {
                // SAFETY: the library's initialisers run; that is why devices are probed in a process of their own.
                let library = unsafe { sys::culib() };
                Ok(Self {
                    // SAFETY: each type is that of the function in CUDA's driver API reference; the library is never
                    // closed, so the pointers stay good.
                    $($field: *unsafe { library.get($symbol.as_bytes()) }.map_err(|_| OpenFault::NoFunction($symbol))?,)*
                })
            }
        }
    };
}

functions! {
    init = "cuInit" (c_uint);
    driver_version = "cuDriverGetVersion" (*mut c_int);
    device_count = "cuDeviceGetCount" (*mut c_int);
    device_get = "cuDeviceGet" (*mut c_int, c_int);
    device_name = "cuDeviceGetName" (*mut c_char, c_int, c_int);
    device_uuid = "cuDeviceGetUuid" (*mut u8, c_int);
    device_total = "cuDeviceTotalMem_v2" (*mut usize, c_int);
    device_attribute = "cuDeviceGetAttribute" (*mut c_int, c_int, c_int);
    device_pci = "cuDeviceGetPCIBusId" (*mut c_char, c_int, c_int);
    device_can_access_peer = "cuDeviceCanAccessPeer" (*mut c_int, c_int, c_int);
    primary_retain = "cuDevicePrimaryCtxRetain" (*mut *mut c_void, c_int);
    primary_release = "cuDevicePrimaryCtxRelease_v2" (c_int);
    context_set = "cuCtxSetCurrent" (*mut c_void);
    context_synchronize = "cuCtxSynchronize" ();
    context_enable_peer = "cuCtxEnablePeerAccess" (*mut c_void, c_uint);
    memory_info = "cuMemGetInfo_v2" (*mut usize, *mut usize);
    memory_allocate = "cuMemAlloc_v2" (*mut Address, usize);
    memory_free = "cuMemFree_v2" (Address);
    copy_to_device = "cuMemcpyHtoD_v2" (Address, *const c_void, usize);
    copy_from_device = "cuMemcpyDtoH_v2" (*mut c_void, Address, usize);
    copy_within = "cuMemcpyDtoD_v2" (Address, Address, usize);
    copy_peer = "cuMemcpyPeer" (Address, *mut c_void, Address, *mut c_void, usize);
    module_load = "cuModuleLoadData" (*mut *mut c_void, *const c_void);
    module_unload = "cuModuleUnload" (*mut c_void);
    module_function = "cuModuleGetFunction" (*mut *mut c_void, *mut c_void, *const c_char);
    launch = "cuLaunchKernel" (
        *mut c_void, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, *mut c_void, *mut *mut c_void,
        *mut *mut c_void
    );
}

/// The library, started.
pub(super) struct Library {
    functions: Functions,
    /// Newer than the others: the identity of a MIG slice where this process sees one.
    slice_uuid: Option<unsafe extern "C" fn(*mut u8, c_int) -> u32>,
}

/// What CUDA says of a device, without a context on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) ordinal: i32,
    pub(super) name: Option<String>,
    /// Of the card.
    pub(super) uuid: Option<[u8; 16]>,
    /// Of the slice, where it is one; else the card's once more.
    pub(super) slice_uuid: Option<[u8; 16]>,
    pub(super) pci_address: Option<String>,
    /// It was not asked for: nothing else is known of it.
    pub(super) left_alone: bool,
    pub(super) memory_bytes: u64,
    pub(super) integrated: bool,
    pub(super) capability: Option<(u32, u32)>,
    pub(super) multiprocessors: Option<u32>,
    pub(super) clock_khz: Option<u32>,
}

/// A device's primary context, retained. Given back by [`Library::release`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Context {
    raw: *mut c_void,
    ordinal: i32,
}

// SAFETY: a context is a token that any thread may make current; this program's calls come from one thread at a time.
unsafe impl Send for Context {}

/// A loaded module; lives as long as its context.
#[derive(Clone, Copy, Debug)]
pub(super) struct Module(*mut c_void);

// SAFETY: as for the context that it is part of.
unsafe impl Send for Module {}

/// A kernel of a module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel(*mut c_void);

// SAFETY: as for the context that it is part of.
unsafe impl Send for Kernel {}

fn done(code: u32) -> Result<(), Code> {
    if code == 0 { Ok(()) } else { Err(Code(code)) }
}

impl Library {
    /// Finds the library and starts it.
    pub(super) fn open() -> Result<Self, OpenFault> {
        // SAFETY: as for loading; asked before anything else of cudarc, which panics without the library.
        if !unsafe { sys::is_culib_present() } {
            return Err(OpenFault::NoLibrary);
        }
        let functions = Functions::load()?;
        // SAFETY: the library is held for good, and the function is of the same type as its forerunner.
        let slice_uuid = unsafe { sys::culib().get(b"cuDeviceGetUuid_v2") }
            .ok()
            .map(|symbol| *symbol);
        // SAFETY: the reference wants 0.
        done(unsafe { (functions.init)(0) }).map_err(OpenFault::Refused)?;
        Ok(Self { functions, slice_uuid })
    }

    /// The newest CUDA that the driver knows, as 1000 · major + 10 · minor.
    pub(super) fn version(&self) -> Option<i32> {
        let mut version = 0;
        // SAFETY: `version` outlives the call.
        done(unsafe { (self.functions.driver_version)(&mut version) }).ok()?;
        Some(version)
    }

    /// What there is, in CUDA's order. A device that does not answer is left out; of one that is not picked only the
    /// address is asked, which the library has from the bus.
    pub(super) fn devices(&self, only: &Selection) -> Result<Vec<Facts>, Code> {
        let mut count = 0;
        // SAFETY: `count` outlives the call.
        done(unsafe { (self.functions.device_count)(&mut count) })?;
        Ok((0..count.clamp(0, DEVICE_LIMIT))
            .filter_map(|ordinal| self.facts(ordinal, only).ok())
            .collect())
    }

    fn facts(&self, ordinal: i32, only: &Selection) -> Result<Facts, Code> {
        let mut device = 0;
        // SAFETY: `device` outlives the call.
        done(unsafe { (self.functions.device_get)(&mut device, ordinal) })?;
        let pci_address = text::pci_address(&self.text(self.functions.device_pci, device));
        if !only.picks(pci_address.as_deref().unwrap_or(UNPLUGGED)) {
            return Ok(Facts {
                ordinal: device,
                pci_address,
                left_alone: true,
                ..Facts::default()
            });
        }
        let mut memory_bytes = 0;
        // SAFETY: `memory_bytes` outlives the call.
        done(unsafe { (self.functions.device_total)(&mut memory_bytes, device) })?;
        let positive = |attribute| self.attribute(device, attribute).filter(|value| *value > 0);
        let capability = positive(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR).map(|major| {
            let minor = self.attribute(
                device,
                sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            );
            (major, minor.unwrap_or(0))
        });
        Ok(Facts {
            ordinal: device,
            name: text::clean(&self.text(self.functions.device_name, device)),
            uuid: self.uuid(self.functions.device_uuid, device),
            slice_uuid: self.slice_uuid.and_then(|function| self.uuid(function, device)),
            pci_address,
            left_alone: false,
            memory_bytes: memory_bytes as u64,
            integrated: positive(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_INTEGRATED).is_some(),
            capability,
            multiprocessors: positive(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT),
            clock_khz: positive(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE),
        })
    }

    fn attribute(&self, device: c_int, attribute: sys::CUdevice_attribute) -> Option<u32> {
        let mut value = 0;
        // SAFETY: `value` outlives the call.
        done(unsafe { (self.functions.device_attribute)(&mut value, attribute as c_int, device) }).ok()?;
        u32::try_from(value).ok()
    }

    fn text(&self, function: unsafe extern "C" fn(*mut c_char, c_int, c_int) -> u32, device: c_int) -> Vec<u8> {
        let mut buffer = vec![0u8; TEXT_BYTES];
        // SAFETY: the buffer has one byte more than the driver is told of, which stays zero.
        let code = unsafe { function(buffer.as_mut_ptr().cast(), TEXT_BYTES as c_int - 1, device) };
        if code == 0 { buffer } else { Vec::new() }
    }

    fn uuid(&self, function: unsafe extern "C" fn(*mut u8, c_int) -> u32, device: c_int) -> Option<[u8; 16]> {
        let mut bytes = [0; 16];
        // SAFETY: a CUuuid is sixteen bytes.
        done(unsafe { function(bytes.as_mut_ptr(), device) }).ok()?;
        Some(bytes)
    }

    /// The device's primary context, which the engine's own libraries would share.
    pub(super) fn retain(&self, ordinal: i32) -> Result<Context, Code> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: `raw` outlives the call; the ordinal came from this library.
        done(unsafe { (self.functions.primary_retain)(&mut raw, ordinal) })?;
        Ok(Context { raw, ordinal })
    }

    /// Gives a context back. Nothing of it may be used again.
    pub(super) fn release(&self, context: Context) -> Result<(), Code> {
        // SAFETY: the context was retained once, and is released once by its owner.
        done(unsafe { (self.functions.primary_release)(context.ordinal) })
    }

    fn enter(&self, context: Context) -> Result<(), Code> {
        // SAFETY: the context is retained.
        done(unsafe { (self.functions.context_set)(context.raw) })
    }

    /// Free and total bytes.
    pub(super) fn memory(&self, context: Context) -> Result<(u64, u64), Code> {
        self.enter(context)?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: both outlive the call.
        done(unsafe { (self.functions.memory_info)(&mut free, &mut total) })?;
        Ok((free as u64, total as u64))
    }

    /// New memory; its address is unique among all devices of the process.
    pub(super) fn allocate(&self, context: Context, bytes: u64) -> Result<Address, Code> {
        self.enter(context)?;
        let mut address = 0;
        // SAFETY: `address` outlives the call.
        done(unsafe { (self.functions.memory_allocate)(&mut address, bytes as usize) })?;
        Ok(address)
    }

    /// Gives memory back that [`Library::allocate`] gave in this context.
    pub(super) fn free(&self, context: Context, address: Address) -> Result<(), Code> {
        self.enter(context)?;
        // SAFETY: the caller's book has the address, and strikes it with this call.
        done(unsafe { (self.functions.memory_free)(address) })
    }

    /// Copies into a device's memory and waits until it is there.
    pub(super) fn write(&self, context: Context, to: Address, bytes: &[u8]) -> Result<(), Code> {
        self.enter(context)?;
        // SAFETY: the span lies in an allocation of this context, by the caller's book.
        done(unsafe { (self.functions.copy_to_device)(to, bytes.as_ptr().cast(), bytes.len()) })?;
        self.wait()
    }

    /// Copies out of a device's memory.
    pub(super) fn read(&self, context: Context, from: Address, bytes: &mut [u8]) -> Result<(), Code> {
        self.enter(context)?;
        // SAFETY: the span lies in an allocation of this context, by the caller's book.
        done(unsafe { (self.functions.copy_from_device)(bytes.as_mut_ptr().cast(), from, bytes.len()) })
    }

    /// Copies within one device and waits. The spans do not overlap.
    pub(super) fn copy(&self, context: Context, from: Address, to: Address, bytes: u64) -> Result<(), Code> {
        self.enter(context)?;
        // SAFETY: both spans lie in allocations of this context, by the caller's book.
        done(unsafe { (self.functions.copy_within)(to, from, bytes as usize) })?;
        self.wait()
    }

    /// Copies from one device to another and waits for both.
    pub(super) fn copy_between(
        &self,
        from: (Context, Address),
        to: (Context, Address),
        bytes: u64,
    ) -> Result<(), Code> {
        self.enter(to.0)?;
        // SAFETY: each span lies in an allocation of its context, by the caller's book.
        done(unsafe { (self.functions.copy_peer)(to.1, to.0.raw, from.1, from.0.raw, bytes as usize) })?;
        self.wait()?;
        self.synchronize(from.0)
    }

    /// Whether one device may read and write another's memory.
    pub(super) fn can_access(&self, from: Context, to: Context) -> bool {
        let mut can = 0;
        // SAFETY: `can` outlives the call.
        let code = unsafe { (self.functions.device_can_access_peer)(&mut can, from.ordinal, to.ordinal) };
        code == 0 && can != 0
    }

    /// Lets the first context reach the second's memory. It may have been let before.
    pub(super) fn enable_access(&self, from: Context, to: Context) -> Result<(), Code> {
        self.enter(from)?;
        // SAFETY: both contexts are retained; the reference wants 0 as flags.
        match done(unsafe { (self.functions.context_enable_peer)(to.raw, 0) }) {
            Err(super::fault::PEER_ACCESS_ALREADY_ENABLED) => Ok(()),
            outcome => outcome,
        }
    }

    /// Waits for all work of a context.
    pub(super) fn synchronize(&self, context: Context) -> Result<(), Code> {
        self.enter(context)?;
        self.wait()
    }

    fn wait(&self) -> Result<(), Code> {
        // SAFETY: concerns the current context only.
        done(unsafe { (self.functions.context_synchronize)() })
    }

    /// Compiles PTX for the context's device.
    pub(super) fn load(&self, context: Context, ptx: &CStr) -> Result<Module, Code> {
        self.enter(context)?;
        let mut module = std::ptr::null_mut();
        // SAFETY: the text ends with a zero and outlives the call.
        done(unsafe { (self.functions.module_load)(&mut module, ptx.as_ptr().cast()) })?;
        Ok(Module(module))
    }

    /// Lets a module go, and all its kernels.
    pub(super) fn unload(&self, context: Context, module: Module) -> Result<(), Code> {
        self.enter(context)?;
        // SAFETY: the module was loaded in this context, and its kernels are forgotten with it.
        done(unsafe { (self.functions.module_unload)(module.0) })
    }

    /// A kernel by its name.
    pub(super) fn kernel(&self, context: Context, module: Module, name: &CStr) -> Result<Kernel, Code> {
        self.enter(context)?;
        let mut kernel = std::ptr::null_mut();
        // SAFETY: the name ends with a zero; the module is loaded.
        done(unsafe { (self.functions.module_function)(&mut kernel, module.0, name.as_ptr()) })?;
        Ok(Kernel(kernel))
    }

    /// Starts the kernel without parameters, by one thread.
    pub(super) fn launch_empty(&self, context: Context, kernel: Kernel) -> Result<(), Code> {
        self.start(context, kernel, (1, 1), (1, 1), &mut [])
    }

    /// Starts a product of the matrices at three addresses; see the kernels' own text for the shapes.
    pub(super) fn launch_product(
        &self,
        context: Context,
        kernel: Kernel,
        blocks: u32,
        threads: (u32, u32),
        mut matrices: [Address; 3],
        mut size: u32,
    ) -> Result<(), Code> {
        let [a, b, c] = &mut matrices;
        let mut parameters: [*mut c_void; 4] = [
            std::ptr::from_mut(a).cast(),
            std::ptr::from_mut(b).cast(),
            std::ptr::from_mut(c).cast(),
            std::ptr::from_mut(&mut size).cast(),
        ];
        self.start(context, kernel, (blocks, blocks), threads, &mut parameters)
    }

    fn start(
        &self,
        context: Context,
        kernel: Kernel,
        grid: (u32, u32),
        block: (u32, u32),
        parameters: &mut [*mut c_void],
    ) -> Result<(), Code> {
        self.enter(context)?;
        let none: *mut c_void = std::ptr::null_mut();
        let parameters = if parameters.is_empty() {
            none.cast()
        } else {
            parameters.as_mut_ptr()
        };
        // SAFETY: the parameters are those that the kernel's text declares, and are copied before the call returns.
        done(unsafe {
            (self.functions.launch)(
                kernel.0,
                grid.0,
                grid.1,
                1,
                block.0,
                block.1,
                1,
                0,
                none,
                parameters,
                none.cast(),
            )
        })
    }
}
