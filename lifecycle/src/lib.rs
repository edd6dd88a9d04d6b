//! What every process of Shardwright does alike: write its log, wait after failures, and end where its command line cannot be used.

pub mod backoff;
pub mod log;
pub mod usage;
