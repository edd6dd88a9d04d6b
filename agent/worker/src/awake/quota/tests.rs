use std::path::Path;

use super::{binds, least_of};

/// Folders with files in a hierarchy of their own.
fn hierarchies(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    directory
}

const UNIFIED: &str = "0::/kubepods/pod1/worker\n";
const OLDER: &str = "9:memory:/x\n3:cpu,cpuacct:/kubepods/pod1/worker\n0::/\n";

#[test]
fn a_group_without_a_quota_has_no_limit() {
    let files = hierarchies(&[
        ("kubepods/pod1/worker/cpu.max", "max 100000\n"),
        ("cpu/kubepods/pod1/worker/cpu.cfs_quota_us", "-1\n"),
        ("cpu/kubepods/pod1/worker/cpu.cfs_period_us", "100000\n"),
    ]);
    assert_eq!(least_of(UNIFIED, files.path()), None);
    assert_eq!(least_of(OLDER, files.path()), None);
}

#[test]
fn the_quota_of_either_generation_is_found_in_cores() {
    let files = hierarchies(&[
        ("kubepods/pod1/worker/cpu.max", "150000 100000\n"),
        ("cpu/kubepods/pod1/worker/cpu.cfs_quota_us", "50000\n"),
        ("cpu/kubepods/pod1/worker/cpu.cfs_period_us", "100000\n"),
    ]);
    assert_eq!(least_of(UNIFIED, files.path()), Some(1.5));
    assert_eq!(least_of(OLDER, files.path()), Some(0.5));
}

#[test]
fn the_tightest_group_around_the_process_counts() {
    let files = hierarchies(&[
        ("kubepods/pod1/worker/cpu.max", "max 100000\n"),
        ("kubepods/pod1/cpu.max", "200000 100000\n"),
        ("kubepods/cpu.max", "400000 100000\n"),
    ]);
    assert_eq!(least_of(UNIFIED, files.path()), Some(2.0));
}

#[test]
fn inside_a_container_the_mounted_root_is_the_group() {
    let files = hierarchies(&[("cpu.max", "300000 100000\n")]);
    assert_eq!(least_of("0::/\n", files.path()), Some(3.0));
    assert_eq!(least_of(UNIFIED, files.path()), Some(3.0));
}

#[test]
fn what_cannot_be_read_is_no_limit() {
    let files = hierarchies(&[("cpu.max", "many 0\n")]);
    assert_eq!(least_of("0::/\nnonsense\n", files.path()), None);
    assert_eq!(least_of(UNIFIED, Path::new("/nowhere")), None);
}

#[test]
fn a_limit_that_all_allowed_cores_together_cannot_exceed_does_not_bind() {
    assert!(binds(1.5, 2));
    assert!(!binds(2.0, 2));
    assert!(!binds(4.0, 2));
}
