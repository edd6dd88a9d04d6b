//! How much of each link is used: by plans, and by what is placed already.

use std::collections::BTreeMap;

use topology::Topology;

use super::{Violation, check_allowed, check_taints};
use crate::{Plan, Problem};

type Hops<'p> = BTreeMap<(&'p str, &'p str), u128>;

/// Links on which these plans and what is placed already put more than the problem allows at the rate that it asks for, or more than
/// those leave that come before the model.
pub(super) fn check_links(problem: &Problem, plans: &[Plan], found: &mut Vec<Violation>) {
    let mut hops: Hops<'_> = BTreeMap::new();
    for plan in plans {
        for (stage, next) in plan.stages.iter().zip(plan.stages.iter().skip(1)) {
            *hops.entry((&stage.node, &next.node)).or_default() += 1;
        }
    }
    check_share(problem, &hops, found);
    check_left(problem, &hops, found);
}

fn check_share(problem: &Problem, hops: &Hops<'_>, found: &mut Vec<Violation>) {
    let constraints = &problem.constraints;
    let Some(tokens) = constraints.min_tokens_per_second else {
        return;
    };
    let percent = constraints.max_link_percent.map_or(100, |percent| percent.min(100));
    for ((from, to), hops) in hops {
        let link = problem.topology.link(from, to).rate.bytes_per_second;
        let others_bytes_per_second = on_link(&problem.topology, from, to);
        let own_bytes_per_second = hops * u128::from(problem.model.activation_bytes) * u128::from(tokens);
        let allowed_bytes_per_second = u128::from(link) * u128::from(percent) / 100;
        if own_bytes_per_second + others_bytes_per_second > allowed_bytes_per_second {
            found.push(Violation::LinkOverused {
                from: (*from).to_owned(),
                to: (*to).to_owned(),
                hops: *hops,
                own_bytes_per_second,
                others_bytes_per_second,
                allowed_bytes_per_second,
            });
        }
    }
}

/// There a hop counts with one stream at the best pace that any plan with it could have, or with the rate asked for if that is more.
fn check_left(problem: &Problem, hops: &Hops<'_>, found: &mut Vec<Violation>) {
    for traffic in &problem.topology.traffic {
        let (from, to) = (traffic.from_node.as_str(), traffic.to_node.as_str());
        let (Some(leaves), Some(hops)) = (traffic.leaves_bytes_per_second, hops.get(&(from, to))) else {
            continue;
        };
        let asked = u128::from(problem.constraints.min_tokens_per_second.unwrap_or(0));
        let tokens = asked.max(best_tokens_per_second(problem, from, to));
        let own_bytes_per_second = hops * u128::from(problem.model.activation_bytes) * tokens;
        let others_bytes_per_second = on_link(&problem.topology, from, to) - u128::from(traffic.bytes_per_second);
        if own_bytes_per_second + others_bytes_per_second > u128::from(leaves) {
            found.push(Violation::LinkOverused {
                from: from.to_owned(),
                to: to.to_owned(),
                hops: *hops,
                own_bytes_per_second,
                others_bytes_per_second,
                allowed_bytes_per_second: u128::from(leaves),
            });
        }
    }
}

fn on_link(topology: &Topology, from: &str, to: &str) -> u128 {
    let mut bytes_per_second = 0;
    for traffic in &topology.traffic {
        if traffic.from_node == from && traffic.to_node == to {
            bytes_per_second += u128::from(traffic.bytes_per_second);
        }
    }
    bytes_per_second
}

/// Every layer at the best of each figure, two steps to begin, and one hop.
fn best_tokens_per_second(problem: &Problem, from: &str, to: &str) -> u128 {
    let moved = |bytes: u128, rate: u64| (bytes * 1_000_000_000).div_ceil(u128::from(rate.max(1)));
    let mut fastest: u64 = 0;
    let mut least_launch_ns = u128::from(u64::MAX);
    let mut least_layer_ns = u128::from(u64::MAX);
    for device in &problem.topology.devices {
        let mut refused = Vec::new();
        check_allowed(&problem.constraints, device, &mut refused);
        check_taints(&problem.constraints, device, &mut refused);
        if refused.is_empty() {
            fastest = fastest.max(device.bandwidth.bytes_per_second);
            least_launch_ns = least_launch_ns.min(u128::from(device.launch_us) * 1000);
            least_layer_ns = least_layer_ns.min(u128::from(device.layer_ns()));
        }
    }
    let model = &problem.model;
    let mut read = u128::from(model.output_bytes);
    let mut layers_ns = 0;
    for layer in &model.layers {
        read += u128::from(layer.active_bytes) + u128::from(layer.kv_read_bytes);
        layers_ns += least_layer_ns;
    }
    let (there, back) = (problem.topology.link(from, to), problem.topology.link(to, from));
    let carry_ns = moved(u128::from(model.activation_bytes), there.rate.bytes_per_second);
    let hop_ns = (u128::from(there.latency_us) + u128::from(back.latency_us)) * 1000 + carry_ns;
    let token_ns = moved(read, fastest) + 2 * least_launch_ns + layers_ns + hop_ns;
    1_000_000_000_u128.div_ceil(token_ns.max(1))
}
