//! Devices in order that are verified once more.

use super::*;
use device::UNPLUGGED;

const SECOND_CARD: &str = "uuid:GPU-1";

/// On which cards there are layers of ours, and onto which some are loaded.
fn in_use(node: &mut Node, held: &[u32], loading: &[u32]) {
    let names = |cards: &[u32]| cards.iter().map(|card| format!("node-cuda{card}")).collect();
    node.idle = held.is_empty();
    node.decider.in_use(InUse {
        held: names(held),
        loading: names(loading),
        ..InUse::default()
    });
}

/// What a child says that was asked for one card.
fn checked(node: &mut Node, device: GpuDevice) {
    let only = Selection::one(device.place());
    let answer = Answer {
        backend: device.backend,
        devices: vec![device],
        note: None,
    };
    node.parts(answer.backend, &[(only, Ok(answer))]);
}

/// Two cards that were verified three minutes ago; layers are loaded onto the second, which is being checked.
fn loading() -> Node {
    let mut node = Node::ready(&[card(0), card(1)]);
    in_use(&mut node, &[], &[1]);
    assert!(node.later(179).asked_parts().is_empty());
    assert_eq!(node.later(1).asked_parts(), [alone(1).0]);
    node
}

#[test]
fn a_device_onto_which_layers_are_loaded_is_checked_where_its_proof_is_old_and_no_other() {
    let mut node = loading();
    assert!(node.asked_parts().is_empty(), "it is under way");
    checked(&mut node, card(1));
    assert!(node.later(179).asked_parts().is_empty());
    let standings = [CARD, SECOND_CARD].map(|identity| node.standing(identity));
    assert_eq!(standings, [Standing::Ready, Standing::Ready]);
    assert_eq!(node.view().states.len(), 2, "the other was not asked, and is there");
    assert_eq!(node.later(1).asked_parts(), [alone(1).0], "it is loaded still");
}

#[test]
fn a_device_that_fails_its_check_is_condemned_with_what_it_computes_and_its_neighbour_is_not() {
    let mut node = loading();
    checked(&mut node, failed(card(1)));
    assert_eq!(node.trouble(SECOND_CARD).as_deref(), Some("SelfTestFailed"));
    assert_eq!(node.standing(CARD), Standing::Ready);
    let view = node.view();
    let state = view.states.iter().find(|state| state.device.identity() == SECOND_CARD);
    let state = state.unwrap();
    assert!(matches!(state.device.verification, Verification::Failed { .. }));
    let spoiled_by = state.spoiled_by.as_ref().unwrap();
    assert_eq!(spoiled_by.to_string(), "SelfTestFailed: byte 7 differs");
    let turn = view.turns.last().unwrap();
    assert_eq!(turn.identity, SECOND_CARD);
    assert!(matches!(turn.transition, Transition::Failed { .. }));
    assert!(node.later(29).asked_parts().is_empty());
    assert_eq!(node.later(1).asked_parts(), [Selection::All], "as after any failure");
}

#[test]
fn a_device_on_which_nothing_is_is_checked_every_ten_minutes_and_one_with_layers_is_left_to_compute() {
    let mut node = Node::ready(&[card(0), card(1)]);
    in_use(&mut node, &[1], &[]);
    for _ in 0..3 {
        assert!(node.later(599).asked_parts().is_empty());
        assert_eq!(node.later(1).asked_parts(), [alone(0).0]);
        checked(&mut node, card(0));
    }
    in_use(&mut node, &[], &[]);
    assert_eq!(node.asked_parts(), [alone(1).0], "its layers have left");
}

