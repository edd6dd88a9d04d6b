//! Pods that hold devices for the agents, where a device plugin gives devices out to pods.
//!
//! ```text
//!  Nodes, our agents' pods, our reservation pods ──watch──▶ plan (pure) ─▶ apply, delete
//! ```
//!
//! One pod holds one device, so that whoever takes one back takes no more than that. Their priority is below every ordinary pod's:
//! the scheduler ends one as soon as somebody else needs its device. At most one pod for each resource of a node waits for a
//! device: the scheduler knows what is free, and nobody here has to read other people's pods.

pub mod object;
pub mod plan;
mod watch;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

pub use watch::lead;

/// How many devices of a node are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// As many as can be had.
    All,
    /// At most so many of each resource.
    AtMost(u32),
}

impl std::str::FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "all" => Ok(Self::All),
            number => number
                .parse()
                .map(Self::AtMost)
                .map_err(|_| format!("{number:?} is neither \"all\" nor a number")),
        }
    }
}

/// What the installation's owner wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whether devices are reserved at all. Where not, pods of an earlier choice are removed.
    pub enabled: bool,
    /// How many.
    pub count: Count,
    /// Namespace of the installation.
    pub namespace: String,
    /// Image of a process that does nothing.
    pub image: String,
    /// PriorityClass below every ordinary pod's; empty for none.
    pub priority_class: String,
    /// Name of the operator's Deployment, which owns the pods: they end with it.
    pub deployment: String,
}

/// The owner of the pods, once it was read.
pub type Owner = OwnerReference;
