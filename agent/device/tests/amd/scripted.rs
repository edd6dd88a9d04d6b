use crate::scene::{Scene, doomed, recorded, with, with_path};
use device::driver::{Driver, Precision, Product, Span};
use device::telemetry::Sampler;
use device::{
    Backend, BackendError, Kind, Pool, ProbeRequest, Selection, Verification, factory, rocm, verification_pattern,
};
use fakegpu::Library::{Hip, Hiprtc, RocmSmi};

const MIB: u64 = 1 << 20;

fn span(device: u32, block: u64, offset: u64) -> Span {
    Span { device, block, offset }
}

/// Small whole numbers, of which every sum is exact in single precision and every one in half.
fn inputs(size: usize) -> (Vec<f32>, Vec<f32>) {
    let numbers = |step: usize| (0..size * size).map(|i| (i * step % 15) as f32 - 7.0).collect();
    (numbers(7), numbers(11))
}

fn golden(size: usize) -> Vec<f32> {
    let (a, b) = inputs(size);
    (0..size * size)
        .map(|place| {
            let (y, x) = (place / size, place % size);
            (0..size).map(|deep| a[y * size + deep] * b[deep * size + x]).sum()
        })
        .collect()
}

fn product(driver: &mut dyn Driver, device: u32, precision: Precision) -> Result<Vec<f32>, BackendError> {
    let (a, b) = inputs(80);
    let product = Product {
        precision,
        size: 80,
        a: &a,
        b: &b,
        repeats: 2,
    };
    driver.multiply(device, &product).map(|multiplied| multiplied.c)
}

fn returned(driver: &mut dyn Driver, device: u32) -> Result<bool, BackendError> {
    let pattern = verification_pattern();
    let block = driver.allocate(device, pattern.len() as u64)?;
    driver.write(span(device, block, 0), &pattern)?;
    let mut back = vec![0; pattern.len()];
    driver.read(span(device, block, 0), &mut back)?;
    driver.free(device, block)?;
    Ok(back == pattern)
}

#[test]
fn cards_are_listed_with_what_hip_and_the_kernel_know() {
    let name = "scripted::cards_are_listed_with_what_hip_and_the_kernel_know";
    with(name, &[Hip, Hiprtc], |scene| {
        recorded("rx7900xtx", &scene.root);
        scene.set(&[
            ("cards", "2"),
            ("0.name", "AMD Radeon Graphics"),
            ("0.memory_bytes", "25753026560"),
            ("0.others_bytes", "1000000"),
            ("1.name", "AMD Instinct MI300X"),
            ("1.gfx", "gfx942:sramecc+:xnack-"),
            ("1.bus", "0000:E5:00.0"),
            ("1.unique_id", "0123456789ABCDEF"),
            ("1.units", "304"),
            ("1.clock_khz", "2100000"),
        ]);
        let devices = scene.open().devices().unwrap();
        let [first, second] = &devices[..] else {
            panic!("two cards, not {devices:?}")
        };
        assert_eq!(
            first.model, "AMD Radeon RX 7900 XTX",
            "the kernel's name is the exact one"
        );
        assert_eq!(first.uuid.as_deref(), Some("GPU-a1ffc9d1799c317f"));
        assert_eq!(first.architecture.as_deref(), Some("gfx1100"));
        assert_eq!(first.power_limit_watts, Some(339));
        assert_eq!(first.memory_total_bytes, 25_753_026_560);
        assert_eq!(first.memory_free_bytes, 25_753_026_560 - 1_000_000);
        assert_eq!(
            second.model, "AMD Instinct MI300X",
            "a card without files is named by HIP"
        );
        assert_eq!(second.uuid.as_deref(), Some("GPU-0123456789abcdef"));
        assert_eq!(second.pci_address.as_deref(), Some("0000:e5:00.0"));
        assert_eq!(second.architecture.as_deref(), Some("gfx942"));
        assert_eq!((second.compute_units, second.clock_mhz), (Some(304), Some(2100)));
        assert_eq!((second.kind, &second.pool), (Kind::Discrete, &Pool::Own));
        assert!(second.prior.is_some());
    });
}

