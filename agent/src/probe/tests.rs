use super::*;
use device::Kind;

fn device(backend: Backend, kind: Kind, pool: Pool) -> Device {
    Device {
        backend,
        index: 0,
        vendor: "mesa".into(),
        model: "A device".into(),
        architecture: None,
        driver: Some("llvmpipe 24".into()),
        pci_address: None,
        uuid: None,
        compute_units: None,
        kind,
        pool,
        memory_total_bytes: 3 << 29,
        memory_free_bytes: 1 << 30,
        memory_usable_bytes: 1 << 30,
        verification: Verification::Failed {
            reason: "it forgot".into(),
        },
        bandwidth: None,
        launch_us: Some(17),
    }
}

#[test]
fn the_table_says_what_is_unknown_what_failed_and_what_is_shared() {
    let answers = [Answer::nothing(Backend::Cpu, "no /proc")];
    let text = table(&answers, &[device(Backend::Vulkan, Kind::Software, Pool::Host)]);
    for part in [
        "vulkan0",
        "software",
        "1.5 GiB (host)",
        "1.0 GiB",
        "unknown",
        "17 µs",
        "FAILED",
        "it forgot",
        "cpu: no /proc",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

#[test]
fn columns_stand_under_their_titles() {
    let text = table(&[], &[device(Backend::Cpu, Kind::Cpu, Pool::Host)]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0].find("MODEL"), lines[1].find("A device"));
}
