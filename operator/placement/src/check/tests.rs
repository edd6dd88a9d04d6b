use std::collections::{BTreeMap, BTreeSet};

use topology::{Effect, Origin, Pool, Rate, Taint, Topology, Traffic};

use super::*;
use crate::{Budget, Layer, Model, Objective, Pin, Toleration, solve};

mod groups;

/// Two devices on two pools, four layers, room to spare.
fn problem() -> Problem {
    let rate = Rate {
        bytes_per_second: 1_000_000_000,
        origin: Origin::Measured,
    };
    let device = |i: usize| Device {
        name: format!("d{i}"),
        node: format!("n{i}"),
        node_labels: Default::default(),
        vendor: "v".to_owned(),
        model: String::new(),
        backend: "cpu".to_owned(),
        kind: Kind::Cpu,
        pool: i,
        usable_bytes: 10_000,
        fixed_bytes: 10,
        bandwidth: rate,
        launch_us: 1,
        steps: None,
        flops_per_second: None,
        thermal_headroom_percent: None,
        taints: Vec::new(),
        members: Vec::new(),
    };
    let pool = |i: usize| Pool {
        name: format!("p{i}"),
        usable_bytes: 10_000,
        held_bytes: 0,
        bandwidth: rate,
    };
    Problem {
        model: Model {
            name: "m".to_owned(),
            layers: vec![
                Layer {
                    weight_bytes: 100,
                    active_bytes: 100,
                    kv_bytes: 10,
                    kv_read_bytes: 5
                };
                4
            ],
            embedding_bytes: 7,
            output_bytes: 9,
            activation_bytes: 4,
            compute_buffer_bytes: 3,
            output_buffer_bytes: 2,
            cuts: BTreeSet::from([1, 2, 3]),
        },
        topology: Topology {
            devices: vec![device(0), device(1)],
            pools: vec![pool(0), pool(1)],
            ..Topology::default()
        },
        constraints: Constraints {
            min_devices: 2,
            ..Constraints::default()
        },
        objective: Objective::Latency,
        held: Vec::new(),
    }
}

fn good(problem: &Problem) -> Plan {
    solve(problem, Budget::default()).expect("a plan").plan
}

/// What the checker says after the problem, the plan or both were spoilt.
fn spoilt(spoil: impl Fn(&mut Problem, &mut Plan)) -> Vec<Violation> {
    let mut problem = problem();
    let mut plan = good(&problem);
    assert_eq!(check(&problem, &plan), vec![]);
    spoil(&mut problem, &mut plan);
    let found = check(&problem, &plan);
    let says_what_is_wrong = |violation: &Violation| !["", "the plan is not valid"].contains(&&*violation.to_string());
    assert!(found.iter().all(says_what_is_wrong), "{found:?}");
    found
}

#[test]
fn stages_that_leave_layers_out_or_hold_nothing_are_found() {
    assert_eq!(spoilt(|_, plan| plan.stages.clear())[0], Violation::NoStages);
    let gap = spoilt(|_, plan| plan.stages[1].first_layer += 1);
    assert!(matches!(gap[0], Violation::Gap { stage: 1, .. }), "{gap:?}");
    let empty = spoilt(|_, plan| {
        plan.stages[0].end_layer = 0;
        plan.stages[1].first_layer = 0;
    });
    assert!(matches!(empty[0], Violation::Gap { stage: 0, .. }), "{empty:?}");
    let short = spoilt(|_, plan| plan.stages[1].end_layer -= 1);
    assert_eq!(
        short[0],
        Violation::LayersMissing {
            end_layer: 3,
            layers: 4
        }
    );
}

#[test]
fn a_cut_where_none_is_allowed_is_found() {
    let found = spoilt(|problem, _| problem.model.cuts.clear());
    assert!(
        matches!(found[0], Violation::CutNotAllowed { stage: 1, .. }),
        "{found:?}"
    );
}

#[test]
fn devices_that_are_unknown_mistaken_or_used_twice_are_found() {
    let unknown = spoilt(|_, plan| plan.stages[0].device = "d9".to_owned());
    assert!(
        matches!(unknown[0], Violation::UnknownDevice { stage: 0, .. }),
        "{unknown:?}"
    );
    let mistaken = spoilt(|_, plan| plan.stages[0].node = "n9".to_owned());
    assert!(
        matches!(mistaken[0], Violation::WrongIdentity { stage: 0, .. }),
        "{mistaken:?}"
    );
    let twice = spoilt(|_, plan| {
        plan.stages[1] = Stage {
            first_layer: plan.stages[1].first_layer,
            end_layer: 4,
            ..plan.stages[0].clone()
        }
    });
    assert!(
        twice.contains(&Violation::DeviceTwice {
            device: "d0".to_owned()
        }),
        "{twice:?}"
    );
}

