//! Measurements against named peers, each beside its peer in one run, in turns, because machines are noisy: ratios are what
//! counts.
//!
//! | measurement | peer |
//! |---|---|
//! | [`one_stage`] | llama.cpp's own loop, same threads |
//! | [`two_stage`] | the whole model on one core; llama.cpp's RPC backend over the same links |
//! | [`awake`] | the same two stages, letting their cores sleep |
//! | [`hop`] | a raw TLS connection |
//! | [`prefix`] | the same prompt without a kept prefix |
//! | [`gateway`] | none: memory of idle streams, time per token |
//! | [`devices`] | none: readiness, cost of reading, memory; memcpy for copies |
//! | [`prediction`] | what placement predicts of ten cuts, from devices' measurements alone |
//! | [`stack`] | llama.cpp's own loop, against everything from the gateway down on a real control plane |
//!
//! The rest is what they stand on: [`realm`] and [`worker_rig`] start real workers, [`peer`] the other side, [`netns`],
//! [`pinning`] and [`linkemu`](linkemu::forward) give them hosts, cores and links, [`driver`] asks, [`timing`] and [`report`] make numbers of it.

pub mod awake;
pub mod bars;
pub mod child;
pub mod cut;
pub mod devices;
pub mod driver;
mod error;
pub mod gateway;
pub mod hop;
pub mod listening;
pub mod netns;
pub mod one_stage;
pub mod peer;
pub mod pinning;
pub mod prediction;
pub mod prefix;
pub mod prompts;
pub mod realm;
pub mod session;
pub mod stack;
pub mod timing;
pub mod two_stage;
pub mod worker_rig;

pub use ::report;

pub use error::{Error, Result, failed, trying};
