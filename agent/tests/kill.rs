//! A fetching process that is killed a hundred times never leaves a wrong file under a right name.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod inspected;
mod rig;
mod tiny_model;

use inspected::Inspected;
use linkemu::random::Random;
use proto::control::v1::{ModelFacts, SourceAccess};
use rig::{wanted, weights};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const KILLS: usize = 100;
/// Layers of some 3 MB: a fetch takes long enough to be hit in all of its parts.
const ROWS: u64 = 40_000;
const SEED: u64 = 0x5eed;

/// In [0, 1).
fn fraction(random: &mut Random) -> f64 {
    (random.any() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Fetches and verifies everything, when this process was started to do so.
#[test]
fn the_fetching_process_itself() {
    let Ok(state) = std::env::var("FETCH_INTO") else { return };
    let uri = std::env::var("FETCH_FROM").unwrap();
    let facts = Path::new(&state).join("facts");
    let facts: ModelFacts = prost::Message::decode(std::fs::read(facts).unwrap().as_slice()).unwrap();
    let access = SourceAccess {
        ca_bundle_pem: std::fs::read_to_string(Path::new(&state).join("ca.pem")).unwrap(),
        ..SourceAccess::default()
    };
    let runtime = rig::runtime();
    let models = rig::models(&runtime, rig::setting(Path::new(&state)), None);
    let shard = weights(
        &models,
        &facts,
        wanted(&facts, &uri, Some(access)),
        0,
        tiny_model::LAYERS,
    );
    rig::fetched_and_verified(&shard).unwrap();
    shard.prepare().unwrap();
}

fn start(state: &Path, uri: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_fetching_process_itself", "--quiet"])
        .env("FETCH_INTO", state)
        .env("FETCH_FROM", uri)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn killed_a_hundred_times_a_fetch_never_leaves_a_bad_file_and_comes_to_its_end() {
    let runtime = rig::runtime();
    let model = Inspected::of_rows(&runtime, ROWS);
    let (server, facts, uri) = (&model.server, &model.facts, model.uri());

    let state = tempfile::tempdir().unwrap();
    std::fs::write(state.path().join("facts"), prost::Message::encode_to_vec(facts)).unwrap();
    std::fs::write(state.path().join("ca.pem"), &server.ca_pem).unwrap();
    let models = state.path().join("models");
    let folder = models.join(model.index().digest().to_string());
    let check = || model.check(&folder);

    // How long it takes without being killed says when to kill.
    let began = Instant::now();
    assert!(start(state.path(), &uri).wait().unwrap().success());
    let undisturbed = began.elapsed();
    let all = check();
    std::fs::remove_dir_all(&models).unwrap();
    server.forget();

    let mut random = Random::new(SEED);
    let (mut kills, mut completions, mut started) = (0, 0, 0);
    while kills < KILLS {
        let mut child = start(state.path(), &uri);
        started += 1;
        let moment = began + began.elapsed() + undisturbed.mul_f64(fraction(&mut random));
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            let left = moment.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break None;
            }
            std::thread::sleep(left.min(Duration::from_millis(2)));
        };
        match ended {
            Some(status) => {
                assert!(status.success(), "{status}");
                assert_eq!(check(), all);
                completions += 1;
                std::fs::remove_dir_all(&models).unwrap();
            }
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                kills += 1;
                check();
            }
        }
    }
    let sent = server.sent();
    assert!(start(state.path(), &uri).wait().unwrap().success());
    assert_eq!(check(), all);
    println!(
        "{kills} kills in {started} lives, {completions} fetches completed on the way and one at the end, {sent} bytes sent for \
         a model of {}, no bad file",
        facts.file_bytes
    );
}
