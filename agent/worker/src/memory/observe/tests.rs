use super::*;

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

#[test]
fn a_group_of_the_unified_hierarchy_counts_without_what_can_be_reclaimed() {
    let group = folder(&[
        ("memory.current", "900\n"),
        ("memory.max", "1000\n"),
        ("memory.stat", "anon 500\nfile 400\ninactive_file 300\n"),
    ]);
    let source = find(Some(group.path()));
    assert_eq!(source, Source::Unified(group.path().to_path_buf()));
    let expected = Usage {
        used_bytes: 600,
        limit_bytes: 1000,
    };
    assert_eq!(usage(&source), Some(expected));
    std::fs::write(group.path().join("memory.max"), "max\n").unwrap();
    assert_eq!(usage(&source), None, "no limit");
}

#[test]
fn a_group_of_the_older_controller_is_read_by_its_own_names() {
    let group = folder(&[
        ("memory.usage_in_bytes", "900\n"),
        ("memory.limit_in_bytes", "1000\n"),
        ("memory.stat", "inactive_file 1\ntotal_inactive_file 200\n"),
    ]);
    let source = find(Some(group.path()));
    assert_eq!(usage(&source).unwrap().used_bytes, 700);
    std::fs::write(group.path().join("memory.limit_in_bytes"), "9223372036854771712\n").unwrap();
    assert_eq!(usage(&source), None, "no limit");
}

#[test]
fn the_own_group_is_found_by_its_membership_or_as_the_root_of_a_container() {
    let root = Path::new("/c");
    let found = candidates("0::/kubepods/pod1\n", root);
    assert_eq!(found, [Path::new("/c/kubepods/pod1"), root]);
    let found = candidates("5:cpu,cpuacct:/x\n4:memory:/kubepods/pod1\nnonsense\n", root);
    assert_eq!(found, [Path::new("/c/memory/kubepods/pod1"), Path::new("/c/memory")]);
}

#[test]
fn without_a_group_the_node_is_the_limit() {
    let usage = node_usage("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:    400 kB\n").unwrap();
    assert_eq!((usage.used_bytes, usage.limit_bytes), (600 * 1024, 1000 * 1024));
    let nowhere = tempfile::tempdir().unwrap();
    assert_eq!(find(Some(nowhere.path())), Source::Node);
    assert!(super::usage(&Source::Node).is_some());
}
