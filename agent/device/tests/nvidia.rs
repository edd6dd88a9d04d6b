//! NVIDIA's libraries as they are loaded on a node, answered by fakes: every check runs in a child process of its own,
//! because a library path holds for a process, and because a driver may hang or crash. The child is this very program,
//! told by a variable what to do.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod nvidia_child;
mod nvidia_machine;

use nvidia_child::ANSWER;
use nvidia_machine::{GIB, Machine, fakes, text};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

const FIRST: &str = "GPU-00000000-0000-0000-0000-000000000001";

/// Two cards that CUDA numbers the other way round than NVML.
const TWO: &[(&str, &str)] = &[
    ("cards", "2"),
    ("cuda.order", "1,0"),
    ("0.name", "NVIDIA A100-SXM4-80GB"),
    ("0.capability", "80"),
    ("0.memory", "85899345920"),
    ("0.used", "1073741824"),
    ("1.name", "Tesla T4"),
    ("1.capability", "75"),
    ("1.memory", "16106127360"),
    ("1.limit_mw", "70000"),
];

#[test]
fn two_cards_are_listed_once_each_however_the_libraries_number_them() {
    let devices = Machine::new(TWO).ask("list");
    assert_eq!(devices.as_array().map(Vec::len), Some(2), "{devices}");
    let (t4, a100) = (&devices[0], &devices[1]);
    assert_eq!(t4["model"], "Tesla T4");
    assert_eq!(t4["index"], 0);
    assert_eq!(t4["uuid"], "GPU-00000000-0000-0000-0000-000000000002");
    assert_eq!(t4["pciAddress"], "0000:02:00.0");
    assert_eq!(t4["architecture"], "sm_75");
    assert_eq!(t4["powerLimitWatts"], 70);
    assert_eq!(t4["kind"], "Discrete");
    assert_eq!(t4["prior"]["bandwidthBytesPerSecond"], 320_000_000_000u64);
    assert_eq!(a100["model"], "NVIDIA A100-SXM4-80GB");
    assert_eq!(a100["memoryTotalBytes"], 80 * GIB);
    assert_eq!(a100["memoryFreeBytes"], 79 * GIB);
    assert_eq!(a100["driver"], "NVIDIA 550.54.15 (CUDA 12.4)");
    assert_eq!(a100["vendor"], "nvidia");
}

#[test]
fn sixteen_cards_are_listed() {
    let devices = Machine::new(&[("cards", "16")]).ask("list");
    assert_eq!(devices.as_array().map(Vec::len), Some(16), "{devices}");
}

#[test]
fn without_libraries_the_backend_says_what_is_missing() {
    let answer = Machine::new(&[]).with_libraries(&fakes().none).ask("list");
    if answer.is_array() {
        println!("SKIPPED: this machine has NVIDIA's libraries");
        return;
    }
    let error = text(&answer["error"]);
    assert!(
        error.contains("libcuda.so.1") && error.contains("install NVIDIA's driver"),
        "{error}"
    );
}

#[test]
fn where_only_the_utilities_are_given_cards_are_read_and_not_used() {
    let machine = Machine::new(&[]).with_libraries(&fakes().utilities);
    assert_eq!(machine.ask("sample")[0]["temperatureCelsius"], 41.0);
    let answer = machine.ask("list");
    if answer.is_array() {
        println!("SKIPPED: this machine has a libcuda of its own");
        return;
    }
    assert_eq!(answer["kind"], "Unavailable");
    assert!(text(&answer["error"]).contains("libcuda.so.1"), "{answer}");
}

#[test]
fn a_copy_comes_back_whole_and_products_agree_with_the_processor() {
    let answer = Machine::new(&[]).ask("exercise");
    let expected = json!({"copied": true, "moved": true, "launched": true, "f32": true, "f16": true});
    assert_eq!(answer, expected);
}

#[test]
fn a_card_older_than_tensor_cores_computes_the_same() {
    let answer = Machine::new(&[("0.capability", "61")]).ask("exercise");
    assert_eq!((&answer["f32"], &answer["f16"]), (&json!(true), &json!(true)));
}

