//! The operator: watches, decides, publishes.
//!
//! ```text
//!  DeviceGPUState, InferenceModel, Node ──watch──▶ ┌───────────────────────────────────────────────┐
//!  agents ──Hello, ShardReport, Inspection───────▶ │ model: observe → validate → translate → build │
//!                                                  │        → decide (keep, or solve and check)    │
//!  InferenceModel.status ◀──apply───────────────── │        → assign → sign → apply → publish      │
//!  agents ◀──Assignments   gateways ◀──RouteTable─ └───────────────────────────────────────────────┘
//!  new processes ──token──▶ enrolment ──leaf──▶
//!  Nodes, agents' pods ──watch──▶ reservation ──apply──▶ pods that hold devices for agents
//! ```
//!
//! One replica leads ([`lease`]); it alone serves [`enrolment`], [`agents`] and [`routes`] and runs the control loop in
//! [`model`]. The others answer UNAVAILABLE "not the leader" and take over when the lease lapses.

pub mod admin;
pub mod agents;
pub mod args;
pub mod authority;
pub mod by_digest;
pub mod clock;
pub mod context;
pub mod enrolment;
pub mod error;
#[cfg(test)]
mod fixture;
pub mod lease;
pub mod metrics;
pub mod model;
pub mod replica;
pub mod reservation;
pub mod retry;
pub mod routes;
pub mod run;
pub mod watching;
