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

fn card(backend: Backend, index: u32, address: &str) -> GpuDevice {
    GpuDevice {
        pci_address: Some(address.into()),
        ..device(backend, index, Kind::Discrete, 8 * GIB)
    }
}

fn unverified(mut device: GpuDevice) -> GpuDevice {
    device.verification = Verification::CouldNotMeasure { reason: "no".into() };
    device
}

#[test]
fn a_card_behind_three_backends_is_the_maker_s_and_says_how_else_it_is_reached() {
    let address = "0000:65:00.0";
    for turned in [false, true] {
        let mut answers = vec![
            answer(vec![card(Backend::Vulkan, 3, address)]),
            answer(vec![card(Backend::Cuda, 1, address)]),
        ];
        if turned {
            answers.reverse();
        }
        let merged = merge(&answers, None);
        assert_eq!(merged.len(), 1);
        assert_eq!((merged[0].backend, merged[0].index), (Backend::Cuda, 1));
        let vulkan = Reach {
            backend: Backend::Vulkan,
            index: 3,
        };
        assert_eq!(merged[0].also, [vulkan]);
    }
}

#[test]
fn a_backend_that_verified_the_card_comes_before_the_maker_s_that_did_not() {
    let address = "0000:65:00.0";
    let answers = [
        answer(vec![unverified(card(Backend::Cuda, 0, address))]),
        answer(vec![card(Backend::Vulkan, 0, address)]),
    ];
    assert_eq!(merge(&answers, None)[0].backend, Backend::Vulkan);
    let both = answers.map(|mut answer| {
        answer.devices = answer.devices.into_iter().map(unverified).collect();
        answer
    });
    assert_eq!(merge(&both, None)[0].backend, Backend::Cuda);
}

fn failed(mut device: GpuDevice) -> GpuDevice {
    device.verification = Verification::Failed {
        reason: "byte 7 differs".into(),
    };
    device
}

#[test]
fn of_a_card_that_computes_by_one_way_alone_it_is_known_which_other_failed_and_why() {
    let address = "0000:65:00.0";
    let answers = [
        answer(vec![failed(card(Backend::Cuda, 1, address))]),
        answer(vec![card(Backend::Vulkan, 0, address)]),
        answer(vec![unverified(card(Backend::Intel, 0, address))]),
    ];
    let merged = merge(&answers, None);
    assert_eq!(merged.len(), 1);
    assert_eq!(
        (merged[0].backend, &merged[0].verification),
        (Backend::Vulkan, &Verification::Verified)
    );
    let cuda = Unverified {
        backend: Backend::Cuda,
        verification: failed(card(Backend::Cuda, 1, address)).verification,
    };
    assert_eq!(merged[0].unverified, [cuda], "what only describes has nothing to prove");
    let well = answers.map(|mut answer| {
        answer.devices[0].verification = Verification::Verified;
        answer.devices[0].unverified = merged[0].unverified.clone();
        answer
    });
    let merged = merge(&well, None);
    assert_eq!((merged[0].backend, merged[0].unverified.len()), (Backend::Cuda, 0));
}

#[test]
fn what_computes_on_a_card_keeps_the_way_that_leads_there_whatever_another_one_proved() {
    let address = "0000:65:00.0";
    let answers = [
        answer(vec![failed(card(Backend::Cuda, 0, address))]),
        answer(vec![card(Backend::Vulkan, 0, address)]),
        answer(vec![card(Backend::Intel, 0, address)]),
    ];
    let led_by = |backend: Backend| merge_keeping(&answers, None, |view| view.backend == backend)[0].backend;
    assert_eq!(led_by(Backend::Cuda), Backend::Cuda);
    assert_eq!(led_by(Backend::Vulkan), Backend::Vulkan);
    assert_eq!(led_by(Backend::Intel), Backend::Vulkan, "no layers are there");
}

#[test]
fn what_the_chosen_backend_does_not_know_is_learnt_from_the_others() {
    let address = "0000:03:00.0";
    let mut vulkan = card(Backend::Vulkan, 0, address);
    vulkan.model = "AMD Radeon RX 7900 XTX (RADV NAVI31)".into();
    vulkan.uuid = Some("vulkan's".into());
    let mut rocm = unverified(card(Backend::Rocm, 2, address));
    rocm.model = "Radeon RX 7900 XTX".into();
    rocm.architecture = Some("gfx1100".into());
    rocm.uuid = Some("GPU-1".into());
    rocm.compute_units = Some(96);
    rocm.clock_mhz = Some(2_500);
    rocm.power_limit_watts = Some(339);
    rocm.measured.launch_ns = Some(crate::Figure {
        value: 1,
        samples: 1,
        measured_unix_s: 1,
    });
    rocm.prior = Some(crate::Prior {
        bandwidth_bytes_per_second: 960_000_000_000,
        source: "a table".into(),
    });
    vulkan.uuid = None;
    let merged = merge(&[answer(vec![vulkan.clone()]), answer(vec![rocm.clone()])], None);
    let device = &merged[0];
    assert_eq!((device.backend, &device.model), (Backend::Vulkan, &vulkan.model));
    assert_eq!((&device.architecture, &device.uuid), (&rocm.architecture, &rocm.uuid));
    assert_eq!(device.compute_units, rocm.compute_units);
    assert_eq!(
        (device.clock_mhz, device.power_limit_watts),
        (rocm.clock_mhz, rocm.power_limit_watts)
    );
    assert_eq!(device.prior, rocm.prior);
    assert_eq!(device.measured, crate::Measured::default(), "another way was measured");
}