#[test]
fn spans_that_overlap_are_copied_as_if_through_a_third() {
    assert_eq!(Machine::new(&[]).ask("overlap"), json!({"up": true, "down": true}));
}

#[test]
fn more_than_is_free_is_refused_with_both_numbers_and_what_is_free_is_given() {
    let machine = Machine::new(&[("0.memory", "1073741824"), ("0.used", "268435456")]);
    let answer = machine.ask("exhaust");
    let refusal = text(&answer["refused"]);
    let numbers = "805306369 bytes were asked for and 805306368 are free on cuda0";
    assert!(refusal.contains(numbers), "{refusal}");
    assert_eq!(answer["allFreeGiven"], true);
    assert_eq!(answer["freeAfter"], 805_306_368u64);
}

#[test]
fn ten_thousand_allocations_leave_nothing_behind() {
    assert_eq!(Machine::new(&[]).ask("cycles"), json!({"leakedBytes": 0}));
}

#[test]
fn closing_frees_what_was_left() {
    let (answer, said) = Machine::new(&[]).ask_with_complaints("close");
    assert_eq!(answer, json!({"heldBytes": 0}));
    // Once when it was asked to close, and once when the driver was dropped.
    assert_eq!(
        said.matches("cuDevicePrimaryCtxRelease 0 with 0 blocks").count(),
        2,
        "{said}"
    );
}

#[test]
fn a_card_lost_while_in_use_is_told_as_lost_and_its_neighbour_works() {
    let answer = Machine::new(&[("cards", "2")]).ask_after("lose", &[("1.lost", "1")]);
    assert_eq!(answer["kind"], "Lost");
    let error = text(&answer["error"]);
    assert!(
        error.contains("cuda1 is lost") && error.contains("NVML_ERROR_GPU_IS_LOST"),
        "{error}"
    );
    assert_eq!(answer["neighbourWorks"], true);
}

#[test]
fn a_corrupt_context_is_told_as_loss() {
    let answer = Machine::new(&[]).ask_after("lose0", &[("0.cuda", "719")]);
    assert_eq!(answer["kind"], "Lost");
    assert!(text(&answer["error"]).contains("CUDA_ERROR_LAUNCH_FAILED"));
}

#[test]
fn a_card_lost_before_the_start_is_listed_and_says_so_when_it_is_used() {
    for how in ["1", "2"] {
        let machine = Machine::new(&[("cards", "2"), ("0.lost", how)]);
        let answer = machine.ask("use-last");
        assert_eq!(answer["kind"], "Lost", "{answer}");
        assert_eq!(machine.ask("list").as_array().map(Vec::len), Some(2));
    }
}

#[test]
fn a_card_that_this_process_was_not_given_is_neither_listed_nor_read() {
    let machine = Machine::new(&[
        ("cards", "2"),
        ("cuda.order", "1"),
        ("nvml.fails", "nvmlDeviceGetHandleByIndex_v2:4"),
    ]);
    assert_eq!(machine.ask("list").as_array().map(Vec::len), Some(1));
    assert_eq!(machine.ask("sample"), json!([]));
}

#[test]
fn when_every_card_is_lost_they_are_still_listed() {
    let devices = Machine::new(&[("0.lost", "1")]).ask("list");
    assert_eq!(devices.as_array().map(Vec::len), Some(1), "{devices}");
}

#[test]
fn memory_that_forgets_shows_in_the_bytes() {
    let answer = Machine::new(&[("0.wrong", "memory")]).ask("exercise");
    assert_eq!(answer["copied"], false);
}

#[test]
fn arithmetic_that_is_wrong_shows_in_the_product() {
    let answer = Machine::new(&[("0.wrong", "product")]).ask("exercise");
    assert_eq!(answer["copied"], true);
    assert_eq!((&answer["f32"], &answer["f16"]), (&json!(false), &json!(false)));
}

