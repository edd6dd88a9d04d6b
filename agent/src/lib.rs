//! The node's agent: reports its devices, and runs the shards that the operator places on them.
//!
//! ```text
//!  devices (probe, watch, decide) ─▶ discovery (report, publish) ─▶ DeviceGPUState, Lease  (Kubernetes)
//!                                   ▲ what devices hold
//!  enrolment ─▶ control ◀─────▶ operator                                                   (one stream, mutual TLS)
//!                 │   ▲ what shards do
//!      assignment ▼   │
//!               shard: step ─▶ drive ─▶ weights, worker ─▶ one process per shard
//!                                         ▼
//!                         models: fetch ─▶ peers, source (file, pvc, https, hf, oci)
//!                                 serve ─▶ other agents                                    (mutual TLS)
//!  links: plan ─▶ measure ◀─▶ other agents ─▶ report, publish ─▶ NodeLinkState             (Kubernetes)
//! ```
//!
//! An agent never decides where anything goes. It refuses lower epochs and placements that the operator did not sign, keeps
//! serving while operator and API server are away, and never loads weights that are not the placement's.

pub mod admin;
pub mod args;
pub mod assignment;
pub mod control;
pub mod devices;
pub mod discovery;
pub mod enrolment;
pub mod groups;
pub mod inspect;
pub mod kubernetes;
pub mod leaves;
pub mod links;
pub mod metrics;
pub mod models;
pub mod neighbours;
pub mod probe;
pub mod rates;
pub mod retry;
pub mod run;
pub mod shard;
pub mod source;
pub mod supervise;
pub mod trust;
pub mod worker;
