use super::*;
use serde_json::json;

fn node(capacity: &serde_json::Value) -> Node {
    serde_json::from_value(json!({ "metadata": {}, "status": { "capacity": capacity } })).unwrap()
}

fn slice(driver: &str, devices: &serde_json::Value) -> ResourceSlice {
    serde_json::from_value(json!({
        "metadata": { "name": "s" },
        "spec": {
            "driver": driver, "nodeName": "worker-1",
            "pool": { "name": "worker-1", "generation": 1, "resourceSliceCount": 1 },
            "devices": devices,
        },
    }))
    .unwrap()
}

#[test]
fn a_maker_is_managed_by_a_plugins_resource_even_when_none_is_left_of_it() {
    let inventory = Inventory::of(&node(&json!({ "cpu": "8", "nvidia.com/gpu": "0" })), &[]);
    assert_eq!(inventory.managed, BTreeSet::from([Vendor::Nvidia]));
    assert_eq!(Inventory::of(&Node::default(), &[]), Inventory::default());
}

#[test]
fn devices_of_every_makers_driver_are_joined_by_what_it_publishes() {
    let slices = [
        slice(
            "gpu.nvidia.com",
            &json!([
                { "name": "gpu-0", "attributes": {
                    "uuid": { "string": "GPU-8f2c1a90-0b1c-4a5e-9d52-0f6f6a3a9b11" },
                    "resource.kubernetes.io/pciBusID": { "string": "0000:07:00.0" } } },
                { "name": "gpu-0-mig-1g5gb-19-0", "attributes": {
                    "uuid": { "string": "MIG-1f2c1a90-0b1c-4a5e-9d52-0f6f6a3a9b11" },
                    "parentUUID": { "string": "GPU-8f2c1a90-0b1c-4a5e-9d52-0f6f6a3a9b11" } } },
                { "name": "gpu-1", "attributes": { "uuid": { "int": 5 } } },
                { "name": "gpu-2" },
            ]),
        ),
        slice(
            "gpu.amd.com",
            &json!([{ "name": "gpu-1-129", "attributes": { "resource.kubernetes.io/pciBusID": { "string": "0000:03:00.0" } } }]),
        ),
        slice("gpu.intel.com", &json!([{ "name": "0000-9a-00-0-0x56a0" }])),
        slice("net.example.com", &json!([{ "name": "eth0" }])),
    ];
    let inventory = Inventory::of(&Node::default(), &slices);
    assert_eq!(
        inventory.managed,
        BTreeSet::from([Vendor::Nvidia, Vendor::Amd, Vendor::Intel])
    );
    let pci = |driver, device| {
        inventory
            .slice_device(driver, "worker-1", device)
            .and_then(|id| id.pci.clone())
    };
    assert_eq!(pci("gpu.nvidia.com", "gpu-0").as_deref(), Some("0000:07:00.0"));
    assert_eq!(pci("gpu.amd.com", "gpu-1-129").as_deref(), Some("0000:03:00.0"));
    assert_eq!(
        pci("gpu.intel.com", "0000-9a-00-0-0x56a0").as_deref(),
        Some("0000:9a:00.0")
    );
    let mig = inventory
        .slice_device("gpu.nvidia.com", "worker-1", "gpu-0-mig-1g5gb-19-0")
        .unwrap();
    assert!(mig.slice.is_some() && mig.uuid.is_some(), "{mig:?}");
    assert_eq!(
        inventory.slice_device("gpu.nvidia.com", "worker-1", "gpu-1"),
        None,
        "a number is no UUID"
    );
    assert_eq!(inventory.slice_device("gpu.nvidia.com", "another", "gpu-0"), None);
}

fn reservation(name: &str, ending: bool) -> Pod {
    let deleted = ending.then_some("2026-01-01T00:00:00Z");
    serde_json::from_value(json!({ "metadata": { "name": name, "deletionTimestamp": deleted } })).unwrap()
}

#[test]
fn a_reservation_is_ending_from_its_deletion_to_its_end() {
    let mut known = Reservations::default();
    let name = "shardwright-reserve-a-nvidia-com-gpu-0";
    known.apply(watcher::Event::Apply(reservation(name, false)));
    assert!(known.ending.is_empty());
    known.apply(watcher::Event::Apply(reservation(name, true)));
    known.apply(watcher::Event::Apply(reservation("somebody", true)));
    assert_eq!(known.ending, BTreeSet::from([name.to_owned()]));
    known.apply(watcher::Event::Delete(reservation(name, true)));
    assert!(known.ending.is_empty());
}

#[test]
fn while_the_list_is_read_again_nothing_is_said_of_what_is_not_read_yet() {
    let mut known = Reservations::default();
    known.apply(watcher::Event::Init);
    assert!(known.filling);
    known.apply(watcher::Event::InitApply(reservation(
        "shardwright-reserve-a-x-0",
        true,
    )));
    known.apply(watcher::Event::InitDone);
    assert!(!known.filling && known.ending.len() == 1);
}