#[test]
fn the_identity_of_a_card_does_not_change_when_vulkan_joins_or_leaves() {
    let address = "0000:03:00.0";
    let rocm = card(Backend::Rocm, 0, address);
    let mut vulkan = card(Backend::Vulkan, 0, address);
    vulkan.uuid = Some("of this driver".into());
    let alone = merge(&[answer(vec![rocm.clone()])], None);
    let both = merge(&[answer(vec![vulkan]), answer(vec![rocm])], None);
    assert_eq!(alone[0].identity(), both[0].identity());
}

#[test]
fn a_card_that_is_only_described_is_listed_and_holds_nothing() {
    let merged = merge(&[answer(vec![card(Backend::Intel, 0, "0000:03:00.0")])], None);
    assert_eq!(merged.len(), 1);
    let Verification::CouldNotMeasure { reason } = &merged[0].verification else {
        panic!("{:?}", merged[0].verification);
    };
    assert!(reason.contains("install a Vulkan driver"), "{reason}");
}

#[test]
fn a_card_that_intel_s_files_describe_is_reached_by_vulkan() {
    let mut described = card(Backend::Intel, 0, "0000:03:00.0");
    described.architecture = Some("Xe2".into());
    let reached = unverified(card(Backend::Vulkan, 1, "0000:03:00.0"));
    let merged = merge(&[answer(vec![described]), answer(vec![reached])], None);
    assert_eq!(merged.len(), 1);
    assert_eq!(merged[0].backend, Backend::Vulkan);
    assert_eq!(merged[0].architecture.as_deref(), Some("Xe2"));
}

#[test]
fn slices_of_one_card_stay_apart_and_the_whole_card_is_not_offered_beside_them() {
    let slice = |index: u32| GpuDevice {
        uuid: Some(format!("MIG-{index}")),
        pool: Pool::Named("GPU-1".into()),
        ..card(Backend::Cuda, index, "0000:65:00.0")
    };
    let answers = [
        answer(vec![slice(0), slice(1)]),
        answer(vec![
            card(Backend::Vulkan, 0, "0000:65:00.0"),
            card(Backend::Vulkan, 1, "0000:66:00.0"),
        ]),
    ];
    let merged = merge(&answers, None);
    let names: Vec<_> = merged.iter().map(GpuDevice::short_name).collect();
    assert_eq!(names, ["vulkan1", "cuda0", "cuda1"]);
    assert!(merged[1].memory_usable_bytes > 0);
}

#[test]
fn partitions_that_name_their_card_by_their_pool_hide_it_as_well() {
    let mut partition = device(Backend::Rocm, 0, Kind::Discrete, GIB);
    partition.pool = Pool::Named("0000:65:00.0".into());
    let answers = [
        answer(vec![partition]),
        answer(vec![card(Backend::Vulkan, 0, "0000:65:00.0")]),
    ];
    let merged = merge(&answers, None);
    assert_eq!(merged.len(), 1);
    assert_eq!(merged[0].backend, Backend::Rocm);
}

#[test]
fn two_views_that_a_third_joins_are_one_card() {
    let mut by_uuid = device(Backend::Vulkan, 0, Kind::Discrete, 8 * GIB);
    by_uuid.uuid = Some("u".into());
    let by_address = card(Backend::Rocm, 0, "0000:03:00.0");
    let mut by_both = card(Backend::Vulkan, 1, "0000:03:00.0");
    by_both.uuid = Some("u".into());
    let merged = merge(
        &[answer(vec![by_uuid]), answer(vec![by_address]), answer(vec![by_both])],
        None,
    );
    assert_eq!(merged.len(), 1);
    assert_eq!(merged[0].also.len(), 2);
}

#[test]
fn the_processors_and_a_software_driver_on_them_are_two_devices() {
    let mut software = device(Backend::Vulkan, 0, Kind::Software, GIB);
    software.uuid = Some("same on every machine".into());
    let cpu = device(Backend::Cpu, 0, Kind::Cpu, GIB);
    assert_eq!(merge(&[answer(vec![cpu]), answer(vec![software])], None).len(), 2);
}
