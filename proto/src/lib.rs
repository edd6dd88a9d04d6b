//! The wire protocol of Shardwright: what operator, agents, workers and gateways say to each other.
//!
//! The `.proto` files beside this crate are the contract and carry the comments; this crate is the code generated from them.

#![allow(clippy::large_enum_variant, reason = "generated; messages live one at a time")]

/// `shardwright.placement.v1`: the signed placement.
pub mod placement {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("shardwright.placement.v1");
    }
}

/// `shardwright.control.v1`: enrolment, agents, routes.
pub mod control {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("shardwright.control.v1");
    }
}

/// `shardwright.shard.v1`: the data plane.
pub mod shard {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("shardwright.shard.v1");
    }
}
