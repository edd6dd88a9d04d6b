use proto::control::v1::{AcceptedEpoch, Assignment};

use super::*;

fn hello(epoch: u64) -> Hello {
    Hello {
        version: "1".into(),
        epochs: vec![AcceptedEpoch {
            model_uid: "m".into(),
            epoch,
        }],
        weights_endpoint: "10.0.0.1:9445".into(),
        takes_purposes: true,
    }
}

fn attach(agents: &Agents, node: &str) -> Attachment {
    agents.attach(node, hello(3), Instant::now()).unwrap()
}

fn report(epoch: u64) -> ShardReport {
    ShardReport {
        shards: vec![ShardStatus {
            model_uid: "m".into(),
            epoch,
            ..Default::default()
        }],
    }
}

fn holding(models: &[&str]) -> NodeAssignments {
    NodeAssignments {
        message: Assignments {
            assignments: models.iter().map(|_| Assignment::default()).collect(),
            leave_now: false,
        },
        models: models.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn a_newer_stream_of_a_node_replaces_the_older() {
    let agents = Agents::default();
    let older = attach(&agents, "a");
    let newer = attach(&agents, "a");
    assert!(older.replaced.is_cancelled());
    agents.detach("a", older.session, Instant::now());
    assert_eq!(agents.len(), 1, "the end of the older stream does not end the newer");
    agents.report("a", older.session, report(9));
    assert_eq!(
        agents.snapshot().nodes["a"].epochs["m"],
        3,
        "the older stream is not believed"
    );
    agents.detach("a", newer.session, Instant::now());
    assert!(agents.is_empty());
}

#[test]
fn what_an_agent_last_said_is_handed_out_once_where_its_stream_ended_in_silence() {
    let (agents, start) = (Agents::default(), Instant::now());
    for (node, silence) in [("a", OVERDUE), ("b", OVERDUE / 2)] {
        let session = attach(&agents, node).session;
        agents.hears(node, session, Heard::since(start));
        agents.detach(node, session, start + silence);
    }
    // Over whatever it came: nobody knows how long that was silent.
    let session = attach(&agents, "c").session;
    agents.detach("c", session, start + OVERDUE);
    let silenced = agents.snapshot().silenced;
    let nodes: Vec<&str> = silenced.iter().map(|(node, _)| node.as_str()).collect();
    assert_eq!(
        nodes,
        ["a"],
        "the end of a stream that was heard of late was told, not guessed"
    );
    assert_eq!(silenced[0].1.epochs["m"], 3);
    assert!(agents.snapshot().silenced.is_empty());
}

#[test]
fn every_change_wakes_the_loop_and_a_repetition_does_not() {
    let agents = Agents::default();
    let mut changes = agents.changes();
    let session = attach(&agents, "a").session;
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    agents.report("a", session, report(4));
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    agents.report("a", session, report(4));
    assert!(!changes.has_changed().unwrap());
    agents.detach("a", session, Instant::now());
    assert!(changes.has_changed().unwrap());
}

#[test]
fn the_highest_epoch_comes_from_hello_or_from_a_shard() {
    let agents = Agents::default();
    let session = attach(&agents, "a").session;
    agents.report("a", session, report(7));
    assert_eq!(agents.snapshot().nodes["a"].epochs["m"], 7);
    agents.report("a", session, report(5));
    assert_eq!(agents.snapshot().nodes["a"].epochs["m"], 7);
}

#[test]
fn nothing_is_assigned_before_the_loop_has_decided_and_only_changes_are_sent() {
    let agents = Agents::default();
    let mut attachment = attach(&agents, "a");
    assert!(attachment.assignments.borrow().is_none());
    let wanted = BTreeMap::from([("a".to_owned(), holding(&["m"]))]);
    agents.assign(&wanted);
    assert_eq!(
        attachment
            .assignments
            .borrow_and_update()
            .as_ref()
            .unwrap()
            .assignments
            .len(),
        1
    );
    agents.assign(&wanted);
    assert!(!attachment.assignments.has_changed().unwrap());
    assert!(agents.is_assigned("a", "m"));
    agents.assign(&BTreeMap::new());
    assert!(
        attachment
            .assignments
            .borrow_and_update()
            .as_ref()
            .unwrap()
            .assignments
            .is_empty()
    );
    assert!(!agents.is_assigned("a", "m"));
}

#[test]
fn only_inspections_that_were_asked_for_are_taken_and_each_once() {
    let agents = Agents::default();
    let session = attach(&agents, "a").session;
    let answer = Inspection {
        model_uid: "m".into(),
        generation: 2,
        result: None,
    };
    agents.inspected("a", session, answer.clone());
    assert!(agents.snapshot().inspected.is_empty());

    let mut attachment = attach(&agents, "b");
    assert!(agents.inspect(
        "b",
        Inspect {
            model_uid: "m".into(),
            generation: 2,
            ..Default::default()
        }
    ));
    assert_eq!(attachment.inspect.try_recv().unwrap().model_uid, "m");
    agents.inspected("b", attachment.session, answer.clone());
    agents.inspected("b", attachment.session, answer);
    assert_eq!(agents.snapshot().inspected.len(), 1);
    assert!(agents.snapshot().inspected.is_empty());
}

#[test]
fn an_agent_is_not_asked_for_more_than_it_can_do_at_once() {
    let agents = Agents::default();
    let _attachment = attach(&agents, "a");
    let ask = |generation| {
        agents.inspect(
            "a",
            Inspect {
                generation,
                ..Default::default()
            },
        )
    };
    assert!((0..INSPECTIONS_MAX as i64).all(ask));
    assert!(!ask(99));
    assert!(!agents.inspect("gone", Inspect::default()));
}

#[test]
fn an_agent_too_many_is_refused_with_the_limit_and_one_that_is_attached_may_come_again() {
    let agents = Agents::default();
    let arrives = |node: &str| agents.attach(node, Hello::default(), Instant::now());
    for number in 0..AGENTS_MAX {
        arrives(&format!("node-{number}")).unwrap();
    }
    let refused = arrives("one-more").unwrap_err();
    assert_eq!(refused, AttachError::Full);
    assert_eq!(refused.to_string(), "10000 agents are attached already");
    let again = arrives("node-7").unwrap();
    agents.detach("node-7", again.session, Instant::now());
    arrives("one-more").unwrap();
}

#[test]
fn what_an_agent_says_is_bounded() {
    let agents = Agents::default();
    let epochs = vec![AcceptedEpoch::default(); EPOCHS_MAX + 1];
    let refused = agents.attach(
        "a",
        Hello {
            epochs,
            ..Default::default()
        },
        Instant::now(),
    );
    assert_eq!(refused.unwrap_err(), AttachError::TooManyEpochs(EPOCHS_MAX + 1));

    let session = attach(&agents, "a").session;
    let shard = ShardStatus {
        message: "é".repeat(5000),
        endpoint: "x".repeat(1000),
        ..Default::default()
    };
    agents.report(
        "a",
        session,
        ShardReport {
            shards: vec![shard; SHARDS_MAX + 1],
        },
    );
    let shards = agents.snapshot().nodes["a"].shards.clone();
    assert_eq!(shards.len(), SHARDS_MAX);
    assert!(shards[0].message.len() <= MESSAGE_MAX && shards[0].endpoint.is_empty());
}

#[test]
fn one_agent_can_neither_use_up_the_epochs_nor_grow_the_memory() {
    let agents = Agents::default();
    let session = agents.attach("a", hello(u64::MAX), Instant::now()).unwrap().session;
    agents.report("a", session, report(u64::MAX));
    assert!(agents.snapshot().nodes["a"].epochs.is_empty());

    let of = |model_uid: String| ShardStatus {
        model_uid,
        epoch: 1,
        ..Default::default()
    };
    let uids = (0..2 * EPOCHS_MAX).map(|uid| uid.to_string());
    for shards in uids.map(of).collect::<Vec<_>>().chunks(SHARDS_MAX) {
        let shards = shards.to_vec();
        agents.report("a", session, ShardReport { shards });
    }
    assert_eq!(agents.snapshot().nodes["a"].epochs.len(), EPOCHS_MAX);
    let shards = vec![of("x".repeat(10_000))];
    agents.report("a", session, ShardReport { shards });
    assert!(agents.snapshot().nodes["a"].shards.is_empty());
}

#[test]
fn losing_the_leadership_ends_every_session() {
    let agents = Agents::default();
    let attachment = attach(&agents, "a");
    agents.clear();
    assert!(attachment.replaced.is_cancelled() && agents.is_empty());
}
