//! What every process of Shardwright does alike: write its log, wait after failures, and keep the pauses that it is
//! asked for.

pub mod backoff;
pub mod log;
pub mod pause;
