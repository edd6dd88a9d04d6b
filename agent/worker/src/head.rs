//! The head of a pipeline: admits requests, composes and numbers the steps, hands tokens back.
//!
//! ```text
//!  gateway ──Generate──▶ service ──▶ desk ──▶ schedule (pure)
//!     ▲                              │  ▲        │ Step
//!     └──────────── tokens ──────────┘  └─ drive ◀
//!                                           │ ▲
//!                                           ▼ │ tokens, or what failed
//!                            pipeline: own stage ──▶ link to the next
//! ```

pub mod desk;
pub mod drive;
mod occupancy;
mod pace;
pub mod pipeline;
mod round_trip;
pub mod schedule;
pub mod service;
