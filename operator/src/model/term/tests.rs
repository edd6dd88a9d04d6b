use crds::PlacementStatus;
use identity::PlacementSigner;
use proto::control::v1::{self as wire, ShardPhase};

use super::*;
use crate::model::fixture;
use crate::model::in_force::encode;

fn verifier(signer: &PlacementSigner) -> PlacementVerifier {
    PlacementVerifier::new([signer.public_key()]).unwrap()
}

/// A model whose status holds a placement on nodes a and b, and the key that signed it.
fn placed(epoch: u64) -> (Arc<InferenceModel>, PlacementSigner) {
    let signer = PlacementSigner::generate().unwrap();
    let in_force = fixture::in_force(epoch, &["a", "b"]);
    let view = PlacementStatus {
        envelope: encode(&signer.sign(&in_force.placement)),
        ..in_force.view
    };
    let mut model = fixture::model();
    model.status = Some(InferenceModelStatus {
        placement: Some(view),
        ..Default::default()
    });
    (Arc::new(model), signer)
}

#[test]
fn a_new_leader_takes_over_what_is_in_status() {
    let (model, signer) = placed(7);
    let mut term = Term::begin(Instant::now());
    term.recall(&[model], &verifier(&signer));
    let state = &term.models[fixture::UID];
    assert_eq!(state.in_force.as_ref().unwrap().placement.epoch, 7);
    assert_eq!(state.next_epoch(fixture::UID, &BTreeMap::new(), []), 8);
}

#[test]
fn a_placement_that_came_into_status_by_a_write_without_an_answer_is_in_force() {
    let (written, signer) = placed(7);
    let mut term = Term::begin(Instant::now());
    term.recall(&[Arc::new(fixture::model())], &verifier(&signer));
    assert_eq!(
        term.models[fixture::UID].next_epoch(fixture::UID, &BTreeMap::new(), []),
        1
    );
    term.recall(&[written], &verifier(&signer));
    let state = &term.models[fixture::UID];
    assert_eq!(
        state.in_force.as_ref().unwrap().placement.epoch,
        7,
        "it is not placed twice"
    );
    assert_eq!(state.next_epoch(fixture::UID, &BTreeMap::new(), []), 8);
}

#[test]
fn what_was_given_up_in_a_write_whose_answer_was_lost_is_given_up() {
    let (served, signer) = placed(7);
    let mut term = Term::begin(Instant::now());
    term.recall(std::slice::from_ref(&served), &verifier(&signer));
    assert!(term.models[fixture::UID].in_force.is_some());

    let record = |epoch| Yielded {
        to: "default/other".into(),
        epoch,
        ..Default::default()
    };
    let written = |epoch| {
        let mut model = InferenceModel::clone(&served);
        model.status = Some(InferenceModelStatus {
            yielded: Some(record(epoch)),
            ..Default::default()
        });
        Arc::new(model)
    };
    term.recall(&[written(6)], &verifier(&signer));
    let state = &term.models[fixture::UID];
    assert!(state.in_force.is_some(), "it is of an older placement");

    term.recall(&[written(7)], &verifier(&signer));
    let state = &term.models[fixture::UID];
    assert_eq!((&state.in_force, &state.yielded), (&None, &Some(record(7))));
    assert_eq!(state.next_epoch(fixture::UID, &BTreeMap::new(), []), 8);
}

#[test]
fn a_status_answers_the_version_that_was_observed_or_the_one_that_the_last_write_made_of_it() {
    let mut model = fixture::model();
    let mut state = ModelState::new(&model, &verifier(&PlacementSigner::generate().unwrap()));
    model.metadata.resource_version = Some("7".into());
    assert_eq!(state.version(&model), Some("7"));
    state.made(&model, Some("8".into()));
    assert_eq!(state.version(&model), Some("8"), "the store lags behind");
    state.made(&model, Some("9".into()));
    assert_eq!(state.version(&model), Some("9"));
    state.doubts_version();
    assert_eq!(state.version(&model), Some("7"), "the store was set back");
    model.metadata.resource_version = Some("11".into());
    assert_eq!(state.version(&model), Some("11"), "somebody else wrote it");
}

#[test]
fn the_next_epoch_is_above_status_even_where_its_envelope_is_not_ours() {
    let (model, _) = placed(7);
    let mut term = Term::begin(Instant::now());
    term.recall(&[model], &verifier(&PlacementSigner::generate().unwrap()));
    let state = &term.models[fixture::UID];
    assert!(state.in_force.is_none());
    assert_eq!(state.next_epoch(fixture::UID, &BTreeMap::new(), []), 8);
}

