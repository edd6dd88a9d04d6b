//! A card that two backends reach.

use super::*;
use device::Unverified;

const BY_VULKAN: &str = "uuid:vulkan";

/// The card as Vulkan sees it: another identity, at the same place.
fn by_vulkan() -> GpuDevice {
    GpuDevice {
        backend: Backend::Vulkan,
        uuid: Some("vulkan".into()),
        driver: Some("NVIDIA 580.65".into()),
        ..card(0)
    }
}

/// A card in order that CUDA leads to, and Vulkan reaches as well.
fn reached_twice() -> Node {
    let mut node = Node::with(&[Backend::Cuda, Backend::Vulkan]);
    let ours = [CARD, BY_VULKAN].map(|name| (name.to_owned(), Availability::Ours));
    node.decider.neighbours(Some(Arc::new(Neighbours {
        claims: ours.into(),
        ..Neighbours::default()
    })));
    assert_eq!(node.asked(), [(Backend::Cuda, 0), (Backend::Vulkan, 0)]);
    node.answer(Backend::Cuda, &[card(0)]);
    node.answer(Backend::Vulkan, &[by_vulkan()]);
    assert_eq!(node.asked(), []);
    assert!(node.view().ready);
    node
}

fn hold(node: &mut Node, names: &[&str]) {
    node.idle = names.is_empty();
    node.decider.in_use(InUse {
        held: names.iter().map(|name| (*name).to_owned()).collect(),
        ..InUse::default()
    });
}

/// Has the card verified by the backend that leads to it: something happened that may be its.
fn doubt(node: &mut Node, backend: Backend) {
    node.read(Reading {
        backend,
        events: vec![DeviceEvent {
            pci_address: None,
            xid: 79,
            text: "of some card".into(),
        }],
        ..reading(Vec::new())
    });
    assert_eq!(node.later(10).asked(), [(backend, 0)]);
}

/// There is one card. How it is named, and which backends failed it.
fn only(node: &Node) -> (String, Vec<Unverified>) {
    let states = node.view().states;
    assert_eq!(states.len(), 1, "{states:#?}");
    (states[0].device.short_name(), states[0].device.unverified.clone())
}

fn cuda_failed() -> Vec<Unverified> {
    vec![Unverified {
        backend: Backend::Cuda,
        verification: failed(card(0)).verification,
    }]
}

/// Vulkan is asked half a minute after the failure, verifies the card, and it is ready a minute later.
fn comes_back_by_vulkan(node: &mut Node) {
    assert_eq!(only(node), ("vulkan0".to_owned(), cuda_failed()));
    assert_eq!(node.trouble(BY_VULKAN).as_deref(), Some("SelfTestFailed"));
    assert_eq!(node.later(29).asked(), []);
    assert_eq!(node.later(1).asked(), [(Backend::Vulkan, 0)]);
    node.answer(Backend::Vulkan, &[by_vulkan()]);
    assert!(matches!(node.standing(BY_VULKAN), Standing::Recovering { .. }));
    node.later(61).asked();
    assert_eq!(node.standing(BY_VULKAN), Standing::Ready);
    assert!(node.view().states[0].takes_layers());
    assert_eq!(
        only(node),
        ("vulkan0".to_owned(), cuda_failed()),
        "it is told which failed"
    );
}

#[test]
fn a_card_that_fails_by_way_of_one_backend_is_used_by_way_of_the_other_once_that_has_verified_it() {
    let mut node = reached_twice();
    doubt(&mut node, Backend::Cuda);
    node.answer(Backend::Cuda, &[failed(card(0))]);
    let failures = node.view().turns.into_iter();
    let failures = failures.filter(|turn| matches!(turn.transition, Transition::Failed { .. }));
    assert_eq!(failures.count(), 1, "it is told that it failed");
    comes_back_by_vulkan(&mut node);
}

#[test]
fn an_idle_card_that_fails_its_check_is_used_by_way_of_the_other_backend_as_well() {
    let mut node = reached_twice();
    assert_eq!(node.later(600).asked_parts(), [alone(0).0]);
    let answer = Answer {
        backend: Backend::Cuda,
        devices: vec![failed(card(0))],
        note: None,
    };
    node.parts(Backend::Cuda, &[(alone(0).0, Ok(answer))]);
    assert_eq!(node.trouble(CARD).as_deref(), Some("SelfTestFailed"));
    assert_eq!(node.asked(), []);
    comes_back_by_vulkan(&mut node);
}

