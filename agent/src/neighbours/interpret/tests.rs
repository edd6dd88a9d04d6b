use super::*;
use device::{Backend, GpuDevice, Kind};

const OURS: &str = "shardwright-reserve-worker-1-nvidia-com-gpu-0";

fn uuid(digit: u8) -> String {
    format!("GPU-{digit}f2c1a90-0b1c-4a5e-9d52-0f6f6a3a9b11")
}

fn card(vendor: &str, uuid: Option<&str>, address: Option<&str>) -> Seen {
    Seen {
        device: GpuDevice {
            vendor: vendor.to_owned(),
            uuid: uuid.map(str::to_owned),
            pci_address: address.map(str::to_owned),
            ..GpuDevice::new(Backend::Cuda, 0, Kind::Discrete)
        },
        processes: Vec::new(),
    }
}

fn held(pod: &str, vendor: Vendor, name: &str) -> Held {
    let (namespace, pod) = pod.split_once('/').unwrap();
    Held {
        pod: Pod {
            namespace: namespace.to_owned(),
            name: pod.to_owned(),
        },
        vendor,
        name: Name::Plugin(name.to_owned()),
    }
}

fn told(held: Vec<Held>, devices: &[Seen]) -> (Vec<Holders>, BTreeSet<String>) {
    let own = Own {
        namespace: "shardwright-system".to_owned(),
        pod: "shardwright-agent-x2x4z".to_owned(),
    };
    let listing = Listing {
        held,
        ..Listing::default()
    };
    interpret(&listing, &own, devices, &Aliases::default(), &Inventory::default())
}

fn foreign(by: &str) -> Holders {
    Holders {
        foreign: Some(by.to_owned()),
        ..Holders::default()
    }
}

#[test]
fn each_device_has_the_pod_that_holds_it() {
    let devices = [
        card("nvidia", Some(&uuid(1)), None),
        card("nvidia", Some(&uuid(2)), None),
        card("nvidia", Some(&uuid(3)), None),
        card("amd", None, Some("0000:03:00.0")),
    ];
    let reserved = format!("shardwright-system/{OURS}");
    let list = vec![
        held("science/train", Vendor::Nvidia, &uuid(1)),
        held(&reserved, Vendor::Nvidia, &uuid(2)),
        held("science/rocm", Vendor::Amd, "0000:03:00.0"),
    ];
    let (holders, unknown) = told(list, &devices);
    let ours = Holders {
        ours: Some(OURS.to_owned()),
        ..Holders::default()
    };
    assert_eq!(
        holders,
        [
            foreign("science/train"),
            ours,
            Holders::default(),
            foreign("science/rocm")
        ]
    );
    assert_eq!(unknown, BTreeSet::new());
}

#[test]
fn a_pod_of_another_namespace_with_a_reservations_name_is_not_ours() {
    let devices = [card("nvidia", Some(&uuid(1)), None)];
    let pod = format!("default/{OURS}");
    let (holders, _) = told(vec![held(&pod, Vendor::Nvidia, &uuid(1))], &devices);
    assert_eq!(holders, [foreign(&pod)]);
}

#[test]
fn the_agents_own_pod_holds_for_us_and_others_of_the_namespace_do_not() {
    let devices = [
        card("nvidia", Some(&uuid(1)), None),
        card("nvidia", Some(&uuid(2)), None),
    ];
    let list = vec![
        held("shardwright-system/shardwright-agent-x2x4z", Vendor::Nvidia, &uuid(1)),
        held("shardwright-system/something", Vendor::Nvidia, &uuid(2)),
    ];
    let (holders, _) = told(list, &devices);
    assert!(holders[0].ours.is_some());
    assert_eq!(holders[1], foreign("shardwright-system/something"));
}

#[test]
fn of_a_card_that_is_cut_in_time_both_holders_are_told() {
    let devices = [card("nvidia", Some(&uuid(1)), None)];
    let list = vec![
        held(
            &format!("shardwright-system/{OURS}"),
            Vendor::Nvidia,
            &format!("{}::0", uuid(1)),
        ),
        held("science/notebook", Vendor::Nvidia, &format!("{}::1", uuid(1))),
    ];
    let (holders, _) = told(list, &devices);
    assert!(holders[0].ours.is_some());
    assert_eq!(holders[0].foreign.as_deref(), Some("science/notebook"));
}

#[test]
fn the_slices_of_a_card_have_holders_each_of_its_own() {
    let slice = |digit: u8| uuid(digit).replace("GPU-", "MIG-");
    let devices = [
        card("nvidia", Some(&slice(1)), Some("0000:07:00.0")),
        card("nvidia", Some(&slice(2)), Some("0000:07:00.0")),
    ];
    let (holders, _) = told(vec![held("science/train", Vendor::Nvidia, &slice(1))], &devices);
    assert_eq!(holders, [foreign("science/train"), Holders::default()]);
}

#[test]
fn a_name_that_says_nothing_may_mean_any_device_of_its_maker_and_none_of_another() {
    let devices = [
        card("nvidia", Some(&uuid(1)), None),
        card("amd", None, Some("0000:03:00.0")),
    ];
    let (holders, unknown) = told(vec![held("science/x", Vendor::Amd, "amdgpu_xcp_3")], &devices);
    assert_eq!(holders[0], Holders::default());
    assert_eq!(holders[1].perhaps.as_deref(), Some("science/x"));
    assert_eq!(holders[1].foreign, None);
    assert_eq!(unknown.into_iter().collect::<Vec<_>>(), ["amd \"amdgpu_xcp_3\""]);
}

#[test]
fn a_device_that_is_known_to_be_another_is_no_doubt_about_ours() {
    let devices = [card("nvidia", Some(&uuid(1)), None)];
    let (holders, unknown) = told(vec![held("science/x", Vendor::Nvidia, &uuid(9))], &devices);
    assert_eq!(holders, [Holders::default()]);
    assert_eq!(unknown, BTreeSet::new());
}

#[test]
fn a_claimed_device_is_found_by_its_slice() {
    let devices = [
        card("nvidia", Some(&uuid(1)), None),
        card("nvidia", Some(&uuid(2)), None),
    ];
    let slices = super::super::fixture::example_slices(&[("gpu-0", uuid(2).as_str())]);
    let inventory = Inventory::of(&k8s_openapi::api::core::v1::Node::default(), &slices);
    let mut claim = held("science/claims", Vendor::Nvidia, "");
    claim.name = Name::Claim {
        driver: "gpu.nvidia.com".to_owned(),
        pool: "worker-1".to_owned(),
        device: "gpu-0".to_owned(),
    };
    let listing = Listing {
        held: vec![claim],
        ..Listing::default()
    };
    let own = Own {
        namespace: "shardwright-system".to_owned(),
        pod: "a".to_owned(),
    };
    let (holders, unknown) = interpret(&listing, &own, &devices, &Aliases::default(), &inventory);
    assert_eq!(holders, [Holders::default(), foreign("science/claims")]);
    assert_eq!(unknown, BTreeSet::new());
    let (holders, unknown) = interpret(&listing, &own, &devices, &Aliases::default(), &Inventory::default());
    assert_eq!(
        holders[0].perhaps.as_deref(),
        Some("science/claims"),
        "without slices it may be any"
    );
    assert_eq!(unknown.len(), 1);
}
