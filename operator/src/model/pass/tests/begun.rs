//! A leader that has just begun, to which most agents do not come.

use crds::names::{APART, agent_lease};

use super::away::{degraded, report};
use super::*;

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/shardwright-system/leases";

/// What is read of the Leases of two nodes whose agents say that they are apart, and said so last at a second.
fn leases(second: u32) -> Step {
    let lease = |node: &str| {
        json!({
            "metadata": { "name": agent_lease(node), "annotations": { APART: "true" } },
            "spec": { "renewTime": format!("2026-01-01T00:00:{second:02}.000000Z") },
        })
    };
    let items = ["b", "c"].map(lease);
    let list = json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "LeaseList", "metadata": {}, "items": items });
    Step::ok(Method::GET, LEASES, list)
}

/// A node has the model, of which a leader was told that it serves; then both are gone, and another node is there.
async fn left_by_its_leader() -> Plane {
    let said = [1, 11, 11, 11].map(leases).into_iter();
    let mut plane = Plane::new(said.chain(std::iter::repeat_with(written).take(12)));
    plane.observed.devices = vec![fixture::cpu("b", 1 << 30)];
    let b = {
        let mut control = plane.control();
        pass(&mut control, &plane.observed).await;
        plane.answer();
        let b = plane.agents.attach("b", Hello::default(), Instant::now()).unwrap();
        pass(&mut control, &plane.observed).await;
        report(&plane, "b", b.session, &[1]);
        pass(&mut control, &plane.observed).await;
        b
    };
    let written = plane.script.bodies(&format!("PATCH {STATUS}"));
    let status = written.last().expect("a status")["status"].clone();
    assert_eq!(status["stagesReady"], "1/1");
    let mut model = fixture::model();
    model.status = Some(serde_json::from_value(status).unwrap());
    plane.observed.models = vec![Arc::new(model)];
    plane.observed.devices = ["a", "b", "c"].map(|node| fixture::cpu(node, 1 << 30)).to_vec();
    plane.agents.detach("b", b.session, Instant::now());
    plane
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_to_which_most_agents_do_not_come_though_they_are_there_moves_nothing_until_they_say_so_no_more() {
    let plane = left_by_its_leader().await;
    let mut control = plane.control();
    let start = Instant::now();
    let mut at = async |second: u64| {
        let now = start + Duration::from_secs(second);
        control.pass(plane.observed.clone(), now, Timestamp::now()).await;
        let in_force = control.term.models[fixture::UID].in_force.as_ref().unwrap();
        (in_force.placement.epoch, in_force.devices().join(" "))
    };
    let stays = (1, "b-cpu0".to_owned());
    assert_eq!(at(0).await, stays);
    plane.answer();
    let written = plane.script.bodies(&format!("PATCH {STATUS}")).len();
    for second in [1, 9] {
        assert_eq!(at(second).await, stays);
    }
    assert_eq!(
        plane.script.bodies(&format!("PATCH {STATUS}")).len(),
        written,
        "nothing is said while they may be on their way"
    );
    assert_eq!(at(10).await, stays);
    let [status, reason, message] = degraded(&plane);
    assert_eq!((status.as_str(), reason.as_str()), ("True", "AgentsUnheard"));
    assert!(
        message.contains("2 of 3 agents") && message.contains("that of b"),
        "{message}"
    );
    let routes = plane.routes.watch().borrow().clone().expect("gateways are told");
    assert!(routes.models[0].ready);
    assert_eq!(routes.models[0].head_endpoints, ["b:7000"]);
    // Nothing is said anew.
    assert_eq!(at(45).await, (2, "a-cpu0".to_owned()));
}
