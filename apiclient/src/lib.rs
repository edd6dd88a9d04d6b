//! The client of the Kubernetes API that operator and agents use: it keeps the pauses that the API server asks for ([`pause`]), what
//! is refused is told in the API server's words, with what to do about it ([`brief`]), and nobody waits for an event to be sent
//! ([`events`]).

pub mod events;
mod patience;
pub mod pause;
mod refusal;

pub use patience::client;
pub use refusal::brief;
