//! An idle agent leaves the API server alone: every request that its node makes is counted where it arrives, on a real API
//! server, from one Lease to the next. What happens to a device is an event, once.

use fakegpu::{Library, SCRIPT_VARIABLE, Script};
use localplane::kubelet::{Kubelet, PodSpec};
use localplane::plane::Plane;
use localplane::process::Process;
use localplane::stack::{NAMESPACE, condition_of, install_chart, run};
use localplane::wait::{Seen, until};
use localplane::{Result, assets};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const NODE: &str = "node-a";
const CARDS: usize = 8;
const LIMIT: Duration = Duration::from_secs(90);
/// Two hundred readings between two Leases: what were told with each of them would be told by then.
const POLL_MS: &str = "200";

struct Node {
    plane: Plane,
    script: Script,
    agent: Process,
    // Its token is renewed for as long as it is kept.
    _pod: localplane::kubelet::RunningPod,
}

impl Node {
    /// A control plane with the chart, and one agent on a node of fake cards. There is no operator: nobody else writes.
    async fn start(dir: &Path) -> Result<Self> {
        let libraries = dir.join("libraries");
        std::fs::create_dir(&libraries).expect("a folder");
        fakegpu::build(&libraries, &[Library::Nvml, Library::Cuda]).expect("a C compiler");
        let mut script = Script::create(dir.join("script")).expect("a script");
        script.set([("cards", CARDS.to_string())]).expect("a script");
        let plane = Plane::start(&dir.join("plane")).await?;
        install_chart(&plane)?;
        let kubelet = Kubelet::new(&plane).await?;
        kubelet.add_node(NODE).await?;
        let pod = PodSpec {
            namespace: NAMESPACE.into(),
            name: "shardwright-agent-0".into(),
            node: NODE.into(),
            service_account: "shardwright-agent".into(),
            labels: BTreeMap::new(),
        };
        let pod = kubelet.start_pod(&plane, pod).await?;
        let mut command = Command::new(assets::own("shardwright-agent")?);
        command
            .env("KUBECONFIG", &pod.kubeconfig)
            .env("LD_LIBRARY_PATH", &libraries)
            .env(SCRIPT_VARIABLE, script.path())
            .env_remove("CUDA_VISIBLE_DEVICES")
            .args([
                "--namespace",
                NAMESPACE,
                "--node-name",
                NODE,
                "--pod-name",
                &pod.spec.name,
            ])
            .args(["--backends", "cuda", "--device-poll-ms", POLL_MS])
            .args(["--operator-enrol", "127.0.0.1:1", "--operator-control", "127.0.0.1:1"])
            .args(["--trust-bundle", "/nonexistent", "--token", "/nonexistent"])
            .args(["--admin-listen", "127.0.0.1:0", "--weights-listen", "127.0.0.1:0"])
            .arg("--state-dir")
            .arg(dir.join("state"));
        let agent = Process::spawn("agent", &command, &dir.join("agent.log"))?;
        Ok(Self {
            plane,
            script,
            agent,
            _pod: pod,
        })
    }

    fn get(&self, what: &[&str]) -> Result<String> {
        run(self.plane.kubectl()?.arg("get").args(what))
    }

