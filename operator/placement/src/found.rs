//! What a search finds: candidates in an order, and where the layers of each end.

use crate::{Plan, Stage, domain::Domain};

/// Candidates in the order of the layers, and where each one's layers end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub cost_ns: u64,
    pub order: Vec<usize>,
    pub ends: Vec<usize>,
}

impl Found {
    /// The devices that take part, one bit each.
    pub(crate) fn members(&self) -> u64 {
        self.order.iter().fold(0, |bits, candidate| bits | (1 << candidate))
    }

    /// Writes it down, with its predictions.
    pub(crate) fn plan(&self, domain: &Domain<'_>) -> Plan {
        let model = &domain.problem.model;
        let mut stages = Vec::with_capacity(self.order.len());
        let mut pool_ns = vec![0_u64; domain.problem.topology.pools.len()];
        let mut slowest_ns = 0;
        let mut first = 0;
        for (s, (candidate, end)) in self.order.iter().zip(&self.ends).enumerate() {
            let device = domain.device(*candidate);
            let next = self.order.get(s + 1);
            let time_ns = domain.time_ns(*candidate, first, *end);
            if let Some(ns) = pool_ns.get_mut(device.pool) {
                *ns = ns.saturating_add(time_ns);
            }
            slowest_ns = slowest_ns.max(next.map_or(0, |next| domain.carry_ns[*candidate][*next]));
            let layers = model.layers[first..*end].iter();
            let mut weight_bytes = layers.map(|l| l.weight_bytes).fold(0_u64, u64::saturating_add);
            if s == 0 {
                weight_bytes = weight_bytes.saturating_add(model.embedding_bytes);
            }
            if next.is_none() {
                weight_bytes = weight_bytes.saturating_add(model.output_bytes);
            }
            stages.push(Stage {
                device: device.name.clone(),
                node: device.node.clone(),
                backend: device.backend.clone(),
                first_layer: count(first),
                end_layer: count(*end),
                weight_bytes,
                memory_bytes: domain.memory_bytes(*candidate, first, *end),
                time_ns,
                hop_ns: next.map(|next| domain.hop_ns[*candidate][*next]),
            });
            first = *end;
        }
        let entry_ns = self.order.first().map_or(0, |head| domain.candidates[*head].entry_ns);
        let latency_ns = stages
            .iter()
            .map(|s| s.time_ns.saturating_add(s.hop_ns.unwrap_or(0)))
            .fold(entry_ns, u64::saturating_add);
        slowest_ns = pool_ns.into_iter().fold(slowest_ns, u64::max);
        Plan {
            stages,
            entry_ns,
            latency_ns,
            slowest_ns,
        }
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
