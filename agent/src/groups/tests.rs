use super::*;
use crds::names::group_name;
use device::health::{Action, Fault, Standing};

fn card(index: u32) -> GpuDevice {
    GpuDevice {
        vendor: "nvidia".to_owned(),
        model: "NVIDIA L4".to_owned(),
        memory_total_bytes: 24 << 30,
        ..GpuDevice::new(Backend::Cuda, index, Kind::Discrete)
    }
}

/// The groups of node `n` with these devices, by name.
fn names(devices: impl IntoIterator<Item = GpuDevice>) -> Vec<String> {
    let devices = Devices::of(devices);
    let name = |group: &Group<'_>| group_name(group.members.iter().map(|member| member.name.as_str()));
    of("n", &devices).iter().map(name).collect()
}

#[test]
fn two_equal_cards_are_a_group_and_one_is_none() {
    assert_eq!(names([card(0), card(1)]), ["n-cuda0+n-cuda1"]);
    assert!(names([card(0)]).is_empty());
    assert!(names([]).is_empty());
}

#[test]
fn eight_equal_cards_are_seven_groups_of_neighbours_by_name() {
    let all = [
        "n-cuda0+n-cuda1",
        "n-cuda2+n-cuda3",
        "n-cuda4+n-cuda5",
        "n-cuda6+n-cuda7",
        "n-cuda0+n-cuda1+n-cuda2+n-cuda3",
        "n-cuda4+n-cuda5+n-cuda6+n-cuda7",
        "n-cuda0+n-cuda1+n-cuda2+n-cuda3+n-cuda4+n-cuda5+n-cuda6+n-cuda7",
    ];
    assert_eq!(names((0..8).map(card)), all);
    assert_eq!(
        names((0..8).rev().map(card)),
        all,
        "whatever the order in which drivers list them"
    );
}

#[test]
fn a_card_that_is_left_over_is_in_no_group() {
    assert_eq!(names((0..3).map(card)), ["n-cuda0+n-cuda1"]);
    assert_eq!(
        names((0..6).map(card)),
        [
            "n-cuda0+n-cuda1",
            "n-cuda2+n-cuda3",
            "n-cuda4+n-cuda5",
            "n-cuda0+n-cuda1+n-cuda2+n-cuda3",
        ]
    );
}

#[test]
fn cards_of_another_maker_model_kind_backend_or_memory_are_not_equal() {
    let others: [fn(&mut GpuDevice); 5] = [
        |card| card.vendor = "amd".to_owned(),
        |card| card.model = "NVIDIA L40".to_owned(),
        |card| card.kind = Kind::Integrated,
        |card| card.backend = Backend::Vulkan,
        |card| card.memory_total_bytes = 22 << 30,
    ];
    for change in others {
        let mut other = card(1);
        change(&mut other);
        assert!(names([card(0), other.clone()]).is_empty(), "{other:?}");
    }
    let mut alike = card(1);
    alike.memory_total_bytes = 23 << 30;
    assert_eq!(names([card(0), alike]).len(), 1, "a driver keeps some of it");
}

#[test]
fn among_different_cards_the_equal_ones_find_each_other() {
    let large = |index| GpuDevice {
        memory_total_bytes: 48 << 30,
        ..card(index)
    };
    assert_eq!(
        names([card(0), large(1), card(2), large(3)]),
        ["n-cuda0+n-cuda2", "n-cuda1+n-cuda3"]
    );
}

#[test]
fn processors_slices_of_a_card_and_cards_that_are_only_described_work_alone() {
    let cpu = |index| GpuDevice::new(Backend::Cpu, index, Kind::Cpu);
    assert!(names([cpu(0), cpu(1)]).is_empty());
    let slice = |index| GpuDevice {
        pool: Pool::Named("0000:01:00.0".to_owned()),
        ..card(index)
    };
    assert!(names([slice(0), slice(1)]).is_empty());
    let described = |index| GpuDevice {
        backend: Backend::Intel,
        ..card(index)
    };
    assert!(names([described(0), described(1)]).is_empty());
    let renderer = |index| GpuDevice::new(Backend::Vulkan, index, Kind::Software);
    assert_eq!(names([renderer(0), renderer(1)]), ["n-vulkan0+n-vulkan1"]);
}

#[test]
fn a_card_that_fails_for_a_while_changes_no_group() {
    let mut devices = Devices::of((0..4).map(card));
    let before: Vec<usize> = of("n", &devices).iter().map(|group| group.members.len()).collect();
    devices.states[1].standing = Standing::Failed {
        fault: Fault::new("FellOffBus", "it is gone", Action::RebootNode),
    };
    let after: Vec<usize> = of("n", &devices).iter().map(|group| group.members.len()).collect();
    assert_eq!((before.as_slice(), after.as_slice()), (&[2, 2, 4][..], &[2, 2, 4][..]));
}

#[test]
fn however_many_cards_there_are_the_api_has_room_for_their_groups() {
    for count in 0..40 {
        assert!(names((0..count).map(card)).len() <= report::GROUPS_MAX, "{count} cards");
    }
    assert_eq!(names((0..40).map(card)).len(), 14);
}
