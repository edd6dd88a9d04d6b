use super::*;
use device::Kind;

fn device(backend: Backend, kind: Kind, pool: Pool) -> GpuDevice {
    GpuDevice {
        vendor: "mesa".into(),
        model: "A device".into(),
        driver: Some("llvmpipe 24".into()),
        pool,
        memory_total_bytes: 3 << 29,
        memory_free_bytes: 1 << 30,
        memory_usable_bytes: 1 << 30,
        verification: Verification::Failed {
            reason: "it forgot".into(),
        },
        measured: device::Measured {
            launch_ns: Some(device::Figure {
                value: 16_001,
                samples: 1,
                measured_unix_s: 1,
            }),
            ..Default::default()
        },
        ..GpuDevice::new(backend, 0, kind)
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