#[test]
fn the_next_epoch_is_above_what_holders_have_accepted_and_others_are_not_believed() {
    let (model, signer) = placed(7);
    let mut term = Term::begin(Instant::now());
    term.recall(&[model], &verifier(&signer));
    let mut agents = fixture::agents(&["a", "c"]);
    agents.get_mut("c").unwrap().epochs.insert(fixture::UID.into(), 41);
    let state = &term.models[fixture::UID];
    assert_eq!(state.next_epoch(fixture::UID, &agents, []), 8);
    assert_eq!(
        state.next_epoch(fixture::UID, &agents, ["c"]),
        42,
        "it shall hold a part"
    );
    agents.get_mut("a").unwrap().epochs.insert(fixture::UID.into(), 9);
    assert_eq!(state.next_epoch(fixture::UID, &agents, []), 10);
    term.doubt(&agents);
    term.doubt(&agents);
    assert_eq!(term.doubted.len(), 1);
}

#[test]
fn another_way_to_the_same_weights_keeps_what_is_known_and_asks_again_whoever_failed() {
    let (mut term, model) = asked();
    let error = wire::InspectionError {
        reason: "AccessDenied".into(),
        message: "m".into(),
    };
    let none = ByDigest::new(0);
    term.learn(answer(Answer::Error(error)), &none, &none, &Metrics::new());
    let attached = fixture::agents(&["a"]);
    let ask = |term: &mut Term, model: &Arc<InferenceModel>| {
        let mut proxies = Vec::new();
        term.ask(std::slice::from_ref(model), &attached, Instant::now(), |_, inspect| {
            proxies.push(inspect.access.unwrap_or_default().proxy_url);
            true
        });
        proxies
    };
    assert!(ask(&mut term, &model).is_empty(), "all failed");
    let mut changed = InferenceModel::clone(&model);
    changed.spec.source.proxy_url = Some("http://proxy:1".into());
    let changed = Arc::new(changed);
    let signer = PlacementSigner::generate().unwrap();
    term.recall(std::slice::from_ref(&changed), &verifier(&signer));
    term.reach(std::slice::from_ref(&changed), &Secrets::default());
    assert_eq!(ask(&mut term, &changed), ["http://proxy:1"]);
}

#[test]
fn without_its_secret_nobody_is_asked_to_read_a_source() {
    let mut model = fixture::model();
    model.spec.source.secret_ref = Some(crds::SourceSecret { name: "access".into() });
    let models = [Arc::new(model)];
    let mut term = Term::begin(Instant::now());
    term.recall(&models, &verifier(&PlacementSigner::generate().unwrap()));
    term.reach(&models, &Secrets::default());
    term.ask(&models, &fixture::agents(&["a"]), Instant::now(), |_, _| {
        panic!("nobody is asked")
    });
}

#[test]
fn agents_that_hold_placements_are_awaited_for_a_while_and_only_until_they_came_once() {
    let (model, signer) = placed(7);
    let start = Instant::now();
    let mut term = Term::begin(start);
    term.recall(&[model], &verifier(&signer));
    let nobody = BTreeMap::new();
    assert_eq!(term.awaited(&nobody, start).into_iter().collect::<Vec<_>>(), ["a", "b"]);
    let a = fixture::agents(&["a"]);
    assert_eq!(term.awaited(&a, start).into_iter().collect::<Vec<_>>(), ["b"]);
    assert_eq!(
        term.awaited(&nobody, start).into_iter().collect::<Vec<_>>(),
        ["b"],
        "a came and is gone again"
    );
    assert!(term.awaited(&nobody, start + ATTACH_GRACE).is_empty());
}

#[test]
fn an_agent_that_has_not_reported_yet_is_given_a_moment() {
    let (model, signer) = placed(7);
    let start = Instant::now();
    let mut term = Term::begin(start);
    term.recall(&[model], &verifier(&signer));
    let mut agents = fixture::agents(&["a", "b"]);
    for agent in agents.values_mut() {
        (agent.reported, agent.attached) = (false, start);
    }
    assert_eq!(term.awaited(&agents, start).len(), 2);
    assert!(term.awaited(&agents, start + REPORT_GRACE).is_empty());
}

