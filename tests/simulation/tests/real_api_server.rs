//! Crash plans, chosen by a seed over all stories, replayed on a real kube-apiserver and etcd: the end is that of the same story
//! on them without a fault. And an etcd that is restored from an older copy of its data.
//!
//! `REPLAYS=60` says how many, `REPLAY_SEED=7` which.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use apimodel::{ApiServer, Real};
use linkemu::random::Random;
use localplane::plane::Plane;
use serde_json::json;
use simulation::invariants;
use simulation::objects::{MODELS, uri};
use simulation::plan::{FAULTS, Outcome, Plan, compare, run_on};
use simulation::workflow::WORKFLOWS;
use simulation::world::{MODEL, Shape, World};

/// Plans where nobody says how many.
const REPLAYS: usize = 4;
const SEED: u64 = 1;
/// Lines of a failure that are told: what follows is mostly more of it.
const TOLD: usize = 30;

/// A control plane with our kinds, on a runtime that goes on while a story waits for it.
struct Served {
    real: Arc<Real>,
    plane: Arc<tokio::sync::Mutex<Plane>>,
    dir: tempfile::TempDir,
    io: tokio::runtime::Runtime,
}

/// What becomes of etcd's data.
#[derive(Clone, Copy)]
enum Etcd {
    Saved,
    Restored,
}

impl Served {
    /// Ends etcd and kube-apiserver, saves or restores, and starts both; no time passes for whoever waits.
    fn restart(&self, etcd: Etcd) {
        let (plane, copy) = (self.plane.clone(), self.dir.path().join("copy"));
        let (tells, told) = mpsc::channel();
        // By a thread that lives on: the processes end with the one that starts them.
        self.io.spawn(async move {
            let mut plane = plane.lock().await;
            let done = match etcd {
                Etcd::Saved => plane.save(&copy).await,
                Etcd::Restored => plane.restore(&copy).await,
            };
            done.expect("a control plane");
            // Nobody waits any more where the test has failed.
            let _ = tells.send(plane.client().await.expect("a client"));
        });
        let client = told.recv_timeout(Duration::from_secs(90)).expect("it starts again");
        self.real.started_again(client);
    }
}

