use super::*;
use crate::health::{Observation, Standing};
use crate::{Backend, Figure, Kind, Verification};
use std::fs;

fn card(index: u32, uuid: &str, address: &str) -> GpuDevice {
    GpuDevice {
        model: "Some Card".into(),
        driver: Some("driver 1".into()),
        power_limit_watts: Some(300),
        uuid: Some(uuid.into()),
        pci_address: Some(address.into()),
        verification: Verification::Verified,
        ..GpuDevice::new(Backend::Cuda, index, Kind::Discrete)
    }
}

fn figure(value: u64) -> Option<Figure> {
    Some(Figure {
        value,
        samples: 5,
        measured_unix_s: 1_700_000_000,
    })
}

fn names(devices: &[GpuDevice]) -> Vec<String> {
    devices.iter().map(GpuDevice::short_name).collect()
}

/// A registry in a folder of its own, which lives as long as the guard.
fn empty() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state/devices.json");
    (folder, path)
}

fn opened(path: &Path) -> Registry {
    let (registry, complaint) = Registry::open(path);
    assert_eq!(complaint, None);
    registry
}

#[test]
fn new_devices_are_numbered_in_the_order_of_their_addresses() {
    let (_folder, path) = empty();
    let mut devices = [card(0, "b", "0000:65:00.0"), card(1, "a", "0000:03:00.0")];
    opened(&path).assign_ordinals(&mut devices);
    assert_eq!(names(&devices), ["cuda1", "cuda0"]);
}

#[test]
fn a_device_keeps_its_number_when_the_order_changes_and_over_a_restart() {
    let (_folder, path) = empty();
    let mut registry = opened(&path);
    let mut devices = [card(0, "a", "0000:03:00.0"), card(1, "b", "0000:65:00.0")];
    registry.assign_ordinals(&mut devices);
    registry.remember(&devices);
    registry.save().unwrap();
    let mut turned = [
        card(0, "b", "0000:03:00.0"),
        card(1, "new", "0000:01:00.0"),
        card(2, "a", "0000:65:00.0"),
    ];
    opened(&path).assign_ordinals(&mut turned);
    assert_eq!(names(&turned), ["cuda1", "cuda2", "cuda0"]);
}

#[test]
fn the_number_of_a_device_that_left_is_not_given_to_another() {
    let (_folder, path) = empty();
    let mut registry = opened(&path);
    registry.assign_ordinals(&mut [card(0, "a", "0000:03:00.0")]);
    let mut next = [card(0, "b", "0000:03:00.0")];
    registry.assign_ordinals(&mut next);
    assert_eq!(names(&next), ["cuda1"]);
    let mut again = [card(0, "a", "0000:03:00.0")];
    registry.assign_ordinals(&mut again);
    assert_eq!(names(&again), ["cuda0"]);
}

#[test]
fn backends_count_apart_and_devices_without_identity_go_by_their_index() {
    let (_folder, path) = empty();
    let mut devices = [
        GpuDevice::new(Backend::Cpu, 0, Kind::Cpu),
        GpuDevice::new(Backend::Vulkan, 1, Kind::Software),
        card(0, "a", "0000:03:00.0"),
    ];
    opened(&path).assign_ordinals(&mut devices);
    assert_eq!(names(&devices), ["cpu0", "vulkan1", "cuda0"]);
}

#[test]
fn no_two_devices_have_one_name_whatever_they_say_of_themselves() {
    let (_folder, path) = empty();
    let mut registry = opened(&path);
    let mut devices = [
        card(0, "0", "0000:03:00.0"),
        card(1, "0", "0000:04:00.0"),
        card(2, "0", "0000:05:00.0"),
    ];
    registry.assign_ordinals(&mut devices);
    assert_eq!(names(&devices), ["cuda0", "cuda1", "cuda2"]);
    let mut software = GpuDevice::new(Backend::Vulkan, 0, Kind::Software);
    registry.assign_ordinals(std::slice::from_mut(&mut software));
    let mut graphics = card(1, "g", "0000:06:00.0");
    graphics.backend = Backend::Vulkan;
    registry.assign_ordinals(std::slice::from_mut(&mut graphics));
    assert_ne!(software.short_name(), graphics.short_name());
}

