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

#[test]
fn a_device_is_measured_until_nothing_better_comes_and_the_least_measured_is_first() {
    let device = |index| GpuDevice::new(Backend::Vulkan, index, Kind::Discrete);
    let devices = Devices::of([device(0), device(1)]);
    let mut known: BTreeMap<String, Known> = BTreeMap::new();
    let mut order = Vec::new();
    while let Some((key, state)) = next(&setting(), &devices, &known) {
        order.push(state.device.index);
        let entry = known.entry(key).or_default();
        entry.rounds += 1;
        // The second one is better once more in its second round.
        let improved = state.device.index == 1 && entry.rounds == 2;
        entry.in_vain = if improved { 0 } else { entry.in_vain + 1 };
    }
    assert_eq!(order, [0, 1, 0, 1, 1, 1]);
}

#[test]
fn a_device_that_gets_better_and_better_is_known_in_the_end() {
    let devices = Devices::of([GpuDevice::new(Backend::Vulkan, 0, Kind::Discrete)]);
    let mut known: BTreeMap<String, Known> = BTreeMap::new();
    while let Some((key, _)) = next(&setting(), &devices, &known) {
        known.entry(key).or_default().rounds += 1;
    }
    assert_eq!(known.values().next().map(|known| known.rounds), Some(ROUNDS_MAX));
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
fn an_answer_without_figures_is_refused_and_a_sound_one_is_dated() {
    let text = br#"{"step_ns":5,"layer_ns":7,"reading":[{"bits":5,"bytes_per_second":9}],"flops_per_second":null,"missing_operators":["SSM_SCAN_MAMBA1"],"samples":4,"times":{"narrow":3},"improved":true}"#;
    let answer = parse(text, 77).expect("sound");
    let read = &answer.rates;
    assert_eq!(
        (read.layer_ns, read.flops_per_second, read.measured_unix_s),
        (7, None, 77)
    );
    assert_eq!(answer.times["narrow"], 3, "is given back as it came");
    assert_eq!(
        read.missing_operators.as_deref(),
        Some(&["SSM_SCAN_MAMBA1".to_owned()][..])
    );
    for unsound in [
        &b"nonsense"[..],
        br#"{"step_ns":5,"layer_ns":7,"reading":[],"samples":4,"times":{},"improved":false}"#,
        br#"{"step_ns":5,"layer_ns":7,"reading":[{"bits":5,"bytes_per_second":0}],"samples":4,"times":{},"improved":false}"#,
    ] {
        assert!(parse(unsound, 1).is_err());
    }
}
