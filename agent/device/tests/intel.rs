//! Intel's cards by the kernel's files.

use device::telemetry::{Sample, Sampler, Throttle};
use device::{Backend, GpuDevice, Kind, Pool, Verification, intel};
use fakegpu::Library::LevelZero;
use std::path::Path;

mod scene;

fn tree(card: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a writable folder");
    scene::recorded(card, root.path());
    root
}

fn described(root: &Path) -> GpuDevice {
    let mut answer = intel::describe(root);
    assert_eq!(answer.devices.len(), 1, "{answer:?}");
    answer.devices.remove(0)
}

fn sampled(sampler: &mut impl Sampler) -> Sample {
    let mut samples = sampler.sample().expect("files are read without fault");
    assert_eq!(samples.len(), 1, "{samples:?}");
    samples.remove(0)
}

fn write(root: &Path, file: &str, content: &str) {
    std::fs::write(root.join("sys/class/drm").join(file), content).expect("a writable file");
}

#[test]
fn a_card_under_xe_is_described() {
    let card = described(tree("arc-b580").path());
    assert_eq!(card.backend, Backend::Intel);
    assert_eq!((card.vendor.as_str(), card.model.as_str()), ("intel", "Intel Arc B580"));
    assert_eq!(card.architecture.as_deref(), Some("Xe2-HPG"));
    assert_eq!(card.driver.as_deref(), Some("xe of Linux 6.16.3-arch1-1"));
    assert_eq!(card.identity(), "pci:0000:03:00.0");
    assert_eq!((card.kind, card.pool), (Kind::Discrete, Pool::Own));
    assert_eq!(card.memory_total_bytes, 12 << 30, "not the window of 16 GiB");
    assert_eq!((card.clock_mhz, card.power_limit_watts), (Some(2850), Some(190)));
    assert_eq!(card.prior.unwrap().bandwidth_bytes_per_second, 456_000_000_000);
    assert!(matches!(card.verification, Verification::CouldNotMeasure { reason } if reason.contains("Vulkan")));
}

#[test]
fn a_card_sold_in_two_sizes_is_told_by_its_window_and_a_driver_that_counts_is_believed_first() {
    let root = tree("arc-a770");
    let card = described(root.path());
    assert_eq!(card.model, "Intel Arc A770");
    assert_eq!(card.memory_total_bytes, 16 << 30);
    assert_eq!((card.clock_mhz, card.power_limit_watts), (Some(2400), Some(190)));
    write(root.path(), "card1/lmem_total_bytes", "8589934592\n");
    write(root.path(), "card1/lmem_avail_bytes", "4294967296\n");
    let card = described(root.path());
    assert_eq!((card.memory_total_bytes, card.memory_free_bytes), (8 << 30, 4 << 30));
    let sample = sampled(&mut intel::IntelSampler::new(root.path()));
    assert_eq!(sample.memory_used_bytes, Some(4 << 30));
}

/// A card whose files leave its memory open.
fn without_window(root: &Path) {
    scene::recorded("arc-a770", root);
    std::fs::remove_file(root.join("sys/class/drm/card1/device/resource")).expect("the tree has it");
}

#[test]
fn a_card_whose_memory_nobody_tells_has_none_and_the_answer_says_what_would_tell() {
    let name = "a_card_whose_memory_nobody_tells_has_none_and_the_answer_says_what_would_tell";
    let empty = tempfile::tempdir().unwrap();
    scene::with_path(name, empty.path(), |scene| {
        without_window(&scene.root);
        let answer = intel::describe(&scene.root);
        assert_eq!(answer.devices[0].memory_total_bytes, 0);
        let note = answer.note.unwrap();
        assert!(note.contains("install libze1"), "{note}");
    });
}

#[test]
fn level_zero_tells_what_the_files_leave_open() {
    scene::with("level_zero_tells_what_the_files_leave_open", &[LevelZero], |scene| {
        without_window(&scene.root);
        scene.set(&[
            ("0.ze_bus", "11"),
            ("0.memory_bytes", "17179869184"),
            ("0.name", "Intel(R) Arc(TM)"),
        ]);
        let answer = intel::describe(&scene.root);
        let card = &answer.devices[0];
        assert_eq!(
            (card.memory_total_bytes, card.memory_usable_bytes),
            (16 << 30, 16 << 30)
        );
        assert_eq!(card.model, "Intel Arc A770", "the table's name is the exact one");
        assert_eq!(answer.note, None);
        write(&scene.root, "card1/device/device", "0xffff\n");
        assert_eq!(described(&scene.root).model, "Intel(R) Arc(TM)");
        for (key, value) in [
            ("0.ze_bus", "12"),
            ("0.ze_kind", "2"),
            ("ze.devices", "0"),
            ("ze.devices", "4e9"),
        ] {
            scene.set(&[("0.ze_bus", "11"), ("0.ze_kind", "1"), ("ze.devices", "1")]);
            scene.set(&[(key, value)]);
            let found = described(&scene.root).memory_total_bytes;
            // Of more devices than any machine has, the first are read.
            assert_eq!(found, if value == "4e9" { 16 << 30 } else { 0 }, "{key}={value}");
        }
        scene.set(&[("ze.init", "2013265921")]);
        let note = intel::describe(&scene.root).note.unwrap();
        assert!(note.contains("0x78000001") && note.contains("install"), "{note}");
    });
}

