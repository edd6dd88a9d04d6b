//! Problems: random small ones, and a few large ones of a known shape.

use std::collections::{BTreeMap, BTreeSet};

use placement::{Constraints, HeldLayers, Layer, Model, Objective, Pin, Problem, Toleration};
use proptest::prelude::*;
use topology::{Device, Effect, Kind, Link, Member, Origin, Pool, Rate, Steps, Taint, Topology, Traffic};

/// Up to five devices on up to three pools and nodes, up to six layers, every constraint.
pub fn small() -> impl Strategy<Value = Problem> {
    let tainted = prop_oneof![4 => Just(0_u8), 1 => any::<u8>()];
    let entries = prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec((0_u8..3, 0_u64..3000), 1..3)];
    let parts = (
        model(),
        cluster(),
        constraints(),
        held(),
        any::<bool>(),
        tainted,
        entries,
        traffic(),
    );
    parts.prop_map(
        |(model, mut topology, constraints, held, latency, tainted, entries, traffic)| {
            topology.traffic = traffic;
            let entries = entries.into_iter().map(|(node, us)| (format!("node{node}"), us));
            topology.entry_us = entries.collect();
            for (at, device) in topology.devices.iter_mut().enumerate() {
                device.taints = (tainted >> at & 1 == 1).then(|| taint(at % 2)).into_iter().collect();
            }
            Problem {
                model,
                topology,
                constraints,
                held,
                objective: if latency {
                    Objective::Latency
                } else {
                    Objective::Throughput
                },
            }
        },
    )
}

/// What is placed already: some tens of kilobytes a second, which is one or two hops. Some of it leaves no more to others than a few
/// hops at the pace of one stream.
fn traffic() -> impl Strategy<Value = Vec<Traffic>> {
    let leaves = prop::option::weighted(0.3, 0_u64..2_000_000);
    let traffic = (0_u8..3, 0_u8..3, 0_u64..100_000, leaves).prop_map(|(from, to, bytes_per_second, leaves)| Traffic {
        from_node: format!("node{from}"),
        to_node: format!("node{to}"),
        bytes_per_second,
        by: "default/other".to_owned(),
        leaves_bytes_per_second: leaves,
    });
    prop_oneof![2 => Just(vec![]), 1 => prop::collection::vec(traffic, 1..4)]
}

/// Two nodes of two or three devices, of which a plan needs nearly all, between which every order costs about the same, and links
/// that carry one hop or two: most plans that would be the best go over some link too often.
pub fn crowded_links() -> impl Strategy<Value = Problem> {
    let figures = prop::collection::vec((5_u64..9, 1_u64..4), 4..6);
    let links = prop::collection::vec((0_u64..300, 1_u64..6), 4);
    let limits = (1_u32..3, any::<bool>(), 2_u32..5, traffic());
    (figures, links, limits).prop_map(|(figures, links, (percent, latency, min_devices, traffic))| {
        let devices = figures.into_iter().enumerate().map(|(i, (hundreds, tenths))| {
            let mut device = device(i, i, 100 * hundreds, tenths * 100_000_000_000, Kind::Discrete);
            device.node = format!("node{}", i % 2);
            device
        });
        let mut problem = apart(devices.collect(), 6);
        problem
            .model
            .layers
            .iter_mut()
            .for_each(|layer| layer.weight_bytes = 300 * MIB);
        problem.model.activation_bytes = 4096;
        let places = [(0, 0), (0, 1), (1, 0), (1, 1)].into_iter();
        let link = |((from, to), (latency_us, mb)): ((u8, u8), (u64, u64))| {
            let rate = measured(mb * 1_000_000);
            ((format!("node{from}"), format!("node{to}")), Link { latency_us, rate })
        };
        problem.topology.links = places.zip(links).map(link).collect();
        problem.topology.traffic = traffic;
        problem.objective = if latency {
            Objective::Latency
        } else {
            Objective::Throughput
        };
        problem.constraints.min_devices = min_devices;
        problem.constraints.min_tokens_per_second = Some(10);
        problem.constraints.max_link_percent = Some(percent);
        problem
    })
}

