use super::*;
use crate::shard::{Desired, Place};
use identity::PlacementSigner;
use proto::control::v1::Route;
use proto::placement::v1::{Pipeline, Runtime, Source, Stage};

const UID: &str = "0b9b7a52";

struct Bench {
    signer: PlacementSigner,
    verifier: PlacementVerifier,
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let signer = PlacementSigner::generate().unwrap();
        let verifier = PlacementVerifier::new([signer.public_key()]).unwrap();
        Self {
            signer,
            verifier,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn ledger(&self) -> Ledger {
        Ledger::open("a", self.directory.path()).unwrap()
    }

    fn assignment(&self, placement: &Placement) -> Assignment {
        Assignment {
            envelope: Some(self.signer.sign(placement)),
            ..Assignment::default()
        }
    }

    fn accept(&self, ledger: &mut Ledger, placement: &Placement) -> Outcome {
        self.accept_all(ledger, vec![self.assignment(placement)])
    }

    fn accept_all(&self, ledger: &mut Ledger, assignments: Vec<Assignment>) -> Outcome {
        ledger
            .accept(
                &Assignments {
                    assignments,
                    leave_now: false,
                },
                &self.verifier,
            )
            .unwrap()
    }

    fn ahead(&self, placement: &Placement, purpose: wire::Purpose) -> Assignment {
        Assignment {
            purpose: purpose.into(),
            ..self.assignment(placement)
        }
    }
}

/// The epochs in force of everything desired.
fn in_force(desired: &DesiredShards) -> Vec<u64> {
    let in_force = desired.values().filter_map(|desired| desired.in_force.as_ref());
    in_force.map(|in_force| in_force.epoch).collect()
}

/// Epoch, stage and purpose of every place of everything desired.
fn places(desired: &DesiredShards) -> Vec<(u64, u32, Purpose)> {
    let all = desired.values().flat_map(|desired| &desired.places);
    let mut all: Vec<_> = all.map(|place| (place.epoch, place.stage, place.purpose)).collect();
    all.sort();
    all
}

fn reasons(outcome: &Outcome) -> Vec<(u64, &str)> {
    let refused = outcome.refused.iter();
    refused
        .map(|refused| (refused.epoch, refused.reason.as_str()))
        .collect()
}

fn stage(node: &str, first_layer: u32, end_layer: u32) -> Stage {
    Stage {
        node: node.to_owned(),
        device: format!("{node}-cpu0"),
        backend: "cpu".to_owned(),
        first_layer,
        end_layer,
        weight_root: vec![2; 32],
        memory_budget_bytes: 9,
    }
}

fn placement(epoch: u64) -> Placement {
    Placement {
        epoch,
        model_uid: UID.to_owned(),
        source: Some(Source {
            uri: "file:///m".to_owned(),
            sha256: vec![1; 32],
            index_sha256: vec![3; 32],
        }),
        runtime: Some(Runtime {
            context_length: 8,
            parallel_sequences: 1,
            kv_type: 1,
            max_step_rows: 4,
            ..Runtime::default()
        }),
        pipelines: vec![Pipeline {
            stages: vec![stage("a", 0, 10), stage("b", 10, 30)],
            epoch: 0,
        }],
        ..Placement::default()
    }
}

#[test]
fn only_our_stages_are_ours_and_the_next_stage_is_known_by_its_route() {
    let bench = Bench::new();
    let mut ledger = bench.ledger();
    let mut assignment = bench.assignment(&placement(3));
    assignment.routes = vec![
        Route {
            pipeline: 0,
            stage: 0,
            endpoint: "a:1".to_owned(),
        },
        Route {
            pipeline: 0,
            stage: 1,
            endpoint: "b:2".to_owned(),
        },
    ];
    let outcome = ledger
        .accept(
            &Assignments {
                assignments: vec![assignment],
                leave_now: false,
            },
            &bench.verifier,
        )
        .unwrap();
    let [(slot, desired)] = &outcome.desired.iter().collect::<Vec<_>>()[..] else {
        panic!("one shard")
    };
    let place = Place {
        epoch: 3,
        pipeline: 0,
        stage: 0,
        purpose: Purpose::Serve,
    };
    assert_eq!((&desired.places, desired.slice.total_layers), (&vec![place], 30));
    assert_eq!(**slot, Slot::of(UID, &desired.slice));
    let in_force = desired.in_force.as_ref().unwrap();
    assert_eq!((in_force.epoch, in_force.pipeline_epoch), (3, 3));
    assert_eq!(in_force.next.as_deref(), Some("b:2"));
}

#[test]
fn a_lower_epoch_is_refused_with_a_report_and_the_higher_one_stays_in_force() {
    let bench = Bench::new();
    let mut ledger = bench.ledger();
    bench.accept(&mut ledger, &placement(5));
    let outcome = bench.accept(&mut ledger, &placement(4));
    assert_eq!(in_force(&outcome.desired), [5]);
    assert_eq!(
        (outcome.refused[0].reason.as_str(), outcome.refused[0].epoch),
        ("StaleEpoch", 4)
    );
}

#[test]
fn the_highest_epoch_outlives_a_restart_and_the_models_absence() {
    let bench = Bench::new();
    let mut ledger = bench.ledger();
    bench.accept(&mut ledger, &placement(5));
    assert!(
        ledger
            .accept(&Assignments::default(), &bench.verifier)
            .unwrap()
            .desired
            .is_empty()
    );
    let mut ledger = bench.ledger();
    assert_eq!(
        ledger.epochs(),
        [AcceptedEpoch {
            model_uid: UID.to_owned(),
            epoch: 5
        }]
    );
    let outcome = bench.accept(&mut ledger, &placement(4));
    assert!(outcome.desired.is_empty());
    assert_eq!(
        bench.accept(&mut ledger, &placement(5)).desired.len(),
        1,
        "the same epoch is no lower one"
    );
}

#[test]
fn what_was_accepted_last_is_known_after_a_restart() {
    let bench = Bench::new();
    bench.accept(&mut bench.ledger(), &placement(5));
    let resumed = bench.ledger().resume(&bench.verifier);
    assert_eq!(in_force(&resumed), [5]);
    let stranger = PlacementVerifier::new([PlacementSigner::generate().unwrap().public_key()]).unwrap();
    assert!(
        bench.ledger().resume(&stranger).is_empty(),
        "not even our own disk is believed without a signature"
    );
}

#[test]
fn a_forged_placement_is_refused_with_a_report_and_changes_nothing() {
    let bench = Bench::new();
    let mut ledger = bench.ledger();
    bench.accept(&mut ledger, &placement(5));
    let mut forged = bench.signer.sign(&placement(6));
    forged.payload = placement(7).encode_to_vec();
    let stranger = PlacementSigner::generate().unwrap().sign(&placement(8));
    for envelope in [forged, stranger] {
        let assignments = Assignments {
            assignments: vec![Assignment {
                envelope: Some(envelope),
                ..Assignment::default()
            }],
            leave_now: false,
        };
        let outcome = ledger.accept(&assignments, &bench.verifier).unwrap();
        assert_eq!(in_force(&outcome.desired), [5]);
        assert_eq!(outcome.refused[0].reason, "BadSignature");
    }
    assert_eq!(bench.ledger().epochs()[0].epoch, 5);
}

#[test]
fn a_signed_placement_without_sense_is_refused_by_stage() {
    let bench = Bench::new();
    let broken: [fn(&mut Placement); 5] = [
        |placement| placement.source = None,
        |placement| placement.source.as_mut().unwrap().index_sha256.clear(),
        |placement| placement.runtime = None,
        |placement| placement.pipelines[0].stages[0].end_layer = 0,
        |placement| placement.pipelines[0].stages[0].weight_root.clear(),
    ];
    for (index, spoil) in broken.into_iter().enumerate() {
        let mut placement = placement(10 + index as u64);
        spoil(&mut placement);
        let outcome = bench.accept(&mut bench.ledger(), &placement);
        assert!(outcome.desired.is_empty());
        assert_eq!(outcome.refused[0].reason, "BadPlacement");
    }
}

#[test]
fn an_empty_envelope_is_refused_without_a_crash() {
    let bench = Bench::new();
    let nothing = Assignments {
        assignments: vec![
            Assignment::default(),
            Assignment {
                envelope: Some(Envelope::default()),
                ..Assignment::default()
            },
        ],
        leave_now: false,
    };
    assert!(
        bench
            .ledger()
            .accept(&nothing, &bench.verifier)
            .unwrap()
            .desired
            .is_empty()
    );
}

#[test]
fn on_a_full_disk_nothing_new_is_accepted_and_what_was_accepted_stays() {
    let Some(disk) = scarcity::disk::Disk::of(1 << 20) else {
        return;
    };
    let bench = Bench::new();
    let mut ledger = Ledger::open("a", disk.path()).unwrap();
    bench.accept(&mut ledger, &placement(4));
    disk.fill_but(0).unwrap();
    let offered = Assignments {
        assignments: vec![bench.assignment(&placement(5))],
        leave_now: false,
    };
    let message = ledger.accept(&offered, &bench.verifier).unwrap_err().to_string();
    for part in ["epochs.json", "No space left on device", "make room"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    let highest = |ledger: &Ledger| ledger.epochs()[0].epoch;
    let restarted = Ledger::open("a", disk.path()).unwrap();
    assert_eq!((highest(&ledger), highest(&restarted)), (4, 4));
    disk.make_room().unwrap();
    let accepted = bench.accept(&mut ledger, &placement(5));
    assert_eq!(in_force(&accepted.desired), [5]);
}

#[test]
fn a_damaged_fence_is_never_ignored() {
    let bench = Bench::new();
    std::fs::write(bench.directory.path().join(EPOCHS_FILE), "{").unwrap();
    let error = Ledger::open("a", bench.directory.path()).err().unwrap().to_string();
    assert!(error.contains(EPOCHS_FILE), "{error}");
}

#[test]
fn a_fence_that_was_cut_anywhere_is_refused_with_what_to_do_and_the_whole_is_read() {
    let bench = Bench::new();
    bench.accept(&mut bench.ledger(), &placement(1705));
    let path = bench.directory.path().join(EPOCHS_FILE);
    let whole = std::fs::read(&path).unwrap();
    for length in 0..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        let refused = Ledger::open("a", bench.directory.path()).err().unwrap().to_string();
        let says = |words: &str| refused.contains(words);
        assert!(
            says(EPOCHS_FILE) && says("restore it, or remove it"),
            "{length} bytes: {refused}"
        );
    }
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(bench.ledger().epochs()[0].epoch, 1705);
}

#[test]
fn of_placements_that_were_cut_anywhere_less_is_resumed_and_never_another_while_the_fence_stands() {
    let bench = Bench::new();
    let other = Placement {
        model_uid: "other".to_owned(),
        ..placement(7)
    };
    let both = vec![bench.assignment(&placement(5)), bench.assignment(&other)];
    bench.accept_all(&mut bench.ledger(), both);
    let path = bench.directory.path().join(ASSIGNMENTS_FILE);
    let whole = std::fs::read(&path).unwrap();
    let mut resumed = 0;
    for length in 0..=whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        // Cut between two placements the file is a shorter one.
        let Ok(ledger) = Ledger::open("a", bench.directory.path()) else {
            continue;
        };
        let held = in_force(&ledger.resume(&bench.verifier));
        assert!(
            held.iter().all(|epoch| [5, 7].contains(epoch)),
            "{length} bytes: {held:?}"
        );
        resumed = held.len();
        let epochs: Vec<u64> = ledger.epochs().iter().map(|accepted| accepted.epoch).collect();
        assert_eq!(epochs, [5, 7], "{length} bytes");
    }
    assert_eq!(resumed, 2, "the whole");
}

