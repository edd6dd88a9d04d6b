//! Questions for which the node had no processor.

use super::*;

const SECOND_CARD: &str = "uuid:GPU-1";

fn starved() -> ProbeFault {
    ProbeFault::Starved("the probe got no processor".into())
}

/// A node whose only card is verified since its driver told something that may be of any card.
fn in_doubt() -> Node {
    let mut node = Node::ready(&[card(0)]);
    node.read(Reading {
        events: vec![DeviceEvent {
            pci_address: None,
            xid: 79,
            text: "of some card".into(),
        }],
        ..reading(vec![sample(0)])
    });
    assert_eq!(node.later(10).asked(), [(Backend::Cuda, 0)]);
    node
}

#[test]
fn a_node_without_time_for_its_probes_condemns_not_even_its_only_card_and_asks_again_ever_later() {
    let mut node = in_doubt();
    let mut waits_s = Vec::new();
    for _ in 0..6 {
        node.fault(Backend::Cuda, starved());
        assert_eq!(node.standing(CARD), Standing::Ready);
        let mut wait_s = 0;
        while node.asked().is_empty() {
            node.later(1);
            wait_s += 1;
            assert!(wait_s < 100, "it is not asked any more");
        }
        waits_s.push(wait_s);
    }
    assert_eq!(waits_s, [10, 10, 20, 40, 60, 60]);
    assert_eq!(
        node.view().notes,
        [(Backend::Cuda, "the probe got no processor".to_owned())]
    );
    node.answer(Backend::Cuda, &[card(0)]);
    assert_eq!((node.standing(CARD), node.view().notes), (Standing::Ready, Vec::new()));
    assert_eq!(node.later(300).asked(), []);
}

#[test]
fn a_driver_that_hangs_is_found_at_the_first_question_for_which_the_node_has_time() {
    let mut node = in_doubt();
    node.fault(Backend::Cuda, starved());
    assert_eq!(node.later(10).asked(), [(Backend::Cuda, 0)]);
    node.fault(Backend::Cuda, hung());
    assert_eq!(node.trouble(CARD).as_deref(), Some("ProbeHung"));
}

#[test]
fn a_check_for_which_there_was_no_time_says_nothing_and_has_nobody_asked() {
    let mut node = Node::ready(&[card(0)]);
    assert_eq!(node.later(600).asked_parts(), [alone(0).0]);
    node.parts(Backend::Cuda, &[(alone(0).0, Err(starved()))]);
    assert_eq!(node.standing(CARD), Standing::Ready);
    assert!(node.asked_parts().is_empty());
}

#[test]
fn a_backend_that_a_starved_node_could_not_ask_at_the_start_is_asked_until_it_answers() {
    let mut node = Node::with(&[Backend::Cuda]);
    assert_eq!(node.asked(), [(Backend::Cuda, 0)]);
    for _ in 0..10 {
        node.fault(Backend::Cuda, starved());
        assert_eq!(node.later(60).asked(), [(Backend::Cuda, 0)]);
    }
    node.answer(Backend::Cuda, &[card(0)]);
    assert_eq!(node.standing(CARD), Standing::Ready);
}

#[test]
fn of_cards_that_are_asked_alone_none_is_condemned_where_the_node_had_no_time_for_all_of_them() {
    let (mut node, _) = divided();
    node.parts(Backend::Cuda, &[broken(0), (alone(1).0, Err(starved()))]);
    assert_eq!((node.trouble(CARD), node.trouble(SECOND_CARD)), (None, None));
    assert_eq!(node.later(10).asked_parts(), [Selection::All]);
}

#[test]
fn a_card_for_which_there_was_no_time_beside_one_that_answers_is_asked_again_soon() {
    let (mut node, _) = divided();
    node.parts(Backend::Cuda, &[alone(0), (alone(1).0, Err(starved()))]);
    assert_eq!((node.trouble(CARD), node.trouble(SECOND_CARD)), (None, None));
    assert_eq!(node.view().states.len(), 2);
    assert_eq!(node.later(10).asked_parts(), [Selection::All]);
    node.answer(Backend::Cuda, &[card(0), card(1)]);
    let verified = |state: &DeviceState| state.device.verification == Verification::Verified;
    assert!(node.view().states.iter().all(verified));
}

#[test]
fn well_cards_that_could_not_be_asked_are_there_still_though_the_sick_one_answers() {
    for not_asked in [starved(), ProbeFault::Broken("no more processes".into())] {
        let mut node = Node::ready(&[card(0), card(1), card(2)]);
        node.decider.told(Backend::Cuda, Told::Hung, node.now_ms);
        node.later(1).asked_parts();
        node.parts(Backend::Cuda, &[broken(0), alone(1), alone(2)]);
        let well = Selection::At([1, 2].map(|number| format!("0000:0{number}:00.0")).into());
        assert_eq!(node.later(31).asked_parts(), [well.clone(), alone(0).0]);
        node.parts(Backend::Cuda, &[(well.clone(), Err(not_asked)), alone(0)]);
        for identity in [SECOND_CARD, "uuid:GPU-2"] {
            assert_eq!(node.standing(identity), Standing::Ready, "{identity}");
        }
        assert_eq!(node.trouble(CARD).as_deref(), Some("ProbeHung"));
        assert_eq!(node.decider.watched(Backend::Cuda), well);
    }
}