    fn items(&self, kind: &str) -> Result<Vec<Value>> {
        let list: Value = serde_json::from_str(&self.get(&[kind, "-A", "-o", "json"])?).unwrap_or_default();
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Requests of the agent that change something, by kind, since the API server's start. The agent applies its objects,
    /// which the API server counts apart from how others write theirs; events it posts and counts up.
    fn writes(&self) -> Result<BTreeMap<String, u64>> {
        let text = self.get(&["--raw", "/metrics"])?;
        let mut writes = BTreeMap::new();
        for line in text.lines().filter(|line| line.starts_with("apiserver_request_total{")) {
            let label = |name: &str| {
                let (_, rest) = line.split_once(&format!("{name}=\""))?;
                rest.split('"').next()
            };
            let (Some(resource), Some(verb)) = (label("resource"), label("verb")) else {
                continue;
            };
            let of_agent = match resource {
                "devicegpustates" => !["GET", "LIST", "WATCH"].contains(&verb),
                "leases" => verb == "APPLY",
                "events" => ["POST", "PATCH", "PUT"].contains(&verb),
                _ => false,
            };
            let count = line.rsplit(' ').next().and_then(|count| count.parse::<f64>().ok());
            if of_agent {
                *writes.entry(resource.to_owned()).or_default() += count.unwrap_or_default() as u64;
            }
        }
        Ok(writes)
    }

    /// Waits for the node's next Lease, which comes every 40 seconds, and counts the writes until then.
    async fn renewed(&self) -> Result<BTreeMap<String, u64>> {
        let leases = |writes: &BTreeMap<String, u64>| writes.get("leases").copied().unwrap_or_default();
        let before = leases(&self.writes()?);
        let look = || -> Result<Seen<BTreeMap<String, u64>>> {
            let writes = self.writes()?;
            Ok(if leases(&writes) > before {
                Seen::Done(writes)
            } else {
                Seen::Not(format!("{before} Leases so far"))
            })
        };
        until("the next Lease", LIMIT, || std::future::ready(look())).await
    }

    /// Every card is ready, measured and read, which is all that there is to write of it.
    async fn settled(&mut self) -> Result<()> {
        let mut look = || -> Result<Seen<()>> {
            self.agent.check()?;
            let devices = self.items("devicegpustates")?;
            let done = |device: &&Value| {
                condition_of(device, "Ready")["status"] == "True"
                    && !device["status"]["bandwidthBytesPerSecond"].is_null()
                    && !device["status"]["temperatureCelsius"].is_null()
            };
            let count = devices.iter().filter(done).count();
            Ok(if count == CARDS {
                Seen::Done(())
            } else {
                Seen::Not(format!("{count} of {CARDS} devices are done"))
            })
        };
        until("the devices are written", LIMIT, || std::future::ready(look())).await
    }

    /// Reasons of the events about devices, with how often each was told.
    fn events(&self) -> Result<Vec<(String, u64)>> {
        let events = self.items("events.events.k8s.io")?;
        let about_devices = events
            .iter()
            .filter(|event| event["regarding"]["kind"] == "DeviceGPUState");
        Ok(about_devices
            .map(|event| {
                let count = event["series"]["count"].as_u64().unwrap_or(1);
                (event["reason"].as_str().unwrap_or_default().to_owned(), count)
            })
            .collect())
    }
}

fn since(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let before = |resource: &String| before.get(resource).copied().unwrap_or_default();
    let rise = |(resource, count): (&String, &u64)| (resource.clone(), count - before(resource));
    after.iter().map(rise).filter(|(_, rise)| *rise > 0).collect()
}

#[tokio::test]
async fn an_idle_agent_of_eight_devices_writes_its_lease_and_nothing_else_and_a_fault_is_one_event() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().expect("a folder");
    let mut node = Node::start(dir.path()).await.expect("a node");
    node.settled().await.expect("devices");
    assert_eq!(node.events().expect("events"), [], "devices in order are no event");

    let before = node.renewed().await.expect("a Lease");
    let after = node.renewed().await.expect("a Lease");
    let writes = since(&before, &after);
    println!(
        "an idle node of {CARDS} devices made these API writes from one Lease to the next, 40 seconds: {writes:?}"
    );
    assert_eq!(writes, BTreeMap::from([("leases".to_owned(), 1)]));
    assert_eq!(node.events().expect("events"), []);

    node.script.set([("3.lost", "1".to_owned())]).expect("a script");
    let told = until("the loss is told", LIMIT, || {
        let look = || -> Result<Seen<()>> {
            let events = node.events()?;
            Ok(if events.is_empty() {
                Seen::Not("no event".into())
            } else {
                Seen::Done(())
            })
        };
        std::future::ready(look())
    });
    told.await.expect("an event");
    let later = node.renewed().await.expect("a Lease");
    assert_eq!(node.events().expect("events"), [("FellOffBus".to_owned(), 1)]);
    let writes = since(&after, &later);
    println!("the loss of a device took {writes:?}");
    assert_eq!(
        writes.get("devicegpustates"),
        Some(&1),
        "one write of the one device: {writes:?}"
    );
}