/// [`small`] with up to four devices, of which up to three in one node may work as one, by twos or threes, mostly faster so than each by
/// itself. Some have a memory of their own, some share one.
pub fn grouped() -> impl Strategy<Value = Problem> {
    let members = prop::sample::select(vec![0b011_u8, 0b101, 0b110, 0b111]);
    let groups = prop::collection::btree_map(members, (1_u64..80, 0_u64..5), 1..4);
    let limit = prop_oneof![1 => Just(1_u32), 2 => Just(2), 6 => Just(8)];
    (small(), groups, any::<u8>(), limit, prop::bool::weighted(0.2)).prop_map(
        |(mut problem, groups, shares_memory, max_group_devices, holds)| {
            problem.constraints.max_group_devices = max_group_devices;
            let Topology { devices, pools, .. } = &mut problem.topology;
            devices.truncate(4);
            let first = devices[0].clone();
            for (at, device) in devices.iter_mut().enumerate().take(3) {
                *device = Device {
                    name: device.name.clone(),
                    usable_bytes: device.usable_bytes,
                    bandwidth: device.bandwidth,
                    pool: device.pool,
                    launch_us: device.launch_us,
                    steps: device.steps.clone(),
                    taints: device.taints.clone(),
                    ..first.clone()
                };
                if shares_memory >> at & 1 == 0 {
                    device.pool = pools.len();
                    pools.push(Pool {
                        name: device.name.clone(),
                        usable_bytes: device.usable_bytes,
                        held_bytes: 0,
                        bandwidth: device.bandwidth,
                    });
                }
            }
            let single = devices.len();
            for (members, (tenths, layers)) in groups {
                let members: Vec<usize> = (0..3).filter(|at| members >> at & 1 == 1).collect();
                if members.iter().all(|at| *at < single) {
                    let group = as_one(devices, pools, &members, tenths, layers);
                    devices.extend(group);
                }
            }
            if let Some(group) = devices.get(single).filter(|_| holds) {
                problem.held.push(HeldLayers {
                    device: group.name.clone(),
                    first_layer: 0,
                    end_layer: 2,
                });
            }
            problem
        },
    )
}

/// Devices that work as one, where there is any memory for each.
fn as_one(devices: &[Device], pools: &[Pool], members: &[usize], tenths: u64, layers: u64) -> Option<Device> {
    let names: Vec<&str> = members.iter().map(|at| devices[*at].name.as_str()).collect();
    let member = |at: &usize| Member {
        device: devices[*at].name.clone(),
        pool: devices[*at].pool,
    };
    let least_bytes = members.iter().map(|at| devices[*at].usable_bytes).min()?;
    let mut group = Device {
        name: names.join("+"),
        members: members.iter().map(member).collect(),
        bandwidth: measured(tenths * 100_000_000),
        launch_us: layers * 50,
        steps: Some(Steps::plain(0, layers * 11_000, Vec::new())),
        taints: members.iter().flat_map(|at| devices[*at].taints.clone()).collect(),
        ..devices[members[0]].clone()
    };
    group.usable_bytes = (least_bytes * members.len() as u64).min(group.room_bytes(pools));
    (group.usable_bytes > 0).then_some(group)
}

fn taint(value: usize) -> Taint {
    Taint {
        key: "lent".to_owned(),
        value: format!("t{value}"),
        effect: Effect::NoPlace,
    }
}

/// Mostly nothing; else layers of one or two devices, which need not exist.
fn held() -> impl Strategy<Value = Vec<HeldLayers>> {
    let held = (0_u32..5, 0_u32..5, 1_u32..4).prop_map(|(device, first_layer, layers)| HeldLayers {
        device: format!("device{device:03}"),
        first_layer,
        end_layer: first_layer + layers,
    });
    prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec(held, 1..3)]
}

const MIB: u64 = 1 << 20;

