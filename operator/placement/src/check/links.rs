//! How much of each link is used: by plans, and by what is placed already.

use std::collections::BTreeMap;

use super::Violation;
use crate::{Plan, Problem};

/// Links on which these plans and what is placed already put more than the problem allows, at the rate that it asks for.
pub(super) fn check_links(problem: &Problem, plans: &[Plan], found: &mut Vec<Violation>) {
    let constraints = &problem.constraints;
    let Some(tokens) = constraints.min_tokens_per_second else {
        return;
    };
    let percent = constraints.max_link_percent.map_or(100, |percent| percent.min(100));
    let mut hops: BTreeMap<(&str, &str), u128> = BTreeMap::new();
    for plan in plans {
        for (stage, next) in plan.stages.iter().zip(plan.stages.iter().skip(1)) {
            *hops.entry((&stage.node, &next.node)).or_default() += 1;
        }
    }
    for ((from, to), hops) in hops {
        let link = problem.topology.link(from, to).rate.bytes_per_second;
        let mut others_bytes_per_second = 0;
        for traffic in &problem.topology.traffic {
            if traffic.from_node == from && traffic.to_node == to {
                others_bytes_per_second += u128::from(traffic.bytes_per_second);
            }
        }
        let own_bytes_per_second = hops * u128::from(problem.model.activation_bytes) * u128::from(tokens);
        let allowed_bytes_per_second = u128::from(link) * u128::from(percent) / 100;
        if own_bytes_per_second + others_bytes_per_second > allowed_bytes_per_second {
            found.push(Violation::LinkOverused {
                from: from.to_owned(),
                to: to.to_owned(),
                hops,
                own_bytes_per_second,
                others_bytes_per_second,
                allowed_bytes_per_second,
            });
        }
    }
}
