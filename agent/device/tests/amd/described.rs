use crate::scene::recorded;
use device::telemetry::{ProcessMemory, Sample, Sampler, Throttle};
use device::{GpuDevice, Kind, Pool, Verification, rocm};
use std::path::Path;

fn tree(card: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a writable folder");
    recorded(card, root.path());
    root
}

fn described(root: &Path) -> GpuDevice {
    let mut devices = rocm::describe(root, &[], "it was not asked");
    assert_eq!(devices.len(), 1, "{devices:?}");
    devices.remove(0)
}

fn sampled(root: &Path) -> Sample {
    let mut samples = rocm::RocmSampler::new(root)
        .sample()
        .expect("files are read without fault");
    assert_eq!(samples.len(), 1, "{samples:?}");
    samples.remove(0)
}

fn write(root: &Path, file: &str, content: &str) {
    std::fs::write(root.join("sys/class/drm/card0/device").join(file), content).expect("a writable file");
}

#[test]
fn a_card_of_rdna_3_is_described_by_the_kernels_files() {
    let root = tree("rx7900xtx");
    let card = described(root.path());
    assert_eq!(
        (card.vendor.as_str(), card.model.as_str()),
        ("amd", "AMD Radeon RX 7900 XTX")
    );
    assert_eq!(card.architecture.as_deref(), Some("gfx1100"));
    assert_eq!(rocm::generation("gfx1100", 0x744C).unwrap().name, "RDNA 3");
    assert_eq!(card.driver.as_deref(), Some("amdgpu of Linux 6.8.0-41-generic"));
    assert_eq!(card.pci_address.as_deref(), Some("0000:03:00.0"));
    assert_eq!(card.identity(), "uuid:GPU-a1ffc9d1799c317f");
    assert_eq!((card.compute_units, card.clock_mhz), (Some(96), Some(2482)));
    assert_eq!((card.kind, card.pool), (Kind::Discrete, Pool::Own));
    assert_eq!(card.memory_total_bytes, 25_753_026_560);
    assert_eq!(card.memory_free_bytes, 25_753_026_560 - 2_489_319_424);
    assert_eq!(card.prior.unwrap().bandwidth_bytes_per_second, 960_000_000_000);
    let reason = "it was not asked".to_owned();
    assert_eq!(card.verification, Verification::CouldNotMeasure { reason });
}

#[test]
fn a_card_of_cdna_2_is_described_by_its_own_name_and_driver() {
    let root = tree("mi210");
    let card = described(root.path());
    assert_eq!(card.model, "AMD INSTINCT MI210");
    assert_eq!(card.architecture.as_deref(), Some("gfx90a"));
    assert_eq!(card.driver.as_deref(), Some("amdgpu 6.8.5"));
    assert_eq!(card.identity(), "uuid:GPU-f43fadee48ed10fd");
    assert_eq!(card.pci_address.as_deref(), Some("0000:c3:00.0"));
    assert_eq!((card.compute_units, card.clock_mhz), (Some(104), Some(1700)));
    assert_eq!(card.power_limit_watts, Some(300));
    assert_eq!(card.prior.unwrap().bandwidth_bytes_per_second, 1_638_400_000_000);
}

#[test]
fn cards_that_are_joined_are_of_one_hive() {
    let root = tree("mi210");
    assert_eq!(rocm::hive(root.path(), "0000:c3:00.0"), Some(10_813_456_982_563_217));
    assert_eq!(rocm::hive(root.path(), "0000:03:00.0"), None);
    assert_eq!(rocm::hive(tree("rx7900xtx").path(), "0000:03:00.0"), None);
}

#[test]
fn an_integrated_gpu_uses_the_hosts_memory_unless_more_was_cut_off_for_it() {
    let root = tree("strix-halo");
    let gpu = described(root.path());
    assert_eq!(gpu.model, "AMD Radeon 8060S Graphics");
    assert_eq!((gpu.kind, &gpu.pool), (Kind::Integrated, &Pool::Host));
    assert_eq!(gpu.memory_total_bytes, 64 << 30);
    assert_eq!(gpu.memory_free_bytes, 63 << 30);
    assert_eq!(gpu.identity(), "pci:0000:c3:00.0");
    write(root.path(), "mem_info_vram_total", "103079215104\n");
    let gpu = described(root.path());
    assert_eq!((gpu.kind, gpu.pool), (Kind::Integrated, Pool::Own));
    assert_eq!(gpu.memory_total_bytes, 96 << 30);
}

#[test]
fn without_the_compute_driver_a_card_is_described_with_less() {
    let root = tree("rx7900xtx");
    std::fs::remove_dir_all(root.path().join("sys/class/kfd")).unwrap();
    let card = described(root.path());
    assert_eq!((card.architecture, card.compute_units), (None, None));
    assert_eq!(card.clock_mhz, Some(2526), "the highest level that the card offers");
    assert_eq!((card.kind, card.pool), (Kind::Discrete, Pool::Own));
    let root = tree("strix-halo");
    std::fs::remove_dir_all(root.path().join("sys/class/kfd")).unwrap();
    assert_eq!(described(root.path()).kind, Kind::Integrated);
}

#[test]
fn a_card_that_a_virtual_machine_was_given_is_not_described() {
    let root = tree("mi210");
    write(root.path(), "uevent", "DRIVER=vfio-pci\nPCI_SLOT_NAME=0000:c3:00.0\n");
    assert!(rocm::describe(root.path(), &[], "").is_empty());
}

