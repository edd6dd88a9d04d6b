//! What a vendor's library has to offer for a device to be verified, measured and used. Synchronous: a driver's calls
//! block, so one thread of its own makes them all, in order ([`crate::queued::Queued`]).

use crate::{Backend, BackendError, GpuDevice, MemoryInfo, Selection};
use std::time::Duration;

/// A block of memory within a driver; the driver's own number for it.
pub type Block = u64;

/// Part of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Index of the device that the block is on.
    pub device: u32,
    /// Which block.
    pub block: Block,
    /// First byte.
    pub offset: u64,
}

/// How numbers of a product's inputs are kept. Sums are always of single precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
}

/// A square product C = A·B, row by row.
#[derive(Clone, Copy, Debug)]
pub struct Product<'a> {
    /// Of the inputs, to which the driver rounds them.
    pub precision: Precision,
    /// Rows and columns; a multiple of 16.
    pub size: usize,
    /// `size`² numbers.
    pub a: &'a [f32],
    /// `size`² numbers.
    pub b: &'a [f32],
    /// How often the product is computed; the inputs are copied once.
    pub repeats: u32,
}

/// What came of a product.
#[derive(Clone, Debug)]
pub struct Multiplied {
    /// `size`² numbers.
    pub c: Vec<f32>,
    /// Of all repeats together, copies left out.
    pub elapsed: Duration,
}

/// A vendor's library. Callers check bounds and handles ([`crate::queued::Queued`] does); a driver may rely on blocks
/// that it gave out and on spans within them. Sizes are never zero.
pub trait Driver: Send {
    /// Which one.
    fn backend(&self) -> Backend;

    /// Only these devices will be used: the others keep their places in the list and are not touched, as far as the
    /// library allows. Called before [`Driver::open`].
    fn restrict(&mut self, _to: &Selection) {}

    /// Loads the library and finds devices.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`] with what is missing and what would mend it.
    fn open(&mut self) -> Result<(), BackendError>;

    /// Frees all and lets go.
    ///
    /// # Errors
    /// As the library says; the driver is closed in any case.
    fn close(&mut self) -> Result<(), BackendError>;

    /// The devices, neither verified nor measured, the one with index i at position i.
    ///
    /// # Errors
    /// As the library says.
    fn devices(&mut self) -> Result<Vec<GpuDevice>, BackendError>;

    /// A new block.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`], and as the library says.
    fn allocate(&mut self, device: u32, bytes: u64) -> Result<Block, BackendError>;

    /// Gives a block back.
    ///
    /// # Errors
    /// As the library says.
    fn free(&mut self, device: u32, block: Block) -> Result<(), BackendError>;

    /// From main memory; complete when it returns.
    ///
    /// # Errors
    /// As the library says.
    fn write(&mut self, to: Span, bytes: &[u8]) -> Result<(), BackendError>;

    /// To main memory; complete when it returns.
    ///
    /// # Errors
    /// As the library says.
    fn read(&mut self, from: Span, bytes: &mut [u8]) -> Result<(), BackendError>;

    /// Within the backend; complete when it returns. Overlapping spans of one block are copied as if through a third.
    ///
    /// # Errors
    /// As the library says.
    fn copy(&mut self, from: Span, to: Span, bytes: u64) -> Result<(), BackendError>;

    /// Whether bytes go from one device to the other without passing main memory.
    fn copies_directly(&mut self, from: u32, to: u32) -> bool {
        from == to
    }

    /// Waits for the device.
    ///
    /// # Errors
    /// Work that failed, or a device that is lost.
    fn synchronize(&mut self, device: u32) -> Result<(), BackendError>;

    /// Submits nothing, or the least there is, and waits for it.
    ///
    /// # Errors
    /// As the library says.
    fn launch(&mut self, device: u32) -> Result<(), BackendError>;

    /// A matrix product by the device's own arithmetic.
    ///
    /// # Errors
    /// [`BackendError::Unsupported`] where the precision is not to be had.
    fn multiply(&mut self, device: u32, product: &Product<'_>) -> Result<Multiplied, BackendError>;

    /// See [`crate::GpuBackend::memory_info`].
    ///
    /// # Errors
    /// As the library says.
    fn memory(&mut self, device: u32) -> Result<MemoryInfo, BackendError>;

    /// See [`crate::GpuBackend::temperature`].
    ///
    /// # Errors
    /// As the library says.
    fn temperature(&mut self, device: u32) -> Result<Option<f32>, BackendError>;

    /// See [`crate::GpuBackend::power_usage`].
    ///
    /// # Errors
    /// As the library says.
    fn power(&mut self, device: u32) -> Result<Option<f32>, BackendError>;

    /// See [`crate::GpuBackend::clock_rate`].
    ///
    /// # Errors
    /// As the library says.
    fn clock(&mut self, device: u32) -> Result<Option<u32>, BackendError>;
}