#[test]
fn every_constraint_that_a_plan_breaks_is_found() {
    let first = |spoil: fn(&mut Problem)| spoilt(|problem, _| spoil(problem)).remove(0);
    assert_eq!(
        first(|p| p.constraints.min_devices = 3),
        Violation::TooFewDevices { min: 3, used: 2 }
    );
    assert_eq!(
        first(|p| p.constraints.max_devices = Some(1)),
        Violation::TooManyDevices { max: 1, used: 2 }
    );
    assert!(matches!(
        first(|p| p.topology.devices[0].kind = Kind::Software),
        Violation::SoftwareNotAllowed { .. }
    ));
    assert!(matches!(
        first(|p| p.constraints.vendors = BTreeSet::from(["w".to_owned()])),
        Violation::VendorNotListed { .. }
    ));
    assert!(matches!(
        first(|p| p.constraints.node_selector = BTreeMap::from([("zone".to_owned(), "z".to_owned())])),
        Violation::NodeNotSelected { .. }
    ));
    let pin = |min_layers, max_layers| Pin {
        node: Some("n0".to_owned()),
        min_layers,
        max_layers,
        ..Pin::default()
    };
    for broken in [pin(4, None), pin(0, Some(0))] {
        let found = spoilt(|problem, _| problem.constraints.pinned_layers.push(broken.clone()));
        assert!(matches!(found[0], Violation::PinBroken { pin: 0, .. }), "{found:?}");
    }
}

#[test]
fn a_taint_that_the_model_does_not_tolerate_in_key_value_and_effect_is_found() {
    let toleration = |key: Option<&str>, exists, value: &str, effect| Toleration {
        key: key.map(str::to_owned),
        exists,
        value: value.to_owned(),
        effect,
    };
    let judged = |toleration: &Toleration| {
        spoilt(|problem, _| {
            problem.topology.devices[0].taints.push(Taint {
                key: "lent".to_owned(),
                value: "lab".to_owned(),
                effect: Effect::Evict,
            });
            problem.constraints.tolerations.push(toleration.clone());
        })
    };
    for enough in [
        toleration(None, true, "", None),
        toleration(Some("lent"), true, "", Some(Effect::Evict)),
        toleration(Some("lent"), false, "lab", None),
    ] {
        assert_eq!(judged(&enough), vec![], "{enough:?}");
    }
    for short in [
        Toleration::default(),
        toleration(None, false, "lab", None),
        toleration(Some("repair"), true, "", None),
        toleration(Some("lent"), false, "", None),
        toleration(Some("lent"), true, "", Some(Effect::NoPlace)),
    ] {
        let found = judged(&short);
        assert!(
            matches!(&found[0], Violation::TaintNotTolerated { device, taint } if device == "d0" && taint == "lent=lab:Evict"),
            "{short:?}: {found:?}"
        );
    }
}

#[test]
fn memory_that_is_not_there_is_found_on_the_device_and_in_the_pool() {
    let device = spoilt(|problem, _| problem.topology.devices[0].usable_bytes = 20);
    assert!(
        matches!(&device[0], Violation::DeviceMemory { device, .. } if device == "d0"),
        "{device:?}"
    );
    let pool = spoilt(|problem, _| problem.topology.pools[1].usable_bytes = 20);
    assert!(
        matches!(&pool[0], Violation::PoolMemory { pool, .. } if pool == "p1"),
        "{pool:?}"
    );
    let shared = spoilt(|problem, _| {
        problem.topology.devices[1].pool = 0;
        problem.topology.pools[0].usable_bytes = 400;
    });
    assert!(
        matches!(&shared[0], Violation::PoolMemory { pool, .. } if pool == "p0"),
        "{shared:?}"
    );
}

#[test]
fn every_figure_that_is_not_what_the_problem_gives_is_found() {
    let wrong = |spoil: fn(&mut Plan)| spoilt(|_, plan| spoil(plan)).remove(0).to_string();
    assert!(wrong(|p| p.stages[0].memory_bytes += 1).starts_with("memory of stage 0 is said to be"));
    assert!(wrong(|p| p.stages[1].weight_bytes += 1).starts_with("weights of stage 1"));
    assert!(wrong(|p| p.stages[1].time_ns += 1).starts_with("time of stage 1"));
    assert!(wrong(|p| p.stages[0].hop_ns = None).starts_with("hop after stage 0"));
    assert!(wrong(|p| p.latency_ns -= 1).starts_with("latency"));
    assert!(wrong(|p| p.slowest_ns -= 1).starts_with("slowest part"));
}

#[test]
fn ends_where_tokens_must_not_be_seen_are_named() {
    let mut problem = problem();
    let plan = good(&problem);
    problem.constraints.token_node_selector = BTreeMap::from([("trusted".to_owned(), "yes".to_owned())]);
    let trust = |problem: &mut Problem, device: usize| {
        let labels = &mut problem.topology.devices[device].node_labels;
        std::sync::Arc::make_mut(labels).insert("trusted".to_owned(), "yes".to_owned());
    };
    let found = check(&problem, &plan);
    assert_eq!(found.len(), plan.stages.len().min(2), "{found:?}");
    assert!(found[0].to_string().contains("tokenNodeSelector"), "{}", found[0]);
    for device in 0..problem.topology.devices.len() {
        trust(&mut problem, device);
    }
    assert_eq!(check(&problem, &plan), vec![]);
}