#[test]
fn figures_are_kept_while_they_hold_and_dropped_when_driver_or_power_limit_change() {
    let (_folder, path) = empty();
    let mut registry = opened(&path);
    let mut measured = card(0, "a", "0000:03:00.0");
    measured.measured.bandwidth_bytes_per_second = figure(900);
    registry.remember(&[measured]);
    let mut later = card(0, "a", "0000:03:00.0");
    later.measured.launch_ns = figure(7);
    registry.remember(&[later.clone()]);
    registry.recall(std::slice::from_mut(&mut later));
    assert_eq!(later.measured.bandwidth_bytes_per_second, figure(900));
    assert_eq!(later.measured.launch_ns, figure(7));
    let mut updated = card(0, "a", "0000:03:00.0");
    updated.driver = Some("driver 2".into());
    let mut throttled = card(0, "a", "0000:03:00.0");
    throttled.power_limit_watts = Some(200);
    for mut other in [updated, throttled] {
        registry.recall(std::slice::from_mut(&mut other));
        assert_eq!(other.measured, crate::Measured::default());
    }
}

#[test]
fn health_outlives_the_agent() {
    let (_folder, path) = empty();
    let mut registry = opened(&path);
    let device = card(0, "a", "0000:03:00.0");
    let identity = device.identity();
    registry.remember(&[device]);
    let mut health = Health::new();
    health.observe(
        &Observation::Xid {
            xid: 79,
            text: "gone".into(),
        },
        5,
    );
    registry.set_health(&identity, &health);
    registry.set_health("uuid:nobody", &health);
    registry.save().unwrap();
    let reread = opened(&path);
    let standing = reread.health(&identity).map(|health| health.standing(6));
    assert!(matches!(standing, Some(Standing::Failed { .. })), "{standing:?}");
    assert_eq!(reread.health("uuid:nobody"), None);
}

#[test]
fn the_file_is_written_when_something_changed_and_only_then() {
    let (_folder, path) = empty();
    let mut registry = opened(&path);
    registry.save().unwrap();
    assert!(!path.exists(), "there was nothing to write");
    let mut device = card(0, "a", "0000:03:00.0");
    registry.assign_ordinals(std::slice::from_mut(&mut device));
    registry.remember(std::slice::from_ref(&device));
    registry.set_health(&device.identity(), &Health::new());
    registry.save().unwrap();
    fs::remove_file(&path).unwrap();
    let mut idle = Health::new();
    idle.observe(&Observation::SensorFine, 99);
    device.memory_free_bytes = 12;
    registry.assign_ordinals(std::slice::from_mut(&mut device));
    registry.remember(std::slice::from_ref(&device));
    registry.set_health(&device.identity(), &idle);
    registry.save().unwrap();
    assert!(!path.exists(), "nothing but time had passed");
    device.driver = Some("driver 2".into());
    registry.remember(&[device]);
    registry.save().unwrap();
    assert!(path.exists());
}