fn model() -> impl Strategy<Value = Model> {
    let layer = (1_u64..20, 0_u64..5, 0_u64..5, 1_u64..4).prop_map(|(weight, kv, read, experts)| Layer {
        weight_bytes: weight * MIB,
        active_bytes: weight * MIB / experts,
        kv_bytes: kv * MIB,
        kv_read_bytes: read.min(kv) * MIB / 2,
    });
    let alike = (layer.clone(), 1_usize..7).prop_map(|(layer, layers)| vec![layer; layers]);
    let layers = prop_oneof![alike, prop::collection::vec(layer, 1..7)];
    (layers, 0_u64..10, 0_u64..10, 0_u64..3, any::<u8>(), any::<bool>()).prop_map(
        |(layers, embedding, output, buffer, cuts, everywhere)| {
            let last = u32::try_from(layers.len()).expect("few layers");
            Model {
                name: "m".to_owned(),
                embedding_bytes: embedding * MIB,
                output_bytes: output * MIB,
                activation_bytes: 4096,
                compute_buffer_bytes: buffer * MIB,
                output_buffer_bytes: buffer * MIB,
                cuts: (1..last).filter(|cut| everywhere || (cuts >> cut) & 1 == 1).collect(),
                layers,
            }
        },
    )
}

fn cluster() -> impl Strategy<Value = Topology> {
    let figures = (0_usize..3, 5_u64..80, 1_u64..40, 0_u64..3, 0_u8..4, any::<bool>());
    let devices = prop::collection::vec(figures, 1..6);
    let pools = prop::collection::vec(20_u64..120, 3);
    let links = prop::collection::vec(
        (0_u8..3, 0_u8..3, 0_u64..2000, prop_oneof![1_u64..10, 1_u64..1000]),
        0..4,
    );
    (devices, pools, links, prop::bool::weighted(0.3)).prop_map(|(mut devices, mut pools, mut links, alike)| {
        if alike {
            // Twins, some of them on one pool: what the solver takes for interchangeable must be.
            for (_, mib, tenths, launch, kind, vulkan) in &mut devices {
                (*mib, *tenths, *launch, *kind, *vulkan) = (25 + *mib / 40 * 15, 10, 1, 1, false);
            }
            pools.iter_mut().for_each(|mib| *mib = 40 + *mib / 60 * 30);
            links.truncate(1);
        }
        let pools: Vec<Pool> = pools
            .into_iter()
            .enumerate()
            .map(|(i, mib)| Pool {
                name: format!("pool{i}"),
                usable_bytes: mib * MIB,
                held_bytes: 0,
                bandwidth: measured(1_000_000_000),
            })
            .collect();
        let devices = devices
            .into_iter()
            .enumerate()
            .map(|(i, (place, mib, tenths, launch, kind, vulkan))| {
                let kind = [Kind::Cpu, Kind::Discrete, Kind::Software, Kind::Integrated][usize::from(kind)];
                let mut device = device(i, place, mib, tenths * 100_000_000, kind);
                device.usable_bytes = device.usable_bytes.min(pools[place].usable_bytes);
                device.launch_us = launch * 100;
                // Steps of some of them were measured.
                device.steps = (launch % 2 == 1).then(|| Steps::plain(0, launch * 31_000, Vec::new()));
                if alike {
                    device.node = format!("node{}", place / 2);
                }
                device.backend = if vulkan { "vulkan" } else { "cpu" }.to_owned();
                device
            });
        let links = links.into_iter().map(|(from, to, latency_us, mb)| {
            (
                (format!("node{from}"), format!("node{to}")),
                Link {
                    latency_us,
                    rate: measured(mb * 1_000_000),
                },
            )
        });
        Topology {
            devices: devices.collect(),
            links: links.collect(),
            pools,
            ..Topology::default()
        }
    })
}

