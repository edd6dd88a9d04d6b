//! Random faults under load on the whole of Shardwright, and what clients saw of them, checked.
//!
//! ```text
//!  schedule ──▶ inject ──▶ processes of the stack: workers, agents, operators, API server, gateways; links between its nodes
//!  (seed)         │                 ▲
//!                 │                 │ HTTPS
//!                 ▼                 │
//!              history ◀── load: streaming and other clients
//!                 │
//!                 ▼
//!  reference ──▶ check, pauses ──▶ summary
//! ```
//!
//! Before the first fault every request of the [`book`] is answered once: that is the *reference*. Under
//! `determinism: Strict` on CPUs a token depends on the tokens before it and on the request's seed alone, so every later answer to the
//! same request must be the reference, byte for byte, whatever happened meanwhile. [`check`] says what is compared with what.
//!
//! [`history`], [`check`], [`pauses`], [`schedule`] and [`flat`] decide and measure nothing themselves; [`load`], [`inject`] and [`run`]
//! do things. Everything random follows from one seed; what a killed process was doing at that moment does not.

pub mod book;
pub mod check;
pub mod flat;
pub mod history;
pub mod inject;
pub mod load;
pub mod pauses;
pub mod run;
pub mod schedule;
pub mod summary;
pub mod watch;

/// Why a run cannot be done. What a run finds is no error of this kind.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stack does not start, or not again.
    #[error(transparent)]
    Stack(#[from] localplane::Error),
    /// A file of the run.
    #[error("{path}: {cause}")]
    File {
        /// Which.
        path: String,
        /// Why not.
        cause: std::io::Error,
    },
    /// The rest, in words.
    #[error("{0}")]
    Other(String),
}

/// What most functions here return.
pub type Result<T, E = Error> = std::result::Result<T, E>;
