//! Sensors that talk nonsense.

use super::*;

/// Temperature and fault of the sensor, as they are shown.
fn shown(node: &Node) -> (Option<f32>, Option<String>) {
    let sample = node.view().states.remove(0).sample.unwrap();
    (sample.temperature_celsius, sample.sensor_fault)
}

#[test]
fn the_last_good_temperature_is_shown_for_ten_seconds_and_then_none_and_the_fault_is_told_from_the_first() {
    let mut node = Node::ready(&[card(0)]);
    let fault = "the sensor says 255 °C";
    let nonsense = Sample {
        temperature_celsius: None,
        sensor_fault: Some(fault.into()),
        ..sample(0)
    };
    node.read(reading(vec![sample(0)]));
    node.later(4).read(reading(vec![nonsense.clone()]));
    assert_eq!(shown(&node), (Some(40.0), Some(fault.to_owned())));
    node.later(5).read(reading(vec![nonsense.clone()]));
    assert_eq!(shown(&node).0, Some(40.0));
    node.later(1);
    assert_eq!(shown(&node).0, None, "no reading is needed for it to be too old");
    assert_eq!(node.standing(CARD), Standing::Ready);
    node.later(4).read(reading(vec![nonsense]));
    assert!(matches!(node.standing(CARD), Standing::Unproven { .. }));
    node.later(1).read(reading(vec![sample(0)]));
    assert_eq!(shown(&node), (Some(40.0), None));
    assert_eq!(node.standing(CARD), Standing::Ready);
}

#[test]
fn a_card_that_was_pulled_out_leaves_no_temperature_behind() {
    let mut node = Node::ready(&[card(0)]);
    node.read(reading(vec![sample(0)]));
    node.later(2).read(reading(vec![]));
    node.asked();
    node.answer(Backend::Cuda, &[card(0)]);
    node.later(2).read(reading(vec![Sample {
        temperature_celsius: None,
        ..sample(0)
    }]));
    assert_eq!(shown(&node).0, None);
}
