//! A stage as others see it: executes what the stage before it sends, and hands it on.

pub mod activations;
pub mod carry;
pub mod executor;
mod job_clock;
pub mod link;
pub mod pace;
pub(crate) mod patience;
pub mod reach;
pub(crate) mod relay;
pub mod thread;