#[test]
fn what_a_source_needs_is_handed_on_and_never_written_down() {
    let bench = Bench::new();
    let mut ledger = bench.ledger();
    let assignment = Assignment {
        access: Some(proto::control::v1::SourceAccess {
            bearer_token: "hush-hush".to_owned(),
            ..Default::default()
        }),
        peers: vec!["b:9445".to_owned()],
        ..bench.assignment(&placement(5))
    };
    let assignments = Assignments {
        assignments: vec![assignment],
        leave_now: false,
    };
    let outcome = ledger.accept(&assignments, &bench.verifier).unwrap();
    let desired = outcome.desired.values().next().unwrap();
    assert_eq!(desired.access.bearer_token.as_deref(), Some("hush-hush"));
    assert_eq!(desired.peers.len(), 1);
    assert!(!format!("{desired:?}").contains("hush"));
    for entry in std::fs::read_dir(bench.directory.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(4).any(|window| window == b"hush"), "a secret on disk");
    }
}

#[test]
fn the_pipelines_own_epoch_is_handed_on() {
    let bench = Bench::new();
    let mut placement = placement(5);
    placement.pipelines[0].epoch = 2;
    let outcome = bench.accept(&mut bench.ledger(), &placement);
    let in_force = outcome.desired.values().next().unwrap().in_force.as_ref().unwrap();
    assert_eq!((in_force.epoch, in_force.pipeline_epoch), (5, 2));
}

