//! What every process of Shardwright does alike: write its log, and wait after failures.

pub mod backoff;
pub mod log;
