//! Devices that work as one, beside the single ones that they are made of.
//!
//! A group is a candidate like any other, with times of its own. It has the memory pools of its members for itself: it excludes every
//! candidate that works in one of them, and so its members and the groups that share one. Nothing else of a plan touches its memory
//! then, and what its members and pools hold is one number, [`topology::Device::usable_bytes`]. Replicas, which may share a pool, count
//! the parts of it.

use topology::Device;

use crate::{Problem, domain::Candidate};

/// Above all memory pools: numbers of those that only the search knows.
const OWN_POOLS: usize = usize::MAX / 2;

/// The pool of a candidate, as far as one plan is concerned.
pub(crate) fn pool_of(device: &Device, device_index: usize) -> usize {
    if device.is_group() {
        OWN_POOLS + device_index
    } else {
        device.pool
    }
}

/// Whether a pool is a group's own: what it may take is said by the group itself.
pub(crate) fn is_own(pool: usize) -> bool {
    pool >= OWN_POOLS
}

/// Per candidate: those that may not take part beside it, one bit each.
pub(crate) fn excludes(problem: &Problem, candidates: &[Candidate]) -> Vec<u64> {
    let mut excludes = vec![0_u64; candidates.len()];
    let device = |candidate: &Candidate| &problem.topology.devices[candidate.device];
    let groups = candidates.iter().enumerate().filter(|(_, c)| c.members > 1);
    for (i, group) in groups {
        for (j, other) in candidates.iter().enumerate().filter(|(j, _)| *j != i) {
            if share_a_pool(device(group), device(other)) {
                excludes[i] |= 1 << j;
                excludes[j] |= 1 << i;
            }
        }
    }
    excludes
}

fn share_a_pool(one: &Device, other: &Device) -> bool {
    one.pools()
        .any(|(pool, _)| other.pools().any(|(other_pool, _)| other_pool == pool))
}
