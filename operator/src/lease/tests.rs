use http::Method;
use serde_json::{Value, json};

use super::*;
use crate::fixture::{Script, Step};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/ns/leases";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/shardwright-operator";
const PERIOD: Duration = Duration::from_secs(15);

fn lease(holder: &str, version: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": LEASE_NAME, "namespace": "ns", "resourceVersion": version },
        "spec": { "holderIdentity": holder, "leaseDurationSeconds": 15, "leaseTransitions": 4, "renewTime": "2026-01-01T00:00:00.000000Z" },
    })
}

fn elector(steps: impl IntoIterator<Item = Step>) -> (Elector, std::sync::Arc<Script>) {
    let (client, script) = Script::client(steps);
    (
        Elector::new(Api::namespaced(client, "ns"), "me".into(), PERIOD, Wall::default()),
        script,
    )
}

#[tokio::test]
async fn the_first_candidate_creates_the_lease() {
    let (mut elector, script) = elector([
        Step::fails(Method::GET, LEASE, 404, "NotFound"),
        Step::ok(Method::POST, LEASES, lease("me", "1")),
    ]);
    assert_eq!(elector.look().await.unwrap(), Outcome::Held);
    script.finished();
    let spec = &script.bodies(&format!("POST {LEASES}"))[0]["spec"];
    assert_eq!(
        (&spec["holderIdentity"], &spec["leaseDurationSeconds"]),
        (&json!("me"), &json!(15))
    );
}

#[tokio::test]
async fn a_released_lease_is_taken_with_the_version_that_was_read() {
    let (mut elector, script) = elector([
        Step::ok(Method::GET, LEASE, lease("", "7")),
        Step::ok(Method::PUT, LEASE, lease("me", "8")),
    ]);
    assert_eq!(elector.look().await.unwrap(), Outcome::Held);
    script.finished();
    let written = &script.bodies(&format!("PUT {LEASE}"))[0];
    assert_eq!(
        (
            &written["metadata"]["resourceVersion"],
            &written["spec"]["leaseTransitions"]
        ),
        (&json!("7"), &json!(5))
    );
}

#[tokio::test]
async fn a_lease_that_another_holds_is_left_alone() {
    let (mut elector, script) = elector([Step::ok(Method::GET, LEASE, lease("other", "7"))]);
    assert_eq!(elector.look().await.unwrap(), Outcome::Other);
    script.finished();
}

#[tokio::test]
async fn of_two_candidates_that_write_at_once_one_is_told_to_look_again() {
    let (mut elector, script) = elector([
        Step::ok(Method::GET, LEASE, lease("", "7")),
        Step::fails(Method::PUT, LEASE, 409, "Conflict"),
    ]);
    assert_eq!(elector.look().await.unwrap(), Outcome::Contended);
    script.finished();
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_store_was_set_back_begins_again() {
    let (elector, script) = elector([
        Step::ok(Method::GET, LEASE, lease("me", "7")),
        Step::ok(Method::PUT, LEASE, lease("me", "8")),
        // Restored as it was before.
        Step::fails(Method::PUT, LEASE, 409, "Conflict"),
        Step::ok(Method::GET, LEASE, lease("me", "3")),
        Step::ok(Method::PUT, LEASE, lease("me", "4")),
        Step::ok(Method::PUT, LEASE, lease("me", "5")),
    ]);
    let (leading, mut led) = watch::channel(false);
    let stop = CancellationToken::new();
    let mut elector = elector;
    let observed = async {
        for leads in [true, false, true] {
            led.wait_for(|leading| *leading == leads).await.unwrap();
        }
        stop.cancel();
    };
    tokio::join!(elector.run(&leading, &stop), observed);
    script.finished();
}

#[tokio::test]
async fn what_is_ours_is_renewed_by_one_request_onto_the_version_that_it_made_last() {
    let (mut elector, script) = elector([
        Step::ok(Method::GET, LEASE, lease("", "7")),
        Step::ok(Method::PUT, LEASE, lease("me", "8")),
        Step::ok(Method::PUT, LEASE, lease("me", "9")),
        Step::fails(Method::PUT, LEASE, 409, "Conflict"),
        Step::ok(Method::GET, LEASE, lease("other", "10")),
    ]);
    for outcome in [Outcome::Held, Outcome::Held, Outcome::Contended, Outcome::Other] {
        assert_eq!(elector.look().await.unwrap(), outcome);
    }
    script.finished();
    let written = script.bodies(&format!("PUT {LEASE}"));
    let versions: Vec<&Value> = written.iter().map(|put| &put["metadata"]["resourceVersion"]).collect();
    assert_eq!(versions, ["7", "8", "9"]);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_stops_before_another_may_begin() {
    let (elector, _script) = elector([
        Step::ok(Method::GET, LEASE, lease("", "7")),
        Step::ok(Method::PUT, LEASE, lease("me", "8")),
    ]);
    let (leading, mut led) = watch::channel(false);
    let stop = CancellationToken::new();
    let mut elector = elector;
    let observed = async {
        led.wait_for(|leading| *leading).await.unwrap();
        let began = tokio::time::Instant::now();
        led.wait_for(|leading| !*leading).await.unwrap();
        let led_for = began.elapsed();
        assert!(PERIOD / 2 < led_for && led_for < PERIOD, "{led_for:?}");
        stop.cancel();
    };
    tokio::join!(elector.run(&leading, &stop), observed);
}

#[tokio::test]
async fn only_our_own_lease_is_released() {
    let (mut elector, script) = elector([
        Step::ok(Method::GET, LEASE, lease("me", "7")),
        Step::ok(Method::PUT, LEASE, lease("", "8")),
    ]);
    elector.release().await.unwrap();
    script.finished();
    assert_eq!(script.bodies(&format!("PUT {LEASE}"))[0]["spec"]["holderIdentity"], "");

    let (mut elector, script) = self::elector([Step::ok(Method::GET, LEASE, lease("other", "7"))]);
    elector.release().await.unwrap();
    script.finished();
}

#[tokio::test]
async fn a_leader_tells_that_it_leads_and_stops_when_told() {
    let (mut elector, _script) = elector([
        Step::ok(Method::GET, LEASE, lease("", "7")),
        Step::ok(Method::PUT, LEASE, lease("me", "8")),
    ]);
    let (leading, mut seen) = watch::channel(false);
    let stop = CancellationToken::new();
    let told = stop.clone();
    let run = tokio::spawn(async move { elector.run(&leading, &told).await });
    tokio::time::timeout(Duration::from_secs(10), seen.wait_for(|leads| *leads))
        .await
        .unwrap()
        .unwrap();
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(10), run)
        .await
        .unwrap()
        .unwrap();
}
