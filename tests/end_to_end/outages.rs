//! The API server, etcd or the operator that leads is away for longer than a lease, and clients read on.

use std::time::{Duration, Instant};

use localplane::process::{freeze, thaw};
use localplane::stack::Part;
use serde_json::{Value, json};

use super::serving::Serving;
use super::{LIMIT, Seen, model, stages, until, uri};

/// A leader acts for 10 s after it renewed its lease, and another takes the lease after 15.
const AWAY: Duration = Duration::from_secs(20);
/// Whoever leads anew waits 10 s for agents, and then decides.
const DECIDED_WITHIN: Duration = Duration::from_secs(12);
/// What an operator says that could not renew its lease.
const NO_LONGER: &str = "no longer leading";
/// What it says of an API server that is silent: of any call that it gave up, or of a look at the lease that it had no more time for.
const SILENT: [&str; 2] = [
    "the Kubernetes API gave no answer within",
    "the Kubernetes API was silent about the lease",
];
const LEADS: &str = "shardwright_operator_leader";
const FAILURES: &str = "shardwright_operator_errors_total";

/// What an outage must leave as it is.
struct Before {
    uid: Value,
    workers: [Vec<u32>; 2],
}

impl Serving {
    fn uid(&self) -> Value {
        let model = self.here.stack.model("default", "m").expect("the model");
        model["metadata"]["uid"].clone()
    }

    fn before(&self) -> Before {
        Before {
            uid: self.uid(),
            workers: self.workers(),
        }
    }

    /// Waits until everything is as it was, and makes sure that it stays so when whoever leads by then decides.
    async fn is_again_as(&mut self, before: &Before) {
        self.everybody_is_heard().await;
        self.tells_stories_until(Instant::now() + DECIDED_WITHIN).await;
        let after = self.here.ready("m").await;
        assert_eq!(after["metadata"]["uid"], before.uid);
        assert_eq!(after["status"]["placement"]["epoch"].as_i64(), Some(self.epoch));
        self.serve_on(&before.workers);
        self.everybody_is_heard().await;
    }

    /// Waits until the operator has counted more failures than so many.
    async fn counts_more_failures_than(&self, so_many: f64) {
        let look = async || -> localplane::Result<Seen<()>> {
            let counted = self.operator_counts(FAILURES).await;
            Ok(if counted > so_many {
                Seen::Done(())
            } else {
                Seen::Not(format!("{counted} of {so_many}"))
            })
        };
        until("the operator counts a failure", LIMIT, look)
            .await
            .expect("counted");
    }

    /// Waits until all nodes together have so many workers.
    async fn has_workers(&self, so_many: usize) {
        let look = || -> localplane::Result<Seen<()>> {
            let workers = self.all_workers();
            Ok(if workers.values().map(Vec::len).sum::<usize>() == so_many {
                Seen::Done(())
            } else {
                Seen::Not(format!("{workers:?}"))
            })
        };
        let what = format!("there are {so_many} workers");
        until(&what, LIMIT, || std::future::ready(look()))
            .await
            .expect("workers");
    }

    async fn leads(&self, operator: &Part) -> bool {
        let metrics = self.here.stack.metrics(operator).await;
        metrics.expect("metrics").value(LEADS) == 1.0
    }

    async fn takes_the_lead(&self, operator: &Part) {
        let look = async || -> localplane::Result<Seen<()>> {
            Ok(if self.leads(operator).await {
                Seen::Done(())
            } else {
                Seen::Not("it waits".to_owned())
            })
        };
        let what = format!("{operator} leads");
        until(&what, LIMIT, look).await.expect("it leads");
    }
}

#[tokio::test]
#[ignore = "make test-long: 80 s"]
async fn streams_do_not_notice_that_the_api_server_is_dead_for_longer_than_a_lease_and_others_begin_meanwhile() {
    let mut serving = Serving::start(3).await;
    let before = serving.before();
    let story = serving.story().await;
    serving.here.stack.plane_mut().kill_apiserver();
    let since = Instant::now();
    serving.nobody_is_heard().await;
    serving.expect(story).await;
    serving.tells_stories_until(since + AWAY).await;
    serving.nobody_is_heard().await;
    serving.operator_says(&[NO_LONGER]).await;

    let restarted = serving.here.stack.plane_mut().restart_apiserver().await;
    restarted.expect("restarted");
    serving.is_again_as(&before).await;
}

#[tokio::test]
#[ignore = "make test-long: 80 s"]
async fn streams_do_not_notice_that_the_api_server_stands_still_for_longer_than_a_lease() {
    let mut serving = Serving::start(3).await;
    let before = serving.before();
    let story = serving.story().await;
    serving.here.stack.plane().freeze_apiserver();
    let since = Instant::now();
    serving.nobody_is_heard().await;
    let log = serving.operator_says(&[NO_LONGER]).await;
    assert!(SILENT.iter().any(|words| log.contains(words)), "{log}");
    serving.expect(story).await;
    serving.tells_stories_until(since + AWAY).await;
    serving.nobody_is_heard().await;

    let thawed = serving.here.stack.plane_mut().thaw_apiserver().await;
    thawed.expect("ready");
    serving.is_again_as(&before).await;
}

#[tokio::test]
#[ignore = "make test-long: 80 s"]
async fn where_etcd_alone_is_killed_and_comes_back_nothing_is_made_twice_and_streams_do_not_notice() {
    let mut serving = Serving::start(3).await;
    let before = serving.before();
    let failures = serving.operator_counts(FAILURES).await;
    let story = serving.story().await;
    // Of a model that was asked for just now there is much to write.
    serving.here.apply("n", &json!({ "source": { "uri": uri(&model()) } }));
    serving.here.stack.plane_mut().kill_etcd();
    serving.counts_more_failures_than(failures).await;
    serving.expect(story).await;

    let restarted = serving.here.stack.plane_mut().restart_etcd().await;
    restarted.expect("restarted");
    serving.is_again_as(&before).await;
    let asked_for_meanwhile = serving.here.ready("n").await;
    serving.has_workers(2 + stages(&asked_for_meanwhile).len()).await;
    serving.answers().await;
}

#[tokio::test]
#[ignore = "make test-long: 80 s"]
async fn a_leader_that_stands_still_for_longer_than_its_lease_leads_no_more_when_it_wakes_and_streams_do_not_notice() {
    let mut serving = Serving::start_with(3, 2).await;
    serving.everybody_is_heard().await;
    let before = serving.before();
    let (mut leader, mut other) = (Part::Operator(0), Part::Operator(1));
    if !serving.leads(&leader).await {
        (leader, other) = (other, leader);
    }
    let process = serving.here.stack.id(&leader).expect("it runs");
    let story = serving.story().await;
    freeze(process);
    serving.takes_the_lead(&other).await;
    thaw(process);
    serving.says(&leader, &[NO_LONGER]).await;
    serving.expect(story).await;

    serving.everybody_is_heard().await;
    assert!(!serving.leads(&leader).await, "{leader} leads again");
    serving.here.ready("m").await;
    serving.tells_stories_until(Instant::now() + DECIDED_WITHIN).await;
    let after = serving.here.ready("m").await;
    assert_eq!(after["metadata"]["uid"], before.uid);
    let epoch = after["status"]["placement"]["epoch"].as_i64().expect("an epoch");
    println!("epoch {} became {epoch}", serving.epoch);
    if epoch == serving.epoch {
        serving.serve_on(&before.workers);
    }
    // An agent that finds its way past the frozen one too late has lost its layers to others.
    assert!(epoch <= serving.epoch + 1, "placed more than once");
}