#[test]
fn an_open_driver_reads_a_card_by_the_kernels_files_where_it_has_some() {
    let name = "scripted::an_open_driver_reads_a_card_by_the_kernels_files_where_it_has_some";
    with(name, &[Hip, Hiprtc], |scene| {
        recorded("rx7900xtx", &scene.root);
        scene.set(&[("cards", "2"), ("1.bus", "0000:E5:00.0")]);
        let mut driver = scene.open();
        let mut read = |device| {
            (
                driver.temperature(device).unwrap(),
                driver.power(device).unwrap(),
                driver.clock(device).unwrap(),
            )
        };
        assert_eq!(read(0), (Some(78.0), Some(291.0), Some(2371)));
        assert_eq!(read(1), (None, None, None));
    });
}

#[test]
fn a_block_that_was_freed_is_no_block() {
    let name = "scripted::a_block_that_was_freed_is_no_block";
    with(name, &[Hip, Hiprtc], |scene| {
        let mut driver = scene.open();
        let block = driver.allocate(0, 4096).unwrap();
        driver.free(0, block).unwrap();
        let refused = driver.free(0, block).unwrap_err().to_string();
        assert!(refused.contains("was never allocated"), "{refused}");
    });
}

#[test]
fn bytes_come_back_whole_and_products_agree_with_the_processors() {
    let name = "scripted::bytes_come_back_whole_and_products_agree_with_the_processors";
    with(name, &[Hip, Hiprtc], |scene| {
        let mut driver = scene.open();
        assert!(returned(&mut *driver, 0).unwrap());
        for precision in [Precision::F32, Precision::F16] {
            assert!(
                product(&mut *driver, 0, precision).unwrap() == golden(80),
                "{precision:?}"
            );
        }
        driver.launch(0).unwrap();
        driver.synchronize(0).unwrap();
        let memory = driver.memory(0).unwrap();
        assert_eq!(memory.free_bytes, memory.total_bytes, "nothing is left behind");
        driver.close().unwrap();
        assert!(matches!(driver.memory(0), Err(BackendError::NotInitialised { .. })));
    });
}

#[test]
fn a_card_that_gives_wrong_bytes_or_numbers_is_seen() {
    let name = "scripted::a_card_that_gives_wrong_bytes_or_numbers_is_seen";
    with(name, &[Hip, Hiprtc], |scene| {
        scene.set(&[("0.wrong", "copy")]);
        let mut driver = scene.open();
        assert!(!returned(&mut *driver, 0).unwrap());
        scene.set(&[("0.wrong", "product")]);
        assert!(returned(&mut *driver, 0).unwrap());
        assert!(product(&mut *driver, 0, Precision::F32).unwrap() != golden(80));
    });
}

#[test]
fn memory_that_is_not_there_is_refused_with_both_numbers_and_all_that_is_there_is_given() {
    let name = "scripted::memory_that_is_not_there_is_refused_with_both_numbers_and_all_that_is_there_is_given";
    with(name, &[Hip, Hiprtc], |scene| {
        scene.set(&[("0.memory_bytes", "1073741824"), ("0.others_bytes", "73741824")]);
        let mut driver = scene.open();
        let free_bytes = driver.memory(0).unwrap().free_bytes;
        assert_eq!(free_bytes, 1_000_000_000);
        let refused = driver.allocate(0, free_bytes + 1).unwrap_err();
        let expected = BackendError::OutOfMemory {
            device: "rocm0".to_owned(),
            wanted_bytes: free_bytes + 1,
            free_bytes,
        };
        assert_eq!(refused, expected);
        assert!(driver.allocate(0, u64::MAX).is_err());
        let all = driver.allocate(0, free_bytes).unwrap();
        assert_eq!(driver.memory(0).unwrap().free_bytes, 0);
        driver.free(0, all).unwrap();
        assert_eq!(driver.memory(0).unwrap().free_bytes, free_bytes);
    });
}

