//! Plans on devices that work as one.

use topology::{Link, Member, Steps};

use super::*;
use crate::reserved_bytes_per_second;

/// Two devices of a node, which hold all layers as one: that is the best plan.
fn grouped() -> (Problem, Plan) {
    let mut problem = problem();
    problem.constraints.min_devices = 1;
    problem.constraints.max_group_devices = 2;
    let devices = &mut problem.topology.devices;
    devices[1].node = "n0".to_owned();
    let member = |device: &Device| Member {
        device: device.name.clone(),
        pool: device.pool,
    };
    let group = Device {
        name: "d0+d1".to_owned(),
        usable_bytes: 20_000,
        bandwidth: Rate {
            bytes_per_second: 10_000_000_000,
            origin: Origin::Measured,
        },
        steps: Some(Steps::plain(1000, 0, Vec::new())),
        members: devices.iter().map(member).collect(),
        ..devices[0].clone()
    };
    devices.push(group);
    let plan = good(&problem);
    assert_eq!((plan.stages.len(), plan.stages[0].device.as_str()), (1, "d0+d1"));
    assert_eq!(check(&problem, &plan), vec![]);
    (problem, plan)
}

/// What the checker says first after the problem, the plan or both were spoilt.
fn first(spoil: impl FnOnce(&mut Problem, &mut Plan)) -> Violation {
    let (mut problem, mut plan) = grouped();
    spoil(&mut problem, &mut plan);
    let found = check(&problem, &plan);
    let says_what_is_wrong = |violation: &Violation| !["", "the plan is not valid"].contains(&&*violation.to_string());
    assert!(found.iter().all(says_what_is_wrong), "{found:?}");
    found.into_iter().next().expect("it is found")
}

/// The last two layers on another device.
fn divided(problem: &mut Problem, plan: &mut Plan, other: &str) {
    let device = problem.topology.device(other).expect("a device").clone();
    let mut second = plan.stages[0].clone();
    plan.stages[0].end_layer = 2;
    (second.first_layer, second.device, second.node) = (2, device.name, device.node);
    plan.stages.push(second);
}

#[test]
fn each_of_several_devices_has_a_part_of_the_layers_and_all_of_the_buffers_and_the_output() {
    let (_, plan) = grouped();
    // Four layers of 110 bytes and an embedding of 7, halved; 10 of the worker, 3 and 2 of buffers and 9 of the output.
    assert_eq!(plan.stages[0].memory_bytes, 2 * (224 + 10 + 3 + 2 + 9));
    assert_eq!(
        first(|_, plan| plan.stages[0].memory_bytes -= 1),
        Violation::StageMemory {
            stage: 0,
            said: 495,
            is: 496
        }
    );
}

#[test]
fn more_devices_as_one_than_are_allowed_are_found() {
    assert_eq!(
        first(|problem, _| problem.constraints.max_group_devices = 1),
        Violation::GroupTooLarge {
            device: "d0+d1".to_owned(),
            members: 2,
            max: 1
        }
    );
}

#[test]
fn devices_that_nobody_measured_as_one_are_found() {
    let not_measured = Violation::GroupNotMeasured {
        device: "d0+d1".to_owned(),
    };
    assert_eq!(
        first(|problem, _| problem.topology.devices[2].steps = None),
        not_measured
    );
    let assumed = first(|problem, _| problem.topology.devices[2].bandwidth.origin = Origin::Assumed);
    assert_eq!(assumed, not_measured);
}

#[test]
fn a_member_that_is_not_there_or_another_than_was_measured_is_found() {
    let missing = first(|problem, _| drop(problem.topology.devices.remove(1)));
    assert!(
        matches!(&missing, Violation::UnknownDevice { device, .. } if device == "d1"),
        "{missing:?}"
    );
    let another = Violation::WrongIdentity {
        stage: 0,
        device: "d1".to_owned(),
    };
    assert_eq!(
        first(|problem, _| problem.topology.devices[1].node = "n9".to_owned()),
        another
    );
    assert_eq!(first(|problem, _| problem.topology.devices[1].pool = 0), another);
}

