//! What is known of devices, memory and links, as one graph that placement can reason about.
//!
//! ```text
//!  DeviceGPUState ─ report ─▶ DeviceReport ┐
//!  attached nodes, labels, held memory     ├─ build ─▶ Topology { devices, excluded, pools, links }
//!  NodeLinkState ── report ─▶ LinkReport   │                              └─ bandwidth, transfer time, totals, summary
//!                          └▶ GroupReport  ┘  (devices that work as one stand among the devices)
//! ```
//!
//! Pure: no clients, no clock, no environment. The same [`Input`] always gives the same [`Topology`], whatever the order of
//! its lists. A device that cannot take layers is not forgotten: it stays in [`Topology::excluded`] with the reason, because a
//! person who asks why a model is not placed needs exactly that.

mod answers;
mod build;
mod graph;
mod groups;
mod links;
pub mod prior;
mod report;
mod steps;
pub mod support;
mod traffic;

pub use answers::Totals;
pub use build::{HeldMemory, Input, NodeLabels, View, build, build_view};
// Why a model has no place is said in the API's words, and placement knows the API by this crate alone.
pub use crds::conditions::reason;
pub use crds::names::MAX_GROUP_DEVICES;
pub use graph::{Device, Excluded, Exclusion, Link, Origin, Pool, Rate, Topology};
pub use groups::{GroupReport, Member};
pub use links::{
    CONFIDENT_SAMPLES, Confidence, DevicePair, FORGOTTEN_S, FRESH_S, KnownLink, LinkKind, LinkReport, Links,
};
pub use report::{DeviceReport, Effect, Kind, Taint};
pub use steps::{Reading, StepShape, Steps};
pub use traffic::Traffic;
