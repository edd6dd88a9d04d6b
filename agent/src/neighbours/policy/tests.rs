use super::*;
use device::{Backend, GpuDevice, Kind};

fn card() -> Seen {
    Seen {
        device: GpuDevice {
            vendor: "nvidia".to_owned(),
            ..GpuDevice::new(Backend::Cuda, 0, Kind::Discrete)
        },
        processes: Vec::new(),
    }
}

fn processor() -> Seen {
    Seen {
        device: GpuDevice {
            vendor: "amd".to_owned(),
            ..GpuDevice::new(Backend::Cpu, 0, Kind::Cpu)
        },
        processes: Vec::new(),
    }
}

struct Case {
    sharing: Sharing,
    knowledge: Knowledge<'static>,
    managed: bool,
    ending: Option<&'static str>,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            sharing: Sharing::Reserve,
            knowledge: Knowledge::Told,
            managed: true,
            ending: None,
        }
    }
}

fn of(seen: &Seen, holders: &Holders, case: &Case) -> Claim {
    let managed = case
        .managed
        .then_some([Vendor::Nvidia, Vendor::Amd])
        .into_iter()
        .flatten()
        .collect();
    let ending = case.ending.map(str::to_owned).into_iter().collect();
    let facts = Facts {
        sharing: case.sharing,
        knowledge: case.knowledge,
        managed: &managed,
        ending: &ending,
    };
    let mut claims = claims(std::slice::from_ref(seen), std::slice::from_ref(holders), facts);
    claims.remove(&seen.device.identity()).unwrap()
}

fn reason(claim: Claim) -> String {
    match claim {
        Claim::Unclaimed { reason } => reason,
        other => panic!("{other:?}"),
    }
}

fn ours() -> Holders {
    Holders {
        ours: Some("shardwright-reserve-a-x-0".to_owned()),
        ..Holders::default()
    }
}

fn foreign() -> Holders {
    Holders {
        foreign: Some("science/train".to_owned()),
        ..Holders::default()
    }
}

fn shared(knowledge: Knowledge<'static>) -> Case {
    Case {
        sharing: Sharing::Share,
        knowledge,
        ..Case::default()
    }
}

#[test]
fn where_devices_are_given_out_only_what_our_pod_was_given_is_ours() {
    let case = Case::default();
    assert_eq!(of(&card(), &ours(), &case), Claim::Ours);
    let nobodys = reason(of(&card(), &Holders::default(), &case));
    assert!(
        nobodys.contains("reservation pod") && nobodys.contains("devices.sharing=share"),
        "{nobodys}"
    );
    assert!(matches!(of(&card(), &foreign(), &case), Claim::Foreign { by } if by == "science/train"));
}

#[test]
fn where_nobody_gives_devices_out_they_are_ours() {
    let case = Case {
        managed: false,
        ..Case::default()
    };
    assert_eq!(of(&card(), &Holders::default(), &case), Claim::Ours);
}

#[test]
fn another_pod_on_a_device_of_ours_takes_it() {
    let both = Holders {
        foreign: Some("science/notebook".to_owned()),
        ..ours()
    };
    for sharing in [Sharing::Reserve, Sharing::Share] {
        let case = Case {
            sharing,
            ..Case::default()
        };
        assert!(
            matches!(of(&card(), &both, &case), Claim::Foreign { .. }),
            "{sharing:?}"
        );
    }
}

#[test]
fn a_reservation_that_is_being_ended_holds_nothing_any_more() {
    let case = Case {
        ending: Some("shardwright-reserve-a-x-0"),
        ..Case::default()
    };
    let why = reason(of(&card(), &ours(), &case));
    assert!(why.contains("being ended"), "{why}");
}

#[test]
fn shared_devices_are_used_until_a_pod_is_given_them() {
    let case = shared(Knowledge::Told);
    assert_eq!(of(&card(), &Holders::default(), &case), Claim::Shared);
    assert_eq!(of(&card(), &ours(), &case), Claim::Ours);
    assert!(!of(&card(), &foreign(), &case).allows_layers());
    let perhaps = Holders {
        perhaps: Some("science/x".to_owned()),
        ..Holders::default()
    };
    let doubtful = of(&card(), &perhaps, &case);
    assert!(
        matches!(&doubtful, Claim::Foreign { by } if by.contains("cannot be told")),
        "{doubtful:?}"
    );
}

#[test]
fn while_the_kubelet_is_silent_no_card_is_taken_in_either_mode() {
    for sharing in [Sharing::Reserve, Sharing::Share] {
        let case = Case {
            sharing,
            knowledge: Knowledge::Silent("no answer"),
            managed: false,
            ..Case::default()
        };
        let why = reason(of(&card(), &Holders::default(), &case));
        assert!(why.contains("no answer"), "{why}");
        assert_eq!(
            of(&processor(), &Holders::default(), &case),
            Claim::Ours,
            "processors are nobody's to give"
        );
    }
}

#[test]
fn without_a_kubelet_devices_are_ours_unless_the_cluster_says_that_it_gives_them_out() {
    let alone = Case {
        knowledge: Knowledge::NoKubelet,
        managed: false,
        ..Case::default()
    };
    assert_eq!(of(&card(), &Holders::default(), &alone), Claim::Ours);
    let unmounted = Case {
        knowledge: Knowledge::NoKubelet,
        ..Case::default()
    };
    let why = reason(of(&card(), &Holders::default(), &unmounted));
    assert!(why.contains("--pod-resources-socket"), "{why}");
    assert_eq!(
        of(&card(), &Holders::default(), &shared(Knowledge::NoKubelet)),
        Claim::Shared
    );
}
