//! Cards of one node that work as one: when they do, and when what they hold leaves all of them.

use super::*;

const PAIR: &str = "a-cuda0+a-cuda1";
/// Of one card; what a backend takes for itself is most of it that is ever used.
const CARD_BYTES: i64 = 4 << 30;

/// Node a has so many cards, and what its agent measured of these together; node b has a processor. Two may work as one.
fn cards(count: u32, groups: &[&[u32]]) -> Cluster {
    let mut cluster = Cluster::of(&[("b", GIB)]);
    let cards = (0..count).map(|index| fixture::card("a", index, CARD_BYTES));
    cluster.observed.devices.extend(cards);
    cluster.observed.links = vec![fixture::groups("a", groups)];
    cluster.agents.extend(fixture::agents(&["a"]));
    cluster.model.spec.placement.max_group_devices = Some(2);
    cluster
}

/// The model on two cards that work as one.
fn on_a_pair() -> Cluster {
    let mut cluster = cards(2, &[&[0, 1]]);
    assert_eq!(devices(&cluster.place()), [PAIR]);
    cluster
}

/// The only device that the model is on, which works by itself.
fn alone(placed: &InForce) -> String {
    match devices(placed)[..] {
        [device] if !device.contains('+') => device.to_owned(),
        _ => panic!("it is on {:?}", devices(placed)),
    }
}

/// What is in force is in this phase.
fn report(cluster: &mut Cluster, phase: ShardPhase) {
    let in_force = cluster.state.in_force.clone().expect("a placement");
    for (pipeline, stages) in (0..).zip(in_force.pipelines()) {
        for (index, stage) in (0..).zip(&stages.stages) {
            let place = (pipeline, index);
            fixture::report_of(&mut cluster.agents, &stage.node, in_force.placement.epoch, place, phase);
        }
    }
}

/// What its agent says of a card.
fn says(cluster: &mut Cluster, device: &str, kind: &str, reason: &str) {
    change(cluster, device, |object| {
        let new = crds::conditions::NewCondition {
            kind,
            status: ConditionStatus::False,
            reason,
            message: "m",
        };
        let conditions = &mut object.status.as_mut().expect("a status").conditions;
        let now = k8s_openapi::jiff::Timestamp::UNIX_EPOCH;
        crds::conditions::set_condition(conditions, new, Some(1), &Time(now));
    });
}

fn taint(cluster: &mut Cluster, device: &str, effect: crds::TaintEffect) {
    change(cluster, device, |object| {
        object.spec.taints = Some(vec![crds::DeviceTaint {
            key: "repair".into(),
            value: None,
            effect,
        }]);
    });
}

#[test]
fn cards_that_are_faster_together_hold_a_stage_together_that_is_signed_under_both_their_names() {
    let mut cluster = cards(2, &[&[0, 1]]);
    let placed = cluster.place();
    let (stages, view) = (placed.stages(), &placed.view.stages);
    assert_eq!((devices(&placed), view[0].device.as_str()), (vec![PAIR], PAIR));
    assert_eq!((stages[0].node.as_str(), stages[0].backend.as_str()), ("a", "cuda"));
    assert!(
        view[0].predicted_us_per_token < 3000,
        "as measured of both: {} µs",
        view[0].predicted_us_per_token
    );
    assert_eq!(placed.members(), ["a-cuda0", "a-cuda1"]);
    let verifier = PlacementVerifier::new([cluster.signer.public_key()]).unwrap();
    let signed = verifier.verify(&placed.envelope).unwrap();
    assert_eq!(signed.pipelines[0].stages[0].device, PAIR);
    cluster.keeps();
    report(&mut cluster, ShardPhase::Serving);
    cluster.keeps();
}

