//! The exact core of placement beside general solvers and beside the rules that others place layers by, on one set of
//! instances, in one run, one thread each.
//!
//! | measurement | peer |
//! |---|---|
//! | [`race`] | CP-SAT and HiGHS: time to a proof, objective, bound |
//! | [`anytime`] | the optimum: what a budget of steps takes and loses |
//! | [`questions`] | none: throughput, unequal layers |
//! | [`rules`] | the optimum: what the rules of others lose |
//! | [`speedup`] | the same hardware used evenly, by memory, or one kind of device alone |
//!
//! [`instance`] reads the instances, [`peers`] talks to the processes of the other solvers, [`table`] and [`bars`] say what
//! was reached.

pub mod anytime;
pub mod bars;
pub mod instance;
pub mod peers;
pub mod questions;
pub mod race;
pub mod rules;
pub mod speedup;
pub mod stats;
pub mod table;

/// Why there is no measurement.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("{path}: {source}")]
    File { path: String, source: std::io::Error },
    #[error("instance {name}: {what}")]
    Instance { name: String, what: String },
    #[error("{peer}: {what}")]
    Peer { peer: &'static str, what: String },
    #[error("no instance matches")]
    Nothing,
}
