//! What Kubernetes is told of this node: a `DeviceGPUState` per device, events on what became of it, and a Lease.
//!
//! Nothing that serves depends on it: while the API server is away, everything is tried again later.

pub mod events;
pub mod lease;
pub mod publish;
pub mod report;
pub mod thresholds;