/// Epoch 6 with other layers for this node.
fn proposed() -> Placement {
    let mut proposed = placement(6);
    proposed.pipelines[0].stages[0].end_layer = 15;
    proposed.pipelines[0].stages[1].first_layer = 15;
    proposed
}

#[test]
fn what_is_proposed_or_stands_by_is_desired_and_neither_accepted_nor_written() {
    use wire::Purpose::{Fetch, Load};
    let bench = Bench::new();
    let mut ledger = bench.ledger();
    let outcome = bench.accept_all(
        &mut ledger,
        vec![
            bench.ahead(&proposed(), Load),
            bench.ahead(&placement(7), Fetch),
            bench.assignment(&placement(5)),
        ],
    );
    assert_eq!(in_force(&outcome.desired), [5]);
    let expected = [(5, 0, Purpose::Serve), (6, 0, Purpose::Load), (7, 0, Purpose::Fetch)];
    assert_eq!(places(&outcome.desired), expected);
    assert_eq!(
        outcome.desired.len(),
        2,
        "the same slice is one slot, in force and ahead"
    );
    assert!(outcome.refused.is_empty());
    assert_eq!(ledger.epochs()[0].epoch, 5);
    assert_eq!(places(&bench.ledger().resume(&bench.verifier)), expected[..1]);
    let outcome = bench.accept(&mut ledger, &placement(5));
    assert_eq!(
        places(&outcome.desired),
        expected[..1],
        "what is not sent any more is given up"
    );
}