#[test]
fn a_lost_card_says_so_and_its_neighbour_works_on() {
    let name = "scripted::a_lost_card_says_so_and_its_neighbour_works_on";
    with(name, &[Hip, Hiprtc], |scene| {
        scene.set(&[("cards", "2")]);
        let mut driver = scene.open();
        let block = driver.allocate(0, MIB).unwrap();
        scene.set(&[("0.lost", "719")]);
        let error = driver.write(span(0, block, 0), &[1; 64]).unwrap_err();
        assert!(
            matches!(&error, BackendError::Lost { device, reason } if device == "rocm0" && reason.contains("719")),
            "{error:?}"
        );
        assert!(returned(&mut *driver, 1).unwrap());
        let devices = driver.devices().unwrap();
        assert_eq!(devices[0].memory_free_bytes, 0);
        assert!(
            matches!(&devices[0].verification, Verification::CouldNotMeasure { reason } if reason.contains("lost"))
        );
        assert!(devices[1].memory_free_bytes > 0);
    });
}

#[test]
fn a_card_that_was_pulled_out_is_lost_whatever_the_library_calls_it() {
    let name = "scripted::a_card_that_was_pulled_out_is_lost_whatever_the_library_calls_it";
    with(name, &[Hip, Hiprtc], |scene| {
        recorded("rx7900xtx", &scene.root);
        let mut driver = scene.open();
        scene.set(&[("0.lost", "999"), ("words", "unknown error\u{1b}[2J")]);
        let failed = driver.synchronize(0).unwrap_err();
        assert!(
            matches!(&failed, BackendError::Failed { reason, .. } if !reason.contains('\u{1b}')),
            "{failed:?}"
        );
        std::fs::remove_dir_all(scene.root.join("sys/class/drm/card0")).unwrap();
        let lost = driver.synchronize(0).unwrap_err();
        assert!(
            matches!(&lost, BackendError::Lost { reason, .. } if reason.contains("bus")),
            "{lost:?}"
        );
    });
}

