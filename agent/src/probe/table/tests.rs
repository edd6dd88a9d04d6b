use super::*;
use device::{Kind, Prior};

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
        measured: Measured {
            launch_ns: Some(figure(16_001)),
            f32_flops_per_second: Some(figure(987_600_000_000)),
            f16_flops_per_second: Some(figure(1_960_000_000_000)),
            ..Measured::default()
        },
        ..GpuDevice::new(backend, 0, kind)
    }
}

fn figure(value: u64) -> Figure {
    Figure {
        value,
        samples: 1,
        measured_unix_s: 1,
    }
}

fn shown(answers: &[Answer], devices: &[GpuDevice], samples: &[Sample], all: bool) -> String {
    table(&Shown {
        answers,
        useful: &[Backend::Cpu].into(),
        devices,
        samples,
        all,
    })
}

#[test]
fn the_table_says_what_is_unknown_what_failed_and_what_is_shared() {
    let answers = [Answer::nothing(Backend::Cpu, "no /proc")];
    let text = shown(
        &answers,
        &[device(Backend::Vulkan, Kind::Software, Pool::Host)],
        &[],
        false,
    );
    for part in [
        "vulkan0",
        "software",
        "1.5 GiB (host)",
        "1.0 GiB",
        "unknown",
        "988 GFLOP/s",
        "2.0 TFLOP/s",
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
    let text = shown(&[], &[device(Backend::Cpu, Kind::Cpu, Pool::Host)], &[], false);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0].find("MODEL"), lines[1].find("A device"));
}

#[test]
fn a_makers_figure_is_marked_as_one_and_its_source_is_told() {
    let card = GpuDevice {
        prior: Some(Prior {
            bandwidth_bytes_per_second: 1_008_000_000_000,
            source: "the maker's page".into(),
        }),
        ..device(Backend::Cuda, Kind::Discrete, Pool::Own)
    };
    let text = shown(&[], &[card], &[], false);
    assert!(
        text.contains("~1008.0 GB/s") && text.contains("the maker's page"),
        "{text}"
    );
}

#[test]
fn backends_that_nobody_needs_are_named_together_and_explained_when_asked() {
    let answers = [
        Answer::nothing(Backend::Cuda, "libcuda.so.1 is missing"),
        Answer::nothing(Backend::Rocm, "libamdhip64.so is missing"),
    ];
    let text = shown(&answers, &[], &[], false);
    assert!(text.contains("Nothing from cuda, rocm (--all says why)."), "{text}");
    assert!(!text.contains("libcuda"), "{text}");
    let text = shown(&answers, &[], &[], true);
    assert!(
        text.contains("cuda: libcuda.so.1 is missing") && !text.contains("--all"),
        "{text}"
    );
}

#[test]
fn the_temperature_is_found_by_the_card_though_another_backend_read_it() {
    let at = |backend, uuid: &str| GpuDevice {
        uuid: Some(uuid.to_owned()),
        pci_address: Some("0000:03:00.0".into()),
        ..device(backend, Kind::Discrete, Pool::Own)
    };
    let answers = [Answer {
        backend: Backend::Rocm,
        devices: vec![at(Backend::Rocm, "unique-id")],
        note: None,
    }];
    let sample = Sample {
        device: "uuid:unique-id".into(),
        temperature_celsius: Some(61.4),
        ..Sample::default()
    };
    let text = shown(&answers, &[at(Backend::Vulkan, "other-id")], &[sample], false);
    assert!(text.contains("61 °C"), "{text}");
}

#[test]
fn a_long_model_is_cut_in_the_table_and_whole_below_it() {
    let long = GpuDevice {
        model: "llvmpipe (LLVM 19.1.7, 256 bits, and a good deal more)".into(),
        ..device(Backend::Vulkan, Kind::Software, Pool::Host)
    };
    let text = shown(&[], &[long], &[], false);
    assert!(
        text.contains("256 bits, and a…") && text.contains("a good deal more"),
        "{text}"
    );
}