#[test]
fn a_driver_that_hangs_holds_only_the_child_which_the_caller_ends() {
    let machine = Machine::new(&[("hang", "cuMemAlloc_v2")]);
    let mut child = machine.start("exercise");
    let (lines, answered) = std::sync::mpsc::channel();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            // The receiver is gone once the test has what it wants.
            let _ = lines.send(line);
        }
    });
    let opened = answered.iter().find(|line| line.contains("OPENED"));
    assert!(opened.is_some(), "the child ended before it opened the driver");
    let more = answered.recv_timeout(std::time::Duration::from_millis(500));
    assert_eq!(more, Err(std::sync::mpsc::RecvTimeoutError::Timeout));
    child.kill().unwrap();
    let status = child.wait().unwrap();
    reader.join().unwrap();
    assert_eq!(status.signal(), Some(9));
    assert!(answered.iter().all(|line| !line.contains(ANSWER)));
}

#[test]
fn a_driver_that_crashes_takes_down_only_the_child() {
    let machine = Machine::new(&[("crash", "cuDeviceGetName")]);
    let output = machine.start("list").wait_with_output().unwrap();
    assert_eq!(output.status.signal(), Some(6));
}

#[test]
fn a_library_of_another_version_than_the_driver_is_named_as_mismatch() {
    let machine = Machine::new(&[("mismatch", "1")]);
    let listed = machine.ask("list");
    assert_eq!(listed["kind"], "Unavailable");
    assert_eq!(text(&listed["error"]).matches("DriverMismatch").count(), 2, "{listed}");
    assert!(text(&machine.ask("sample")["error"]).contains("DriverMismatch"));
}

#[test]
fn a_driver_replaced_under_the_reader_is_named_as_mismatch() {
    let answer = Machine::new(&[]).ask_after("sample-twice", &[("mismatch", "1")]);
    assert!(text(&answer["error"]).contains("DriverMismatch"), "{answer}");
    // Some functions answer from what the library remembers.
    let machine = Machine::new(&[("nvml.fails", "nvmlDeviceGetTemperature:18")]);
    assert!(text(&machine.ask("sample")["error"]).contains("DriverMismatch"));
}

#[test]
fn garbage_in_strings_neither_crashes_nor_reaches_the_terminal() {
    for kind in ["control", "endless", "high"] {
        let machine = Machine::new(&[("0.garbage", kind)]);
        let devices = machine.ask("list");
        let device = &devices[0];
        let model = text(&device["model"]);
        assert!(
            model.chars().count() <= 96 && !model.chars().any(char::is_control),
            "{kind}: {model:?}"
        );
        assert!(device.get("pciAddress").is_none(), "{kind}: {device}");
        // CUDA's sixteen bytes are an identity where NVML's text is none.
        assert_eq!(device["uuid"], FIRST, "{kind}");
        assert!(machine.ask("sample").is_array(), "{kind}");
    }
}

#[test]
fn an_xid_is_told_once_with_its_card() {
    let answer = Machine::new(&[("cards", "2"), ("1.xid", "79")]).ask("events");
    let expected = json!([{
        "pciAddress": "0000:02:00.0", "xid": 79, "text": "told by NVML",
    }]);
    assert_eq!(answer["first"], expected);
    assert_eq!(answer["second"], json!([]));
}

#[test]
fn an_open_driver_reads_a_card_by_its_sensors() {
    let answer = Machine::new(&[("0.temp", "83"), ("0.power_mw", "312500"), ("0.clock", "1410")]).ask("readings");
    assert_eq!(
        (&answer["temperature"], &answer["power"]),
        (&json!(83.0), &json!(312.5))
    );
    assert_eq!(answer["clock"], 1410);
}

#[test]
fn what_a_card_tells_is_in_its_sample() {
    let samples = Machine::new(&[
        ("0.temp", "83"),
        ("0.memtemp", "91"),
        ("0.power_mw", "312500"),
        ("0.util", "97"),
        ("0.throttle", "68"),
        ("0.ecc_corrected", "12"),
        ("0.ecc_uncorrected", "1"),
        ("0.replays", "4"),
        ("0.used", "4294967296"),
        ("0.processes", "4121:1048576,4122"),
    ])
    .ask("sample");
    let sample = &samples[0];
    assert_eq!(sample["device"], format!("uuid:{FIRST}"));
    assert_eq!(sample["temperatureCelsius"], 83.0);
    assert_eq!(sample["memoryTemperatureCelsius"], 91.0);
    assert_eq!(sample["powerWatts"], 312.5);
    assert_eq!(sample["throttledBy"], json!(["thermalHardware", "power"]));
    assert_eq!(
        (&sample["eccCorrected"], &sample["eccUncorrected"]),
        (&json!(12), &json!(1))
    );
    assert_eq!(sample["pcieReplays"], 4);
    assert_eq!(sample["memoryUsedBytes"], 4 * GIB);
    let processes = json!([{"pid": 4121, "memoryBytes": 1_048_576}, {"pid": 4122}]);
    assert_eq!(sample["processes"], processes);
}

