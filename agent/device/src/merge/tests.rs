use super::*;

const GIB: u64 = 1 << 30;

fn device(backend: Backend, index: u32, kind: Kind, free_bytes: u64) -> GpuDevice {
    GpuDevice {
        memory_total_bytes: 16 * GIB,
        memory_free_bytes: free_bytes,
        memory_usable_bytes: free_bytes,
        verification: Verification::Verified,
        ..GpuDevice::new(backend, index, kind)
    }
}

fn answer(devices: Vec<GpuDevice>) -> Answer {
    Answer {
        backend: devices[0].backend,
        devices,
        note: None,
    }
}

#[test]
fn one_card_behind_two_drivers_is_one_device_and_the_verified_one_is_kept() {
    let mut first = device(Backend::Vulkan, 0, Kind::Discrete, 8 * GIB);
    first.pci_address = Some("0000:03:00.0".into());
    first.verification = Verification::CouldNotMeasure {
        reason: "old driver".into(),
    };
    let mut second = device(Backend::Vulkan, 1, Kind::Discrete, 8 * GIB);
    second.pci_address = first.pci_address.clone();
    let merged = merge(&[answer(vec![first, second.clone()])], None);
    assert_eq!(merged.len(), 1);
    assert_eq!(merged[0].index, 1);
}

#[test]
fn two_cards_of_one_make_stay_two() {
    let mut first = device(Backend::Vulkan, 0, Kind::Discrete, 8 * GIB);
    first.pci_address = Some("0000:03:00.0".into());
    let mut second = device(Backend::Vulkan, 1, Kind::Discrete, 8 * GIB);
    second.pci_address = Some("0000:04:00.0".into());
    assert_eq!(merge(&[answer(vec![first, second])], None).len(), 2);
}

#[test]
fn a_limit_on_main_memory_binds_every_device_that_shares_it() {
    let cpu = device(Backend::Cpu, 0, Kind::Cpu, 12 * GIB);
    let software = device(Backend::Vulkan, 0, Kind::Software, 14 * GIB);
    let card = device(Backend::Vulkan, 1, Kind::Discrete, 14 * GIB);
    let merged = merge(&[answer(vec![cpu]), answer(vec![software, card])], Some(2 * GIB));
    let usable: Vec<_> = merged.iter().map(|device| device.memory_usable_bytes).collect();
    assert_eq!(usable[..2], [2 * GIB, 2 * GIB]);
    assert!(usable[2] > 13 * GIB, "a card's own memory is not the host's");
}

#[test]
fn a_reserve_is_kept_back_of_main_memory() {
    let cpu = device(Backend::Cpu, 0, Kind::Cpu, 12 * GIB);
    let merged = merge(&[answer(vec![cpu])], None);
    assert!(merged[0].memory_usable_bytes < 12 * GIB);
    let full = device(Backend::Cpu, 0, Kind::Cpu, 1);
    assert_eq!(merge(&[answer(vec![full])], None)[0].memory_usable_bytes, 0);
}

#[test]
fn devices_come_in_the_order_of_backends_and_indices() {
    let answers = [
        answer(vec![
            device(Backend::Vulkan, 1, Kind::Discrete, 1),
            device(Backend::Vulkan, 0, Kind::Discrete, 1),
        ]),
        answer(vec![device(Backend::Cpu, 0, Kind::Cpu, 1)]),
    ];
    let names: Vec<_> = merge(&answers, None).iter().map(GpuDevice::short_name).collect();
    assert_eq!(names, ["cpu0", "vulkan0", "vulkan1"]);
}
