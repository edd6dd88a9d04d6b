//! A plan as servers and routes: what a pass over the stages visits, and for how long.

use std::collections::BTreeMap;

use topology::Device;

use super::queues::Visit;
use crate::{
    Layer, Plan, Problem, Stage,
    cost::{transfer_ns, us_to_ns},
};

/// The stages and links of a plan, and what a pass over them takes.
pub(super) struct Line<'p> {
    problem: &'p Problem,
    stages: Vec<(&'p Stage, &'p Device)>,
    /// Server of each stage and of each transfer.
    pub stage_server: Vec<usize>,
    pub link_server: Vec<usize>,
    pub servers: usize,
}

impl<'p> Line<'p> {
    pub fn new(problem: &'p Problem, plan: &'p Plan) -> Option<Self> {
        let device = |stage: &'p Stage| Some((stage, problem.topology.device(&stage.device)?));
        let stages: Vec<_> = plan.stages.iter().map(device).collect::<Option<_>>()?;
        let layers = problem.model.layers.len();
        let is_inside =
            |stage: &Stage| index(stage.first_layer) <= index(stage.end_layer) && index(stage.end_layer) <= layers;
        if stages.is_empty() || !stages.iter().all(|(stage, _)| is_inside(stage)) {
            return None;
        }
        // Stages share the server of their pool; transfers share that of their link, in its direction. Between two devices of
        // one node nothing is shared but memory.
        let mut named: BTreeMap<(Option<usize>, &str, &str, usize), usize> = BTreeMap::new();
        let mut server = |key| {
            let next = named.len();
            *named.entry(key).or_insert(next)
        };
        let stage_server = stages.iter().map(|(_, d)| server((Some(d.pool), "", "", 0))).collect();
        let link_server = stages.windows(2).enumerate().map(|(hop, pair)| {
            let (from, to) = (pair[0].1.node.as_str(), pair[1].1.node.as_str());
            server((None, from, to, if from == to { hop } else { 0 }))
        });
        let link_server = link_server.collect();
        Some(Self {
            problem,
            stages,
            stage_server,
            link_server,
            servers: named.len(),
        })
    }

    /// The route of one pass: stages and transfers by turns, latencies between, the way back last.
    pub fn route(&self, pass: &Pass) -> Vec<Visit> {
        let topology = &self.problem.topology;
        let activation_bytes = self.problem.model.activation_bytes.saturating_mul(pass.tokens());
        let mut route = Vec::new();
        let head = self.stages.first().map(|(_, device)| device.node.as_str());
        let entry_us = head.and_then(|node| topology.entry_us.get(node)).copied().unwrap_or(0);
        // Both ways at once: nothing else waits for either.
        let mut back_ns = us_to_ns(entry_us);
        for (stage, server) in self.stage_server.iter().enumerate() {
            let ns = self.stage_ns(stage, pass);
            route.push(Visit {
                server: Some(*server),
                ns,
            });
            let Some(link_server) = self.link_server.get(stage) else {
                break;
            };
            let (from, to) = (&self.stages[stage].1.node, &self.stages[stage + 1].1.node);
            let there = topology.link(from, to);
            route.push(Visit {
                server: Some(*link_server),
                ns: transfer_ns(activation_bytes, there.rate.bytes_per_second),
            });
            route.push(Visit {
                server: None,
                ns: us_to_ns(there.latency_us),
            });
            back_ns = back_ns.saturating_add(us_to_ns(topology.link(to, from).latency_us));
        }
        route.push(Visit {
            server: None,
            ns: back_ns,
        });
        route
    }

    fn stage_ns(&self, stage: usize, pass: &Pass) -> u64 {
        let (plan, device) = self.stages[stage];
        let layers = &self.problem.model.layers[index(plan.first_layer)..index(plan.end_layer)];
        let mut ns = us_to_ns(device.launch_us);
        for layer in layers {
            ns = ns.saturating_add(pass.ns(layer, device));
            ns = ns.saturating_add(device.layer_ns());
        }
        if stage + 1 == self.stages.len() && pass.ends_in_a_token() {
            ns = ns.saturating_add(transfer_ns(
                self.problem.model.output_bytes,
                device.bandwidth.bytes_per_second,
            ));
        }
        ns
    }
}

/// What goes through the stages at once.
pub(super) enum Pass {
    /// One token of each of so many streams.
    Decode { streams: u32 },
    /// A piece of a prompt.
    Chunk {
        tokens: u32,
        is_last: bool,
        operations_per_weight_byte: u32,
    },
}

impl Pass {
    fn tokens(&self) -> u64 {
        match self {
            Self::Decode { streams } => u64::from(*streams),
            Self::Chunk { tokens, .. } => u64::from(*tokens),
        }
    }

    fn ends_in_a_token(&self) -> bool {
        match self {
            Self::Decode { .. } => true,
            Self::Chunk { is_last, .. } => *is_last,
        }
    }

    /// Time of one layer. A micro-batch reads weights once and every stream's cache, of a mixture of experts those of each stream, as
    /// if no two had any in common; a chunk reads everything once and is bound by arithmetic where that takes longer. Without a measurement of arithmetic, tokens of a chunk are taken to gain nothing from
    /// each other: unknown is not free.
    fn ns(&self, layer: &Layer, device: &Device) -> u64 {
        let Layer {
            weight_bytes,
            active_bytes,
            kv_read_bytes,
            ..
        } = *layer;
        let rate = device.bandwidth.bytes_per_second;
        match self {
            Self::Decode { streams } => {
                let streams = u64::from(*streams);
                let cache_bytes = kv_read_bytes.saturating_mul(streams);
                let read_bytes = active_bytes.saturating_mul(streams).min(weight_bytes);
                transfer_ns(read_bytes.saturating_add(cache_bytes), rate)
            }
            Self::Chunk {
                tokens,
                operations_per_weight_byte,
                ..
            } => {
                let read_ns = transfer_ns(weight_bytes.saturating_add(kv_read_bytes), rate);
                let operations = active_bytes
                    .saturating_mul(u64::from(*operations_per_weight_byte))
                    .saturating_mul(u64::from(*tokens));
                let compute_ns = match device.flops_per_second {
                    Some(flops) => transfer_ns(operations, flops),
                    None => read_ns.saturating_mul(u64::from(*tokens)),
                };
                read_ns.max(compute_ns)
            }
        }
    }
}

fn index(layer: u32) -> usize {
    usize::try_from(layer).unwrap_or(usize::MAX)
}
