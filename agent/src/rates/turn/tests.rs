use super::super::Rates;
use super::super::child::Answer;
use super::super::known::ROUNDS_MAX;
use super::*;
use crate::shard::report::Holding;
use device::Kind;
use device::health::{Action, Fault, Standing};
use std::path::PathBuf;
use std::time::Duration;

fn setting() -> Setting {
    Setting {
        node: "n".to_owned(),
        worker: PathBuf::from("/nonexistent/worker"),
        threads: 2,
        state_dir: PathBuf::from("/nonexistent"),
        pause: Duration::ZERO,
    }
}

fn card(index: u32) -> GpuDevice {
    GpuDevice::new(Backend::Vulkan, index, Kind::Discrete)
}

/// With nothing in common but their backend.
fn unequal(index: u32) -> GpuDevice {
    GpuDevice {
        model: format!("card {index}"),
        ..card(index)
    }
}

fn answer(improved: bool) -> Answer {
    Answer {
        rates: Rates::default(),
        times: serde_json::Value::Null,
        improved,
    }
}

/// Takes one measurement after the other, of which `outcome` says what comes of it, until nothing is left to measure; what was measured,
/// by the numbers of the devices.
fn measured(
    devices: &Devices,
    known: &mut BTreeMap<String, Known>,
    view: &View,
    mut outcome: impl FnMut(&[u32], u32) -> Result<Answer, String>,
) -> Vec<Vec<u32>> {
    let mut order = Vec::new();
    while let Some(unit) = next(&setting(), devices, known, view) {
        let indices: Vec<u32> = unit.members.iter().map(|member| member.state.device.index).collect();
        let entry = known.entry(unit.key.clone()).or_default();
        entry.take(outcome(&indices, entry.rounds + 1), unit.is_group(), 70);
        order.push(indices);
    }
    order
}

fn all_measured(devices: &Devices) -> (Vec<Vec<u32>>, BTreeMap<String, Known>) {
    let mut known = BTreeMap::new();
    let order = measured(devices, &mut known, &View::default(), |_, _| Ok(answer(false)));
    (order, known)
}

/// What is held on a device, or a group of them.
fn holding(device: &str) -> View {
    View {
        holdings: vec![Holding {
            device: device.to_owned(),
            namespace: "ns".to_owned(),
            model: "m".to_owned(),
            layers: "0-9".to_owned(),
            memory_bytes: 1,
        }],
        ..View::default()
    }
}

fn next_of(devices: &Devices, known: &BTreeMap<String, Known>, view: &View) -> Option<String> {
    next(&setting(), devices, known, view).map(|unit| unit.name())
}

#[test]
fn a_device_is_measured_until_nothing_better_comes_and_the_least_measured_is_first() {
    let devices = Devices::of([unequal(0), unequal(1)]);
    // The second one is better once more in its second round.
    let order = measured(&devices, &mut BTreeMap::new(), &View::default(), |indices, round| {
        Ok(answer(indices == [1] && round == 2))
    });
    assert_eq!(order.concat(), [0, 1, 0, 1, 1, 1]);
}

#[test]
fn a_device_that_gets_better_and_better_is_known_in_the_end() {
    let devices = Devices::of([card(0)]);
    let order = measured(&devices, &mut BTreeMap::new(), &View::default(), |_, _| {
        Ok(answer(true))
    });
    assert_eq!(order.len(), ROUNDS_MAX as usize);
}

