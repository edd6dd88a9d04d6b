//! The agents: each dials in and holds one stream, on which it reports and is told what to hold.
//!
//! ```text
//!  agent ──Hello, ShardReport, Inspection──▶ session ──▶ registry ──snapshot──▶ control loop
//!        ◀─Assignments, LinkPeers, Inspect── session ◀── registry ◀──assign────
//!        ◀─whom to trust, whom it trusts───▶ session ◀─▶ authority's holders
//! ```
//!
//! A stream that ends, for whatever reason, is an agent that is gone; its devices are out of placement at once.

pub mod registry;
mod service;
mod session;

pub use registry::{AgentView, Agents, NodeAssignments};
pub use service::ControlService;

#[cfg(test)]
mod tests;