#[test]
fn a_card_that_fails_while_layers_are_on_it_keeps_its_name_until_they_have_left_so_that_they_are_ended() {
    let mut node = reached_twice();
    hold(&mut node, &["node-cuda0"]);
    doubt(&mut node, Backend::Cuda);
    node.answer(Backend::Cuda, &[failed(card(0))]);
    assert_eq!(only(&node), ("cuda0".to_owned(), Vec::new()));
    assert_eq!(node.trouble(CARD).as_deref(), Some("SelfTestFailed"));
    assert!(
        node.view().states[0].spoiled_by.is_some(),
        "what computes there must end"
    );
    hold(&mut node, &[]);
    assert_eq!(node.asked(), []);
    assert!(
        node.view().states[0].spoiled_by.is_some(),
        "nothing else begins there either"
    );
    comes_back_by_vulkan(&mut node);
}

#[test]
fn a_card_that_fails_keeps_its_name_for_what_is_about_to_leave_it_as_well() {
    let mut node = reached_twice();
    node.decider.in_use(InUse {
        leaving: ["node-cuda0".to_owned()].into(),
        ..InUse::default()
    });
    doubt(&mut node, Backend::Cuda);
    node.answer(Backend::Cuda, &[failed(card(0))]);
    assert_eq!(only(&node), ("cuda0".to_owned(), Vec::new()));
    assert!(
        node.view().states[0].spoiled_by.is_some(),
        "what computes there must end"
    );
    hold(&mut node, &[]);
    assert_eq!(node.asked(), []);
    comes_back_by_vulkan(&mut node);
}

#[test]
fn a_card_that_fails_by_way_of_both_backends_is_not_used_at_all() {
    let mut node = reached_twice();
    doubt(&mut node, Backend::Cuda);
    node.answer(Backend::Cuda, &[failed(card(0))]);
    assert_eq!(node.later(30).asked(), [(Backend::Vulkan, 0)]);
    node.answer(Backend::Vulkan, &[failed(by_vulkan())]);
    for _ in 0..3 {
        assert_eq!(
            node.later(31).asked(),
            [(Backend::Cuda, 0)],
            "the better one is asked on"
        );
        node.answer(Backend::Cuda, &[failed(card(0))]);
        assert_eq!(node.trouble(CARD).as_deref(), Some("SelfTestFailed"));
    }
}

#[test]
fn the_better_backend_leads_again_when_it_verifies_the_card_and_nothing_is_on_it() {
    let mut node = reached_twice();
    doubt(&mut node, Backend::Cuda);
    node.answer(Backend::Cuda, &[failed(card(0))]);
    comes_back_by_vulkan(&mut node);
    hold(&mut node, &["node-vulkan0"]);
    let plugged = Card {
        address: "0000:09:00.0".into(),
        vendor: "0x10de".into(),
    };
    node.decider.bus(BTreeSet::new(), node.now_ms);
    node.decider.bus([plugged].into(), node.now_ms);
    assert_eq!(node.later(2).asked(), [(Backend::Cuda, 0), (Backend::Vulkan, 0)]);
    node.answer(Backend::Cuda, &[card(0)]);
    node.answer(Backend::Vulkan, &[by_vulkan()]);
    assert_eq!(
        only(&node),
        ("vulkan0".to_owned(), Vec::new()),
        "its layers go by that name"
    );
    node.later(6);
    hold(&mut node, &[]);
    assert_eq!(node.asked(), [(Backend::Cuda, 0)], "the proof was another one's");
    node.answer(Backend::Cuda, &[card(0)]);
    assert_eq!(only(&node), ("cuda0".to_owned(), Vec::new()));
    assert_eq!(node.standing(CARD), Standing::Ready);
}

#[test]
fn a_card_that_hangs_by_way_of_one_backend_is_failed_and_used_by_way_of_the_other_and_of_the_first_once_it_answers() {
    let mut node = Node::with(&[Backend::Cuda, Backend::Vulkan]);
    assert_eq!(node.asked().len(), 2);
    node.answer(Backend::Cuda, &[card(0), card(1)]);
    node.answer(Backend::Vulkan, &[by_vulkan()]);
    assert_eq!(node.asked(), []);
    node.decider.told(Backend::Cuda, Told::Hung, node.now_ms);
    assert_eq!(node.later(1).asked_parts(), [alone(0).0, alone(1).0]);
    node.parts(Backend::Cuda, &[broken(0), alone(1)]);
    assert_eq!(node.trouble(BY_VULKAN).as_deref(), Some("ProbeHung"));
    assert_eq!(node.later(30).asked(), [(Backend::Vulkan, 0)]);
    node.answer(Backend::Vulkan, &[by_vulkan()]);
    node.later(61).asked();
    assert_eq!(node.standing(BY_VULKAN), Standing::Ready);
    doubt(&mut node, Backend::Cuda);
    node.parts(Backend::Cuda, &[alone(1), alone(0)]);
    assert_eq!(node.standing(CARD), Standing::Ready, "it answered by every way");
    assert_eq!(node.view().states.len(), 2);
}
