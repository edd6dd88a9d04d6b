//! Hosts on one machine, and links between them that delay, lose, reorder, repeat, throttle and cut, as they are told and by a seed.
//!
//! ```text
//!   namespace of a host ── TUN device ─▶ emulator: line of (from, to) ─▶ TUN device ── namespace of another
//!                                             ▲
//!                                          Quality, set at any time for each direction of each pair
//! ```
//!
//! The kernel here may have no `netem`, and a proxy of TCP connections cannot lose a packet: so packets of real TCP connections pass
//! through this program. [`line`] decides what becomes of a packet and touches neither a clock nor a socket; [`network`] carries
//! packets between hosts; [`forward`] is the lighter way for measurements, where nothing is lost: it delays the bytes of
//! connections. [`namespace`] makes hosts, which takes root.

pub mod forward;
pub mod line;
pub mod namespace;
pub mod network;
pub mod random;

/// Why there are no such hosts here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tool that did not do as it was told; without root above all.
    #[error("{command}: {cause}")]
    Tool {
        /// The command line.
        command: String,
        /// What it said.
        cause: String,
    },
    /// The system refused something.
    #[error("{what}: {cause}")]
    System {
        /// What was tried.
        what: String,
        /// What it said.
        cause: std::io::Error,
    },
    /// More hosts than a network has addresses, or a name that none of them has.
    #[error("{0}")]
    Hosts(String),
}

/// What most functions here return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Names what was tried in the system's answer.
pub(crate) fn trying(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
    move |cause| Error::System {
        what: what.into(),
        cause,
    }
}