#[test]
fn an_integrated_gpu_has_what_main_memory_has() {
    let gpu = described(tree("intel-igpu").path());
    assert_eq!((gpu.kind, gpu.pool), (Kind::Integrated, Pool::Host));
    assert_eq!(gpu.memory_total_bytes, 32_613_996 * 1024);
    assert_eq!(gpu.memory_free_bytes, 24_117_248 * 1024);
    assert_eq!(gpu.clock_mhz, Some(1400));
    assert_eq!(gpu.architecture.as_deref(), Some("Xe-LP"));
}

#[test]
fn an_unknown_gpu_is_integrated_only_where_processors_have_theirs() {
    let root = tree("intel-igpu");
    write(root.path(), "card0/device/device", "0xffff\n");
    let gpu = described(root.path());
    assert_eq!(
        (gpu.model.as_str(), gpu.kind),
        ("Intel GPU 8086:ffff", Kind::Integrated)
    );
    write(
        root.path(),
        "card0/device/uevent",
        "DRIVER=xe\nPCI_SLOT_NAME=0000:04:00.0\n",
    );
    assert_eq!(described(root.path()).kind, Kind::Discrete);
}

#[test]
fn a_machine_without_such_a_gpu_gets_an_answer_that_says_so() {
    let root = tree("rx7900xtx");
    let answer = intel::describe(root.path());
    assert!(answer.devices.is_empty() && answer.note.unwrap().contains("no Intel GPU"));
    assert!(intel::IntelSampler::new(root.path()).sample().unwrap().is_empty());
}

#[test]
fn a_working_card_is_sampled_in_all_its_parts() {
    let root = tree("arc-b580");
    let mut sampler = intel::IntelSampler::new(root.path());
    let sample = sampled(&mut sampler);
    let expected = Sample {
        device: described(root.path()).identity(),
        pci_address: Some("0000:03:00.0".to_owned()),
        memory_total_bytes: Some(12 << 30),
        temperature_celsius: Some(60.0),
        memory_temperature_celsius: Some(62.0),
        power_limit_watts: Some(190.0),
        energy_joules: Some(9840.112915),
        clock_mhz: Some(2850),
        throttled_by: Some(vec![Throttle::Power]),
        ..Sample::default()
    };
    assert_eq!(sample, expected);
    // The counter stood still: the card drew nothing in between.
    assert_eq!(sampled(&mut sampler).power_watts, Some(0.0));
    write(root.path(), "card0/device/hwmon/hwmon4/energy2_input", "1\n");
    assert_eq!(sampled(&mut sampler).power_watts, None, "the counter began anew");
}

#[test]
fn what_a_driver_does_not_tell_is_absent_and_a_sleeping_engine_has_the_clock_that_was_asked_of_it() {
    let sample = sampled(&mut intel::IntelSampler::new(tree("arc-a770").path()));
    assert_eq!((sample.temperature_celsius, sample.utilisation_ratio), (None, None));
    assert_eq!(sample.throttled_by, Some(vec![]));
    assert_eq!(sample.clock_mhz, Some(600));
    let sample = sampled(&mut intel::IntelSampler::new(tree("intel-igpu").path()));
    assert_eq!((sample.throttled_by, sample.power_limit_watts), (None, None));
    assert_eq!(sample.clock_mhz, Some(300));
}

#[test]
fn a_sensor_that_cannot_be_believed_says_so() {
    let root = tree("arc-b580");
    write(root.path(), "card0/device/hwmon/hwmon4/temp2_input", "-40000\n");
    let sample = sampled(&mut intel::IntelSampler::new(root.path()));
    assert_eq!(sample.temperature_celsius, None);
    assert!(sample.sensor_fault.is_some());
}

#[test]
fn cards_come_and_go_as_their_directories_do() {
    let root = tree("arc-b580");
    let mut sampler = intel::IntelSampler::new(root.path());
    sampled(&mut sampler);
    std::fs::remove_dir_all(root.path().join("sys/class/drm/card0")).unwrap();
    assert!(sampler.sample().unwrap().is_empty());
    scene::recorded("arc-b580", root.path());
    assert_eq!(
        sampled(&mut sampler).power_watts,
        None,
        "a card that came back has no reading before"
    );
}