fn constraints() -> impl Strategy<Value = Constraints> {
    let pin = (0_u8..4, 0_u32..4, prop::option::of(0_u32..5)).prop_map(|(what, min_layers, extra)| Pin {
        backend: (what == 0).then(|| "vulkan".to_owned()),
        node: (what == 1).then(|| "node0".to_owned()),
        device: (what >= 2).then(|| "device001".to_owned()),
        min_layers,
        max_layers: extra.map(|extra| min_layers + extra),
    });
    let pins = prop_oneof![3 => Just(vec![]), 2 => prop::collection::vec(pin, 1..3)];
    (
        1_u32..4,
        prop::option::weighted(0.4, 1_u32..4),
        prop::bool::weighted(0.8),
        pins,
        0_u8..12,
        1_u32..4,
    )
        .prop_map(
            |(min_devices, max_devices, allow_software_devices, pinned_layers, rare, link_percent)| Constraints {
                min_devices,
                max_devices,
                max_group_devices: 1,
                allow_software_devices,
                vendors: if rare == 0 {
                    BTreeSet::from(["v0".to_owned()])
                } else {
                    BTreeSet::new()
                },
                node_selector: if rare == 1 {
                    BTreeMap::from([("zone".to_owned(), "z0".to_owned())])
                } else {
                    BTreeMap::new()
                },
                token_node_selector: if matches!(rare, 8 | 9) {
                    BTreeMap::from([("zone".to_owned(), format!("z{}", rare - 8))])
                } else {
                    BTreeMap::new()
                },
                pinned_layers,
                min_tokens_per_second: match rare {
                    2 | 4 | 10 | 11 => Some(10),
                    3 => Some(3),
                    _ => None,
                },
                // A hop takes 41 kB/s: links of some megabytes a second carry none, one or two.
                max_link_percent: matches!(rare, 4 | 10).then_some(link_percent),
                tolerations: match rare {
                    2 => vec![Toleration {
                        exists: true,
                        ..Toleration::default()
                    }],
                    3 => vec![Toleration {
                        key: Some("lent".to_owned()),
                        value: "t1".to_owned(),
                        ..Toleration::default()
                    }],
                    _ => Vec::new(),
                },
            },
        )
}

fn measured(bytes_per_second: u64) -> Rate {
    Rate {
        bytes_per_second,
        origin: Origin::Measured,
    }
}

fn device(index: usize, place: usize, mib: u64, bytes_per_second: u64, kind: Kind) -> Device {
    Device {
        name: format!("device{index:03}"),
        node: format!("node{place}"),
        node_labels: BTreeMap::from([("zone".to_owned(), format!("z{}", place % 2))]).into(),
        vendor: format!("v{}", index % 2),
        model: String::new(),
        backend: "cuda".to_owned(),
        kind,
        pool: place,
        usable_bytes: mib * MIB,
        fixed_bytes: 2 * MIB,
        bandwidth: measured(bytes_per_second),
        launch_us: 100,
        steps: None,
        flops_per_second: None,
        thermal_headroom_percent: None,
        taints: Vec::new(),
        members: Vec::new(),
    }
}

/// Each device on its own node and pool.
fn apart(devices: Vec<Device>, layers: usize) -> Problem {
    let pools = devices.iter().map(|d| Pool {
        name: d.name.clone(),
        usable_bytes: d.usable_bytes,
        held_bytes: 0,
        bandwidth: d.bandwidth,
    });
    let last = u32::try_from(layers).expect("few layers");
    Problem {
        topology: Topology {
            pools: pools.collect(),
            devices,
            ..Topology::default()
        },
        model: Model {
            name: "large".to_owned(),
            layers: vec![
                Layer {
                    weight_bytes: 100 * MIB,
                    active_bytes: 100 * MIB,
                    kv_bytes: 10 * MIB,
                    kv_read_bytes: MIB
                };
                layers
            ],
            embedding_bytes: 0,
            output_bytes: 50 * MIB,
            activation_bytes: 16_384,
            compute_buffer_bytes: 10 * MIB,
            output_buffer_bytes: 10 * MIB,
            cuts: (1..last).collect(),
        },
        constraints: Constraints::default(),
        objective: Objective::Latency,
        held: Vec::new(),
    }
}

/// Eight devices, no two alike, of which the model needs nearly all.
pub fn eight_devices() -> Problem {
    let devices = (0..8).map(|i: usize| {
        let i64 = u64::try_from(i).expect("small");
        device(i, i, 500 + 60 * i64, (10 + 7 * i64) * 1_000_000_000, Kind::Discrete)
    });
    apart(devices.collect(), 40)
}

