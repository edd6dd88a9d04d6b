//! The head of a pipeline: admits requests, composes and numbers the steps, hands tokens back.
//!
//! ```text
//!  gateway ──Generate──▶ service ──▶ drive ◀──▶ schedule (pure)
//!     ▲                                │ Step
//!     └────────── tokens ──────────────┤
//!                             own stage ──▶ link to the next
//! ```

pub mod backoff;
pub mod drive;
pub mod pipeline;
pub mod schedule;
pub mod service;
