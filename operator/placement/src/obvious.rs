//! What excludes every plan and can be seen without a search.

use std::collections::BTreeMap;

use crate::{
    Infeasible,
    domain::{Candidate, Domain},
};

/// Facts that exclude every plan and need no search.
pub(crate) fn obvious(domain: &Domain<'_>) -> Result<(), Infeasible> {
    let constraints = &domain.problem.constraints;
    let needed = constraints.min_devices.max(1);
    if let Some(max) = constraints.max_devices.filter(|max| *max < needed) {
        return Err(Infeasible::MinAboveMax { min: needed, max });
    }
    let parts = parts(domain);
    let usable = count(parts.len());
    if usable < needed && !domain.truncated {
        return Err(Infeasible::TooFewDevices { needed, usable });
    }
    let segments = count(domain.boundary.iter().filter(|b| **b).count().saturating_sub(1));
    if segments < needed {
        return Err(Infeasible::TooFewSegments { needed, segments });
    }
    let mut pins = constraints.pinned_layers.iter().zip(&domain.pin_members);
    if let Some(pin) = pins.position(|(pin, members)| pin.min_layers > 0 && *members == 0) {
        return Err(Infeasible::PinUnmatched { pin });
    }
    memory(domain, &parts)
}

/// A single device that takes part, alone or as one of several.
struct Part {
    pool: usize,
    usable_bytes: u64,
    overhead_bytes: u64,
}

/// The single devices behind the candidates.
fn parts(domain: &Domain<'_>) -> Vec<Part> {
    let candidates = || domain.candidates.iter();
    if domain.widest == 1 {
        let whole = |c: &Candidate| Part {
            pool: c.pool,
            usable_bytes: c.usable_bytes,
            overhead_bytes: c.overhead_bytes,
        };
        return candidates().map(whole).collect();
    }
    let mut parts: BTreeMap<&str, Part> = BTreeMap::new();
    for c in candidates() {
        let device = &domain.problem.topology.devices[c.device];
        let usable_bytes = c.usable_bytes / c.members;
        let members = device
            .members
            .iter()
            .map(|member| (member.device.as_str(), member.pool));
        let itself = (!device.is_group()).then_some((device.name.as_str(), device.pool));
        for (name, pool) in members.chain(itself) {
            let part = parts.entry(name).or_insert(Part {
                pool,
                usable_bytes,
                overhead_bytes: c.overhead_bytes / c.members,
            });
            part.usable_bytes = part.usable_bytes.max(usable_bytes);
        }
    }
    parts.into_values().collect()
}

/// Compares what the model needs in any division with the most that the best devices can take.
fn memory(domain: &Domain<'_>, parts: &[Part]) -> Result<(), Infeasible> {
    let room = |usable_bytes: u64, overhead_bytes: u64| Room {
        content_bytes: usable_bytes.saturating_sub(overhead_bytes),
        usable_bytes,
        overhead_bytes,
    };
    let devices = parts.iter().map(|part| room(part.usable_bytes, part.overhead_bytes));
    let devices = devices.collect();
    let mut pools: Vec<Room> = Vec::new();
    for pool in 0..domain.problem.topology.pools.len() {
        let members = || parts.iter().filter(|part| part.pool == pool);
        if let Some(overhead_bytes) = members().map(|part| part.overhead_bytes).min() {
            let sum_bytes = members().map(|part| part.usable_bytes).fold(0_u64, u64::saturating_add);
            pools.push(room(sum_bytes.min(domain.pool_bytes(pool)), overhead_bytes));
        }
    }
    let content_bytes = domain.content_bytes[domain.layers].saturating_add(domain.tail_bytes);
    for mut rooms in [devices, pools] {
        rooms.sort_by(|a, b| b.cmp(a));
        // Each stage is on one of them, or on as many as work as one.
        rooms.truncate(domain.max_stages.saturating_mul(domain.widest));
        let sum = |part: fn(&Room) -> u64, rooms: &[Room]| rooms.iter().map(part).fold(0_u64, u64::saturating_add);
        if sum(|r| r.content_bytes, &rooms) < content_bytes {
            // Devices too small for any layer do not help; the largest of them stands for itself if there is no other.
            let helpful = rooms.iter().filter(|r| r.content_bytes > 0).count().max(1);
            rooms.truncate(helpful);
            return Err(Infeasible::Memory {
                needed_bytes: content_bytes.saturating_add(sum(|r| r.overhead_bytes, &rooms)),
                usable_bytes: sum(|r| r.usable_bytes, &rooms),
                devices: count(rooms.len()),
            });
        }
    }
    Ok(())
}

/// What a device or a pool can take of a model, at most; compared by what is left for its layers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Room {
    content_bytes: u64,
    usable_bytes: u64,
    overhead_bytes: u64,
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
