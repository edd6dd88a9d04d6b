use super::parse::{self, CgroupVersion, Level};
use super::*;
use crate::driver::{Precision, Product};
use crate::verify::random;
use crate::{Backend, BackendError, ProbeRequest, Verification};
use std::fs;

const MEMINFO: &str = "MemTotal:       16384000 kB\nMemFree:          204800 kB\nMemAvailable:    8192000 kB\n";

fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    root
}

#[test]
fn a_captured_server_processor_is_read_with_its_level() {
    let processor = parse::cpuinfo(include_str!("../../fixtures/cpuinfo-server.txt"));
    assert_eq!(processor.vendor, "amd");
    assert_eq!(processor.model, "AMD EPYC");
    assert_eq!(processor.level, Level::X86(4));
}

#[test]
fn a_level_counts_only_when_all_levels_below_it_are_there() {
    let level = |flags: &str| parse::cpuinfo(&format!("flags : {flags}\n")).level;
    let v2 = "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3";
    let v3 = "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave";
    assert_eq!(level("sse2"), Level::X86(1));
    assert_eq!(level(v2), Level::X86(2));
    assert_eq!(level(&format!("{v2} {v3}")), Level::X86(3));
    assert_eq!(
        level(&format!("{v2} avx512f avx512bw avx512cd avx512dq avx512vl")),
        Level::X86(2)
    );
    assert_eq!(Level::X86(3).to_string(), "x86-64-v3");
}

#[test]
fn a_processor_without_flags_is_named_by_its_architecture() {
    let processor = parse::cpuinfo("processor\t: 0\nModel\t\t: Raspberry Pi 5\n");
    assert_eq!(processor.model, "Raspberry Pi 5");
    assert_eq!(processor.level, Level::Other(std::env::consts::ARCH));
}

#[test]
fn without_groups_memory_is_the_machines() {
    let root = machine(&[("proc/meminfo", MEMINFO)]);
    let memory = memory(root.path()).unwrap();
    assert_eq!(memory.total_bytes, 16_384_000 * 1024);
    assert_eq!(memory.free_bytes, 8_192_000 * 1024);
}

#[test]
fn a_version_2_group_or_any_ancestor_of_it_lowers_both_figures() {
    let root = machine(&[
        ("proc/meminfo", MEMINFO),
        ("proc/self/cgroup", "0::/kubepods/pod1/agent\n"),
        ("sys/fs/cgroup/kubepods/pod1/agent/memory.max", "max\n"),
        ("sys/fs/cgroup/kubepods/pod1/agent/memory.current", "100\n"),
        ("sys/fs/cgroup/kubepods/pod1/memory.max", "1073741824\n"),
        ("sys/fs/cgroup/kubepods/pod1/memory.current", "536870912\n"),
        (
            "sys/fs/cgroup/kubepods/pod1/memory.stat",
            "anon 1\ninactive_file 268435456\n",
        ),
    ]);
    let memory = memory(root.path()).unwrap();
    assert_eq!(memory.total_bytes, 1 << 30);
    assert_eq!(memory.free_bytes, (1 << 30) - (536_870_912 - 268_435_456));
}

#[test]
fn a_version_1_group_is_found_at_the_mounts_root_when_its_path_is_the_hosts() {
    let root = machine(&[
        ("proc/meminfo", MEMINFO),
        ("proc/self/cgroup", "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n"),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2147483648\n"),
        ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1073741824\n"),
    ]);
    assert_eq!(
        memory(root.path()).unwrap(),
        Memory {
            total_bytes: 2 << 30,
            free_bytes: 1 << 30
        }
    );
}

#[test]
fn a_version_1_group_without_limit_changes_nothing() {
    assert_eq!(parse::group_memory("9223372036854771712", "5", "", "x"), None);
    assert_eq!(parse::group_memory("max", "5", "", "x"), None);
}

#[test]
fn groups_are_told_apart_by_version() {
    let groups = parse::memory_groups("9:name=systemd:/\n4:cpu,memory:/a:b\n0::/c\nnonsense\n");
    assert_eq!(
        groups,
        [
            (CgroupVersion::V1, "/a:b".to_owned()),
            (CgroupVersion::V2, "/c".to_owned())
        ]
    );
}

#[test]
fn absent_or_damaged_meminfo_is_an_answer_that_says_so() {
    let empty = machine(&[]);
    let answer = crate::probe(Backend::Cpu, empty.path(), &ProbeRequest::default(), 0);
    assert!(answer.devices.is_empty());
    assert!(answer.note.unwrap().contains("/proc/meminfo"));
    for damaged in [
        "",
        "MemTotal: lots kB\n",
        "MemTotal: 18446744073709551615 kB\nMemAvailable: 1 kB\n",
    ] {
        assert_eq!(parse::meminfo(damaged), None);
    }
}

#[test]
fn a_processor_that_the_engine_is_not_built_for_fails_and_says_why() {
    let root = machine(&[
        ("proc/meminfo", MEMINFO),
        (
            "proc/cpuinfo",
            "vendor_id : GenuineIntel\nmodel name : Old\nflags : sse2\n",
        ),
    ]);
    let answer = crate::probe(Backend::Cpu, root.path(), &ProbeRequest::default(), 0);
    let Verification::Failed { reason } = &answer.devices[0].verification else {
        panic!("{answer:?}")
    };
    assert!(reason.starts_with("UnsupportedCPU: Old is x86-64-v1"), "{reason}");
}

