use super::*;
use device::{GpuDevice, Kind};

fn setting() -> Setting {
    Setting {
        node: "n".to_owned(),
        worker: PathBuf::from("/nonexistent/worker"),
        threads: 2,
        state_dir: PathBuf::from("/nonexistent"),
    }
}

fn rates(step_ns: u64, bytes_per_second: u64) -> Rates {
    Rates {
        step_ns,
        reading: vec![Reading {
            bits: 5,
            bytes_per_second,
        }],
        samples: 3,
        ..Rates::default()
    }
}

#[test]
fn a_device_is_measured_a_few_times_and_the_least_measured_comes_first() {
    let device = |index| GpuDevice::new(Backend::Vulkan, index, Kind::Discrete);
    let devices = Devices::of([device(0), device(1)]);
    let mut known: BTreeMap<String, Known> = BTreeMap::new();
    let mut order = Vec::new();
    while let Some((key, state)) = next(&setting(), &devices, &known) {
        order.push(state.device.index);
        known.entry(key).or_default().rounds += 1;
    }
    assert_eq!(order, [0, 1, 0, 1, 0, 1]);
}

#[test]
fn other_threads_and_another_driver_are_measured_anew() {
    let cpu = |driver: &str| {
        let mut device = GpuDevice::new(Backend::Cpu, 0, Kind::Cpu);
        device.driver = Some(driver.to_owned());
        Devices::of([device]).states.remove(0)
    };
    let more_threads = Setting {
        threads: 4,
        ..setting()
    };
    let keys = [
        key(&setting(), &cpu("a")),
        key(&setting(), &cpu("b")),
        key(&more_threads, &cpu("a")),
    ];
    assert!(keys[0] != keys[1] && keys[0] != keys[2], "{keys:?}");
}

#[test]
fn the_best_of_several_measurements_counts() {
    let mut kept = None;
    for (step_ns, rate) in [
        (10, 1_000_000),
        (10, 3_000_000),
        (90_000_000_000, 3_000_000),
        (20, 2_000_000),
    ] {
        keep_better(&mut kept, rates(step_ns, rate));
    }
    assert_eq!(kept, Some(rates(10, 3_000_000)));
}

#[test]
fn an_answer_without_figures_is_refused_and_a_sound_one_is_dated() {
    let text = br#"{"step_ns":5,"layer_ns":7,"reading":[{"bits":5,"bytes_per_second":9}],"flops_per_second":null,"samples":4}"#;
    let read = parse(text, 77).expect("sound");
    assert_eq!(
        (read.layer_ns, read.flops_per_second, read.measured_unix_s),
        (7, None, 77)
    );
    for unsound in [
        &b"nonsense"[..],
        br#"{"step_ns":5,"layer_ns":7,"reading":[],"samples":4}"#,
        br#"{"step_ns":5,"layer_ns":7,"reading":[{"bits":5,"bytes_per_second":0}],"samples":4}"#,
    ] {
        assert!(parse(unsound, 1).is_err());
    }
}
