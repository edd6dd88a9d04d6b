//! The one face of every kind of device: memory, copies and a few readings.

use crate::{Backend, GpuDevice};
use std::sync::Arc;
use uuid::Uuid;

/// Memory of a device at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryInfo {
    /// What the device has.
    pub total_bytes: u64,
    /// What nobody has allocated.
    pub free_bytes: u64,
}

/// Why a backend did not do what it was asked. Each names what was asked and what to do about it.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum BackendError {
    /// No library, no driver, no device.
    #[error("{backend}: {reason}", backend = .backend.name())]
    Unavailable {
        /// Which backend.
        backend: Backend,
        /// For a person.
        reason: String,
    },
    /// A device of that number does not exist.
    #[error("{backend} has no device {device}; it has {count}", backend = .backend.name())]
    NoSuchDevice {
        /// Which backend.
        backend: Backend,
        /// As asked.
        device: u32,
        /// Devices there are.
        count: usize,
    },
    /// More was asked for than is free. Nothing was allocated.
    #[error("{wanted_bytes} bytes were asked for and {free_bytes} are free on {device}; ask for less or free some")]
    OutOfMemory {
        /// [`GpuDevice::short_name`]-like name.
        device: String,
        /// As asked.
        wanted_bytes: u64,
        /// At that moment.
        free_bytes: u64,
    },
    /// The handle is of another backend or device, or its memory was freed.
    #[error("memory {handle} {what}")]
    BadHandle {
        /// Which handle.
        handle: Uuid,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A copy would leave the memory it is from or for.
    #[error("{bytes} bytes at {offset} leave memory of {size_bytes} bytes")]
    OutOfBounds {
        /// First byte.
        offset: u64,
        /// How many.
        bytes: u64,
        /// What there is.
        size_bytes: u64,
    },
    /// The device cannot do that at all.
    #[error("{what} is not to be had from {device}")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
        /// From whom.
        device: String,
    },
    /// The card does not answer any more.
    #[error("{device} is lost: {reason}; it needs a reset, or its node a restart")]
    Lost {
        /// Which.
        device: String,
        /// What the driver said.
        reason: String,
    },
    /// A driver's call failed.
    #[error("{call} failed: {reason}")]
    Failed {
        /// The function called.
        call: &'static str,
        /// What it returned.
        reason: String,
    },
    /// [`GpuBackend::initialize`] was not called, or [`GpuBackend::shutdown`] was.
    #[error("the {backend} backend is not initialised", backend = .backend.name())]
    NotInitialised {
        /// Which backend.
        backend: Backend,
    },
}

/// Memory that was allocated on a device. Two handles never have the same id, so memory that was freed cannot be
/// reached through an old handle, nor through a handle of another device. Dropping the last clone frees nothing: what is
/// not deallocated is freed by [`GpuBackend::shutdown`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MemoryHandle {
    pub(crate) id: Uuid,
    pub(crate) backend: Backend,
    pub(crate) device: u32,
    pub(crate) size_bytes: u64,
}

impl MemoryHandle {
    /// Unique for ever.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Index of the device within its backend.
    pub fn device(&self) -> u32 {
        self.device
    }

    /// As asked for; may be zero.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

/// A kind of device. All methods may be called at the same time; what one caller asks for is done in its order.
/// A future that is dropped never leaves memory behind: an allocation nobody waits for is freed, a copy is finished.
#[async_trait::async_trait]
pub trait GpuBackend: Send + Sync {
    /// Loads the vendor's library and finds the devices. Calling it again changes nothing.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`] with what is missing.
    async fn initialize(&self) -> Result<(), BackendError>;

    /// Frees all memory and lets go of the driver. Handles are void afterwards. Calling it again changes nothing.
    ///
    /// # Errors
    /// A driver that does not let go; the backend is down in any case.
    async fn shutdown(&self) -> Result<(), BackendError>;

    /// The devices, in the backend's order, neither verified nor measured.
    ///
    /// # Errors
    /// Not initialised, or the driver does not answer.
    async fn list_devices(&self) -> Result<Vec<GpuDevice>, BackendError>;

    /// The device of that index.
    ///
    /// # Errors
    /// [`BackendError::NoSuchDevice`], or as [`GpuBackend::list_devices`].
    async fn get_device(&self, device: u32) -> Result<GpuDevice, BackendError>;

    /// Memory of the device, its content undefined. Zero bytes are an allocation like any other.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`] with both numbers.
    async fn allocate(&self, device: u32, size_bytes: u64) -> Result<MemoryHandle, BackendError>;

    /// Gives memory back.
    ///
    /// # Errors
    /// [`BackendError::BadHandle`] for memory that was given back already.
    async fn deallocate(&self, handle: &MemoryHandle) -> Result<(), BackendError>;

    /// Copies `bytes` to the memory from `offset` on.
    ///
    /// # Errors
    /// [`BackendError::OutOfBounds`] and [`BackendError::BadHandle`], with nothing copied.
    async fn copy_to_device(&self, handle: &MemoryHandle, offset: u64, bytes: Arc<[u8]>) -> Result<(), BackendError>;

    /// Copies `bytes` bytes out of the memory from `offset` on.
    ///
    /// # Errors
    /// As [`GpuBackend::copy_to_device`].
    async fn copy_from_device(&self, handle: &MemoryHandle, offset: u64, bytes: u64) -> Result<Vec<u8>, BackendError>;

    /// Copies between two memories of this backend, on one device or two, directly where the devices can and through
    /// main memory where they cannot.
    ///
    /// # Errors
    /// As [`GpuBackend::copy_to_device`], for either.
    async fn copy_device_to_device(
        &self,
        from: &MemoryHandle,
        from_offset: u64,
        to: &MemoryHandle,
        to_offset: u64,
        bytes: u64,
    ) -> Result<(), BackendError>;

    /// Waits for everything that was asked of the device before.
    ///
    /// # Errors
    /// Work that failed, or a device that is lost.
    async fn synchronize(&self, device: u32) -> Result<(), BackendError>;

    /// What the device's memory has free.
    ///
    /// # Errors
    /// As the driver says.
    async fn memory_info(&self, device: u32) -> Result<MemoryInfo, BackendError>;

    /// Degrees Celsius of the hottest part that the device reports; nothing where it has no sensor that can be believed.
    ///
    /// # Errors
    /// As the driver says.
    async fn temperature(&self, device: u32) -> Result<Option<f32>, BackendError>;

    /// Watts; nothing where the device does not say.
    ///
    /// # Errors
    /// As the driver says.
    async fn power_usage(&self, device: u32) -> Result<Option<f32>, BackendError>;

    /// Present clock of the processors in MHz; nothing where the device does not say.
    ///
    /// # Errors
    /// As the driver says.
    async fn clock_rate(&self, device: u32) -> Result<Option<u32>, BackendError>;
}
