//! Workers: one process per shard, started, spoken to over a Unix socket, watched, and ended.

pub mod client;
pub mod exit;
pub mod leftovers;
mod lines;
pub mod places;
pub mod process;
pub mod scrape;
