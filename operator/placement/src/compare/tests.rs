use topology::Topology;

use super::*;
use crate::{Constraints, Model, Stage};

fn problem(objective: Objective) -> Problem {
    Problem {
        model: Model {
            name: "m".to_owned(),
            layers: Vec::new(),
            embedding_bytes: 0,
            output_bytes: 0,
            activation_bytes: 0,
            compute_buffer_bytes: 0,
            output_buffer_bytes: 0,
            cuts: BTreeSet::new(),
        },
        topology: Topology::default(),
        constraints: Constraints::default(),
        objective,
        held: Vec::new(),
    }
}

/// Stages as (device, microseconds, microseconds to the next).
fn plan(stages: &[(&str, u64, u64)], slowest_us: u64) -> Plan {
    let stage = |(device, us, hop): &(&str, u64, u64)| Stage {
        device: (*device).to_owned(),
        node: "n".to_owned(),
        backend: "cpu".to_owned(),
        first_layer: 0,
        end_layer: 1,
        weight_bytes: 0,
        memory_bytes: 0,
        time_ns: us * 1000,
        hop_ns: (*hop > 0).then_some(hop * 1000),
    };
    Plan {
        stages: stages.iter().map(stage).collect(),
        entry_ns: 0,
        latency_ns: stages.iter().map(|(_, us, hop)| (us + hop) * 1000).sum(),
        slowest_ns: slowest_us * 1000,
    }
}

#[test]
fn a_slower_plan_lost_by_what_it_costs_more_and_where() {
    let chosen = plan(&[("a", 50, 10), ("b", 40, 0)], 50);
    let other = plan(&[("a", 50, 5), ("c", 60, 0)], 60);
    assert_eq!(
        why_not(&problem(Objective::Latency), &chosen, &other),
        "15 us more per token (stages +20, hops -5): c in place of b"
    );
    let alone = plan(&[("a", 120, 0)], 120);
    assert_eq!(
        why_not(&problem(Objective::Latency), &chosen, &alone),
        "20 us more per token (stages +30, hops -10): without b"
    );
}

#[test]
fn for_throughput_the_slowest_part_decides() {
    let chosen = plan(&[("a", 50, 10), ("b", 40, 0)], 50);
    let other = plan(&[("a", 70, 0)], 70);
    assert_eq!(
        why_not(&problem(Objective::Throughput), &chosen, &other),
        "its slowest part takes 70 us, not 50: without b"
    );
}

#[test]
fn plans_that_cost_the_same_say_so() {
    let chosen = plan(&[("a", 50, 0)], 50);
    let other = plan(&[("b", 50, 0)], 50);
    assert_eq!(
        why_not(&problem(Objective::Latency), &chosen, &other),
        "as fast for one token: b in place of a"
    );
}