#[test]
fn memory_that_one_of_several_devices_does_not_have_is_found() {
    let device = first(|problem, _| problem.topology.devices[1].usable_bytes = 247);
    assert!(
        matches!(&device, Violation::DeviceMemory { device, needed_bytes: 248, .. } if device == "d1"),
        "{device:?}"
    );
    let pool = first(|problem, _| problem.topology.pools[1].usable_bytes = 247);
    assert!(
        matches!(&pool, Violation::PoolMemory { pool, needed_bytes: 248, .. } if pool == "p1"),
        "{pool:?}"
    );
    let together = first(|problem, _| problem.topology.devices[2].usable_bytes = 495);
    assert!(
        matches!(&together, Violation::DeviceMemory { device, needed_bytes: 496, .. } if device == "d0+d1"),
        "{together:?}"
    );
}

#[test]
fn a_device_that_has_layers_alone_and_as_one_of_several_is_found() {
    assert_eq!(
        first(|problem, plan| divided(problem, plan, "d1")),
        Violation::DeviceTwice {
            device: "d1".to_owned()
        }
    );
}

#[test]
fn a_stage_in_the_memory_of_devices_that_work_as_one_is_found() {
    let shared = first(|problem, plan| {
        let mut third = problem.topology.devices[0].clone();
        third.name = "d2".to_owned();
        problem.topology.devices.push(third);
        divided(problem, plan, "d2");
    });
    assert_eq!(
        shared,
        Violation::PoolShared {
            pool: "p0".to_owned(),
            device: "d0+d1".to_owned()
        }
    );
}

#[test]
fn a_pin_on_one_of_several_devices_counts_their_layers() {
    let pinned = |max_layers| {
        first(|problem, _| {
            problem.constraints.pinned_layers.push(Pin {
                device: Some("d1".to_owned()),
                min_layers: 0,
                max_layers: Some(max_layers),
                ..Pin::default()
            });
        })
    };
    assert_eq!(pinned(3), Violation::PinBroken { pin: 0, layers: 4 });
}

#[test]
fn devices_that_may_not_work_as_one_make_no_hop_count_for_more() {
    let (mut problem, _) = grouped();
    (problem.constraints.min_devices, problem.constraints.max_group_devices) = (2, 1);
    let link = Link {
        latency_us: 0,
        rate: problem.topology.devices[0].bandwidth,
    };
    problem.topology.links = [(("n0".to_owned(), "n0".to_owned()), link)].into_iter().collect();
    let leaves = |bytes_per_second: u64| {
        vec![Traffic {
            from_node: "n0".to_owned(),
            to_node: "n0".to_owned(),
            bytes_per_second: 0,
            by: "default/first".to_owned(),
            leaves_bytes_per_second: Some(bytes_per_second),
        }]
    };
    let hop = |problem: &Problem| reserved_bytes_per_second(problem, "n0", "n0").expect("a model comes first");
    problem.topology.traffic = leaves(0);
    let hop_bytes_per_second = hop(&problem);
    let overused = |problem: &Problem, plan: &Plan| {
        let found = check(problem, plan);
        found
            .iter()
            .any(|v| matches!(v, Violation::LinkOverused { hops: 1, .. }))
    };

    problem.topology.traffic = leaves(hop_bytes_per_second);
    let plan = good(&problem);
    assert_eq!(check(&problem, &plan), vec![]);
    // Where they may, a plan with this hop could be quicker.
    problem.constraints.max_group_devices = 2;
    assert!(hop(&problem) > hop_bytes_per_second && overused(&problem, &plan));
    problem.constraints.max_group_devices = 1;
    problem.topology.traffic = leaves(hop_bytes_per_second - 1);
    assert!(overused(&problem, &plan));
    assert!(solve(&problem, Budget::default()).is_err());
}

#[test]
fn replicas_that_share_one_of_several_devices_or_its_memory_are_found() {
    let (mut problem, plan) = grouped();
    let mut alone = plan.clone();
    (alone.stages[0].device, alone.stages[0].memory_bytes) = ("d1".to_owned(), 471);
    let both = [plan, alone];
    let shared = Violation::DeviceShared {
        device: "d1".to_owned(),
    };
    assert!(check_together(&problem, &both).contains(&shared));
    // In the memory of d1 are the half of the one and all of the other.
    problem.topology.pools[1].usable_bytes = 248 + 471 - 1;
    let full = Violation::PoolMemory {
        pool: "p1".to_owned(),
        needed_bytes: 248 + 471,
        usable_bytes: 248 + 471 - 1,
    };
    let found = check_together(&problem, &both);
    assert!(found.contains(&full), "{found:?}");
}
