//! Who may speak: the authority that issues identities, the certificates that carry them, and the signatures on placements.
//!
//! ```text
//!  authority ── issue ──▶ leaf (spiffe://shardwright/agent/node-a)        sign ──▶ envelope ──▶ verify
//!      ▲                    │ store, load, replace                       (a key apart from the authority's)
//!    enrol                  ▼
//!  (token for leaf)   credentials ──▶ tls configs ──▶ accept (server) / connect (client)
//! ```
//!
//! Every connection is TLS 1.3. Between our processes both sides show a leaf with exactly one SPIFFE URI of our trust
//! domain; sessions are never resumed, so that every connection is judged by the certificates of the day. The ports that
//! demand no client certificate (enrolment, HTTPS for users, probes and metrics) say so by the name of their configuration.
//!
//! A replaced [`Identity`] takes effect on the next handshake; open connections go on under the old one, also when it has ended:
//! dates are judged in handshakes alone.

pub mod accept;
pub mod authority;
mod certificate;
pub mod connect;
mod credentials;
pub mod enrol;
mod given;
mod heard;
pub mod https;
pub mod leaf;
pub mod sign;
pub mod spiffe;
pub mod store;
pub mod tls;
pub mod trust;
mod verifier;

pub use accept::{Peer, TlsConnection, TlsListener, grpc_server, peer};
pub use authority::{Authority, DEFAULT_LEAF_LIFETIME, Leaf, SubjectName};
pub use connect::{ConnectOptions, Expected, Keepalive, connect, connect_lazy};
pub use enrol::{EnrolOptions, enrol};
pub use heard::Heard;
pub use https::serve_https;
pub use leaf::{Identity, KeyPair, seconds_until};
pub use sign::{PlacementSigner, PlacementVerifier, VerifyError};
pub use spiffe::{Role, SpiffeId};
pub use tls::Credentials;
pub use trust::{Fingerprint, Held, Wanted, Wishes};