#[test]
fn a_file_that_cannot_be_used_is_moved_aside_and_said_so() {
    let newer = r#"{"version": 2, "entries": []}"#;
    let twins =
        r#"{"version":1,"entries":[{"identity":"a","ordinals":{"cuda":0}},{"identity":"b","ordinals":{"cuda":0}}]}"#;
    let long = " ".repeat(9 << 20);
    for (content, word) in [
        ("", "not a registry"),
        ("{\"version\": 1, \"entries\": [{", "not a registry"),
        ("\0\0\0\0", "not a registry"),
        (newer, "version 2"),
        (twins, "one name"),
        (&long, "longer"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("devices.json");
        fs::write(&path, content).unwrap();
        let (mut registry, complaint) = Registry::open(&path);
        let complaint = complaint.unwrap_or_default();
        assert!(complaint.contains(word), "{complaint}");
        assert_eq!(registry.known(), []);
        let kept: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(kept.len(), 1, "{kept:?}");
        assert!(kept[0].to_string_lossy().contains("devices.json.corrupt-"), "{kept:?}");
        assert_eq!(fs::read_to_string(&kept[0]).unwrap(), content);
        registry.remember(&[card(0, "a", "0000:03:00.0")]);
        registry.save().unwrap();
        assert_eq!(opened(&path).known().len(), 1);
    }
}

#[test]
fn a_file_that_was_cut_anywhere_is_said_so_and_nothing_of_it_is_believed() {
    let (_folder, path) = empty();
    let mut registry = opened(&path);
    let mut devices = [card(0, "a", "0000:03:00.0"), card(1, "b", "0000:65:00.0")];
    registry.assign_ordinals(&mut devices);
    registry.remember(&devices);
    registry.save().unwrap();
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        assert_eq!(Registry::peek(&path), [], "{length} bytes");
        let (registry, complaint) = Registry::open(&path);
        assert!(complaint.is_some(), "{length} bytes");
        assert_eq!(registry.known(), [], "{length} bytes");
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(opened(&path).known().len(), 2);
}

#[test]
fn who_only_looks_moves_nothing() {
    let (_folder, path) = empty();
    assert_eq!(Registry::peek(&path), []);
    let mut registry = opened(&path);
    registry.remember(&[card(0, "a", "0000:03:00.0")]);
    registry.save().unwrap();
    assert_eq!(Registry::peek(&path), registry.known());
    fs::write(&path, "{").unwrap();
    assert_eq!(Registry::peek(&path), []);
    assert_eq!(fs::read_to_string(&path).unwrap(), "{");
}

#[test]
fn a_write_that_was_cut_off_leaves_the_old_file_in_force() {
    let (_folder, path) = empty();
    let mut registry = opened(&path);
    registry.remember(&[card(0, "a", "0000:03:00.0")]);
    registry.save().unwrap();
    fs::write(path.with_file_name("devices.json.new"), "{\"version\":1,\"ent").unwrap();
    assert_eq!(opened(&path).known().len(), 1);
}

#[test]
fn a_file_that_cannot_be_written_is_an_error_and_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let blocked = folder.path().join("state");
    fs::write(&blocked, "a file where a folder must be").unwrap();
    let path = blocked.join("devices.json");
    let (mut registry, _) = Registry::open(&path);
    registry.remember(&[card(0, "a", "0000:03:00.0")]);
    assert!(registry.save().is_err());
    fs::remove_file(&blocked).unwrap();
    registry.save().unwrap();
    assert!(path.exists());
}

#[test]
fn devices_that_left_are_forgotten_beyond_a_number_and_their_names_stay_theirs() {
    let (_folder, path) = empty();
    let mut registry = opened(&path);
    for number in 0..300 {
        let mut one = [card(0, &format!("card {number}"), "0000:03:00.0")];
        registry.assign_ordinals(&mut one);
        registry.remember(&one);
    }
    assert_eq!(registry.known().len(), 257, "one is here, and 256 were");
    assert_eq!(registry.known()[0].uuid.as_deref(), Some("card 299"));
    let mut again = [card(0, "card 0", "0000:03:00.0")];
    registry.assign_ordinals(&mut again);
    assert_eq!(names(&again), ["cuda300"]);
    registry.save().unwrap();
    let mut another = [card(0, "another", "0000:03:00.0")];
    opened(&path).assign_ordinals(&mut another);
    assert_eq!(names(&another), ["cuda301"]);
}

#[test]
fn a_device_that_told_its_identity_late_keeps_its_number() {
    let (_folder, path) = empty();
    let mut registry = opened(&path);
    let mut bare = card(0, "a", "0000:03:00.0");
    bare.uuid = None;
    let mut devices = [bare, card(1, "b", "0000:65:00.0")];
    registry.assign_ordinals(&mut devices);
    registry.remember(&devices);
    registry.rename(&devices[0].identity(), "uuid:a");
    let mut told = [card(0, "a", "0000:03:00.0"), card(1, "b", "0000:65:00.0")];
    registry.assign_ordinals(&mut told);
    assert_eq!(names(&told), ["cuda0", "cuda1"]);
    assert_eq!(registry.known().len(), 2);
}
