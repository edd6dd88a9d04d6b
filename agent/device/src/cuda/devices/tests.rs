use super::*;

const GIB: u64 = 1 << 30;

fn uuid(last: u8) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[15] = last;
    bytes
}

fn reached(ordinal: i32, last: u8) -> Facts {
    Facts {
        ordinal,
        name: Some("NVIDIA L4".to_owned()),
        uuid: Some(uuid(last)),
        slice_uuid: Some(uuid(last)),
        pci_address: Some(format!("0000:0{last}:00.0")),
        memory_bytes: 22 * GIB,
        integrated: false,
        capability: Some((8, 9)),
        multiprocessors: Some(58),
        clock_khz: Some(2_040_000),
        left_alone: false,
    }
}

fn described(last: u8) -> Described {
    Described {
        facts: RawFacts {
            name: Some("NVIDIA L4".to_owned()),
            uuid: identity_of("GPU-", uuid(last)),
            pci_address: Some(format!("0000:0{last}:00.0")),
            memory: Some((23 * GIB, 20 * GIB)),
            power_limit_mw: Some(72_000),
            clock_mhz: Some(2040),
            slice: None,
        },
        card: None,
        lost: None,
    }
}

fn slice(last: u8, instance: u32, card: &Described) -> Described {
    Described {
        facts: RawFacts {
            name: Some("NVIDIA A30 MIG 1g.6gb".to_owned()),
            uuid: identity_of("MIG-", uuid(last)),
            memory: Some((6 * GIB, 6 * GIB)),
            slice: Some(instance),
            pci_address: card.facts.pci_address.clone(),
            ..RawFacts::default()
        },
        card: Some(card.facts.clone()),
        lost: None,
    }
}

#[test]
fn a_card_that_both_libraries_know_is_one_device() {
    let joined = join(
        &[reached(0, 2), reached(1, 1)],
        &[described(1), described(2)],
        &Surroundings::default(),
    );
    assert_eq!(joined.len(), 2);
    assert_eq!((joined[0].described, joined[1].described), (Some(1), Some(0)));
    let device = &joined[0].device;
    assert_eq!(device.index, 0);
    assert_eq!(device.power_limit_watts, Some(72));
    assert_eq!(device.compute_units, Some(58));
    assert_eq!(
        (device.memory_total_bytes, device.memory_free_bytes),
        (22 * GIB, 20 * GIB)
    );
    assert_eq!(device.pool, Pool::Own);
    assert!(device.prior.is_some());
}

#[test]
fn without_identities_the_bus_address_joins() {
    let mut nameless = described(3);
    nameless.facts.uuid = None;
    let joined = join(&[reached(0, 3)], &[nameless], &Surroundings::default());
    assert_eq!(joined.len(), 1);
    assert_eq!(joined[0].device.uuid, identity_of("GPU-", uuid(3)));
}

#[test]
fn two_cards_without_identity_or_address_stay_two() {
    let blank = Facts {
        memory_bytes: GIB,
        ..Facts::default()
    };
    let joined = join(&[blank.clone(), blank], &[], &Surroundings::default());
    assert_eq!(joined.len(), 2);
    assert_ne!(joined[0].device.identity(), joined[1].device.identity());
}

#[test]
fn a_card_that_cuda_does_not_show_is_listed_unless_somebody_chose() {
    let described = [described(1), described(2)];
    let joined = join(&[reached(0, 1)], &described, &Surroundings::default());
    assert_eq!(joined.len(), 2);
    assert_eq!(
        joined[1].ordinal,
        Err(Unreached::Hidden("CUDA does not show it".to_owned()))
    );
    let chosen = Surroundings {
        chosen: true,
        ..Surroundings::default()
    };
    assert_eq!(join(&[reached(0, 1)], &described, &chosen).len(), 1);
}

#[test]
fn a_lost_card_is_listed_even_where_somebody_chose() {
    let mut lost = described(2);
    lost.lost = Some("fell off".to_owned());
    let chosen = Surroundings {
        chosen: true,
        ..Surroundings::default()
    };
    let joined = join(&[reached(0, 1)], &[described(1), lost], &chosen);
    assert_eq!(joined[1].ordinal, Err(Unreached::Lost("fell off".to_owned())));
    assert_eq!(joined[1].device.index, 1);
}

#[test]
fn slices_of_one_instance_share_its_memory_and_no_other_does() {
    let card = described(1);
    let list = [slice(7, 3, &card), slice(8, 3, &card), slice(9, 4, &card)];
    let mut shown = reached(0, 1);
    shown.slice_uuid = Some(uuid(8));
    shown.memory_bytes = 6 * GIB;
    let joined = join(&[shown], &list, &Surroundings::default());
    assert_eq!(joined.len(), 3);
    assert_eq!(joined[0].described, Some(1));
    assert_eq!(
        (&joined[1].ordinal, &joined[2].ordinal),
        (&Err(Unreached::OtherSlice), &Err(Unreached::OtherSlice))
    );
    let pools: Vec<&Pool> = joined.iter().map(|joined| &joined.device.pool).collect();
    assert_eq!(pools[0], pools[1]);
    assert_ne!(pools[0], pools[2]);
    // By it the kernel's messages find them; what tells them apart is their own identity.
    let addresses = joined.iter().map(|joined| &joined.device.pci_address);
    assert!(addresses.into_iter().all(|address| *address == card.facts.pci_address));
    let identities: std::collections::BTreeSet<String> = joined.iter().map(|joined| joined.device.identity()).collect();
    assert_eq!(identities.len(), 3);
    // The card's limit is the slice's as well.
    assert_eq!(joined[0].device.power_limit_watts, Some(72));
}

#[test]
fn a_slice_without_nvml_has_a_pool_of_its_own() {
    let mut shown = reached(0, 1);
    shown.slice_uuid = Some(uuid(8));
    let joined = join(&[shown], &[], &Surroundings::default());
    let device = &joined[0].device;
    assert_eq!(device.uuid, identity_of("MIG-", uuid(8)));
    assert!(matches!(device.pool, Pool::Named(_)));
    assert_eq!(device.identity(), format!("uuid:{}", device.uuid.as_ref().unwrap()));
}

#[test]
fn a_board_with_unified_memory_is_in_the_hosts_pool() {
    let mut board = reached(0, 1);
    board.integrated = true;
    for list in [vec![], vec![described(1)]] {
        let device = &join(&[board.clone()], &list, &Surroundings::default())[0].device;
        assert_eq!((device.kind, &device.pool), (Kind::Integrated, &Pool::Host));
    }
}
