//! NVIDIA's cards, by the two libraries of their driver: libcuda does the work, libnvidia-ml tells of the cards. Both are
//! loaded when the program runs; boards that have only the first (Jetson) are described by it alone.
//!
//! ```text
//!  libcuda.so.1 ──call──▶ Facts ────┐
//!                                   ├─devices (pure)─▶ Vec<GpuDevice>         driver: memory, copies, products
//!  libnvidia-ml.so.1 ──nvml::call──▶ RawFacts        Raw ─nvml::parse (pure)─▶ Sample
//! ```

pub mod bandwidth;
mod call;
mod copies;
mod devices;
mod driver;
mod fault;
mod gather;
mod nvml;
mod open;
mod product;
mod text;

pub use driver::CudaDriver;

use crate::Selection;
use crate::telemetry::Sampler;

/// The reader of NVIDIA's cards, those of `only`.
///
/// # Errors
/// What is missing, as a sentence.
pub fn sampler(only: &Selection) -> Result<Box<dyn Sampler>, String> {
    nvml::NvmlSampler::open(only).map(|sampler| Box::new(sampler) as Box<dyn Sampler>)
}
