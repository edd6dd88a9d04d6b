use super::*;
use identity::PlacementSigner;
use proto::placement::v1::Pipeline;

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
        let assignments = Assignments {
            assignments: vec![self.assignment(placement)],
        };
        ledger.accept(&assignments, &self.verifier).unwrap()
    }
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
            },
            &bench.verifier,
        )
        .unwrap();
    let [(slot, desired)] = &outcome.desired.iter().collect::<Vec<_>>()[..] else {
        panic!("one shard")
    };
    assert_eq!(
        (slot.stage, desired.slice.total_layers, desired.slice.stages),
        (0, 30, 2)
    );
    assert_eq!(desired.next.as_deref(), Some("b:2"));
}

#[test]
fn a_lower_epoch_is_refused_with_a_report_and_the_higher_one_stays_in_force() {
    let bench = Bench::new();
    let mut ledger = bench.ledger();
    bench.accept(&mut ledger, &placement(5));
    let outcome = bench.accept(&mut ledger, &placement(4));
    assert_eq!(
        outcome
            .desired
            .values()
            .map(|desired| desired.epoch)
            .collect::<Vec<_>>(),
        [5]
    );
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
    assert_eq!(resumed.values().map(|desired| desired.epoch).collect::<Vec<_>>(), [5]);
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
        };
        let outcome = ledger.accept(&assignments, &bench.verifier).unwrap();
        assert_eq!(
            outcome
                .desired
                .values()
                .map(|desired| desired.epoch)
                .collect::<Vec<_>>(),
            [5]
        );
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
fn a_damaged_fence_is_never_ignored() {
    let bench = Bench::new();
    std::fs::write(bench.directory.path().join(EPOCHS_FILE), "{").unwrap();
    let error = Ledger::open("a", bench.directory.path()).err().unwrap().to_string();
    assert!(error.contains(EPOCHS_FILE), "{error}");
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
