use super::*;
use crate::reservation::object;
use serde_json::{Value, json};

const GPU: &str = "nvidia.com/gpu";

fn node(name: &str, allocatable: &Value) -> Node {
    serde_json::from_value(json!({ "metadata": { "name": name }, "status": { "allocatable": allocatable } })).unwrap()
}

fn agent(node: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": format!("shardwright-agent-{node}") },
        "spec": { "containers": [], "nodeName": node, "tolerations": [
            { "key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule" },
            { "key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule" },
        ] },
    }))
    .unwrap()
}

fn reservation(node: &str, resource: &str, index: u32, bound: bool) -> Pod {
    let name = names::reservation_pod(node, resource, index);
    serde_json::from_value(json!({
        "metadata": {
            "name": name, "uid": format!("uid-{name}"), "creationTimestamp": format!("2026-01-01T00:00:{index:02}Z"),
            "annotations": { object::NODE_ANNOTATION: node, object::RESOURCE_ANNOTATION: resource },
        },
        "spec": { "containers": [], "nodeName": bound.then_some(node) },
        "status": { "phase": if bound { "Running" } else { "Pending" } },
    }))
    .unwrap()
}

fn settings(count: Count) -> Settings {
    Settings {
        enabled: true,
        count,
        namespace: "shardwright-system".to_owned(),
        image: "pause".to_owned(),
        priority_class: String::new(),
        deployment: "shardwright-operator".to_owned(),
    }
}

fn two_gpus() -> Observed {
    Observed {
        nodes: vec![node("a", &json!({ "cpu": "8", GPU: "2" }))],
        agents: vec![agent("a")],
        reservations: Vec::new(),
    }
}

fn planned(observed: &Observed, settings: &Settings) -> Vec<Action> {
    plan(observed, settings, &mut Remembered::default(), Instant::now())
}

fn reserved(actions: &[Action]) -> Vec<&str> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Reserve(reservation) => Some(reservation.name.as_str()),
            Action::Release { .. } => None,
        })
        .collect()
}

fn released(actions: &[Action]) -> Vec<(&str, &str)> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Release { name, why, .. } => Some((name.as_str(), *why)),
            Action::Reserve(_) => None,
        })
        .collect()
}

#[test]
fn devices_are_reserved_one_by_one_until_all_are_held() {
    let all = settings(Count::All);
    let mut observed = two_gpus();
    for index in 0..2 {
        let actions = planned(&observed, &all);
        assert_eq!(reserved(&actions), [names::reservation_pod("a", GPU, index)]);
        observed.reservations.push(reservation("a", GPU, index, true));
    }
    assert_eq!(planned(&observed, &all), [], "then there is nothing to do");
}

#[test]
fn while_a_pod_waits_for_a_device_no_other_is_made() {
    let mut observed = two_gpus();
    observed.reservations = vec![reservation("a", GPU, 0, false)];
    assert_eq!(planned(&observed, &settings(Count::All)), []);
}

#[test]
fn a_pod_is_made_anew_after_it_had_to_give_way_and_not_under_the_name_of_one_that_is_still_ending() {
    let mut observed = two_gpus();
    let mut ending = reservation("a", GPU, 0, true);
    let now = k8s_openapi::jiff::Timestamp::UNIX_EPOCH;
    ending.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
    observed.reservations = vec![ending];
    assert_eq!(
        planned(&observed, &settings(Count::All)),
        [],
        "its device is not free yet"
    );
    observed.reservations.clear();
    assert_eq!(reserved(&planned(&observed, &settings(Count::All))).len(), 1);
}

#[test]
fn no_more_is_held_than_the_owner_allows() {
    let mut observed = two_gpus();
    observed.reservations = vec![reservation("a", GPU, 0, true)];
    assert_eq!(planned(&observed, &settings(Count::AtMost(1))), []);
    assert_eq!(planned(&observed, &settings(Count::AtMost(0))).len(), 1);
    observed.reservations.push(reservation("a", GPU, 1, true));
    let actions = planned(&observed, &settings(Count::AtMost(1)));
    let last = names::reservation_pod("a", GPU, 1);
    assert_eq!(released(&actions), [(last.as_str(), "fewer devices are to be held")]);
    assert_eq!(reserved(&actions), Vec::<&str>::new());
}

#[test]
fn a_node_without_an_agent_is_left_alone() {
    let observed = Observed {
        agents: Vec::new(),
        ..two_gpus()
    };
    assert_eq!(planned(&observed, &settings(Count::All)), []);
}