#[test]
fn a_proposal_needs_no_placement_in_force_and_becomes_one_in_the_same_slot() {
    let bench = Bench::new();
    let mut ledger = bench.ledger();
    let proposal = bench.ahead(&proposed(), wire::Purpose::Load);
    let before = bench.accept_all(&mut ledger, vec![proposal]).desired;
    assert!(in_force(&before).is_empty());
    let after = bench.accept(&mut ledger, &proposed()).desired;
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    assert_eq!(in_force(&after), [6]);
}

#[test]
fn a_proposal_below_what_is_in_force_is_refused_wherever_it_stands_in_the_message() {
    let bench = Bench::new();
    let mut ledger = bench.ledger();
    let stale = bench.ahead(&placement(4), wire::Purpose::Load);
    let outcome = bench.accept_all(&mut ledger, vec![stale.clone(), bench.assignment(&placement(5))]);
    assert_eq!(
        (in_force(&outcome.desired), reasons(&outcome)),
        (vec![5], vec![(4, "StaleEpoch")])
    );
    let outcome = bench.accept_all(&mut ledger, vec![stale]);
    assert_eq!(
        reasons(&outcome),
        [(4, "StaleEpoch")],
        "the fence outlives the placement"
    );
}

#[test]
fn a_proposal_that_does_not_stand_is_refused_with_a_report_and_changes_nothing() {
    let bench = Bench::new();
    let stranger = PlacementSigner::generate().unwrap().sign(&proposed());
    let forged = Assignment {
        envelope: Some(stranger),
        purpose: wire::Purpose::Load.into(),
        ..Assignment::default()
    };
    let unknown = Assignment {
        purpose: 9,
        ..bench.assignment(&placement(8))
    };
    let mut senseless = placement(7);
    senseless.runtime = None;
    let senseless = bench.ahead(&senseless, wire::Purpose::Fetch);
    let serve = bench.assignment(&placement(5));
    let outcome = bench.accept_all(&mut bench.ledger(), vec![serve, forged, unknown, senseless]);
    assert_eq!(places(&outcome.desired), [(5, 0, Purpose::Serve)]);
    let expected = [(6, "BadSignature"), (8, "UnknownPurpose"), (7, "BadPlacement")];
    assert_eq!(reasons(&outcome), expected);
}