fn serve() -> Served {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let io = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let dir = tempfile::tempdir().expect("a folder");
    let (plane, client) = io.block_on(async {
        let plane = Plane::start(dir.path()).await.expect("a control plane");
        let client = plane.client().await.expect("a client");
        (plane, client)
    });
    let crds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/shardwright/crds");
    for arguments in [
        vec!["apply", "-f", crds],
        vec!["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"],
        vec!["create", "namespace", simulation::objects::INSTALLATION],
    ] {
        let mut kubectl = plane.kubectl().expect("kubectl");
        let output = kubectl.args(&arguments).output().expect("kubectl runs");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
    Served {
        real: Arc::new(Real::new(client, io.handle().clone())),
        plane: Arc::new(tokio::sync::Mutex::new(plane)),
        dir,
        io,
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is a number")),
        Err(_) => otherwise,
    }
}

#[test]
fn plans_end_on_a_real_api_server_as_the_same_story_without_a_fault_does() {
    let (count, seed) = (number("REPLAYS", REPLAYS as u64) as usize, number("REPLAY_SEED", SEED));
    println!("REPLAY_SEED={seed} REPLAYS={count}");
    let served = serve();
    let mut random = Random::new(seed);
    let mut clean: BTreeMap<&str, Outcome> = BTreeMap::new();
    let first = random.below(WORKFLOWS.len());
    let began = Instant::now();
    let mut failed = 0;
    for at in 0..count {
        // Every story in its turn.
        let workflow = &WORKFLOWS[(first + at) % WORKFLOWS.len()];
        let clean = clean.entry(workflow.name).or_insert_with(|| {
            let clean = run_on(Some(&served.real), workflow, None);
            assert!(clean.broken.is_empty(), "{}: {:#?}", workflow.name, clean.broken);
            clean
        });
        let plan = Plan {
            workflow,
            request: 1 + random.below(clean.requests.len()),
            fault: FAULTS[random.below(FAULTS.len())],
        };
        let told = Instant::now();
        let outcome = run_on(Some(&served.real), workflow, Some((plan.request, plan.fault)));
        assert!(outcome.struck, "{plan}: the fault did not come");
        let request = outcome.requests[plan.request - 1].clone();
        let found = compare(&plan, clean, outcome);
        println!("{plan}, {request}: {} differences, {:.1?}", found.len(), told.elapsed());
        if !found.is_empty() {
            failed += 1;
            println!("    {}", found[..found.len().min(TOLD)].join("\n    "));
        }
    }
    println!("{count} plans in {:.1?}, {failed} fail", began.elapsed());
    assert_eq!(failed, 0, "of {count} plans");
}

#[test]
fn after_etcd_is_restored_from_an_older_copy_what_serves_goes_on_and_epochs_go_on_above_all_that_agents_hold() {
    let served = serve();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without IO needs nothing of the system");
    runtime.block_on(restored(&served));
}

async fn restored(served: &Served) {
    let shape = Shape {
        operators: 2,
        ..Shape::default()
    };
    let mut world = World::on(ApiServer::in_front_of(served.real.clone()), &shape);
    for place in 0..2 {
        world.keep_operator(place, &format!("operator-{place}"));
    }
    world.ask_for("m", 1, 1);
    world.settle().await.expect("it settles");
    let field = |world: &World, path: &str| {
        let model = world.object(MODEL, MODELS, "m").expect("the model is there");
        model
            .pointer(path)
            .and_then(serde_json::Value::as_u64)
            .expect("a number")
    };
    // Whatever else lies on the disks for a loss.
    let serve = |world: &World| -> Vec<String> {
        let held = world.hosts.values().flat_map(|host| host.agent().holds());
        let serving = held.filter(|line| line.contains("SERVE"));
        let shard = |line: String| line.split('{').next().map(str::to_owned);
        serving.filter_map(shard).collect()
    };
    let epoch = "/status/placement/epoch";
    served.restart(Etcd::Saved);
    let snapshot = world.api.with(|store| store.snapshot());

    // Only leases were lost: somebody has to lead again, and nothing that runs is touched.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let (before, serving) = (field(&world, epoch), serve(&world));
    served.restart(Etcd::Restored);
    world.api.restore(&snapshot);
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(serve(&world), serving, "at {:?}", world.now());
    }
    assert_eq!(serving.len(), 2);
    assert_eq!(field(&world, epoch), before);

    // Decisions were lost.
    for weights in [2, 3, 2] {
        let other = json!({ "spec": { "source": { "uri": uri(weights) } } });
        assert!(world.patch(MODEL, MODELS, "m", &other));
        world.settle().await.expect("it settles");
    }
    let before = field(&world, epoch);
    served.restart(Etcd::Restored);
    world.api.restore(&snapshot);
    assert_eq!(world.api.with(|store| served.real.compare(store)), Vec::<String>::new());
    assert!(field(&world, epoch) < before, "etcd is what it was");
    world.settle().await.expect("it settles");
    assert!(field(&world, epoch) > before, "{} after {before}", field(&world, epoch));

    // A watch that stood over the restore would not tell of this for a long time.
    assert!(world.patch(MODEL, MODELS, "m", &json!({ "spec": { "contextLength": 128 } })));
    let changed = world.now();
    let generation = field(&world, "/metadata/generation");
    while field(&world, "/status/observedGeneration") != generation {
        assert!(
            world.now() - changed < Duration::from_secs(10),
            "nobody sees the change"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.settle().await.expect("it settles");
    let mut broken = invariants::of_history(&world);
    broken.extend(invariants::of_end(&world, true));
    broken.extend(world.api.with(|store| served.real.compare(store)));
    assert_eq!(broken, Vec::<String>::new());
}
