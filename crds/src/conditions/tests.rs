use super::*;

fn at(second: i64) -> Time {
    Time(k8s_openapi::jiff::Timestamp::from_second(second).expect("a valid time"))
}

fn ready(status: ConditionStatus, message: &str) -> NewCondition<'_> {
    NewCondition {
        kind: model::READY,
        status,
        reason: reason::SERVING,
        message,
    }
}

#[test]
fn the_transition_time_moves_only_with_the_status() {
    let mut list = Vec::new();
    assert!(set_condition(
        &mut list,
        ready(ConditionStatus::True, "3 of 3"),
        Some(1),
        &at(10)
    ));
    assert!(set_condition(
        &mut list,
        ready(ConditionStatus::True, "2 of 2"),
        Some(1),
        &at(20)
    ));
    assert_eq!(list[0].last_transition_time, at(10));
    assert!(set_condition(
        &mut list,
        ready(ConditionStatus::False, "2 of 2"),
        Some(1),
        &at(30)
    ));
    assert_eq!(list[0].last_transition_time, at(30));
}

#[test]
fn the_observed_generation_is_taken_over_without_counting_as_a_change() {
    let mut list = Vec::new();
    set_condition(&mut list, ready(ConditionStatus::True, "m"), Some(1), &at(10));
    assert!(!set_condition(
        &mut list,
        ready(ConditionStatus::True, "m"),
        Some(2),
        &at(20)
    ));
    assert_eq!(list[0].observed_generation, Some(2));
    assert_eq!(list[0].last_transition_time, at(10));
}

#[test]
fn setting_one_condition_leaves_the_others_alone() {
    let mut list = Vec::new();
    for kind in model::ALL {
        let new = NewCondition {
            kind,
            status: ConditionStatus::Unknown,
            reason: reason::PENDING,
            message: "",
        };
        set_condition(&mut list, new, Some(1), &at(1));
    }
    set_condition(&mut list, ready(ConditionStatus::True, "m"), Some(1), &at(2));
    assert_eq!(list.len(), model::ALL.len());
    assert!(is_true(&list, model::READY));
    assert!(!is_true(&list, model::PLACED));
    assert!(!is_true(&list, "Absent"));
    assert_eq!(
        find(&list, model::PLACED).map(|c| c.reason.as_str()),
        Some(reason::PENDING)
    );
}

#[test]
fn a_message_is_cut_to_what_the_schema_accepts() {
    let mut list = Vec::new();
    let long = "ä".repeat(MAX_MESSAGE_BYTES);
    set_condition(&mut list, ready(ConditionStatus::False, &long), None, &at(1));
    assert!(list[0].message.len() <= MAX_MESSAGE_BYTES);
}