#[test]
fn more_placements_ahead_than_anybody_needs_are_refused() {
    let bench = Bench::new();
    let ahead = (0..=AHEAD_MAX as u64).map(|at| bench.ahead(&placement(6 + at), wire::Purpose::Fetch));
    let outcome = bench.accept_all(&mut bench.ledger(), ahead.collect());
    let desired: Vec<&Desired> = outcome.desired.values().collect();
    assert_eq!((desired.len(), desired[0].places.len()), (1, AHEAD_MAX));
    assert_eq!(reasons(&outcome), [(6 + AHEAD_MAX as u64, "TooManyProposals")]);
}

#[test]
fn a_worker_has_one_place_in_a_placement() {
    let bench = Bench::new();
    let mut placement = placement(5);
    let twin = placement.pipelines[0].clone();
    placement.pipelines.push(twin);
    let outcome = bench.accept(&mut bench.ledger(), &placement);
    assert_eq!(places(&outcome.desired), [(5, 0, Purpose::Serve)]);
    let refused = &outcome.refused[0];
    assert_eq!((refused.pipeline, refused.reason.as_str()), (1, "BadPlacement"));
    assert!(refused.message.contains("a-cpu0 twice"), "{}", refused.message);
}

#[test]
fn a_stage_on_a_group_keeps_the_groups_name_and_one_on_no_group_is_refused_by_its_name() {
    let bench = Bench::new();
    let on = |device: &str| {
        let mut placement = placement(5);
        placement.pipelines[0].stages[0].device = device.to_owned();
        bench.accept(&mut bench.ledger(), &placement)
    };
    let outcome = on("a-cuda0+a-cuda1");
    let desired: Vec<&Desired> = outcome.desired.values().collect();
    assert_eq!(desired[0].slice.device, "a-cuda0+a-cuda1");
    for device in ["a-cuda1+a-cuda0", "a-cuda0+a-cuda0", "a+b+c+d+e+f+g+h+i"] {
        let outcome = on(device);
        assert!(outcome.desired.is_empty(), "{device}");
        let refused = &outcome.refused[0];
        assert_eq!(refused.reason, "BadPlacement");
        assert!(refused.message.contains(device), "{}", refused.message);
    }
}
