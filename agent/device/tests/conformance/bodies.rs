//! The bodies, by what they are about.

pub mod copies;
pub mod facts;
pub mod handles;
pub mod memory;
pub mod order;
