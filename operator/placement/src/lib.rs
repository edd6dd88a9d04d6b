//! Where every layer of a model runs, or why it can run nowhere.
//!
//! ```text
//!  Problem { model, topology, constraints, objective }
//!     │ domain   which devices may take part, what a span costs on each
//!     │ limits   one case of it, without couplings: what the exact core decides
//!     ▼ cases    divided where stages share too much of a pool or a pin, the most promising first; spans: the best cut of one
//!     │          order that keeps every coupling; greedy: a rule of thumb for want of anything better
//!  solve ─▶ Solution { plan, verdict, runner_up }      or Infeasible
//!              │ check: an independent judge              │ explain: the smallest fact that would fix it
//! ```
//!
//! **Contract.** A plan is an ordered list of stages, each one consecutive layers (at least one) on one device, or on several of one
//! node that work as one. [`solve`] is a
//! deterministic function of the problem and the budget; nothing is random. [`Verdict::Optimal`] is claimed only after every
//! order was searched or bounded away. An [`Infeasible`] other than [`Infeasible::Exhausted`] is a proof that no plan exists.
//! Whatever the input, the work is limited by [`Budget`].
//!
//! **Cost.** Times are whole nanoseconds, so that sums are exact and the same everywhere. A stage takes the launch cost plus
//! the bytes it reads for one token over the device's bandwidth; a hop takes the latency there and, for the token's way back,
//! the latency back, plus one activation over the link's rate. [`Objective::Latency`] minimises their sum.
//! [`Objective::Throughput`] minimises the slowest of: all stages of one memory pool together (they take turns on one
//! memory), and each link's transfer; among equals the least latency. Of the cuts of
//! one order that cost the same, the one whose slowest part is the fastest.
//! So a second device is used where it pays for its hops, or where a constraint asks for it.

mod cases;
mod check;
mod compare;
pub mod core;
mod cost;
mod couplings;
mod crowd;
mod domain;
mod estimate;
mod evaluate;
mod explain;
mod fleet;
mod found;
mod front;
mod greedy;
mod groups;
mod level;
mod limits;
mod links;
mod obvious;
mod plan;
pub mod prefill;
mod problem;
pub mod scenario;
pub mod score;
pub mod simulate;
mod solve;
mod spans;
pub mod text;

pub use check::{Violation, check, check_fleet, check_together};
pub use crowd::bound_ns;
pub use estimate::{Figures, FiguresError, KvElement, activation_bytes, estimate};
pub use evaluate::evaluate;
pub use explain::{Explanation, explain};
pub use fleet::{Fleet, MAX_REPLICAS, Short, shortage, solve_fleet, time_ns};
pub use front::{MAX_POINTS, front};
pub use links::reserved_bytes_per_second;
pub use plan::{Plan, Stage, diff};
pub use problem::{Constraints, HeldLayers, Layer, Model, Objective, Pin, Problem, Toleration};
pub use score::{Score, scores};
pub use simulate::{Prompt, Simulated, Workload, simulate};
pub use solve::{Budget, Infeasible, RunnerUp, Solution, Verdict, solve};
