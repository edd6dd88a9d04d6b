//! What the process asks of the kernel for itself.

use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit, umask};

use crate::config::{Backend, WorkerConfig};

/// What a process needs beside the shard that the placement budgets: stacks, TLS, messages under way in both directions.
const PROCESS_BYTES: u64 = 512 << 20;

/// Files are private, memory (keys, prompts) stays out of core dumps, and a shard on the CPU cannot outgrow its budget by
/// more than the process's own needs: an allocation fails before the kernel has to kill a neighbour.
///
/// A limit that the kernel refuses is told and done without.
pub fn confine(config: &WorkerConfig) {
    umask(Mode::from_raw_mode(0o077));
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "core dumps cannot be switched off");
    }
    if config.backend != Backend::Cpu || config.memory_budget_bytes == 0 {
        return;
    }
    let wanted = config.memory_budget_bytes.saturating_add(PROCESS_BYTES);
    let present = getrlimit(Resource::Data);
    let current = Some(present.maximum.map_or(wanted, |maximum| wanted.min(maximum)));
    let limit = Rlimit {
        current,
        maximum: present.maximum,
    };
    if let Err(error) = setrlimit(Resource::Data, limit) {
        tracing::warn!(%error, "the memory budget cannot be enforced");
    }
}