#[test]
fn cards_work_each_by_itself_unless_spec_model_and_measurement_say_otherwise() {
    let changes: [fn(&mut Cluster); 5] = [
        |cluster| cluster.model.spec.placement.max_group_devices = None,
        |cluster| cluster.model.spec.determinism = crds::Determinism::Strict,
        |cluster| {
            let facts = Facts {
                group_sizes: vec![4],
                ..fixture::facts()
            };
            cluster.state.inspection = Inspection::new(cluster.model.spec.source.clone(), fixture::UID);
            resolved_as(&mut cluster.state.inspection, facts);
        },
        |cluster| {
            let status = Arc::make_mut(&mut cluster.observed.links[0]).status.as_mut().unwrap();
            status.groups[0].step_rates = None;
            status.groups[0].error = Some("other answers than one card gives".to_owned());
        },
        |cluster| cluster.observed.links.clear(),
    ];
    for (case, change) in changes.iter().enumerate() {
        let mut cluster = cards(2, &[&[0, 1]]);
        change(&mut cluster);
        let device = alone(&cluster.place());
        assert!(device.starts_with("a-cuda"), "case {case}: {device}");
    }
}

#[test]
fn a_spec_that_no_longer_lets_cards_work_as_one_moves_what_they_hold() {
    let mut cluster = on_a_pair();
    cluster.model.spec.placement.max_group_devices = Some(1);
    alone(&cluster.place());
}

#[test]
fn whatever_takes_one_card_away_takes_the_stage_off_all_of_them() {
    let away: [fn(&mut Cluster); 6] = [
        |cluster| says(cluster, "a-cuda0", kind::HEALTHY, "Xid79"),
        |cluster| says(cluster, "a-cuda0", kind::VERIFIED, "SelfTestFailed"),
        |cluster| says(cluster, "a-cuda0", kind::READY, "Foreign"),
        |cluster| change(cluster, "a-cuda0", |object| object.spec.cordoned = Some(true)),
        |cluster| taint(cluster, "a-cuda0", crds::TaintEffect::Evict),
        |cluster| {
            let is_lost = |object: &Arc<crds::DeviceGPUState>| object.metadata.name.as_deref() == Some("a-cuda0");
            cluster.observed.devices.retain(|object| !is_lost(object));
        },
    ];
    for (case, lose) in away.iter().enumerate() {
        let mut cluster = on_a_pair();
        lose(&mut cluster);
        assert_eq!(devices(&cluster.place()), ["a-cuda1"], "case {case}");
    }
    let mut cluster = on_a_pair();
    cluster.agents.remove("a");
    assert_eq!(devices(&cluster.place()), ["b-cpu0"], "the node is gone");
}

#[test]
fn a_card_that_gets_nothing_new_keeps_its_part_and_no_group_with_it_is_placed() {
    let doubts: [fn(&mut Cluster); 2] = [
        |cluster| says(cluster, "a-cuda0", kind::READY, "SensorInvalid"),
        |cluster| taint(cluster, "a-cuda0", crds::TaintEffect::NoPlace),
    ];
    for doubt in doubts {
        let mut cluster = on_a_pair();
        doubt(&mut cluster);
        cluster.keeps();
        cluster.state.in_force = None;
        assert_eq!(devices(&cluster.place()), ["a-cuda1"]);
    }
}

#[test]
fn a_node_that_is_drained_is_left_by_its_group_while_it_serves() {
    let mut cluster = on_a_pair();
    report(&mut cluster, ShardPhase::Serving);
    cluster.observed.cordoned.insert("a".to_owned());
    let decided = cluster.decide();
    assert_eq!(decided.new_in_force, None, "it serves until the other is loaded");
    let proposal = cluster.state.moving.proposal.as_ref().expect("a move");
    assert_eq!(devices(&proposal.next), ["b-cpu0"]);
    let note = decided.note.expect("people are told");
    assert!(note.contains("moves to b-cpu0"), "{note}");
}

#[test]
fn what_serves_as_one_stays_while_nobody_tells_of_the_group_and_is_not_made_anew() {
    let mut cluster = on_a_pair();
    report(&mut cluster, ShardPhase::Serving);
    cluster.observed.links.clear();
    cluster.keeps();
    // Of its devices there is still something to be told.
    change(&mut cluster, "a-cuda1", |object| object.spec.cordoned = Some(true));
    assert_eq!(
        cluster.decide().new_in_force,
        None,
        "it serves until the other is loaded"
    );
    let proposal = cluster.state.moving.proposal.as_ref().expect("a move");
    assert_eq!(alone(&proposal.next), "a-cuda0");
    let mut cluster = on_a_pair();
    report(&mut cluster, ShardPhase::Failed);
    cluster.observed.links.clear();
    alone(&cluster.place());
}

