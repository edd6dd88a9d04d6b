//! An agent loses the API server, and nothing and nobody else does.
//!
//! ```text
//!  operator, agents ──▶ a way of its own for each ──▶ kube-apiserver        agents ──▶ operator, and each other
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use apiproxy::script::{Fault, Often, Rule, What};
use apiproxy::{Files, Proxy};
use localplane::stack::{AgentSpec, NAMESPACE, Part};

use super::serving::Serving;
use super::{Here, LIMIT, Seen, installed, shape, until};

const SEED: u64 = 13;
/// Whatever is asked is answered when nobody waits for it any more.
const SILENT: Rule = Rule {
    what: What::Any,
    often: Often::Always,
    fault: Fault::Delay(Duration::from_secs(3600)),
};
/// An agent asks twice a minute whether its objects are there, and waits 15 s for each answer.
const AWAY: Duration = Duration::from_secs(50);
/// What an agent says whose reports get no answer.
const UNPUBLISHED: &str = "devices are not published";

/// An installation in which each of so many nodes has its own way to the API server, by node.
async fn each_with_its_own_way(nodes: usize) -> (Here, BTreeMap<String, Proxy>) {
    let mut here = installed(&shape(&[])).await;
    let mut ways = BTreeMap::new();
    for spec in (0..nodes).map(|number| AgentSpec::new(&format!("node-{number}"), "cpu")) {
        let plane = here.stack.plane_mut();
        let certificates = plane.certificates();
        let files = Files {
            authority: &certificates.authority,
            certificate: &certificates.server,
            key: &certificates.server_key,
        };
        let way = Proxy::start(plane.url(), files, SEED).expect("a proxy");
        plane.reach_pods_through(&way.url());
        here.stack.start_agent(&spec).await.expect("started");
        ways.insert(spec.node, way);
    }
    here.stack.wait_for_devices(nodes).await.expect("devices");
    (here, ways)
}

impl Serving {
    fn unpublished(&self, node: &str) -> usize {
        let log = self.here.stack.log(&Part::Agent(node.to_owned())).expect("a log");
        log.matches(UNPUBLISHED).count()
    }

    /// Waits until the agent of a node has said more often than so that it cannot publish.
    async fn is_unpublished(&self, node: &str, more_often_than: usize) {
        let look = || -> localplane::Result<Seen<()>> {
            let often = self.unpublished(node);
            Ok(if often > more_often_than {
                Seen::Done(())
            } else {
                Seen::Not(format!("{often} times"))
            })
        };
        let what = format!("the agent of {node} cannot publish");
        until(&what, LIMIT, || std::future::ready(look()))
            .await
            .expect("it says so");
    }

    fn lease_of(&self, node: &str) -> String {
        let lease = format!("shardwright-agent-{node}");
        let path = "jsonpath={.spec.renewTime}";
        let asked = ["get", "lease", &lease, "-n", NAMESPACE, "-o", path];
        self.here.stack.kubectl(&asked).expect("the lease")
    }

    /// Waits until the agent of a node has renewed its lease since.
    async fn renews_its_lease(&self, node: &str, since: &str) {
        let look = || -> localplane::Result<Seen<()>> {
            let now = self.lease_of(node);
            Ok(if now == since { Seen::Not(now) } else { Seen::Done(()) })
        };
        let what = format!("the agent of {node} renews its lease");
        until(&what, LIMIT, || std::future::ready(look()))
            .await
            .expect("renewed");
    }
}

#[tokio::test]
#[ignore = "make test-long: 150 s"]
async fn streams_do_not_notice_that_the_api_server_is_silent_to_the_agent_of_their_tail_alone() {
    let (here, ways) = each_with_its_own_way(3).await;
    let mut serving = Serving::on(here).await;
    serving.everybody_is_heard().await;
    let tail = serving.tail.clone();
    let (workers, failures) = (serving.workers(), serving.unpublished(&tail));
    let story = serving.story().await;
    ways[&tail].follow(vec![SILENT]);
    let since = Instant::now();
    serving.expect(story).await;
    serving.tells_stories_until(since + AWAY).await;
    serving.is_unpublished(&tail, failures).await;
    // The operator hears of the node as ever.
    serving.everybody_is_heard().await;
    let lease = serving.lease_of(&tail);

    ways[&tail].follow(Vec::new());
    serving.renews_its_lease(&tail, &lease).await;
    serving.tells_stories_until(Instant::now()).await;
    let after = serving.here.ready("m").await;
    assert_eq!(after["status"]["placement"]["epoch"].as_i64(), Some(serving.epoch));
    serving.serve_on(&workers);
}