#[test]
fn an_agent_that_is_replaced_keeps_its_reservations_and_one_that_stays_away_does_not() {
    let all = settings(Count::All);
    let mut observed = two_gpus();
    observed.reservations = vec![reservation("a", GPU, 0, true), reservation("a", GPU, 1, true)];
    let (mut seen, began) = (Remembered::default(), Instant::now());
    assert_eq!(plan(&observed, &all, &mut seen, began), []);
    observed.agents.clear();
    let soon = began + AGENT_GRACE / 2;
    assert_eq!(plan(&observed, &all, &mut seen, soon), []);
    let late = began + AGENT_GRACE;
    assert_eq!(released(&plan(&observed, &all, &mut seen, late)).len(), 2);
}

#[test]
fn reservations_end_when_devices_are_shared_and_when_their_node_is_gone() {
    let mut observed = two_gpus();
    observed.reservations = vec![reservation("a", GPU, 0, true)];
    let share = Settings {
        enabled: false,
        ..settings(Count::All)
    };
    let actions = planned(&observed, &share);
    assert_eq!(released(&actions)[0].1, "devices are not reserved any more");
    assert_eq!(reserved(&actions), Vec::<&str>::new());
    observed.nodes.clear();
    assert_eq!(
        released(&planned(&observed, &settings(Count::All)))[0].1,
        "its node is gone"
    );
}

#[test]
fn a_cordoned_node_keeps_what_it_has_and_gets_no_more() {
    let mut observed = two_gpus();
    observed.nodes[0].spec.get_or_insert_default().unschedulable = Some(true);
    observed.reservations = vec![reservation("a", GPU, 0, true)];
    assert_eq!(planned(&observed, &settings(Count::All)), []);
}

#[test]
fn a_plugin_that_restarts_costs_no_reservation() {
    let mut observed = two_gpus();
    observed.nodes = vec![node("a", &json!({ GPU: "0" }))];
    observed.reservations = vec![reservation("a", GPU, 0, true), reservation("a", GPU, 1, true)];
    assert_eq!(planned(&observed, &settings(Count::All)), []);
}

#[test]
fn a_pod_that_was_refused_is_tried_again_a_while_after_that_was_seen_whatever_the_dates_say() {
    let mut observed = two_gpus();
    let mut refused = reservation("a", GPU, 0, true);
    refused.status.get_or_insert_default().phase = Some("Failed".to_owned());
    observed.reservations = vec![refused];
    let all = settings(Count::All);
    let (mut seen, began) = (Remembered::default(), Instant::now());
    for after in [Duration::ZERO, REFUSED_FOR - Duration::from_secs(1)] {
        assert_eq!(released(&plan(&observed, &all, &mut seen, began + after)), []);
    }
    // One of its name that was made since has the same time.
    let mut another = observed.clone();
    another.reservations[0].metadata.uid = Some("another".to_owned());
    assert_eq!(released(&plan(&another, &all, &mut seen, began + REFUSED_FOR)), []);
    let late = plan(&another, &all, &mut seen, began + 2 * REFUSED_FOR);
    assert_eq!(released(&late)[0].1, "it was refused or evicted");
}

#[test]
fn every_makers_devices_are_reserved_and_nothing_else_is() {
    let mut observed = two_gpus();
    observed.nodes = vec![node(
        "a",
        &json!({
            "cpu": "8", "memory": "1Gi", "amd.com/gpu": "1", "nvidia.com/mig-1g.5gb": "7", "gpu.intel.com/xe": "1",
            "gpu.intel.com/xe_monitoring": "1", "gpu.intel.com/millicores": "1000", "example.com/fpga": "1",
            "nvidia.com/gpu": "garbage",
        }),
    )];
    let actions = planned(&observed, &settings(Count::All));
    assert_eq!(
        reserved(&actions),
        [
            names::reservation_pod("a", "amd.com/gpu", 0),
            names::reservation_pod("a", "gpu.intel.com/xe", 0),
            names::reservation_pod("a", "nvidia.com/mig-1g.5gb", 0),
        ]
    );
}

#[test]
fn a_reservation_tolerates_what_the_agents_owner_chose_and_no_more() {
    let observed = two_gpus();
    let actions = planned(&observed, &settings(Count::All));
    let Action::Reserve(reservation) = &actions[0] else {
        panic!("{actions:?}");
    };
    let keys: Vec<_> = reservation
        .tolerations
        .iter()
        .filter_map(|toleration| toleration.key.as_deref())
        .collect();
    assert_eq!(keys, ["nvidia.com/gpu"]);
}

#[test]
fn a_pod_that_says_not_what_it_holds_is_removed() {
    let mut observed = two_gpus();
    let mut odd = reservation("a", GPU, 0, true);
    odd.metadata.annotations = None;
    observed.reservations = vec![odd];
    assert_eq!(
        released(&planned(&observed, &settings(Count::All)))[0].1,
        "it is no reservation of this version"
    );
}