#[test]
fn without_the_compiler_bytes_are_copied_and_products_are_unsupported_with_the_reason() {
    let name = "scripted::without_the_compiler_bytes_are_copied_and_products_are_unsupported_with_the_reason";
    with(name, &[Hip], |scene| {
        let mut driver = scene.open();
        assert!(returned(&mut *driver, 0).unwrap());
        let error = product(&mut *driver, 0, Precision::F32).unwrap_err();
        assert!(matches!(error, BackendError::Unsupported { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("hipRTC") && text.contains("install"), "{text}");
        assert!(matches!(driver.launch(0), Err(BackendError::Unsupported { .. })));
    });
}

#[test]
fn a_compiler_that_refuses_or_lies_about_its_code_is_a_failure_with_its_words() {
    let name = "scripted::a_compiler_that_refuses_or_lies_about_its_code_is_a_failure_with_its_words";
    with(name, &[Hip, Hiprtc], |scene| {
        for (fault, words) in [("refuse", "unknown target"), ("huge", "1099511627776")] {
            scene.set(&[("rtc", fault)]);
            let error = product(&mut *scene.open(), 0, Precision::F32).unwrap_err();
            let BackendError::Failed { reason, .. } = &error else {
                panic!("{error:?}")
            };
            assert!(reason.contains(words) && !reason.contains('\u{1b}'), "{reason}");
        }
        scene.set(&[("rtc", "work"), ("0.gfx", "no architecture")]);
        let error = product(&mut *scene.open(), 0, Precision::F32).unwrap_err();
        assert!(matches!(error, BackendError::Unsupported { .. }), "{error:?}");
    });
}

#[test]
fn garbage_from_the_library_is_cleaned_or_absent() {
    let name = "scripted::garbage_from_the_library_is_cleaned_or_absent";
    with(name, &[Hip, Hiprtc], |scene| {
        let long = "x".repeat(5000);
        for (key, value) in [
            ("0.name", "\u{1b}[31mRadeon\u{7}"),
            ("0.name", long.as_str()),
            ("0.name", ""),
            ("0.bus", "not an address"),
            ("0.bus", "ffffffffffff:00:00.0"),
            ("0.unique_id", "\u{1b}\u{1b}\u{1b}"),
            ("0.unique_id", "0000000000000000"),
            ("0.gfx", "gfx\u{1b}"),
            ("0.units", "-5"),
            ("0.clock_khz", "-1"),
            ("0.memory_bytes", "0"),
            ("0.others_bytes", "9e18"),
        ] {
            scene.set(&[(key, value)]);
            let devices = scene.open().devices().unwrap();
            let device = &devices[0];
            let shown = [Some(&device.model), device.uuid.as_ref(), device.architecture.as_ref()];
            for text in shown.into_iter().flatten() {
                assert!(text.len() <= 128 && !text.chars().any(char::is_control), "{text:?}");
            }
            assert!(device.memory_free_bytes <= device.memory_total_bytes, "{device:?}");
            scene.script.unset(key).unwrap();
        }
    });
}

#[test]
fn numbers_of_cards_that_no_machine_has_are_not_believed() {
    let name = "scripted::numbers_of_cards_that_no_machine_has_are_not_believed";
    with(name, &[Hip, Hiprtc], |scene| {
        scene.set(&[("cards", "100000")]);
        assert_eq!(scene.open().devices().unwrap().len(), 256);
        for (key, none) in [("cards", "0"), ("cards", "-1"), ("fail.hipInit", "101")] {
            scene.set(&[(key, none)]);
            let error = scene.try_open().err().expect("there is no card");
            assert!(error.to_string().contains("mount /dev/kfd"), "{error}");
        }
    });
}

#[test]
fn bytes_go_between_cards_directly_where_they_reach_each_other_and_through_memory_where_not() {
    let name = "scripted::bytes_go_between_cards_directly_where_they_reach_each_other_and_through_memory_where_not";
    with(name, &[Hip, Hiprtc], |scene| {
        for (peers, direct) in [("1", true), ("0", false)] {
            scene.set(&[("cards", "2"), ("peers", peers)]);
            let mut driver = scene.open();
            assert_eq!(driver.copies_directly(0, 1), direct);
            assert!(driver.copies_directly(0, 0));
            // Longer than a stage, and not a multiple of it.
            let pattern = verification_pattern().repeat(9);
            let bytes = pattern.len() as u64 - 7;
            let (from, to) = (
                driver.allocate(0, bytes + 7).unwrap(),
                driver.allocate(1, bytes + 7).unwrap(),
            );
            driver.write(span(0, from, 0), &pattern).unwrap();
            driver.copy(span(0, from, 3), span(1, to, 5), bytes).unwrap();
            let mut back = vec![0; bytes as usize];
            driver.read(span(1, to, 5), &mut back).unwrap();
            assert!(back == pattern[3..3 + bytes as usize], "peers={peers}");
            driver.close().unwrap();
        }
    });
}

#[test]
fn overlapping_spans_are_copied_as_if_through_a_third() {
    let name = "scripted::overlapping_spans_are_copied_as_if_through_a_third";
    with(name, &[Hip, Hiprtc], |scene| {
        let mut driver = scene.open();
        let block = driver.allocate(0, 4096).unwrap();
        let pattern = &verification_pattern()[..4096];
        for (from, to) in [(0, 100), (100, 0), (0, 0)] {
            driver.write(span(0, block, 0), pattern).unwrap();
            driver.copy(span(0, block, from), span(0, block, to), 3000).unwrap();
            let mut back = vec![0; 3000];
            driver.read(span(0, block, to), &mut back).unwrap();
            assert!(back == pattern[from as usize..from as usize + 3000], "{from} to {to}");
        }
        assert_eq!(driver.memory(0).unwrap().free_bytes, (8 << 30) - 4096);
    });
}

#[test]
fn partitions_of_a_card_are_devices_of_their_own_that_share_its_memory() {
    let name = "scripted::partitions_of_a_card_are_devices_of_their_own_that_share_its_memory";
    with(name, &[Hip, Hiprtc], |scene| {
        scene.set(&[("cards", "3"), ("2.bus", "0000:06:00.0")]);
        scene.set(&[("0.bus", "0000:05:00.0"), ("1.bus", "0000:05:00.0")]);
        for device in ["0.unique_id", "1.unique_id"] {
            scene.set(&[(device, "00000000000000aa")]);
        }
        let devices = scene.open().devices().unwrap();
        let mut identities: Vec<_> = devices.iter().map(device::GpuDevice::identity).collect();
        identities.sort();
        identities.dedup();
        assert_eq!(identities.len(), 3, "{identities:?}");
        assert_eq!(devices[0].pool, Pool::Named("0000:05:00.0".to_owned()));
        assert_eq!(devices[0].pool, devices[1].pool);
        assert_eq!(devices[2].pool, Pool::Own);
    });
}

#[test]
fn a_library_that_crashes_takes_down_its_process_only() {
    let name = "scripted::a_library_that_crashes_takes_down_its_process_only";
    let body = |scene: &mut Scene| {
        scene.set(&[("crash", "hipMemGetInfo")]);
        let _ = scene.open().devices();
    };
    if let Some(output) = doomed(name, &[Hip], body) {
        assert!(!output.status.success(), "the inner process was to die");
    }
}

#[test]
fn a_node_without_hip_is_told_what_to_install_and_its_cards_are_described() {
    let name = "scripted::a_node_without_hip_is_told_what_to_install_and_its_cards_are_described";
    let empty = tempfile::tempdir().unwrap();
    with_path(name, empty.path(), |scene| {
        let error = scene.try_open().err().expect("there is no library").to_string();
        assert!(error.contains("libamdhip64.so") && error.contains("install"), "{error}");
        let nothing = device::probe(Backend::Rocm, &scene.root, &ProbeRequest::default(), 1);
        assert!(nothing.devices.is_empty());
        assert!(nothing.note.unwrap().contains("install"));
        recorded("mi210", &scene.root);
        let answer = device::probe(Backend::Rocm, &scene.root, &ProbeRequest::default(), 1);
        let [card] = &answer.devices[..] else {
            panic!("one card, not {answer:?}")
        };
        assert_eq!(card.architecture.as_deref(), Some("gfx90a"));
        assert!(
            matches!(&card.verification, Verification::CouldNotMeasure { reason } if reason.contains("install")),
            "{card:?}"
        );
    });
}

#[test]
fn a_library_that_lacks_a_function_is_named_with_it() {
    let name = "scripted::a_library_that_lacks_a_function_is_named_with_it";
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("old.c");
    std::fs::write(&source, "int hipInit(unsigned flags) { return (int)flags; }\n").unwrap();
    let made = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(folder.path().join("libamdhip64.so.7"))
        .arg(&source)
        .status()
        .unwrap();
    assert!(made.success());
    with_path(name, folder.path(), |scene| {
        let error = scene.try_open().err().expect("the library is not whole").to_string();
        assert!(
            error.contains("hipGetDeviceCount") && error.contains("install ROCm"),
            "{error}"
        );
    });
}

#[test]
fn a_runtime_that_does_not_start_says_why() {
    let name = "scripted::a_runtime_that_does_not_start_says_why";
    with(name, &[Hip], |scene| {
        recorded("rx7900xtx", &scene.root);
        scene.set(&[("fail.hipInit", "35"), ("words", "driver too old")]);
        let answer = device::probe(Backend::Rocm, &scene.root, &ProbeRequest::default(), 1);
        assert_eq!(answer.devices.len(), 1);
        let note = answer.note.unwrap();
        assert!(note.contains("driver too old (35)"), "{note}");
    });
}

#[test]
fn a_card_that_is_not_asked_for_is_not_touched_and_its_neighbour_keeps_its_index() {
    let name = "scripted::a_card_that_is_not_asked_for_is_not_touched_and_its_neighbour_keeps_its_index";
    with(name, &[Hip, Hiprtc], |scene| {
        // Whoever touches it is taken down.
        scene.set(&[("hip.cards", "2"), ("0.crash", "any")]);
        let request = ProbeRequest {
            only: Selection::one("0000:04:00.0"),
            ..ProbeRequest::default()
        };
        let answer = device::probe(Backend::Rocm, &scene.root, &request, 1);
        let [card] = &answer.devices[..] else {
            panic!("one device, not {answer:?}")
        };
        assert_eq!((card.index, &card.verification), (1, &Verification::Verified));
    });
}

#[test]
fn cards_that_hip_does_not_list_are_described_after_those_that_it_does() {
    let name = "scripted::cards_that_hip_does_not_list_are_described_after_those_that_it_does";
    with(name, &[Hip, Hiprtc], |scene| {
        recorded("strix-halo", &scene.root);
        scene.set(&[("0.bus", "0000:03:00.0")]);
        let answer = device::probe(Backend::Rocm, &scene.root, &ProbeRequest::default(), 1);
        let [listed, described] = &answer.devices[..] else {
            panic!("two devices, not {answer:?}")
        };
        assert_eq!(listed.verification, Verification::Verified);
        assert_eq!(
            (described.index, described.architecture.as_deref()),
            (1, Some("gfx1151"))
        );
        assert!(matches!(described.verification, Verification::CouldNotMeasure { .. }));
        assert_eq!(answer.note, None);
    });
}

#[test]
fn the_management_library_counts_errors_where_the_kernel_does_not() {
    let name = "scripted::the_management_library_counts_errors_where_the_kernel_does_not";
    with(name, &[RocmSmi], |scene| {
        recorded("rx7900xtx", &scene.root);
        scene.set(&[("0.ecc_corrected", "7"), ("0.ecc_uncorrected", "1")]);
        let counts = |sampler: &mut rocm::RocmSampler| {
            let samples = sampler.sample().unwrap();
            (samples[0].ecc_corrected, samples[0].ecc_uncorrected)
        };
        let mut sampler = rocm::RocmSampler::with_library(&scene.root);
        assert_eq!(counts(&mut sampler), (Some(7), Some(1)));
        assert_eq!(counts(&mut rocm::RocmSampler::new(&scene.root)), (None, None));
        scene.script.unset("0.ecc_corrected").unwrap();
        assert_eq!(counts(&mut sampler), (None, None));
        scene.set(&[("0.ecc_corrected", "8")]);
        assert_eq!(
            counts(&mut sampler),
            (None, None),
            "a card without counts is not asked again"
        );
        assert_eq!(
            counts(&mut rocm::RocmSampler::with_library(&scene.root)),
            (Some(8), Some(1))
        );
        scene.set(&[("smi.init", "8")]);
        assert_eq!(counts(&mut rocm::RocmSampler::with_library(&scene.root)), (None, None));
    });
}

#[test]
fn the_factory_chooses_it_and_its_face_allocates_copies_and_lets_go() {
    let name = "scripted::the_factory_chooses_it_and_its_face_allocates_copies_and_lets_go";
    with(name, &[Hip, Hiprtc], |scene| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let chosen = factory::choose(&[Backend::Rocm], &scene.root).await.unwrap();
            let face = chosen.backend;
            let handle = face.allocate(0, MIB).await.unwrap();
            let pattern = verification_pattern();
            face.copy_to_device(&handle, 0, pattern.clone().into()).await.unwrap();
            assert!(face.copy_from_device(&handle, 0, MIB).await.unwrap() == pattern);
            face.deallocate(&handle).await.unwrap();
            assert!(matches!(
                face.deallocate(&handle).await,
                Err(BackendError::BadHandle { .. })
            ));
            assert!(matches!(
                face.allocate(1, 1).await,
                Err(BackendError::NoSuchDevice { count: 1, .. })
            ));
            let memory = face.memory_info(0).await.unwrap();
            assert_eq!(memory.free_bytes, memory.total_bytes);
            face.shutdown().await.unwrap();
        });
    });
}