#[test]
fn a_working_card_is_sampled_in_all_its_parts() {
    let root = tree("rx7900xtx");
    let expected = Sample {
        device: "uuid:GPU-a1ffc9d1799c317f".to_owned(),
        pci_address: Some("0000:03:00.0".to_owned()),
        memory_total_bytes: Some(25_753_026_560),
        memory_used_bytes: Some(2_489_319_424),
        utilisation_ratio: Some(0.97),
        memory_utilisation_ratio: Some(0.41),
        temperature_celsius: Some(78.0),
        memory_temperature_celsius: Some(84.0),
        power_watts: Some(291.0),
        power_limit_watts: Some(339.0),
        clock_mhz: Some(2371),
        memory_clock_mhz: Some(1249),
        pcie_replays: Some(0),
        processes: vec![ProcessMemory {
            pid: 4121,
            memory_bytes: Some(2_147_483_648),
        }],
        ..Sample::default()
    };
    assert_eq!(sampled(root.path()), expected);
    assert_eq!(expected.device, described(root.path()).identity());
}

#[test]
fn errors_of_memory_are_counted_where_the_card_counts_them() {
    let sample = sampled(tree("mi210").path());
    assert_eq!((sample.ecc_corrected, sample.ecc_uncorrected), (Some(12), Some(0)));
    assert_eq!(sample.pcie_replays, Some(3));
    assert_eq!(sample.temperature_celsius, Some(42.0));
}

#[test]
fn a_hot_card_says_why_it_is_slow() {
    let root = tree("rx7900xtx");
    let mut table = [0u8; 120];
    table[..4].copy_from_slice(&[120, 0, 1, 3]);
    // Bit 36, the hot spot, of the eight bytes that every card writes alike.
    table[112 + 4] = 1 << 4;
    let file = root.path().join("sys/class/drm/card0/device/gpu_metrics");
    std::fs::write(&file, table).unwrap();
    assert_eq!(sampled(root.path()).throttled_by, Some(vec![Throttle::Thermal]));
    std::fs::write(&file, [0u8; 120]).unwrap();
    assert_eq!(sampled(root.path()).throttled_by, None);
}

#[test]
fn what_an_integrated_gpu_does_not_have_is_absent() {
    let sample = sampled(tree("strix-halo").path());
    assert_eq!(sample.memory_used_bytes, Some(1 << 30));
    assert_eq!(sample.power_watts, Some(31.056));
    assert_eq!(sample.temperature_celsius, Some(45.0));
    assert_eq!(sample.clock_mhz, Some(1100));
    let absent = (
        sample.memory_utilisation_ratio,
        sample.power_limit_watts,
        sample.memory_temperature_celsius,
        sample.ecc_corrected,
        sample.pcie_replays,
        sample.throttled_by,
    );
    assert_eq!(absent, (None, None, None, None, None, None));
}

#[test]
fn sensors_that_cannot_be_believed_say_so_and_the_believable_one_is_kept() {
    let root = tree("rx7900xtx");
    for broken in ["0", "-40000", "255000"] {
        write(root.path(), "hwmon/hwmon3/temp2_input", broken);
        let sample = sampled(root.path());
        assert_eq!((sample.temperature_celsius, sample.sensor_fault), (Some(61.0), None));
    }
    write(root.path(), "hwmon/hwmon3/temp1_input", "0");
    let sample = sampled(root.path());
    assert_eq!(sample.temperature_celsius, None);
    assert!(sample.sensor_fault.is_some());
    for file in [
        "gpu_busy_percent",
        "hwmon/hwmon3/power1_average",
        "pp_dpm_sclk",
        "pcie_replay_count",
    ] {
        write(root.path(), file, "\u{1}garbage\n");
    }
    write(root.path(), "mem_busy_percent", "101\n");
    let sample = sampled(root.path());
    let absent = (
        sample.utilisation_ratio,
        sample.memory_utilisation_ratio,
        sample.power_watts,
    );
    assert_eq!(absent, (None, None, None));
    assert_eq!(sample.clock_mhz, Some(2371), "the sensor of the clock still speaks");
}

#[test]
fn a_sleeping_card_is_not_woken_by_its_sensors() {
    let root = tree("rx7900xtx");
    write(root.path(), "power/runtime_status", "suspended\n");
    let sample = sampled(root.path());
    assert!(sample.memory_total_bytes.is_some());
    assert_eq!((sample.temperature_celsius, sample.utilisation_ratio), (None, None));
    assert_eq!(sample.lost, None);
}

#[test]
fn cards_come_and_go_as_their_directories_do_and_one_that_says_nothing_is_lost() {
    let root = tree("rx7900xtx");
    let mut sampler = rocm::RocmSampler::new(root.path());
    assert_eq!(sampler.sample().unwrap().len(), 1);
    for file in ["mem_info_vram_total", "mem_info_gtt_total"] {
        std::fs::remove_file(root.path().join("sys/class/drm/card0/device").join(file)).unwrap();
    }
    assert!(sampler.sample().unwrap()[0].lost.is_some());
    std::fs::remove_dir_all(root.path().join("sys/class/drm/card0")).unwrap();
    assert!(sampler.sample().unwrap().is_empty());
    recorded("rx7900xtx", root.path());
    assert_eq!(sampler.sample().unwrap()[0].lost, None);
}