#[test]
fn cards_on_which_shards_keep_failing_together_are_tried_alone_and_one_that_fails_alone_is_in_no_group() {
    let fails = |cluster: &mut Cluster, device: &str| {
        for health in [Health::Failed, Health::Working, Health::Failed] {
            cluster.state.failures.observe(device, health, cluster.now);
        }
    };
    let mut cluster = on_a_pair();
    fails(&mut cluster, PAIR);
    let first = alone(&cluster.place());
    fails(&mut cluster, &first);
    let second = alone(&cluster.place());
    assert_eq!(
        BTreeSet::from([first.as_str(), &second]),
        BTreeSet::from(["a-cuda0", "a-cuda1"])
    );
    let mut cluster = cards(2, &[&[0, 1]]);
    fails(&mut cluster, "a-cuda0");
    assert_eq!(devices(&cluster.place()), ["a-cuda1"]);
}

#[test]
fn replicas_on_groups_share_no_card_and_one_that_goes_on_keeps_its_cards() {
    let mut cluster = cards(4, &[&[0, 1], &[2, 3], &[0, 1, 2, 3]]);
    cluster.model.spec.replicas = 2;
    let by_device = |placed: &InForce| {
        let pipelines = placed.pipelines().iter();
        let epochs = pipelines.map(|pipeline| (pipeline.stages[0].device.clone(), pipeline.epoch));
        epochs.collect::<BTreeMap<_, _>>()
    };
    let (pair, others) = (PAIR.to_owned(), "a-cuda2+a-cuda3".to_owned());
    assert_eq!(
        by_device(&cluster.place()),
        BTreeMap::from([(pair.clone(), 1), (others, 1)])
    );
    says(&mut cluster, "a-cuda3", kind::HEALTHY, "Xid79");
    let after = by_device(&cluster.place());
    assert_eq!(after, BTreeMap::from([(pair, 1), ("a-cuda2".to_owned(), 2)]));
}

#[test]
fn a_model_on_a_group_gives_up_the_cards_that_a_higher_one_needs() {
    let yielded = |max_group_devices| {
        let mut cluster = cards(2, &[&[0, 1]]);
        cluster
            .observed
            .devices
            .retain(|object| object.metadata.name.as_deref() != Some("b-cpu0"));
        let mut lower = fixture::model();
        lower.metadata.name = Some("lower".into());
        lower.metadata.uid = Some("lower".into());
        cluster.model.spec.priority = 10;
        cluster.model.spec.placement.max_group_devices = max_group_devices;
        cluster.observed.models = vec![Arc::new(cluster.model.clone()), Arc::new(lower)];
        let mut placement = fixture::in_force_of("lower", 1, &["a"]).placement;
        let stage = &mut placement.pipelines[0].stages[0];
        // Too little is left beside it on either card.
        (stage.device, stage.memory_budget_bytes) = (PAIR.to_owned(), 2 * (CARD_BYTES as u64 - (1 << 28)));
        cluster.others.push(("lower".to_owned(), fixture::signed(placement)));
        let decided = cluster.decide();
        assert_eq!(decided.new_in_force, None, "the lower one has yet to leave");
        decided.takes["lower"].devices.clone()
    };
    assert_eq!(yielded(Some(2)), ["a-cuda0", "a-cuda1"]);
    assert_eq!(yielded(None).len(), 1, "it needs one of them");
}

#[test]
fn whoever_is_refused_is_told_where_cards_that_work_as_one_would_do() {
    let refused = |groups: &[&[u32]]| {
        let mut cluster = cards(2, groups);
        let placement = &mut cluster.model.spec.placement;
        // A card alone takes more than three milliseconds for a token, both together less than two.
        (placement.min_tokens_per_second, placement.max_devices) = (Some(400), Some(1));
        placement.max_group_devices = None;
        let why = cluster.refuses();
        (cluster, why.message)
    };
    let (_, message) = refused(&[]);
    assert!(!message.contains("maxGroupDevices"), "{message}");
    let (mut cluster, message) = refused(&[&[0, 1]]);
    assert!(message.contains("maxGroupDevices"), "{message}");
    cluster.model.spec.placement.max_group_devices = Some(2);
    assert_eq!(devices(&cluster.place()), [PAIR]);
}