/// Two equal devices on each of two nodes, all of which the model needs; the way from node to node is shorter than within one.
pub fn two_nodes_of_two() -> Problem {
    let devices = (0..4).map(|i: usize| {
        let mut device = device(i, i, 340, 10_000_000_000, Kind::Discrete);
        device.node = format!("node{}", i / 2);
        device
    });
    let mut problem = apart(devices.collect(), 8);
    problem.model.activation_bytes = 4096;
    let link = |from: u8, to: u8| {
        let latency_us = if from == to { 900 } else { 10 };
        let link = Link {
            latency_us,
            rate: measured(4_000_000),
        };
        ((format!("node{from}"), format!("node{to}")), link)
    };
    problem.topology.links = [link(0, 0), link(0, 1), link(1, 0), link(1, 1)].into_iter().collect();
    // Where it begins is no tie.
    problem.topology.entry_us = BTreeMap::from([("node1".to_owned(), 50)]);
    problem
}

/// What another pipeline puts on the way from one to the other.
pub fn from_node_0_to_node_1(bytes_per_second: u64) -> Vec<Traffic> {
    vec![Traffic {
        from_node: "node0".to_owned(),
        to_node: "node1".to_owned(),
        bytes_per_second,
        by: "default/other".to_owned(),
        leaves_bytes_per_second: None,
    }]
}

pub fn many_devices(devices: usize, layers: usize) -> Problem {
    let devices = (0..devices).map(|i| {
        let spread = u64::try_from(i * 37 % 101).expect("small");
        device(i, i, 400 + 10 * spread, (20 + spread) * 1_000_000_000, Kind::Discrete)
    });
    apart(devices.collect(), layers)
}

/// Two large devices that the model needs, with a second between them, and a small one in between that nobody measured the ways to.
pub fn a_slow_link_and_a_way_round() -> Problem {
    let mut problem = many_devices(3, 15);
    let slow = Link {
        latency_us: 1_000_000,
        rate: measured(1_000_000_000),
    };
    let ends = [("node1", "node2"), ("node2", "node1")].into_iter();
    problem.topology.links = ends
        .map(|(from, to)| ((from.to_owned(), to.to_owned()), slow))
        .collect();
    problem
}

pub fn identical_devices(devices: usize, layers: usize) -> Problem {
    let devices = (0..devices).map(|i| device(i, i, 700, 50_000_000_000, Kind::Discrete));
    let mut problem = apart(devices.collect(), layers);
    for device in &mut problem.topology.devices {
        device.vendor = "v".to_owned();
    }
    problem
}

/// Four devices on one memory that holds nearly the whole model, and a small one elsewhere: no cut of these layers fits, though
/// the bytes would. Bytes are in mebibytes.
pub fn a_crowded_pool() -> Problem {
    let places = [(2, 25), (2, 28), (0, 13), (2, 25), (2, 38)];
    let devices = places.iter().enumerate().map(|(i, (place, mib))| {
        let rate = 100_000_000 * (1 + u64::try_from(i).expect("small"));
        device(i, *place, *mib, rate, Kind::Cpu)
    });
    let devices: Vec<Device> = devices.collect();
    let pool = |(name, mib): (&str, u64)| Pool {
        name: name.to_owned(),
        usable_bytes: mib * MIB,
        held_bytes: 0,
        bandwidth: measured(1_000_000_000),
    };
    let layer = |(weight, kv): (u64, u64)| Layer {
        weight_bytes: weight * MIB,
        active_bytes: weight * MIB,
        kv_bytes: kv * MIB,
        kv_read_bytes: 0,
    };
    let mut problem = apart(devices, 6);
    problem.topology.pools = [("pool0", 20), ("pool1", 20), ("pool2", 79)].map(pool).to_vec();
    problem.model.layers = [(11, 2), (5, 3), (18, 0), (9, 1), (10, 1), (19, 3)].map(layer).to_vec();
    problem.model.embedding_bytes = 3 * MIB;
    problem.model.output_bytes = MIB;
    problem.model.compute_buffer_bytes = 0;
    problem.model.output_buffer_bytes = 0;
    problem
}
