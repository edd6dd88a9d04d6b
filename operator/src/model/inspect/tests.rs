use super::*;
use crate::model::fixture;

/// Begins with the first of the nodes.
fn inspection() -> Inspection {
    Inspection::new(fixture::source("file:///m.gguf"), "")
}

impl Inspection {
    /// The node to ask first.
    fn next(&mut self, attached: &BTreeMap<String, u64>, now: Instant, jitter: f64) -> Option<String> {
        self.candidates(attached, now, jitter).into_iter().next()
    }
}

fn attached(nodes: &[&str]) -> BTreeMap<String, u64> {
    nodes
        .iter()
        .enumerate()
        .map(|(at, node)| (node.to_string(), at as u64))
        .collect()
}

fn failure(reason: &str) -> Result<Arc<Facts>, Failure> {
    Err(Failure {
        reason: reason.into(),
        message: "because".into(),
    })
}

/// Asks whom the inspection wants to ask, and answers with a failure of the given reason.
fn fail_next(inspection: &mut Inspection, attached: &BTreeMap<String, u64>, now: Instant, reason: &str) -> String {
    let node = inspection.next(attached, now, 1.0).expect("somebody to ask");
    inspection.asked(node.clone(), attached[&node], 1, now);
    assert!(inspection.answered(&node, 1, failure(reason)));
    node
}

#[test]
fn agents_are_asked_in_turn_until_one_can_read_the_source() {
    let (mut inspection, now, nodes) = (inspection(), Instant::now(), attached(&["a", "b", "c"]));
    assert_eq!(fail_next(&mut inspection, &nodes, now, "SourceNotFound"), "a");
    let node = inspection.next(&nodes, now, 1.0).unwrap();
    assert_eq!(node, "b");
    inspection.asked(node, nodes["b"], 1, now);
    assert_eq!(inspection.next(&nodes, now, 1.0), None, "one at a time");
    assert_eq!(inspection.resolution(), Resolution::Inspecting("b".into()));
    let facts = Arc::new(fixture::facts());
    assert!(inspection.answered("b", 1, Ok(facts.clone())));
    assert_eq!(inspection.resolution(), Resolution::Resolved(facts));
    assert_eq!(inspection.next(&nodes, now, 1.0), None);
}

#[test]
fn without_agents_nothing_is_asked_and_that_is_said() {
    let mut inspection = inspection();
    assert_eq!(inspection.next(&attached(&[]), Instant::now(), 1.0), None);
    assert_eq!(inspection.resolution(), Resolution::NoAgent);
}

#[test]
fn when_all_fail_the_most_telling_reason_is_shown_and_all_are_asked_again_later() {
    let (mut inspection, now, nodes) = (inspection(), Instant::now(), attached(&["a", "b", "c"]));
    for reason in ["SourceNotFound", "Truncated", "SourceNotFound"] {
        fail_next(&mut inspection, &nodes, now, reason);
    }
    assert_eq!(inspection.next(&nodes, now, 1.0), None);
    let Resolution::Failed(failure) = inspection.resolution() else {
        panic!("it failed")
    };
    assert_eq!(failure.reason, "Truncated");
    assert_eq!(failure.message, "node b: because (3 nodes were asked)");

    let retry_at = inspection.wakes_at().unwrap();
    assert_eq!(retry_at, now + retry::INSPECTION.first);
    assert_eq!(fail_next(&mut inspection, &nodes, retry_at, "Truncated"), "a");
}