#[test]
fn what_a_card_refuses_is_absent_from_its_sample() {
    let refused = [
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetEnforcedPowerLimit",
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetTemperature",
        "nvmlDeviceGetFieldValues",
        "nvmlDeviceGetClockInfo",
        "nvmlDeviceGetCurrentClocksThrottleReasons",
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetPcieReplayCounter",
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetMemoryInfo",
    ];
    let samples = Machine::new(&[("unsupported", &refused.join(","))]).ask("sample");
    let place = json!({"device": format!("uuid:{FIRST}"), "pciAddress": "0000:01:00.0"});
    assert_eq!(samples, json!([place]));
}

#[test]
fn drivers_before_the_second_memory_question_answer_the_first() {
    let machine = Machine::new(&[("unsupported", "nvmlDeviceGetMemoryInfo_v2"), ("0.used", "1073741824")]);
    assert_eq!(machine.ask("sample")[0]["memoryUsedBytes"], GIB);
    assert_eq!(machine.ask("list")[0]["memoryFreeBytes"], 79 * GIB);
}

#[test]
fn a_card_lost_under_the_reader_keeps_its_name_and_its_neighbours() {
    let answer = Machine::new(&[("cards", "2")]).ask_after("sample-twice", &[("0.lost", "2")]);
    assert_eq!(answer[0]["device"], format!("uuid:{FIRST}"));
    assert!(text(&answer[0]["lost"]).contains("NVML_ERROR_GPU_IS_LOST"));
    assert!(answer[1].get("lost").is_none());
    assert_eq!(answer[1]["temperatureCelsius"], 41.0);
}

#[test]
fn slices_of_a_card_are_devices_with_memory_of_their_instance() {
    let machine = Machine::new(&[
        ("0.name", "NVIDIA A100-SXM4-80GB"),
        ("0.mig", "3"),
        ("0.mig.0.memory", "10737418240"),
        ("0.mig.0.instance", "7"),
        ("0.mig.1.memory", "42949672960"),
        ("0.mig.1.instance", "2"),
        ("0.mig.1.profile", "3g.40gb"),
        ("0.mig.2.memory", "42949672960"),
        ("0.mig.2.instance", "2"),
        ("0.mig.2.profile", "1c.3g.40gb"),
    ]);
    let devices = machine.ask("list");
    assert_eq!(devices.as_array().map(Vec::len), Some(3), "{devices}");
    assert_eq!(devices[0]["model"], "NVIDIA A100-SXM4-80GB MIG 1g.10gb");
    assert_eq!(devices[0]["memoryTotalBytes"], 10 * GIB);
    assert_eq!(devices[0]["uuid"], "MIG-00000000-0000-0000-0001-000000000001");
    assert_ne!(devices[0]["pool"], devices[1]["pool"]);
    assert_eq!(devices[1]["pool"], devices[2]["pool"]);
    assert!((0..3).all(|index| devices[index]["pciAddress"] == "0000:01:00.0"));
    let other = machine.ask("use-last");
    assert_eq!(other["kind"], "Unsupported", "{other}");
    assert_eq!(machine.ask("exercise")["copied"], true);
    let samples = machine.ask("sample");
    assert_eq!(samples.as_array().map(Vec::len), Some(3));
    assert_eq!(samples[1]["memoryTotalBytes"], 40 * GIB);
    assert_eq!(samples[1]["temperatureCelsius"], 41.0);
    assert!(samples[1].get("powerWatts").is_none());
}

