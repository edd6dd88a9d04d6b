//! The operator in a world without sockets and without real time, so that it can be killed at every request and watched for days.
//!
//! ```text
//!  people, cluster ──▶ ApiServer (apimodel) ◀──requests── Process: the real operator, without its ports
//!                          │ hook: crash, refuse, delay          ▲ attach (the real session and registry)
//!                          └ watches: held, repeated, broken     │ Link: silent, slow, reset
//!                                                             Host: an agent in few words, its disk outlives it
//! ```
//!
//! Everything runs on one thread under tokio's paused clock; what date it is, each operator is told by a clock of its own. The operator
//! is the shipped one: election, control loop, reservations, publishing, agents' sessions, one authority taking another's place. Not in
//! here: TLS, enrolment (agents have the leaves that they are told to have), gateways, workers.

pub mod agent;
pub mod apart;
pub mod clocks;
pub mod end;
pub mod host;
pub mod invariants;
pub mod link;
pub mod objects;
pub mod plan;
pub mod process;
pub mod rotation;
pub mod scene;
pub mod schedule;
pub mod seeded;
pub mod workflow;
pub mod world;