#[test]
fn what_others_use_is_touched_only_when_layers_are_loaded_onto_it_and_what_they_were_given_never() {
    let mut node = Node::ready(&[card(0), card(1), card(2)]);
    let pod = Availability::Foreign { by: "ns/pod".into() };
    let claim = |number: u32, claim| (format!("uuid:GPU-{number}"), claim);
    node.decider.neighbours(Some(Arc::new(Neighbours {
        claims: [
            claim(0, pod),
            claim(1, Availability::Ours),
            claim(2, Availability::Ours),
        ]
        .into(),
        strangers: [(SECOND_CARD.to_owned(), "process 7, which is not ours".to_owned())].into(),
        ..Neighbours::default()
    })));
    assert_eq!(node.later(600).asked_parts(), [alone(2).0]);
    checked(&mut node, card(2));
    assert!(node.asked_parts().is_empty());
    in_use(&mut node, &[], &[0, 1]);
    assert_eq!(node.asked_parts(), [alone(1).0]);
}

/// Of three cards these were given to a pod of others.
fn given_away(node: &mut Node, cards: &[u32]) {
    let pod = Availability::Foreign { by: "ns/pod".into() };
    let claim = |number: u32| {
        if cards.contains(&number) {
            pod.clone()
        } else {
            Availability::Ours
        }
    };
    let claims = (0..3).map(|number| (format!("uuid:GPU-{number}"), claim(number)));
    node.decider.neighbours(Some(Arc::new(Neighbours {
        claims: claims.collect(),
        ..Neighbours::default()
    })));
}

#[test]
fn a_card_is_left_alone_while_one_of_its_slices_has_layers_or_was_given_to_others_and_each_is_told_of_by_itself() {
    const CUT_UP: &str = "0000:07:00.0";
    let slice = |number| GpuDevice {
        pci_address: Some(CUT_UP.to_owned()),
        pool: Pool::Named(CUT_UP.to_owned()),
        ..card(number)
    };
    let mut node = Node::ready(&[slice(0), slice(1), card(2)]);
    in_use(&mut node, &[1], &[]);
    assert_eq!(node.later(600).asked_parts(), [alone(2).0]);
    checked(&mut node, card(2));
    assert!(node.asked_parts().is_empty());
    in_use(&mut node, &[], &[]);
    given_away(&mut node, &[1]);
    assert!(node.asked_parts().is_empty());
    given_away(&mut node, &[]);
    assert_eq!(node.asked_parts(), [Selection::one(CUT_UP)]);
    let answer = Answer {
        backend: Backend::Cuda,
        devices: vec![slice(0), failed(slice(1))],
        note: None,
    };
    node.parts(Backend::Cuda, &[(Selection::one(CUT_UP), Ok(answer))]);
    assert_eq!(node.standing(CARD), Standing::Ready);
    assert_eq!(node.trouble(SECOND_CARD).as_deref(), Some("SelfTestFailed"));
}

#[test]
fn what_a_check_found_is_shown_still_once_another_backend_answers() {
    let mut node = mixed();
    assert_eq!(node.later(600).asked(), [(Backend::Cuda, 0)]);
    checked(&mut node, failed(card(0)));
    node.answer(Backend::Cpu, &[measured(processors())]);
    let view = node.view();
    let shown = view.states.iter().find(|state| state.device.identity() == CARD);
    assert!(matches!(
        shown.unwrap().device.verification,
        Verification::Failed { .. }
    ));
}

#[test]
fn a_check_that_could_not_be_made_says_nothing_and_is_made_again_when_the_time_has_come() {
    let refused = GpuDevice {
        verification: Verification::CouldNotMeasure {
            reason: "no memory is free".into(),
        },
        ..card(1)
    };
    let answer = Answer::nothing(Backend::Cuda, "the library does not open");
    let not_made = ProbeFault::Broken("no more processes".into());
    for outcome in ["refused", "not listed", "not made"] {
        let mut node = loading();
        match outcome {
            "refused" => checked(&mut node, refused.clone()),
            "not listed" => node.parts(Backend::Cuda, &[(alone(1).0, Ok(answer.clone()))]),
            _ => node.parts(Backend::Cuda, &[(alone(1).0, Err(not_made.clone()))]),
        }
        assert_eq!(node.standing(SECOND_CARD), Standing::Ready, "{outcome}");
        let shown = node.view().states.remove(1).device.verification;
        assert_eq!(shown, Verification::Verified, "{outcome}");
        assert!(node.later(179).asked_parts().is_empty(), "{outcome}");
        assert_eq!(node.later(1).asked_parts(), [alone(1).0], "{outcome}");
    }
}