#[test]
fn while_all_are_asked_again_the_failure_stands() {
    let (mut inspection, now, nodes) = (inspection(), Instant::now(), attached(&["a", "b"]));
    for reason in ["SourceNotFound", "Truncated"] {
        fail_next(&mut inspection, &nodes, now, reason);
    }
    assert_eq!(inspection.next(&nodes, now, 1.0), None);
    let failed = inspection.resolution();
    let retry_at = inspection.wakes_at().unwrap();
    for reason in ["SourceNotFound", "Truncated"] {
        fail_next(&mut inspection, &nodes, retry_at, reason);
        assert_eq!(
            inspection.resolution(),
            failed,
            "a condition that is true throughout does not flap"
        );
    }
    let again_at = retry_at + retry::INSPECTION.cap;
    assert_eq!(inspection.next(&nodes, retry_at, 1.0), None);
    assert_eq!(inspection.next(&nodes, again_at, 1.0), Some("a".into()));
    inspection.asked("a".into(), nodes["a"], 1, again_at);
    assert_eq!(inspection.resolution(), failed);
    assert!(inspection.answered("a", 1, Ok(Arc::new(fixture::facts()))));
    assert!(matches!(inspection.resolution(), Resolution::Resolved(_)));
}

#[test]
fn a_new_agent_is_asked_at_once() {
    let (mut inspection, now) = (inspection(), Instant::now());
    fail_next(&mut inspection, &attached(&["b"]), now, "SourceNotFound");
    assert_eq!(inspection.next(&attached(&["b"]), now, 1.0), None);
    assert_eq!(inspection.next(&attached(&["a", "b"]), now, 1.0), Some("a".into()));
}

#[test]
fn an_agent_that_leaves_or_stays_silent_is_not_waited_for() {
    let (mut inspection, now, nodes) = (inspection(), Instant::now(), attached(&["a", "b"]));
    inspection.asked("a".into(), nodes["a"], 1, now);
    let newer_stream = BTreeMap::from([("a".to_owned(), 77)]);
    assert_eq!(inspection.next(&newer_stream, now, 1.0), Some("a".into()));

    inspection.asked("a".into(), nodes["a"], 1, now);
    let late = inspection.wakes_at().unwrap();
    assert_eq!(inspection.next(&nodes, late, 1.0), Some("b".into()));
}

#[test]
fn models_begin_with_different_nodes_and_come_to_all_of_them() {
    let (now, nodes) = (Instant::now(), attached(&["a", "b", "c"]));
    let mut firsts = std::collections::BTreeSet::new();
    for uid in ["0", "1", "2"] {
        let mut inspection = Inspection::new(fixture::source("file:///m.gguf"), uid);
        let candidates = inspection.candidates(&nodes, now, 1.0);
        assert_eq!(candidates.len(), 3, "{candidates:?}");
        firsts.insert(candidates[0].clone());
    }
    assert_eq!(firsts.len(), 3, "{firsts:?}");
}

#[test]
fn the_digests_of_a_whole_file_are_waited_for_behind_those_of_others_and_a_pinned_index_is_not() {
    let mut source = fixture::source("file:///m.gguf");
    assert_eq!(answer_limit(&source), WHOLE_LIMIT * 4);
    source.index_sha256 = Some("07".repeat(32));
    assert_eq!(answer_limit(&source), INDEXED_LIMIT);
}

#[test]
fn after_a_change_of_access_those_who_failed_are_asked_at_once() {
    let (mut inspection, now, nodes) = (inspection(), Instant::now(), attached(&["a"]));
    fail_next(&mut inspection, &nodes, now, "AccessDenied");
    assert_eq!(inspection.next(&nodes, now, 1.0), None);
    inspection.retry();
    assert_eq!(inspection.next(&nodes, now, 1.0), Some("a".into()));
}

#[test]
fn answers_that_nobody_waits_for_change_nothing() {
    let (mut inspection, now) = (inspection(), Instant::now());
    assert!(!inspection.answered("a", 1, failure("Truncated")));
    inspection.asked("a".into(), 0, 2, now);
    assert!(!inspection.answered("b", 2, failure("Truncated")));
    assert!(!inspection.answered("a", 1, failure("Truncated")));
    assert_eq!(inspection.resolution(), Resolution::Inspecting("a".into()));
}
