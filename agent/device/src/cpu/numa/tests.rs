use super::*;

/// Form and numbers as in Documentation/ABI/stable/sysfs-devices-node and drivers/base/node.c of Linux 6.12.
const MEMINFO: &str = "\
Node 1 MemTotal:       32925536 kB
Node 1 MemFree:        28612608 kB
Node 1 MemUsed:         4312928 kB
";

#[test]
fn a_node_has_its_processors_and_its_memory() {
    let node = node(1, "8-11,24-27\n", MEMINFO).unwrap();
    assert_eq!(node.cpus, [8, 9, 10, 11, 24, 25, 26, 27]);
    assert_eq!(node.total_bytes, 32_925_536 * 1024);
    assert_eq!(node.free_bytes, 28_612_608 * 1024);
}

#[test]
fn a_node_of_memory_alone_has_no_processors() {
    assert_eq!(node(2, "\n", MEMINFO).unwrap().cpus, [] as [u32; 0]);
}

#[test]
fn damaged_files_are_no_node() {
    for list in ["0-", "3-1", "a", "0-4294967295", "0,1-99999999"] {
        assert_eq!(node(0, list, MEMINFO), None, "{list}");
    }
    assert_eq!(node(0, "0", "Node 0 MemTotal: much kB\nNode 0 MemFree: 1 kB\n"), None);
    assert_eq!(node(0, "0", ""), None);
}

#[test]
fn nodes_of_a_tree_come_in_order_and_other_names_are_passed_over() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("sys/devices/system/node");
    for (name, list) in [("node10", "4-5"), ("node2", "0-3"), ("possible", "0"), ("nodeX", "0")] {
        std::fs::create_dir_all(folder.join(name)).unwrap();
        std::fs::write(folder.join(name).join("cpulist"), list).unwrap();
        std::fs::write(folder.join(name).join("meminfo"), MEMINFO).unwrap();
    }
    let ids: Vec<u32> = nodes(root.path()).iter().map(|node| node.id).collect();
    assert_eq!(ids, [2, 10]);
    assert_eq!(nodes(&root.path().join("nowhere")), []);
}
