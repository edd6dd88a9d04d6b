//! Memory: what the shard takes, and what gives way before it runs out.
//!
//! ```text
//!  while loading   as configured → KV in 8 bits → first layers in host memory → refused, with the numbers
//!  while serving   calm → no new sequence is admitted → kept prefixes are evicted
//! ```
//!
//! [`ladder`] decides, [`observe`] reads what the kernel and the device say, [`watch`] looks once a second. Nothing here
//! waits for an allocation to fail: what has failed inside the engine may have ended the process.

pub mod ladder;
pub mod observe;
mod watch;

pub use ladder::{Pressure, Rung};
pub use watch::{Gauge, Observation, observation, watch_pressure};
