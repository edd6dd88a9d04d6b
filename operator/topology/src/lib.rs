//! What is known of devices, memory and links, as one graph that placement can reason about.
//!
//! ```text
//!  DeviceGPUState ─ report ─▶ DeviceReport ┐
//!  attached nodes, labels, held memory     ├─ build ─▶ Topology { devices, excluded, pools, links }
//!  measured links                          ┘
//! ```
//!
//! Pure: no clients, no clock, no environment. The same [`Input`] always gives the same [`Topology`], whatever the order of
//! its lists. A device that cannot take layers is not forgotten: it stays in [`Topology::excluded`] with the reason, because a
//! person who asks why a model is not placed needs exactly that.

mod build;
mod graph;
pub mod prior;
mod report;

pub use build::{HeldMemory, Input, LinkReport, build};
pub use graph::{Device, Excluded, Exclusion, Link, Origin, Pool, Rate, Topology};
pub use report::{DeviceReport, Effect, Kind, Taint};