#[test]
fn a_check_that_hangs_has_each_card_asked_alone_and_condemns_the_one_that_hangs_again() {
    let mut node = loading();
    node.parts(Backend::Cuda, &[broken(1)]);
    assert_eq!(node.trouble(SECOND_CARD), None, "once is chance");
    assert_eq!(node.asked_parts(), [alone(0).0, alone(1).0]);
    node.parts(Backend::Cuda, &[alone(0), broken(1)]);
    assert_eq!(node.trouble(SECOND_CARD).as_deref(), Some("ProbeHung"));
    assert_eq!(node.standing(CARD), Standing::Ready);
}

/// A card and the processors, in order.
fn mixed() -> Node {
    let mut node = Node::with(&[Backend::Cuda, Backend::Cpu]);
    assert_eq!(node.asked(), [(Backend::Cuda, 0), (Backend::Cpu, 0)]);
    node.answer(Backend::Cuda, &[card(0)]);
    node.answer(Backend::Cpu, &[measured(processors())]);
    assert!(node.asked().is_empty() && node.view().ready);
    node
}

#[test]
fn idle_devices_are_checked_one_backend_after_the_other_and_beside_loading_nobody_waits() {
    let mut node = mixed();
    assert_eq!(node.later(600).asked(), [(Backend::Cuda, 0)]);
    assert!(node.asked().is_empty());
    node.decider.in_use(InUse {
        loading: ["node-cpu0".to_owned()].into(),
        ..InUse::default()
    });
    assert_eq!(node.asked(), [(Backend::Cpu, 0)]);
    checked(&mut node, processors());
    checked(&mut node, card(0));
    assert!(node.asked().is_empty());
}

#[test]
fn a_check_of_the_processors_that_a_starved_machine_does_not_answer_says_nothing() {
    let mut node = mixed();
    node.decider.in_use(InUse {
        loading: ["node-cpu0".to_owned()].into(),
        ..InUse::default()
    });
    assert_eq!(node.later(180).asked(), [(Backend::Cpu, 0)]);
    node.parts(Backend::Cpu, &[(Selection::one(UNPLUGGED), Err(hung()))]);
    assert_eq!(node.standing("cpu:0"), Standing::Ready);
    assert!(node.asked().is_empty());
}

#[test]
fn a_renderer_on_the_processors_that_a_starved_machine_does_not_answer_is_asked_no_more_than_they_are() {
    let renderer = measured(GpuDevice {
        verification: Verification::Verified,
        ..GpuDevice::new(Backend::Vulkan, 0, Kind::Software)
    });
    let mut node = Node::with(&[Backend::Vulkan]);
    assert_eq!(node.asked(), [(Backend::Vulkan, 0)]);
    node.answer(Backend::Vulkan, &[renderer]);
    assert!(node.asked().is_empty() && node.view().ready);
    assert_eq!(node.later(600).asked_parts(), [Selection::one(UNPLUGGED)]);
    node.parts(Backend::Vulkan, &[(Selection::one(UNPLUGGED), Err(hung()))]);
    assert_eq!(node.standing("vulkan:0"), Standing::Ready);
    assert!(node.asked().is_empty());
    let crashed = ProbeFault::Crashed("signal 11".into());
    assert_eq!(node.later(600).asked_parts(), [Selection::one(UNPLUGGED)]);
    node.parts(Backend::Vulkan, &[(Selection::one(UNPLUGGED), Err(crashed))]);
    assert_eq!(node.asked(), [(Backend::Vulkan, 0)], "nobody does that to it");
}
