use super::*;

#[test]
fn text_ends_at_the_first_zero_and_holds_nothing_a_terminal_would_obey() {
    assert_eq!(clean(b"NVIDIA H100\0rest"), Some("NVIDIA H100".to_owned()));
    assert_eq!(clean(b"a\x1b[2Jb\nc\0"), Some("a\u{fffd}[2Jb\u{fffd}c".to_owned()));
    assert_eq!(clean(b"\xff\xfe\0"), Some("\u{fffd}\u{fffd}".to_owned()));
    assert_eq!(clean(b"\0"), None);
    assert_eq!(clean(b"   \0"), None);
    assert_eq!(clean(&[b'A'; 5000]).map(|text| text.len()), Some(TEXT_LIMIT));
}

#[test]
fn an_identity_that_could_not_be_compared_is_none() {
    assert_eq!(
        identity(b"GPU-0a1b2c3d-0000-1111-2222-333344445555\0"),
        Some("GPU-0a1b2c3d-0000-1111-2222-333344445555".to_owned())
    );
    assert_eq!(identity(b"MIG-GPU-0a1b/1/0\0"), Some("MIG-GPU-0a1b/1/0".to_owned()));
    assert_eq!(identity(b"GPU-\xff\0"), None);
    assert_eq!(identity(b"GPU-\n\0"), None);
    assert_eq!(identity(b"GPU-without-an-end"), None);
    assert_eq!(identity(&[b'A'; 200]), None);
}

#[test]
fn sixteen_bytes_become_the_identity_that_nvidia_smi_prints() {
    let bytes = [
        0x0a, 0x1b, 0x2c, 0x3d, 0x4e, 0x5f, 0x60, 0x71, 0x82, 0x93, 0xa4, 0xb5, 0xc6, 0xd7, 0xe8, 0xf9,
    ];
    assert_eq!(
        identity_of("GPU-", bytes),
        Some("GPU-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9".to_owned())
    );
    assert_eq!(identity_of("GPU-", [0; 16]), None);
}

#[test]
fn bus_addresses_of_both_libraries_become_the_kernels() {
    assert_eq!(pci_address(b"00000000:65:00.0\0"), Some("0000:65:00.0".to_owned()));
    assert_eq!(pci_address(b"0000:C1:1F.7\0"), Some("0000:c1:1f.7".to_owned()));
    assert_eq!(pci_address(b"00010000:01:00.0\0"), Some("10000:01:00.0".to_owned()));
    for wrong in [
        &b"0000:00:00.0\0"[..],
        b"\0",
        b"0000:65:20.0\0",
        b"65:00.0\0",
        b"x:y:z.w\0",
        b"0:100:0.0\0",
    ] {
        assert_eq!(pci_address(wrong), None, "{wrong:?}");
    }
}