#[test]
fn other_threads_and_another_driver_are_measured_anew() {
    let cpu = |driver: &str| {
        let mut device = GpuDevice::new(Backend::Cpu, 0, Kind::Cpu);
        device.driver = Some(driver.to_owned());
        device
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
fn groups_come_after_all_devices_and_take_turns() {
    let (order, known) = all_measured(&Devices::of((0..4).map(card)));
    let alone = (0..2).flat_map(|_| 0..4).map(|index| vec![index]);
    let groups = (0..2).flat_map(|_| [vec![0, 1], vec![2, 3], vec![0, 1, 2, 3]]);
    assert_eq!(order, alone.chain(groups).collect::<Vec<_>>());
    assert_eq!(next_of(&Devices::of((0..4).map(card)), &known, &View::default()), None);
}

#[test]
fn without_two_equal_accelerators_nothing_is_measured_but_each_device() {
    let devices = Devices::of([unequal(0), unequal(1), GpuDevice::new(Backend::Cpu, 0, Kind::Cpu)]);
    let (order, known) = all_measured(&devices);
    assert!(order.iter().all(|indices| indices.len() == 1), "{order:?}");
    assert_eq!(known.len(), 3);
}

#[test]
fn a_group_under_another_driver_is_measured_anew() {
    let (_, mut known) = all_measured(&Devices::of((0..2).map(card)));
    let renewed = |index| GpuDevice {
        driver: Some("2.0".to_owned()),
        ..card(index)
    };
    let order = measured(
        &Devices::of((0..2).map(renewed)),
        &mut known,
        &View::default(),
        |_, _| Ok(answer(false)),
    );
    assert_eq!(order.iter().filter(|indices| indices.len() == 2).count(), 2);
}

#[test]
fn a_group_waits_for_members_that_fail_or_were_not_measured() {
    let mut devices = Devices::of((0..2).map(card));
    let (_, mut known) = all_measured(&Devices::of((0..2).map(card)));
    known.retain(|key, _| !key.contains("group"));
    assert_eq!(
        next_of(&devices, &known, &View::default()).as_deref(),
        Some("vulkan0+vulkan1")
    );
    devices.states[1].standing = Standing::Failed {
        fault: Fault::new("FellOffBus", "it is gone", Action::RebootNode),
    };
    assert_eq!(next_of(&devices, &known, &View::default()), None);
    devices.states[1].standing = Standing::Ready;
    known.remove(&key(&setting(), &card(1)));
    let busy = holding("n-vulkan7");
    assert_eq!(next_of(&devices, &known, &busy), None, "its second member is not known");
}

#[test]
fn what_holds_layers_is_not_measured_and_cards_with_memory_of_their_own_may_be_beside_it() {
    let (_, mut known) = all_measured(&Devices::of((0..4).map(card)));
    known.retain(|key, _| !key.contains("group"));
    let devices = Devices::of((0..4).map(card));
    let free = |view: &View| next_of(&devices, &known, view);
    assert_eq!(free(&holding("n-vulkan0")).as_deref(), Some("vulkan2+vulkan3"));
    assert_eq!(
        free(&holding("n-vulkan2+n-vulkan3")).as_deref(),
        Some("vulkan0+vulkan1")
    );
    let loading = View {
        loading: ["n-vulkan1".to_owned()].into(),
        ..View::default()
    };
    assert_eq!(free(&loading).as_deref(), Some("vulkan2+vulkan3"));
    let renderers = |index| GpuDevice::new(Backend::Vulkan, index, Kind::Software);
    let (_, mut known) = all_measured(&Devices::of((0..2).map(renderers)));
    known.retain(|key, _| !key.contains("group"));
    let renderers = Devices::of((0..2).map(renderers));
    assert!(next_of(&renderers, &known, &View::default()).is_some());
    assert_eq!(
        next_of(&renderers, &known, &holding("n-cpu0")),
        None,
        "they compute on the processors"
    );
}

#[test]
fn a_group_that_does_not_load_is_given_up_with_its_cause_and_tried_again_in_another_life() {
    let devices = Devices::of((0..2).map(card));
    let mut known = BTreeMap::new();
    let unfit = |indices: &[u32], _: u32| match indices {
        [_] => Ok(answer(false)),
        _ => Err("exit status: 69".to_owned()),
    };
    let order = measured(&devices, &mut known, &View::default(), unfit);
    assert_eq!(order.iter().filter(|indices| indices.len() == 2).count(), 2);
    let cause = |known: &BTreeMap<String, Known>| {
        let group = known.iter().find(|(key, _)| key.contains("group"));
        let outcome = group.and_then(|(_, known)| known.outcome());
        outcome
            .and_then(Result::err)
            .map(|failed| (failed.cause, failed.at_unix_s))
    };
    assert_eq!(cause(&known), Some(("exit status: 69".to_owned(), 70)));
    known.values_mut().for_each(Known::begin_life);
    assert!(cause(&known).is_some(), "until it is known better");
    let order = measured(&devices, &mut known, &View::default(), |_, _| Ok(answer(false)));
    assert_eq!(order, [[0, 1], [0, 1]]);
    assert_eq!(cause(&known), None);
}

#[test]
fn a_device_that_cannot_be_measured_is_not_tried_again_in_another_life() {
    let devices = Devices::of([card(0)]);
    let mut known = BTreeMap::new();
    let order = measured(&devices, &mut known, &View::default(), |_, _| {
        Err("no answer".to_owned())
    });
    assert_eq!(order.len(), 2);
    known.values_mut().for_each(Known::begin_life);
    assert_eq!(next_of(&devices, &known, &View::default()), None);
}
