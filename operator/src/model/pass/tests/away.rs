//! A node that is lost, from the pass that misses its agent to the one in which another serves its layers.

use super::*;

/// When the agent is missed first.
const LOST_AT: i64 = 1000;

/// Status, reason and message of `Degraded`, as it was written last.
pub(super) fn degraded(plane: &Plane) -> [String; 3] {
    let written = plane.script.bodies(&format!("PATCH {STATUS}"));
    let status = &written.last().expect("a status")["status"];
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|found| found["type"] == "Degraded");
    let found = found.expect("it is said");
    ["status", "reason", "message"].map(|field| found[field].as_str().unwrap_or_default().to_owned())
}

pub(super) fn report(plane: &Plane, node: &str, session: u64, epochs: &[u64]) {
    let serves = |epoch: &u64| wire::ShardStatus {
        model_uid: fixture::UID.into(),
        epoch: *epoch,
        phase: ShardPhase::Serving.into(),
        endpoint: format!("{node}:7000"),
        ..Default::default()
    };
    let shards = epochs.iter().map(serves).collect();
    plane.agents.report(node, session, wire::ShardReport { shards });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_is_told_with_its_moment_and_where_the_layers_go_and_only_once_until_they_serve() {
    let mut plane = Plane::new(std::iter::repeat_with(written).take(8));
    plane.observed.devices.push(fixture::cpu("b", 1 << 30));
    let start = Instant::now();
    let mut control = plane.control();
    let mut at = async |second: i64| {
        let wall = Timestamp::from_second(second).unwrap();
        control.pass(plane.observed.clone(), start, wall).await;
        plane.script.bodies(&format!("PATCH {STATUS}")).len()
    };
    at(1).await;
    plane.answer();
    at(2).await;
    report(&plane, "a", plane.attachment.session, &[1]);
    at(3).await;
    assert_eq!(degraded(&plane)[1], "AsExpected");

    let b = plane.agents.attach("b", Hello::default(), start).unwrap();
    report(&plane, "b", b.session, &[]);
    plane.agents.detach("a", plane.attachment.session, start);
    let writes = at(LOST_AT).await;
    let lost = "stage 0 on a-cpu0: the node's agent is not attached since 1970-01-01T00:16:40Z; its layers are loaded in epoch 2: \
                0-3 on b-cpu0";
    assert_eq!(degraded(&plane), ["True", "StageLost", lost]);
    assert_eq!(at(LOST_AT + 1).await, writes, "nothing new is written of it");

    report(&plane, "b", b.session, &[2]);
    at(LOST_AT + 2).await;
    assert_eq!(degraded(&plane), ["False", "AsExpected", "nothing is lost"]);
}