#[test]
fn hops_of_several_replicas_over_one_link_add_up() {
    let mut problem = problem();
    problem.constraints.min_tokens_per_second = Some(1000);
    // A hop is four thousand bytes a second.
    let link = topology::Link {
        latency_us: 1,
        rate: Rate {
            bytes_per_second: 4000,
            origin: Origin::Measured,
        },
    };
    problem.topology.links = [(("n0".to_owned(), "n1".to_owned()), link)].into_iter().collect();
    for (device, node) in [(2, 0), (3, 1)] {
        let mut twin = problem.topology.devices[node].clone();
        twin.name = format!("d{device}");
        problem.topology.devices.push(twin);
    }
    let plan = |devices: [&str; 2]| {
        let mut plan = good(&self::problem());
        for (stage, (device, node)) in plan.stages.iter_mut().zip(devices.into_iter().zip(["n0", "n1"])) {
            (stage.device, stage.node) = (device.to_owned(), node.to_owned());
        }
        plan
    };
    let plans = [plan(["d0", "d1"]), plan(["d2", "d3"])];
    let overused = |plans: &[Plan]| {
        let found = check_together(&problem, plans);
        found
            .iter()
            .any(|v| matches!(v, Violation::LinkOverused { hops: 2, .. }))
    };
    assert!(overused(&plans), "{:?}", check_together(&problem, &plans));
    assert!(!overused(&plans[..1]));
}

#[test]
fn a_hop_that_takes_too_much_of_its_link_and_a_wrong_way_in_are_named() {
    let mut problem = problem();
    let plan = good(&problem);
    let carry_ns = 4 * 1_000_000_000_u64.div_ceil(topology::prior::UNKNOWN.rate.bytes_per_second);
    // Slow enough for every stage, and a hundredth of it too fast for the hop.
    let tokens = u32::try_from(1_000_000_000 / (carry_ns * 100)).expect("a rate") + 1;
    problem.constraints.min_tokens_per_second = Some(tokens);
    problem.constraints.max_link_percent = Some(1);
    let named = |found: &[Violation]| {
        let overused = |v: &Violation| matches!(v, Violation::LinkOverused { hops: 1, .. });
        found.iter().any(overused)
    };
    assert!(named(&check(&problem, &plan)), "{:?}", check(&problem, &plan));
    problem.constraints.max_link_percent = Some(100);
    assert!(!named(&check(&problem, &plan)));
    // What others put there counts, and a share that nobody names is the whole link.
    problem.topology.traffic = vec![Traffic {
        from_node: plan.stages[0].node.clone(),
        to_node: plan.stages[1].node.clone(),
        bytes_per_second: topology::prior::UNKNOWN.rate.bytes_per_second - u64::from(tokens) * 4 + 1,
        by: "default/other".to_owned(),
        leaves_bytes_per_second: None,
    }];
    assert!(named(&check(&problem, &plan)));
    problem.constraints.max_link_percent = None;
    assert!(named(&check(&problem, &plan)));
    problem.topology.traffic[0].bytes_per_second -= 1;
    assert!(!named(&check(&problem, &plan)));
    problem.constraints = Constraints::default();
    problem.topology.entry_us.insert(plan.stages[0].node.clone(), 7);
    let found: Vec<String> = check(&problem, &plan).iter().map(ToString::to_string).collect();
    assert!(found.iter().any(|violation| violation.contains("way in")), "{found:?}");
}

#[test]
fn a_hop_that_takes_more_of_its_link_than_a_model_that_comes_first_leaves_is_named() {
    let mut problem = problem();
    let plan = good(&problem);
    let of = |by: &str, bytes_per_second, leaves_bytes_per_second| Traffic {
        from_node: plan.stages[0].node.clone(),
        to_node: plan.stages[1].node.clone(),
        bytes_per_second,
        by: by.to_owned(),
        leaves_bytes_per_second,
    };
    let named = |problem: &Problem| {
        let found = check(problem, &plan);
        let overused = |v: &Violation| matches!(v, Violation::LinkOverused { hops: 1, .. });
        found.iter().any(overused)
    };
    // At best a token takes 2.0025 ms: 500 a second, of four bytes each. What the first puts there itself does not count.
    problem.topology.traffic = vec![of("default/first", 7_000, Some(2_000))];
    assert!(!named(&problem), "{:?}", check(&problem, &plan));
    problem.topology.traffic = vec![of("default/first", 7_000, Some(1_999))];
    assert!(named(&problem));
    problem.topology.traffic = vec![of("default/first", 0, Some(2_000)), of("default/other", 1, None)];
    assert!(named(&problem), "others take part of what is left");
    problem.topology.traffic.pop();
    problem.constraints.min_tokens_per_second = Some(501);
    assert!(named(&problem), "it is asked for more than one stream");
}
