use super::*;
use std::fs;

pub(crate) fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    root
}

#[test]
fn cards_are_found_in_the_order_of_their_addresses_and_outputs_are_not_cards() {
    let root = tree(&[
        ("sys/class/drm/card0/device/vendor", "0x1002\n"),
        ("sys/class/drm/card0/device/device", "0x744c\n"),
        (
            "sys/class/drm/card0/device/uevent",
            "DRIVER=amdgpu\nPCI_SLOT_NAME=0000:0C:00.0\n",
        ),
        ("sys/class/drm/card1/device/vendor", "0x1002\n"),
        ("sys/class/drm/card1/device/device", "0x73bf\n"),
        ("sys/class/drm/card1/device/uevent", "PCI_SLOT_NAME=0000:03:00.0\n"),
        ("sys/class/drm/card0-DP-1/device/vendor", "0x1002\n"),
        ("sys/class/drm/renderD128/device/vendor", "0x1002\n"),
        ("sys/class/drm/card2/device/vendor", "0x8086\n"),
        ("sys/class/drm/card3/device/uevent", "DRIVER=amdgpu_xcp_drv\n"),
    ]);
    let cards = cards(root.path(), 0x1002);
    let addresses: Vec<_> = cards.iter().map(|card| card.pci_address.as_str()).collect();
    assert_eq!(addresses, ["0000:03:00.0", "0000:0c:00.0"]);
    assert_eq!(cards[1].driver.as_deref(), Some("amdgpu"));
    assert_eq!(cards[1].device_id, 0x744C);
}

#[test]
fn addresses_are_brought_into_one_form_and_others_are_refused() {
    for written in ["0000:C3:00.0", "c3:00.0", "0000:c3:00", "0:c3:0.0\0\0"] {
        assert_eq!(bus_address(written).as_deref(), Some("0000:c3:00.0"), "{written:?}");
    }
    for refused in ["", ":", "zz:00.0", "1:0000:c3:00.0", "c3:40.0", "c3:00.9", "100:00.0"] {
        assert_eq!(bus_address(refused), None, "{refused:?}");
    }
    assert_eq!(bus_address("10000:e1:00.0").as_deref(), Some("10000:e1:00.0"));
}

#[test]
fn what_is_shown_has_no_control_characters_and_an_end() {
    assert_eq!(printable("Radeon\x1b[2J Pro\n", 64).as_deref(), Some("Radeon?[2J Pro"));
    assert_eq!(printable(&"x".repeat(1000), 8).as_deref(), Some("xxxxxxxx"));
    for empty in ["", " \n", "\0\0", "\u{1}\u{2}", "\u{FFFD}"] {
        assert_eq!(printable(empty, 64), None);
    }
}

#[test]
fn numbers_that_are_none_are_absent() {
    let root = tree(&[
        ("a", "0x1f\n"),
        ("b", "42\n"),
        ("c", "-1\n"),
        ("d", "lots\n"),
        ("e", ""),
    ]);
    let folder = Folder::new(root.path());
    let read: Vec<_> = ["a", "b", "c", "d", "e", "f"].map(|name| folder.number(name)).to_vec();
    assert_eq!(read, [Some(31), Some(42), None, None, None, None]);
}
