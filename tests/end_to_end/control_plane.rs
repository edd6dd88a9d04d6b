//! What streams and workers do while the control plane is set back, or shut out.

use localplane::stack::{NAMESPACE, Part, upgrade_chart};
use serde_json::{Value, json};

use super::serving::Serving;
use super::{LIMIT, Seen, model, nodes, stages, until, uri};

/// What the operator says of a store that was set back.
const SET_BACK: &str = "older than they were, as after the restore of a snapshot of etcd";
/// Role, binding and account of the operator have this name.
const OPERATOR: &str = "shardwright-operator";
/// Those of the agents this one.
const AGENT: &str = "shardwright-agent";

/// The layers that a placement has on a node.
fn held_on(model: &Value, node: &str) -> String {
    let on_node = stages(model).into_iter().find(|stage| stage["node"] == node);
    on_node.map_or_else(String::new, |stage| stage["layers"].to_string())
}

impl Serving {
    fn lease_version(&self) -> String {
        let path = "jsonpath={.metadata.resourceVersion}";
        let asked = ["get", "lease", OPERATOR, "-n", NAMESPACE, "-o", path];
        self.here.stack.kubectl(&asked).expect("the lease")
    }

    /// By this the operator tells a store that was set back from one that was not.
    async fn the_lease_is_renewed(&self) {
        let before = self.lease_version();
        let look = || -> localplane::Result<Seen<()>> {
            let now = self.lease_version();
            Ok(if now == before { Seen::Not(now) } else { Seen::Done(()) })
        };
        let renewed = until("the lease is renewed", LIMIT, || std::future::ready(look()));
        renewed.await.expect("renewed");
    }

    /// It leads again after so many restores, and hears of all agents.
    async fn is_led_after(&self, restores: usize) {
        let look = async || -> localplane::Result<Seen<()>> {
            let log = self.here.stack.log(&Part::Operator(0))?;
            let lives: Vec<&str> = log.split(SET_BACK).collect();
            let begins = lives.last().is_some_and(|last| last.contains("control loop begins"));
            let agents = self.operator_counts("shardwright_operator_agents_attached").await;
            let is_led = lives.len() == restores + 1 && begins && agents == 3.0;
            Ok(if is_led {
                Seen::Done(())
            } else {
                Seen::Not(format!(
                    "{} restores, begins: {begins}, {agents} agents",
                    lives.len() - 1
                ))
            })
        };
        until("the operator leads and hears of all", LIMIT, look)
            .await
            .expect("led");
    }
}

#[tokio::test]
#[ignore = "make test-long: 60 s"]
async fn a_stream_does_not_notice_that_etcd_is_restored_from_an_older_copy_nor_what_was_decided_since() {
    let mut serving = Serving::start(3).await;
    let copy = serving.here.dir.path().join("copy");
    serving.here.stack.plane_mut().save(&copy).await.expect("saved");
    serving.the_lease_is_renewed().await;

    // Only leases were lost: nothing that runs is touched.
    let workers = serving.workers();
    let story = serving.story().await;
    serving.here.stack.plane_mut().restore(&copy).await.expect("restored");
    serving.expect(story).await;
    serving.is_led_after(1).await;
    // The same again, while the new term looks around.
    let story = serving.story().await;
    serving.expect(story).await;
    let after = serving.here.ready("m").await;
    assert_eq!(after["status"]["placement"]["epoch"].as_i64(), Some(serving.epoch));
    assert_eq!(serving.workers(), workers, "the same processes serve on");

    // A decision was lost: agents hold what the restored state never heard of.
    let tail = serving.tail.clone();
    serving.here.stack.kubectl(&["cordon", &tail]).expect("cordoned");
    let moved = serving.here.ready_in_epoch_above("m", serving.epoch).await;
    let held = held_on(&moved, &serving.head);
    let moved = moved["status"]["placement"]["epoch"].as_i64().expect("an epoch");
    let [head, _] = serving.workers();
    let story = serving.story().await;
    serving.here.stack.plane_mut().restore(&copy).await.expect("restored");
    serving.expect(story).await;
    serving.is_led_after(2).await;
    let after = serving.here.ready_in_epoch_above("m", moved).await;
    let asked_for = [serving.head.clone(), tail];
    assert_eq!(nodes(&after), asked_for, "as the restored state asks for");
    serving.has_workers_on(&[&serving.head, &serving.tail]).await;
    let asked = held_on(&after, &serving.head);
    println!("the node of the head held layers {held} and is asked for {asked}");
    // Another cut is another shard.
    if held == asked {
        assert_eq!(serving.workers()[0], head, "what both states ask for serves on");
    }
    serving.answers().await;
}

#[tokio::test]
#[ignore = "make test-long: 80 s"]
async fn an_operator_whose_rights_are_taken_away_says_which_and_streams_go_on_until_it_has_them_again() {
    let mut serving = Serving::start(2).await;
    let workers = serving.workers();
    let story = serving.story().await;
    let kubectl = |arguments: &[&str]| serving.here.stack.kubectl(arguments);
    kubectl(&["delete", "clusterrolebinding", OPERATOR]).expect("deleted");
    let look = || -> localplane::Result<Seen<()>> {
        let account = format!("--as=system:serviceaccount:{NAMESPACE}:{OPERATOR}");
        let asked = [
            "auth",
            "can-i",
            "patch",
            "inferencemodels",
            "--subresource=status",
            &account,
        ];
        // It ends with 1 where the answer is no.
        Ok(kubectl(&asked).map_or(Seen::Done(()), Seen::Not))
    };
    let forbidden = until("it is forbidden", LIMIT, || std::future::ready(look()));
    forbidden.await.expect("forbidden");
    serving.here.apply("n", &json!({ "source": { "uri": uri(&model()) } }));
    let said = ["InferenceModel default/n", "cannot patch resource", "helm upgrade"];
    serving.operator_says(&said).await;
    let refused = "shardwright_operator_errors_total{category=\"api_forbidden\"}";
    assert!(serving.operator_counts(refused).await >= 1.0);

    // The next life of the operator may not even read its keys.
    let kubectl = |arguments: &[&str]| serving.here.stack.kubectl(arguments);
    kubectl(&["delete", "rolebinding", OPERATOR, "-n", NAMESPACE]).expect("deleted");
    serving.here.stack.kill(&Part::Operator(0)).expect("killed");
    assert_eq!(serving.here.stack.restart_ended().expect("restarted"), ["operator"]);
    let said = [
        "cannot read or make the installation's keys",
        "cannot get resource",
        "helm upgrade",
    ];
    serving.operator_says(&said).await;
    serving.expect(story).await;
    serving.answers().await;

    // An agent asks twice a minute whether its objects are there.
    let kubectl = |arguments: &[&str]| serving.here.stack.kubectl(arguments);
    kubectl(&["delete", "clusterrolebinding", AGENT]).expect("deleted");
    let said = ["devices are not published", "cannot get resource", "helm upgrade"];
    for node in [&serving.head, &serving.tail] {
        serving.says(&Part::Agent(node.clone()), &said).await;
    }
    serving.answers().await;

    upgrade_chart(serving.here.stack.plane()).expect("upgraded");
    serving.here.ready("n").await;
    let after = serving.here.ready("m").await;
    assert_eq!(after["status"]["placement"]["epoch"].as_i64(), Some(serving.epoch));
    serving.serve_on(&workers);
    serving.answers().await;
}
