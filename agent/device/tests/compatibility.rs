//! The page that people read is the one that the tables make.

#[test]
fn the_page_of_devices_is_what_the_tables_say() {
    let committed = include_str!("../../../docs/gpu-compatibility.md");
    assert!(
        committed == device::compatibility::page(),
        "docs/gpu-compatibility.md is not what the tables say; run make generate"
    );
}