#[test]
fn a_source_that_changes_is_inspected_anew_and_a_model_that_is_gone_is_forgotten() {
    let (model, signer) = placed(7);
    let verifier = verifier(&signer);
    let mut term = Term::begin(Instant::now());
    term.recall(std::slice::from_ref(&model), &verifier);
    term.models.get_mut(fixture::UID).unwrap().resolved = Some(status::resolved_model(&fixture::facts()));
    let mut changed = InferenceModel::clone(&model);
    changed.spec.source.uri = "file:///other.gguf".into();
    term.recall(&[Arc::new(changed)], &verifier);
    let state = &term.models[fixture::UID];
    assert!(state.resolved.is_none());
    assert_eq!(state.inspection.source().uri, "file:///other.gguf");
    assert!(
        state.in_force.is_some(),
        "what serves goes on until something takes its place"
    );
    term.recall(&[], &verifier);
    assert!(term.models.is_empty());
}

/// Facts as an agent sends them, with this vocabulary.
fn message(vocabulary: &[u8]) -> wire::ModelFacts {
    let facts = fixture::facts();
    let piece = |weight_bytes| {
        Some(wire::PieceFacts {
            weight_bytes,
            digest: vec![1; 32],
        })
    };
    wire::ModelFacts {
        sha256: facts.sha256.unwrap().0.to_vec(),
        file_bytes: facts.file_bytes,
        architecture: "llama".into(),
        quantisation: "Q4_1".into(),
        embedding_length: 64,
        vocabulary_size: 1000,
        layers: vec![wire::LayerFacts {
            weight_bytes: 10,
            digest: vec![3; 32],
            ..Default::default()
        }],
        embedding: piece(5),
        output: piece(5),
        vocabulary: vocabulary.to_vec(),
        vocabulary_sha256: <sha2::Sha256 as sha2::Digest>::digest(vocabulary).to_vec(),
        ..Default::default()
    }
}

/// A term in which agent a was asked about the model.
fn asked() -> (Term, Arc<InferenceModel>) {
    let model = Arc::new(fixture::model());
    let mut term = Term::begin(Instant::now());
    term.recall(
        std::slice::from_ref(&model),
        &verifier(&PlacementSigner::generate().unwrap()),
    );
    let mut asked = Vec::new();
    term.ask(
        std::slice::from_ref(&model),
        &fixture::agents(&["a"]),
        Instant::now(),
        |node, inspect| {
            asked.push((node.to_owned(), inspect.uri));
            true
        },
    );
    assert_eq!(asked, [("a".to_owned(), "file:///models/smol.gguf".to_owned())]);
    (term, model)
}

fn answer(result: Answer) -> Vec<Inspected> {
    let inspection = wire::Inspection {
        model_uid: fixture::UID.into(),
        generation: 1,
        result: Some(result),
    };
    vec![Inspected {
        node: "a".into(),
        inspection,
    }]
}

#[test]
fn facts_resolve_the_model_and_bring_the_vocabulary_to_the_gateways() {
    let (mut term, _) = asked();
    let (vocabularies, indexes) = (ByDigest::new(1000), ByDigest::new(1000));
    let message = message(b"GGUF");
    let digest: [u8; 32] = message.vocabulary_sha256.clone().try_into().unwrap();
    term.learn(answer(Answer::Facts(message)), &vocabularies, &indexes, &Metrics::new());
    let state = &term.models[fixture::UID];
    assert_eq!(state.resolved.as_ref().unwrap().summary, "llama/Q4_1");
    assert_eq!(vocabularies.get(&digest).unwrap(), "GGUF");
    term.recall(&[], &verifier(&PlacementSigner::generate().unwrap()));
    term.learn(Vec::new(), &vocabularies, &indexes, &Metrics::new());
    assert!(vocabularies.get(&digest).is_none(), "no model has it any more");
}

#[test]
fn a_reason_that_nobody_knows_is_not_passed_on() {
    let (mut term, _) = asked();
    let error = wire::InspectionError {
        reason: "Weird-1".into(),
        message: "m".into(),
    };
    let none = ByDigest::new(0);
    term.learn(answer(Answer::Error(error)), &none, &none, &Metrics::new());
    let inspection = &mut term.models.get_mut(fixture::UID).unwrap().inspection;
    inspection.candidates(&BTreeMap::from([("a".to_owned(), 0)]), Instant::now(), 0.0);
    let Resolution::Failed(failure) = inspection.resolution() else {
        panic!("it failed")
    };
    assert_eq!(failure.reason, "Unreadable");
}

