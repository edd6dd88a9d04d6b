//! The wire protocol of Shardwright: what operator, agents, workers and gateways say to each other.
//!
//! The `.proto` files beside this crate are the contract and carry the comments; this crate is the code generated from them. What an
//! agent starts a worker with is a file of JSON, and stands in [`worker`].

#![allow(clippy::large_enum_variant, reason = "generated; messages live one at a time")]

/// `shardwright.placement.v1`: the signed placement.
pub mod placement {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("shardwright.placement.v1");

        impl Pipeline {
            /// The epoch that its data plane speaks of, in a placement of that epoch.
            #[must_use]
            pub fn epoch_in(&self, placement: &Placement) -> u64 {
                if self.epoch == 0 { placement.epoch } else { self.epoch }
            }
        }
    }
}

/// `shardwright.control.v1`: enrolment, agents, routes.
pub mod control {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("shardwright.control.v1");

        /// What a replica of the operator that does not lead says with UNAVAILABLE: the next connection may reach the one that does.
        pub const NOT_THE_LEADER: &str = "not the leader";

        /// Whether a replica of the operator was asked that does not lead.
        #[must_use]
        pub fn is_not_the_leader(status: &tonic::Status) -> bool {
            status.code() == tonic::Code::Unavailable && status.message() == NOT_THE_LEADER
        }

        impl std::fmt::Debug for SourceAccess {
            /// Which fields are set. What is in them are secrets, and a proxy's address may hold one.
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter
                    .debug_struct("SourceAccess")
                    .field("bearer_token", &!self.bearer_token.is_empty())
                    .field("username", &!self.username.is_empty())
                    .field("password", &!self.password.is_empty())
                    .field("ca_bundle_pem", &!self.ca_bundle_pem.is_empty())
                    .field("proxy_url", &!self.proxy_url.is_empty())
                    .finish()
            }
        }

        #[cfg(test)]
        mod tests {
            #[test]
            fn no_debug_output_holds_what_a_source_is_reached_by() {
                let secret = || "s3cret".to_owned();
                let access = super::SourceAccess {
                    bearer_token: secret(),
                    username: secret(),
                    password: secret(),
                    ca_bundle_pem: secret(),
                    proxy_url: secret(),
                };
                let inspect = super::Inspect {
                    access: Some(access),
                    ..Default::default()
                };
                let shown = format!("{inspect:?}");
                assert!(
                    !shown.contains("s3cret") && shown.contains("bearer_token: true"),
                    "{shown}"
                );
            }
        }
    }
}

/// `shardwright.shard.v1`: the data plane.
pub mod shard {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("shardwright.shard.v1");
    }
}

pub mod worker;

/// What the kubelet tells of the devices that pods hold; its API, not ours.
pub mod kubelet {
    /// `PodResourcesLister`, version 1.
    pub mod podresources {
        tonic::include_proto!("v1");
    }
}