#[test]
fn a_processor_whose_claims_do_not_hold_is_of_the_level_that_does() {
    let processor = parse::cpuinfo(include_str!("../../fixtures/cpuinfo-server.txt"));
    let without = processor.clone().without(&["avx512f"]);
    assert_eq!(without.level, Level::X86(3));
    assert!(!without.flags.iter().any(|flag| flag.starts_with("avx512")));
    assert_eq!(processor.without(&["avx2", "fma"]).level, Level::X86(2));
}

#[test]
fn what_was_promised_is_not_free_and_more_than_is_free_is_refused_with_both_numbers() {
    let root = machine(&[("proc/meminfo", "MemTotal: 65536 kB\nMemAvailable: 65536 kB\n")]);
    let mut driver = driver(root.path());
    driver.open().unwrap();
    let all = 64 << 20;
    let refused = |wanted_bytes, free_bytes| {
        Err(BackendError::OutOfMemory {
            device: "cpu0".to_owned(),
            wanted_bytes,
            free_bytes,
        })
    };
    assert_eq!(driver.allocate(0, all + 1), refused(all + 1, all));
    let block = driver.allocate(0, all).unwrap();
    assert_eq!(driver.memory(0).unwrap().free_bytes, 0);
    assert_eq!(driver.allocate(0, 1), refused(1, 0));
    // What was written the kernel has given: it is for the kernel to count, and a recorded one does not.
    let half = crate::driver::Span {
        device: 0,
        block,
        offset: all / 2,
    };
    driver.write(half, &vec![1; 32 << 20]).unwrap();
    assert_eq!(driver.memory(0).unwrap().free_bytes, all / 2);
    driver.free(0, block).unwrap();
    assert_eq!(driver.memory(0).unwrap().free_bytes, all);
}

#[test]
fn every_instruction_set_of_this_processor_gives_the_same_product() {
    let size = 144;
    let (a, b) = (random(5, size * size), random(6, size * size));
    let mut product = Product {
        precision: Precision::F32,
        size,
        a: &a,
        b: &b,
        repeats: 1,
    };
    let exact = |row: usize, column: usize| -> f64 {
        let terms = (0..size).map(|k| f64::from(a[row * size + k]) * f64::from(b[k * size + column]));
        terms.sum()
    };
    for simd in call::product::Simd::here() {
        for cores in [1, 3, 64] {
            let c = product::multiply_by(simd, &product, cores).c;
            for (place, number) in c.iter().enumerate() {
                let exact = exact(place / size, place % size);
                assert!((f64::from(*number) - exact).abs() < 1e-4, "{simd:?} {cores} {place}");
            }
        }
    }
    // Halves have 11 bits: the difference is there, and no larger than they explain.
    product.precision = Precision::F16;
    let c = product::multiply(&product, 2).c;
    let far = c
        .iter()
        .enumerate()
        .map(|(place, number)| (f64::from(*number) - exact(place / size, place % size)).abs());
    let farthest = far.fold(0.0, f64::max);
    assert!(farthest > 1e-4 && farthest < 0.05, "{farthest}");
}

#[test]
fn this_machine_is_verified_and_measured() {
    let request = ProbeRequest {
        measure_budget: std::time::Duration::from_millis(500),
        known: Vec::new(),
        ..ProbeRequest::default()
    };
    let answer = crate::probe(Backend::Cpu, std::path::Path::new("/"), &request, 7);
    let [cpu] = &answer.devices[..] else {
        panic!("one CPU device, not {answer:?}")
    };
    println!("{cpu:?}");
    assert_eq!(cpu.verification, crate::Verification::Verified);
    assert!(cpu.memory_free_bytes > 0 && cpu.memory_free_bytes <= cpu.memory_total_bytes);
    let bandwidth = cpu
        .measured
        .bandwidth_bytes_per_second
        .expect("a machine that builds this has memory to measure");
    assert!(bandwidth.value > 100_000_000, "{bandwidth:?}");
    assert_eq!(bandwidth.measured_unix_s, 7);
}

#[test]
fn a_copy_by_all_cores_is_the_same_copy() {
    for length in [0, 1, 4096, (9 << 20) + 3] {
        let from: Vec<u8> = (0..length).map(|i| (i * 7 % 251) as u8).collect();
        let mut to = vec![0xAA; length];
        copy::copy(&from, &mut to, 3);
        assert!(from == to, "{length}");
    }
}

#[test]
fn copies_are_compared_with_the_plain_one() {
    let (ours, memcpy) = copy_vs_memcpy(std::path::Path::new("/")).unwrap();
    println!("{ours} and {memcpy} bytes a second, {:.2}", ours as f64 / memcpy as f64);
    assert!(ours > 0 && memcpy > 0);
    let short = machine(&[("proc/meminfo", "MemTotal: 4096 kB\nMemAvailable: 4096 kB\n")]);
    assert!(matches!(
        copy_vs_memcpy(short.path()),
        Err(BackendError::OutOfMemory { .. })
    ));
}
