use proptest::prelude::*;

use super::*;

const GIB: u64 = 1 << 30;

fn report(name: &str, node: &str, kind: Kind, pool: &str, usable_bytes: u64) -> DeviceReport {
    let backend = if kind == Kind::Cpu { "cpu" } else { "vulkan" };
    DeviceReport {
        name: name.to_owned(),
        node: node.to_owned(),
        vendor: "mesa".to_owned(),
        model: String::new(),
        backend: backend.to_owned(),
        kind,
        memory_pool: pool.to_owned(),
        memory_usable_bytes: usable_bytes,
        max_memory_percent: None,
        bandwidth_bytes_per_second: None,
        prior_bandwidth_bytes_per_second: None,
        launch_us: None,
        steps: None,
        flops_per_second: None,
        temperature_celsius: None,
        throttled: false,
        cordoned: false,
        verified: true,
        fault: None,
        barred: None,
        no_new_layers: None,
        missing_operators: None,
        taints: Vec::new(),
    }
}

fn input(devices: Vec<DeviceReport>) -> Input {
    let attached_nodes = devices.iter().map(|d| d.node.clone()).collect();
    Input {
        devices,
        attached_nodes,
        ..Input::default()
    }
}

fn cpu_and_renderer() -> Input {
    input(vec![
        report("a-cpu0", "a", Kind::Cpu, "a-host", 4 * GIB),
        report("a-vulkan0", "a", Kind::Software, "a-host", 6 * GIB),
    ])
}

#[test]
fn devices_on_the_same_memory_share_one_budget_which_is_the_cpus() {
    let topology = build(&cpu_and_renderer());
    assert_eq!(topology.pools.len(), 1);
    assert_eq!(topology.pools[0].usable_bytes, 4 * GIB);
    let usable: Vec<u64> = topology.devices.iter().map(|d| d.usable_bytes).collect();
    assert_eq!(usable, [4 * GIB, 4 * GIB]);
}

#[test]
fn what_is_held_on_one_device_is_missing_on_its_neighbour_in_the_pool() {
    let mut input = cpu_and_renderer();
    input.held.push(HeldMemory {
        device: "a-vulkan0".to_owned(),
        bytes: 3 * GIB,
    });
    let topology = build(&input);
    assert_eq!(
        (topology.pools[0].usable_bytes, topology.pools[0].held_bytes),
        (GIB, 3 * GIB)
    );
    assert!(topology.devices.iter().all(|d| d.usable_bytes == GIB));
}

#[test]
fn a_software_renderer_is_slow_however_fast_it_copies() {
    let mut input = cpu_and_renderer();
    input.devices[1].bandwidth_bytes_per_second = Some(30_000_000_000);
    let rate = build(&input).devices[1].bandwidth;
    assert_eq!(rate.bytes_per_second, prior::bandwidth_bytes_per_second(Kind::Software));
    input.devices[1].bandwidth_bytes_per_second = Some(100_000_000);
    assert_eq!(
        build(&input).devices[1].bandwidth.bytes_per_second,
        100_000_000,
        "slower still, as measured"
    );
}

#[test]
fn a_cordoned_device_still_counts_with_what_it_holds() {
    let mut input = cpu_and_renderer();
    input.devices[0].cordoned = true;
    input.held.push(HeldMemory {
        device: "a-cpu0".to_owned(),
        bytes: 3 * GIB,
    });
    let topology = build(&input);
    assert_eq!(topology.excluded[0].why, Exclusion::Cordoned);
    assert_eq!(topology.devices[0].usable_bytes, GIB);
}

#[test]
fn the_administrators_share_limits_the_device_and_not_its_neighbour() {
    let mut input = cpu_and_renderer();
    input.devices[1].max_memory_percent = Some(25);
    let topology = build(&input);
    assert_eq!(topology.device("a-vulkan0").map(|d| d.usable_bytes), Some(6 * GIB / 4));
    assert_eq!(topology.device("a-cpu0").map(|d| d.usable_bytes), Some(4 * GIB));
}

#[test]
fn every_device_that_takes_no_layers_keeps_its_reason() {
    let mut devices: Vec<DeviceReport> = ["a", "b", "c", "d", "e", "f", "g"]
        .iter()
        .map(|node| report(&format!("{node}-cpu0"), node, Kind::Cpu, node, GIB))
        .collect();
    devices[0].cordoned = true;
    devices[2].fault = Some("fell off the bus".to_owned());
    devices[3].verified = false;
    devices[4].memory_usable_bytes = 0;
    devices[5].barred = Some("is not ours to use (Foreign: m)".to_owned());
    devices[6].no_new_layers = Some("is not ready (SensorInvalid)".to_owned());
    let mut input = input(devices);
    input.attached_nodes.remove("b");
    let told: Vec<String> = build(&input)
        .excluded
        .iter()
        .map(|e| format!("{} {}", e.device, e.why))
        .collect();
    assert_eq!(
        told,
        [
            "a-cpu0 is cordoned",
            "b-cpu0 is on node b, whose agent is not connected",
            "c-cpu0 is not healthy (fell off the bus)",
            "d-cpu0 is not verified",
            "e-cpu0 has no usable memory",
            "f-cpu0 is not ours to use (Foreign: m)",
            "g-cpu0 is not ready (SensorInvalid)",
        ]
    );
}

