//! What Kubernetes is told of this node: a `DeviceGPUState` per device, and a Lease.
//!
//! Nothing that serves depends on it: while the API server is away, everything is tried again later.

pub mod lease;
pub mod publish;
pub mod report;
