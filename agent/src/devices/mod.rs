//! The devices of the node through the agent's life: found, verified, read, lost, found again.
//!
//! ```text
//!                child processes                                this process
//!   probe  (verify, measure, end) ──Answer──▶┐
//!   watch  (read, read, read …)  ──Reading──▶├─▶ drive ─▶ decide (pure) ─▶ Devices ─▶ everybody else   (one watch)
//!   the PCI bus's directory ─────────────────┤      ▲         │
//!   claims of other pods ────────────────────┘      └──Ask────┘ which backend to probe now
//! ```
//!
//! No vendor's library is ever loaded here. A driver that hangs costs its devices, a driver that crashes costs a note.

pub mod bus;
pub mod decide;
pub mod drive;
pub mod readings;
pub mod seen;
pub mod state;
mod temperatures;
pub mod watcher;

pub use state::{Availability, DeviceState, Devices};