#[test]
fn what_was_not_measured_is_assumed_and_says_so() {
    let mut input = cpu_and_renderer();
    input.devices[0].bandwidth_bytes_per_second = Some(9_000_000_000);
    let topology = build(&input);
    assert_eq!(topology.devices[0].bandwidth.origin, Origin::Measured);
    assert_eq!(topology.devices[1].bandwidth.origin, Origin::Assumed);
    assert_eq!(topology.pools[0].bandwidth.bytes_per_second, 9_000_000_000);
    input.devices[0].bandwidth_bytes_per_second = Some(5);
    assert_eq!(
        build(&input).devices[0].bandwidth.origin,
        Origin::Assumed,
        "five bytes per second"
    );
    let unknown = topology.link("a", "b");
    assert_eq!(unknown.rate.origin, Origin::Assumed);
    assert!(unknown.latency_us > topology.link("a", "a").latency_us);
    assert!(topology.link("a", "a").latency_us > 0);
}

#[test]
fn what_a_table_promises_counts_until_something_was_measured_and_is_marked() {
    let mut card = report("a-cuda0", "a", Kind::Discrete, "a-cuda0", GIB);
    card.prior_bandwidth_bytes_per_second = Some(1_000_000_000_000);
    let rate = |card: &DeviceReport| build(&input(vec![card.clone()])).devices[0].bandwidth;
    let promised = rate(&card);
    assert_eq!(
        (promised.origin, promised.bytes_per_second),
        (Origin::Prior, 700_000_000_000)
    );
    card.bandwidth_bytes_per_second = Some(3_000_000_000);
    let measured = rate(&card);
    assert_eq!(
        (measured.origin, measured.bytes_per_second),
        (Origin::Measured, 3_000_000_000)
    );
    card.bandwidth_bytes_per_second = None;
    card.prior_bandwidth_bytes_per_second = Some(5);
    assert_eq!(rate(&card).origin, Origin::Assumed, "five bytes per second");
    let mut renderer = report("a-vulkan0", "a", Kind::Software, "a-host", GIB);
    renderer.prior_bandwidth_bytes_per_second = Some(1_000_000_000_000);
    assert_eq!(rate(&renderer).origin, Origin::Assumed, "its arithmetic takes the time");
}

#[test]
fn heat_makes_a_device_slower_and_leaves_it_in_place() {
    let mut card = report("a-cuda0", "a", Kind::Discrete, "a-cuda0", GIB);
    card.bandwidth_bytes_per_second = Some(100_000_000_000);
    card.throttled = true;
    let topology = build(&input(vec![card]));
    assert_eq!(topology.devices[0].bandwidth.bytes_per_second, 60_000_000_000);
    assert_eq!(topology.pools[0].bandwidth.bytes_per_second, 100_000_000_000);
}

proptest! {
    #[test]
    fn the_order_of_reports_does_not_matter_and_no_device_is_lost(
        specs in prop::collection::vec((0_u8..4, 0_u64..4, any::<bool>(), any::<bool>()), 0..12),
        rotate in 0_usize..12,
    ) {
        let devices: Vec<DeviceReport> = specs
            .iter()
            .enumerate()
            .map(|(i, (node, gib, cordoned, verified))| {
                let kind = if i % 2 == 0 { Kind::Cpu } else { Kind::Software };
                let mut device = report(&format!("d{i}"), &format!("n{node}"), kind, &format!("p{node}"), gib * GIB);
                device.cordoned = *cordoned;
                device.verified = *verified;
                device
            })
            .collect();
        let mut rotated = devices.clone();
        if !rotated.is_empty() {
            let middle = rotate % rotated.len();
            rotated.rotate_left(middle);
        }
        let topology = build(&input(devices.clone()));
        prop_assert_eq!(&topology, &build(&input(rotated)));
        prop_assert_eq!(topology.devices.len() + topology.excluded.len(), devices.len());
        for device in &topology.devices {
            prop_assert!(device.usable_bytes > 0);
            prop_assert!(device.usable_bytes <= topology.pools[device.pool].usable_bytes);
        }
    }
}

#[test]
fn thermal_headroom_falls_with_the_temperature_and_is_gone_while_throttled() {
    let headroom = |celsius: Option<u32>, throttled: bool| {
        let device = DeviceReport {
            temperature_celsius: celsius,
            throttled,
            ..report("a", "n", Kind::Discrete, "a", GIB)
        };
        let topology = build(&input(vec![device]));
        topology.devices[0].thermal_headroom_percent
    };
    assert_eq!(headroom(None, false), None);
    assert_eq!(headroom(Some(20), false), Some(100));
    assert_eq!(headroom(Some(60), false), Some(50));
    assert_eq!(headroom(Some(120), false), Some(0));
    assert_eq!(headroom(Some(20), true), Some(0), "whatever the sensor says");
}