#[test]
fn a_board_without_nvml_is_described_by_cuda_alone_and_uses_the_hosts_memory() {
    let machine = Machine::new(&[
        ("0.name", "Orin"),
        ("0.capability", "87"),
        ("0.integrated", "1"),
        ("0.pci", "0000:00:00.0"),
        ("0.uuid", "GPU-00000000-0000-0000-0000-000000000000"),
        ("0.memory", "32212254720"),
        ("0.used", "2147483648"),
    ])
    .with_libraries(&fakes().jetson);
    let devices = machine.ask("list");
    let board = &devices[0];
    if board["driver"] != "NVIDIA CUDA 12.4" {
        println!("SKIPPED: this machine has an NVML of its own");
        return;
    }
    assert_eq!(
        (&board["model"], devices.as_array().map(Vec::len)),
        (&json!("Orin"), Some(1))
    );
    assert_eq!((&board["kind"], &board["pool"]), (&json!("Integrated"), &json!("host")));
    assert_eq!(board["memoryFreeBytes"], 28 * GIB);
    assert!(
        board.get("uuid").is_none() && board.get("pciAddress").is_none(),
        "{board}"
    );
    assert_eq!(machine.ask("exercise")["copied"], true);
    assert!(text(&machine.ask("sample")["error"]).contains("libnvidia-ml.so.1"));
}

#[test]
fn between_cards_that_reach_each_other_bytes_go_directly() {
    let machine = Machine::new(&[("cards", "2"), ("peer.0.1", "1"), ("peer.1.0", "1")]);
    let (answer, said) = machine.ask_with_complaints("peer");
    assert_eq!(answer, json!({"direct": true, "same": true}));
    assert!(said.contains("cuMemcpyPeer 0 1 20971523"), "{said}");
}

#[test]
fn between_cards_that_do_not_bytes_go_through_main_memory() {
    let (answer, said) = Machine::new(&[("cards", "2")]).ask_with_complaints("peer");
    assert_eq!(answer, json!({"direct": false, "same": true}));
    assert!(!said.contains("cuMemcpyPeer"), "{said}");
}

#[test]
fn a_direct_way_that_delivers_wrong_bytes_is_not_taken() {
    let machine = Machine::new(&[("cards", "2"), ("peer.0.1", "1"), ("peer_wrong", "1")]);
    assert_eq!(machine.ask("peer"), json!({"direct": false, "same": true}));
}

#[test]
fn a_driver_without_a_function_or_that_refuses_all_is_an_answer() {
    for function in [
        "cuInit",
        "cuDeviceGetCount",
        "cuDevicePrimaryCtxRetain",
        "cuModuleLoadData",
        "cuLaunchKernel",
    ] {
        let answer = Machine::new(&[("cuda.fails", &format!("{function}:999"))]).ask("exercise");
        let error = text(&answer["error"]);
        assert!(error.contains("CUDA_ERROR_UNKNOWN"), "{function}: {answer}");
    }
}

#[test]
fn libraries_that_lack_what_is_called_are_named_with_the_function_and_what_to_install() {
    let machine = Machine::new(&[]).with_libraries(&fakes().hollow);
    let listed = machine.ask("list");
    assert_eq!(listed["kind"], "Unavailable");
    let told = text(&listed["error"]);
    assert!(
        told.contains("libcuda has no cuInit; install a newer driver of NVIDIA"),
        "{told}"
    );
    let sampled = machine.ask("sample");
    for told in [told, text(&sampled["error"])] {
        assert!(
            told.contains("libnvidia-ml.so.1 cannot be used: ") && told.contains("nvmlInit_v2"),
            "{told}"
        );
    }
}

#[test]
fn a_real_card_does_what_is_asked_of_the_fakes() {
    let machine = Machine::new(&[]).with_libraries(Path::new(""));
    let devices: Value = machine.ask("list");
    if !devices.is_array() {
        println!("SKIPPED: {}", text(&devices["error"]));
        return;
    }
    println!("{devices:#}");
    let answer = machine.ask("exercise");
    let expected = json!({"copied": true, "moved": true, "launched": true, "f32": true, "f16": true});
    assert_eq!(answer, expected);
    assert_eq!(machine.ask("overlap"), json!({"up": true, "down": true}));
    assert_eq!(machine.ask("cycles"), json!({"leakedBytes": 0}));
    println!("{:#}", machine.ask("sample"));
}
