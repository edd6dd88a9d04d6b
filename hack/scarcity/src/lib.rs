//! What a process under test runs short of, for real: room on a disk of its own, and descriptors.

pub mod descriptors;
pub mod disk;
