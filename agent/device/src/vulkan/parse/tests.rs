use super::*;
use crate::Pool;

fn captured(text: &str) -> Vec<Facts> {
    serde_json::from_str(text).unwrap()
}

fn facts(name: &str, device_type: i32) -> Facts {
    Facts {
        index: 0,
        name: name.into(),
        device_type,
        vendor_id: 0x10DE,
        device_id: 1,
        api_version: 0,
        driver_version: 0,
        driver_name: None,
        driver_info: None,
        uuid: None,
        pci: None,
        heaps: vec![],
    }
}

#[test]
fn captured_lavapipe_is_software_on_the_hosts_memory() {
    let all = captured(include_str!("../../../fixtures/vulkan-lavapipe.json"));
    let device = device(&all[0]);
    assert_eq!(device.kind, Kind::Software);
    assert_eq!(device.pool, Pool::Host);
    assert_eq!(device.vendor, "mesa");
    assert!(device.model.starts_with("llvmpipe"), "{}", device.model);
    assert!(device.driver.unwrap().contains("Mesa"));
    assert!(device.memory_total_bytes > 0);
}

#[test]
fn kinds_are_told_apart_and_the_unknown_shares_the_hosts_memory() {
    let kind_of = |name: &str, device_type| kind(&facts(name, device_type));
    assert_eq!(kind_of("A card", TYPE_DISCRETE), Kind::Discrete);
    assert_eq!(kind_of("A slice of a card", TYPE_VIRTUAL), Kind::Discrete);
    assert_eq!(kind_of("A laptop's GPU", TYPE_INTEGRATED), Kind::Integrated);
    assert_eq!(kind_of("llvmpipe (LLVM 19)", TYPE_DISCRETE), Kind::Software);
    assert_eq!(kind_of("Any", TYPE_CPU), Kind::Software);
    assert_eq!(kind_of("Any", 0), Kind::Integrated);
    assert_eq!(kind_of("Any", 99), Kind::Integrated);
}

#[test]
fn weights_go_to_the_largest_local_heap_and_what_others_use_is_not_free() {
    let mut card = facts("A card", TYPE_DISCRETE);
    let heap = |size_bytes, device_local, budget_bytes| Heap {
        size_bytes,
        device_local,
        budget_bytes,
    };
    card.heaps = vec![
        heap(64 << 30, false, None),
        heap(256 << 20, true, None),
        heap(24 << 30, true, Some(20 << 30)),
    ];
    let device = device(&card);
    assert_eq!(device.memory_total_bytes, 24 << 30);
    assert_eq!(device.memory_free_bytes, 20 << 30);
    assert_eq!(device.pool, Pool::Own);
}

#[test]
fn addresses_and_uuids_are_written_as_people_know_them() {
    let mut card = facts("A card", TYPE_DISCRETE);
    card.pci = Some([0, 0x3b, 0, 0]);
    card.uuid = Some([0xAB; 16]);
    card.driver_version = (550 << 22) | (163 << 14) | (1 << 6);
    let device = device(&card);
    assert_eq!(device.pci_address.as_deref(), Some("0000:3b:00.0"));
    assert_eq!(device.uuid.as_deref(), Some("abababab-abab-abab-abab-abababababab"));
    assert_eq!(device.driver.as_deref(), Some("550.163.1"));
}

#[test]
fn a_device_without_heaps_has_no_memory_and_no_crash() {
    let device = device(&facts("A stub", TYPE_DISCRETE));
    assert_eq!((device.memory_total_bytes, device.memory_free_bytes), (0, 0));
    assert_eq!(device.uuid, None);
}
