use super::*;

#[test]
fn a_device_is_named_after_its_node_backend_and_index() {
    assert_eq!(device_name("Node-A", "vulkan", 0), "node-a-vulkan0");
    assert_eq!(device_name("ip-10-0-0-1.example", "cpu", 0), "ip-10-0-0-1.example-cpu0");
}

#[test]
fn names_that_would_be_too_long_are_shortened_and_stay_distinct() {
    let one = device_name(&"n".repeat(253), "vulkan", 12);
    let other = device_name(&"n".repeat(252), "vulkan", 12);
    assert_eq!(one.len(), MAX_NAME_BYTES);
    assert!(one.ends_with("-vulkan12"));
    assert_ne!(one, other);
    assert_eq!(agent_lease(&"n".repeat(253)).len(), MAX_NAME_BYTES);
}

#[test]
fn a_dns_name_has_short_labels_of_lower_case_between_its_dots() {
    for name in ["a", "node-1.example", &"n".repeat(MAX_LABEL_BYTES)] {
        assert!(is_dns_name(name, MAX_NAME_BYTES), "{name}");
    }
    let long = "n".repeat(MAX_LABEL_BYTES + 1);
    for name in ["", "a..b", ".a", "-a", "a-", "A", "a_b", "ä", &long] {
        assert!(!is_dns_name(name, MAX_NAME_BYTES), "{name}");
    }
    assert!(!is_dns_name("a.b", 2), "it is longer than that");
}

#[test]
fn a_groups_name_is_its_members_in_order_and_tells_them_again() {
    let name = group_name(["b-gpu0", "a-gpu1", "a-gpu0"]);
    assert_eq!(name, "a-gpu0+a-gpu1+b-gpu0");
    assert_eq!(members(&name).collect::<Vec<_>>(), ["a-gpu0", "a-gpu1", "b-gpu0"]);
    assert_eq!(group_name(members(&name)), name);
}

#[test]
fn a_single_device_is_the_only_one_behind_its_name() {
    assert_eq!(group_name(["a-gpu0"]), "a-gpu0");
    assert_eq!(members("a-gpu0").collect::<Vec<_>>(), ["a-gpu0"]);
}

#[test]
fn no_device_can_be_mistaken_for_a_group() {
    assert!(!is_dns_name(&group_name(["a-gpu0", "a-gpu1"]), MAX_NAME_BYTES));
    assert_eq!(members(&device_name("node-a", "vulkan", 0)).count(), 1);
}