#[test]
fn an_agent_that_is_busy_is_asked_later_and_another_at_once() {
    let model = Arc::new(fixture::model());
    let mut term = Term::begin(Instant::now());
    term.recall(
        std::slice::from_ref(&model),
        &verifier(&PlacementSigner::generate().unwrap()),
    );
    let models = [model];
    term.ask(&models, &fixture::agents(&["a"]), Instant::now(), |_, _| false);
    assert_eq!(term.models[fixture::UID].inspection.resolution(), Resolution::NoAgent);
    for busy in ["a", "b"] {
        let other = if busy == "a" { "b" } else { "a" };
        let state = term.models.get_mut(fixture::UID).unwrap();
        state.inspection = Inspection::new(fixture::model().spec.source, fixture::UID);
        let agents = fixture::agents(&["a", "b"]);
        term.ask(&models, &agents, Instant::now(), |node, _| node != busy);
        let inspecting = term.models[fixture::UID].inspection.resolution();
        assert_eq!(inspecting, Resolution::Inspecting(other.into()));
    }
}

#[test]
fn a_status_is_written_once_and_again_only_if_it_was_lost() {
    let (now, mut model) = (Instant::now(), fixture::model());
    let mut state = ModelState::new(&model, &verifier(&PlacementSigner::generate().unwrap()));
    let wanted = InferenceModelStatus {
        stages_ready: Some("1/2".into()),
        ..Default::default()
    };
    assert!(state.must_write(&model, &wanted, now));
    state.wrote(wanted.clone(), None, now);
    assert!(!state.must_write(&model, &wanted, now), "the store lags behind");
    assert!(
        state.must_write(&model, &wanted, now + ECHO),
        "somebody else changed it"
    );
    model.status = Some(wanted.clone());
    assert!(!state.must_write(&model, &wanted, now + ECHO));
}

#[test]
fn a_placement_takes_effect_when_it_was_written() {
    let mut state = ModelState::new(&fixture::model(), &verifier(&PlacementSigner::generate().unwrap()));
    state.wrote(
        InferenceModelStatus::default(),
        Some(fixture::in_force(5, &["a"])),
        Instant::now(),
    );
    assert_eq!(state.next_epoch(fixture::UID, &BTreeMap::new(), []), 6);
    let mut agents = fixture::agents(&["a"]);
    fixture::report(&mut agents, "a", 5, 0, ShardPhase::Serving);
    assert!(super::super::stages::look(state.in_force.as_ref().unwrap(), &agents)[0].serves());
}

#[test]
fn sources_that_are_read_soon_are_inspected_a_few_at_a_time_and_slow_ones_all_at_once() {
    let model = |number: usize, index_sha256: Option<String>| {
        let mut model = fixture::model();
        model.metadata.uid = Some(format!("uid-{number:03}"));
        model.spec.source.index_sha256 = index_sha256;
        Arc::new(model)
    };
    let signer = PlacementSigner::generate().unwrap();
    let attached = fixture::agents(&["a"]);
    let ask = |term: &mut Term, models: &[Arc<InferenceModel>], now| {
        let mut asked = 0;
        term.ask(models, &attached, now, |_, _| {
            asked += 1;
            true
        });
        asked
    };
    let (mut term, now) = (Term::begin(Instant::now()), Instant::now());
    let quick: Vec<_> = (0..40).map(|number| model(number, Some("7".repeat(64)))).collect();
    term.recall(&quick, &verifier(&signer));
    assert_eq!(ask(&mut term, &quick, now), INSPECTIONS_AT_ONCE);
    assert_eq!(ask(&mut term, &quick, now), 0);
    // One is answered, another is asked.
    let state = term.models.get_mut("uid-000").unwrap();
    assert!(state.inspection.answered("a", 1, Ok(Arc::new(fixture::facts()))));
    assert_eq!(ask(&mut term, &quick, now), 1);
    let mut term = Term::begin(now);
    let slow: Vec<_> = (0..40).map(|number| model(number, None)).collect();
    term.recall(&slow, &verifier(&signer));
    assert_eq!(ask(&mut term, &slow, now), 40);
}

#[test]
fn a_device_that_was_left_after_failures_and_a_rest_that_is_over_wake_nobody() {
    let (model, signer) = placed(7);
    let start = Instant::now();
    let mut term = Term::begin(start);
    term.recall(&[model], &verifier(&signer));
    let state = term.models.get_mut(fixture::UID).unwrap();
    state
        .failures
        .observe("left", crate::model::failures::Health::Failed, start);
    state.moving.rolled_back("it did not load".to_owned(), start);
    let wakes_at = |now| term.wakes_at(&BTreeSet::new(), now);
    assert!(wakes_at(start).is_some_and(|at| at > start));
    assert_eq!(wakes_at(start + Duration::from_secs(3600)), None);
}
