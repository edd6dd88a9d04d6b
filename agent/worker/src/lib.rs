//! One shard as a process: a slice of a model's layers, its KV cache, and the wire to its neighbours.
//!
//! ```text
//!               agent ── control socket ──┐ status · install · drain · metrics · renew
//!                                         ▼
//!  gateway ══ Head.Generate ══▶ head ══ Stage.Carry ══▶ stage ══ Stage.Carry ══▶ tail
//!     ▲                           │ composes and numbers    executes in order       │ samples
//!     └────────── tokens ─────────┴◀────────────────── results ─────────────────────┘
//! ```
//!
//! All lines drawn double are gRPC over mutual TLS. The signed placement says which stages are neighbours; nothing is
//! served before one is installed, and a new epoch ends the streams of the old.
//!
//! In the order of the flow: [`args`] and [`config`] say which shard; [`run`] is its life; [`control`] is how the agent
//! speaks to it, and [`identity_dir`] how it gives it leaves; [`placement`] decides what it obeys and whom it hears;
//! [`head`] owns the schedule; [`stage`] executes steps on [`compute`], and [`awake`] keeps its cores ready for them;
//! [`memory`] says what gives way before it runs out; [`step`] is what travels.

pub mod args;
pub mod awake;
mod cgroup;
pub mod compute;
pub mod config;
pub mod control;
pub mod head;
pub mod identity_dir;
mod measure;
pub mod memory;
pub mod metrics;
pub mod placement;
pub mod process;
pub mod run;
pub mod shard;
pub mod stage;
pub mod step;
