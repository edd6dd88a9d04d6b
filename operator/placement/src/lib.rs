//! Where every layer of a model runs, or why it can run nowhere.
//!
//! ```text
//!  Problem { model, topology, constraints, objective }
//!     │ domain   which devices may take part, what a span costs on each
//!     │ greedy   a plan in milliseconds, where a rule of thumb finds one
//!     ▼ search   every order of devices that can still be better; spans: the best cut of one order
//!  solve ─▶ Solution { plan, verdict, runner_up }      or Infeasible
//!              │ check: an independent judge              │ explain: the smallest fact that would fix it
//! ```
//!
//! **Contract.** A plan is an ordered list of stages, each one consecutive layers (at least one) on one device. [`solve`] is a
//! deterministic function of the problem and the budget; nothing is random. [`Verdict::Optimal`] is claimed only after every
//! order was searched or bounded away. An [`Infeasible`] other than [`Infeasible::Exhausted`] is a proof that no plan exists.
//! Whatever the input, the work is limited by [`Budget`].
//!
//! **Cost.** Times are whole nanoseconds, so that sums are exact and the same everywhere. A stage takes the launch cost plus
//! the bytes it reads for one token over the device's bandwidth; a hop takes the latency there and, for the token's way back,
//! the latency back, plus one activation over the link's rate. [`Objective::Latency`] minimises their sum.
//! [`Objective::Throughput`] minimises the slowest of: all stages of one memory pool together (they take turns on one
//! memory), and each link's transfer; among equals the least latency.
//! So a second device is used where it pays for its hops, or where a constraint asks for it.

mod check;
pub mod core;
mod cost;
mod domain;
mod estimate;
mod explain;
mod greedy;
mod plan;
mod problem;
pub mod scenario;
pub mod score;
mod search;
pub mod simulate;
mod solve;
mod spans;
pub mod text;

pub use check::{Violation, check};
pub use estimate::{Figures, FiguresError, KvElement, estimate};
pub use explain::{Explanation, explain};
pub use plan::{Plan, Stage, diff};
pub use problem::{Constraints, Layer, Model, Objective, Pin, Problem};
pub use score::{Score, scores};
pub use simulate::{Prompt, Simulated, Workload, simulate};
pub use solve::{Budget, Infeasible, Solution, Verdict, solve};
