//! Certificates, listeners and channels over real sockets on this machine.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod accept;
mod ended;
mod enrolment;
mod fixture;
mod https;
mod refusals;
mod replacement;
mod two_authorities;
