//! The whole of Shardwright on the local control plane: the chart by a real Helm, and the processes that its Pods would run.

mod admin;
mod ground;
mod objects;
mod part;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use linkemu::network::Network;

use crate::kubelet::{Kubelet, PodSpec, RunningPod};
use crate::plane::Plane;
use crate::ports::free_port;
use crate::process::Process;
use crate::service::Service;
use crate::wait::{Seen, until};
use crate::{Error, Result, assets};

use ground::Ground;

pub use admin::Metrics;
pub use objects::condition_of;
pub use part::Part;

pub const NAMESPACE: &str = "shardwright-system";
pub const RELEASE: &str = "shardwright";
/// A worker finishes its streams within 30 s of a drain; a test has no use for longer.
const STOP_LIMIT: Duration = Duration::from_secs(10);
const START_LIMIT: Duration = Duration::from_secs(60);

/// One node with its agent.
#[derive(Debug, Clone)]
pub struct AgentSpec {
    pub node: String,
    /// As `--backends`: what the node has.
    pub backends: String,
    /// As `--memory-limit-bytes`: nodes on one machine must share its memory.
    pub memory_limit_bytes: u64,
    /// As `--threads`.
    pub threads: u32,
    /// What its agent's environment has beside the usual.
    pub environment: Vec<(String, String)>,
}

impl AgentSpec {
    /// A node whose agent uses `backends`, with 2 GiB and both cores.
    pub fn new(node: &str, backends: &str) -> Self {
        Self {
            node: node.to_owned(),
            backends: backends.to_owned(),
            memory_limit_bytes: 2 << 30,
            threads: 2,
            environment: Vec::new(),
        }
    }
}

/// What a stack is made of.
#[derive(Debug, Clone)]
pub struct Shape {
    pub agents: Vec<AgentSpec>,
    /// Replicas of the operator; several are reached through one address, as by a Service.
    pub operators: usize,
    /// Replicas of the gateway, each with an address of its own.
    pub gateways: usize,
    /// Every node on a host of its own, behind emulated links whose faults follow from this seed; without it all share loopback.
    /// It takes root.
    pub links: Option<u64>,
}

/// A process, how to start it again, and the Pod it stands for. The process goes first.
struct Member {
    process: Process,
    command: Command,
    pod: RunningPod,
}

/// One replica of the operator.
struct OperatorPorts {
    enrol: u16,
    control: u16,
    admin: u16,
}

/// One replica of the gateway.
struct GatewayPorts {
    users: u16,
    admin: u16,
}

/// Ports that all processes agree on.
struct Ports {
    /// Where agents and gateways find the operator.
    enrol: u16,
    control: u16,
    operators: Vec<OperatorPorts>,
    gateways: Vec<GatewayPorts>,
    /// Where agents serve their metrics, by node.
    agents: BTreeMap<String, u16>,
    /// In front of several operators.
    _services: Vec<Service>,
}

impl Ports {
    fn choose(shape: &Shape, ground: &Ground) -> Result<Self> {
        let mut operators = Vec::new();
        for _ in 0..shape.operators {
            operators.push(OperatorPorts {
                enrol: free_port()?,
                control: free_port()?,
                admin: free_port()?,
            });
        }
        let mut gateways = Vec::new();
        for _ in 0..shape.gateways {
            gateways.push(GatewayPorts {
                users: free_port()?,
                admin: free_port()?,
            });
        }
        let (enrol, control, services) = match operators.as_slice() {
            [] => return Err(Error::Other("a stack has one operator at least".into())),
            [only] => (only.enrol, only.control, Vec::new()),
            several => {
                let here = ground.here();
                let service = |port: fn(&OperatorPorts) -> u16| {
                    let replicas = several.iter().map(|operator| SocketAddr::new(here, port(operator)));
                    Service::start(here, replicas.collect())
                };
                let enrol = service(|operator| operator.enrol)?;
                let control = service(|operator| operator.control)?;
                (enrol.port(), control.port(), vec![enrol, control])
            }
        };
        Ok(Self {
            enrol,
            control,
            operators,
            gateways,
            agents: BTreeMap::new(),
            _services: services,
        })
    }
}

/// A running installation.
pub struct Stack {
    plane: Plane,
    kubelet: Kubelet,
    ports: Ports,
    members: BTreeMap<Part, Member>,
    api_key: String,
    bundle: PathBuf,
    // Last: what runs on it has ended then.
    ground: Ground,
}

impl Stack {
    /// Starts a control plane in `dir`, installs the chart, and starts an operator, agents and a gateway. `progress` is told of
    /// every step. Ready means: the processes run; models and devices come later.
    pub async fn start(dir: &Path, agents: &[AgentSpec], progress: &mut dyn FnMut(&str)) -> Result<Self> {
        let shape = Shape {
            agents: agents.to_vec(),
            operators: 1,
            gateways: 1,
            links: None,
        };
        progress("starting etcd and kube-apiserver");
        let plane = Plane::start(dir).await?;
        Self::start_on(plane, &shape, progress).await
    }

    /// The same on a control plane that runs already.
    pub async fn start_on(mut plane: Plane, shape: &Shape, progress: &mut dyn FnMut(&str)) -> Result<Self> {
        let ground = match shape.links {
            None => Ground::Loopback,
            Some(seed) => {
                progress("making a host for each node");
                let nodes: Vec<&str> = shape.agents.iter().map(|agent| agent.node.as_str()).collect();
                Ground::apart(&mut plane, &nodes, seed)?
            }
        };
        let kubelet = Kubelet::new(&plane).await?;
        progress("installing the chart");
        install_chart_with(&plane, &["operator.sourceSecretNamespaces={default}"])?;
        let mut stack = Self {
            bundle: plane.dir().join("bundle.pem"),
            ports: Ports::choose(shape, &ground)?,
            plane,
            kubelet,
            members: BTreeMap::new(),
            api_key: String::new(),
            ground,
        };
        for replica in 0..shape.operators {
            let part = Part::Operator(replica);
            progress(&format!("starting {part}"));
            stack.start_operator(replica).await?;
        }
        for agent in &shape.agents {
            progress(&format!("starting the agent of {} ({})", agent.node, agent.backends));
            stack.start_agent(agent).await?;
        }
        for replica in 0..shape.gateways {
            let part = Part::Gateway(replica);
            progress(&format!("starting {part}"));
            stack.start_gateway(replica).await?;
        }
        Ok(stack)
    }

    /// Base URL of the OpenAI-compatible API, at the first gateway.
    pub fn endpoint(&self) -> String {
        self.endpoints().into_iter().next().unwrap_or_default()
    }

    /// The same at every gateway.
    pub fn endpoints(&self) -> Vec<String> {
        let ports = self.ports.gateways.iter();
        ports
            .map(|ports| format!("https://127.0.0.1:{}/v1", ports.users))
            .collect()
    }

    /// Where agents find the operator, `host:port`.
    pub fn control_endpoint(&self) -> String {
        self.ground.endpoint(self.ports.control)
    }

    /// The links between the nodes, and from each of them to control plane, operators and gateways; `None` on loopback.
    pub fn network(&self) -> Option<&Network> {
        self.ground.network()
    }

    /// A bearer token that the gateway accepts.
    pub fn api_key(&self) -> &str {
        &self.api_key
    }

    /// The authority that the gateway's certificate chains to, PEM.
    pub fn bundle(&self) -> &Path {
        &self.bundle
    }

    pub fn plane(&self) -> &Plane {
        &self.plane
    }

    pub fn plane_mut(&mut self) -> &mut Plane {
        &mut self.plane
    }

    /// Where an agent keeps what it keeps.
    pub fn state_dir(&self, node: &str) -> PathBuf {
        self.plane.dir().join("state").join(node)
    }

    /// Starts a replica of the operator, again if it was stopped.
    pub async fn start_operator(&mut self, replica: usize) -> Result<()> {
        let name = format!("shardwright-operator-{replica}");
        let pod = self.pod(&name, "control-plane", "operator").await?;
        let Some(ports) = self.ports.operators.get(replica) else {
            return Err(Error::Other(format!("the stack has no place for {name}")));
        };
        let mut command = Command::new(assets::own("shardwright-operator")?);
        command
            .env("KUBECONFIG", &pod.kubeconfig)
            // As in the chart.
            .env("MALLOC_ARENA_MAX", "2")
            .env("MALLOC_MMAP_THRESHOLD_", "1048576")
            .args(["--namespace", NAMESPACE, "--pod-name", &pod.spec.name])
            .args(["--enrol-listen", &self.ground.endpoint(ports.enrol)])
            .args(["--control-listen", &self.ground.endpoint(ports.control)])
            .args(["--admin-listen", &loopback(ports.admin)])
            .args(["--server-names", &format!("localhost,127.0.0.1,{}", self.ground.here())])
            .args(["--gateway-names", "localhost,127.0.0.1"]);
        self.spawn(Part::Operator(replica), command, pod)?;
        self.wait_for_authority().await
    }

    /// Agents and gateways mount what the operator publishes: fail here, with its log, if it does not.
    async fn wait_for_authority(&mut self) -> Result<()> {
        let mut look = || -> Result<Seen<()>> {
            self.check()?;
            let mut kubectl = self.plane.kubectl()?;
            let listed = run(kubectl.args([
                "get",
                "configmap",
                "-n",
                NAMESPACE,
                "shardwright-trust",
                "--ignore-not-found",
                "-o",
                "name",
            ]))?;
            Ok(if listed.trim().is_empty() {
                Seen::Not("absent".into())
            } else {
                Seen::Done(())
            })
        };
        until("the operator publishes its authority", START_LIMIT, || {
            std::future::ready(look())
        })
        .await
    }

    /// Starts an agent on its node, again if it was killed: its state directory stays.
    pub async fn start_agent(&mut self, spec: &AgentSpec) -> Result<()> {
        self.start_agent_through(spec, self.ports.control).await
    }

    /// The same for an agent that attaches to the operator through another port, where something stands in between.
    pub async fn start_agent_through(&mut self, spec: &AgentSpec, control: u16) -> Result<()> {
        let pod = self
            .pod(&format!("shardwright-agent-{}", spec.node), &spec.node, "agent")
            .await?;
        let bundle = self
            .kubelet
            .project_config_map(&pod, "shardwright-trust", "bundle.pem")
            .await?;
        let mut command = self.ground.command(&spec.node, &assets::own("shardwright-agent")?);
        let address = self.ground.address(&spec.node).to_string();
        let admin = free_port()?;
        self.ports.agents.insert(spec.node.clone(), admin);
        command
            .env("KUBECONFIG", &pod.kubeconfig)
            .envs(spec.environment.iter().cloned())
            .args([
                "--namespace",
                NAMESPACE,
                "--pod-name",
                &pod.spec.name,
                "--node-name",
                &spec.node,
            ])
            .args(["--operator-enrol", &self.ground.endpoint(self.ports.enrol)])
            .args(["--operator-control", &self.ground.endpoint(control)])
            .arg("--trust-bundle")
            .arg(bundle)
            .arg("--token")
            .arg(&pod.enrol_token)
            .arg("--state-dir")
            .arg(self.state_dir(&spec.node))
            .args(["--backends", &spec.backends])
            .args(["--listen-ip", &address, "--advertise-ip", &address])
            .args(["--memory-limit-bytes", &spec.memory_limit_bytes.to_string()])
            .args(["--threads", &spec.threads.to_string()])
            .args(["--admin-listen", &loopback(admin)])
            // A free port each: on loopback all nodes share one address.
            .args(["--weights-listen", &format!("{address}:0")]);
        self.spawn(Part::Agent(spec.node.clone()), command, pod)
    }

    /// Starts a replica of the gateway, again if it was stopped.
    pub async fn start_gateway(&mut self, replica: usize) -> Result<()> {
        let name = format!("shardwright-gateway-{replica}");
        let pod = self.pod(&name, "control-plane", "gateway").await?;
        let bundle = self
            .kubelet
            .project_config_map(&pod, "shardwright-trust", "bundle.pem")
            .await?;
        let keys = self
            .kubelet
            .project_secret(&pod, "shardwright-api-keys", "keys")
            .await?;
        let text = std::fs::read_to_string(&keys).map_err(crate::file(&keys))?;
        self.api_key = text.lines().next().unwrap_or_default().trim().to_owned();
        std::fs::copy(&bundle, &self.bundle).map_err(crate::file(&bundle))?;
        let Some(ports) = self.ports.gateways.get(replica) else {
            return Err(Error::Other(format!("the stack has no place for {name}")));
        };
        let mut command = Command::new(assets::own("shardwright-gateway")?);
        command
            .args(["--namespace", NAMESPACE, "--pod-name", &pod.spec.name])
            .args(["--operator-enrol", &self.ground.endpoint(self.ports.enrol)])
            .args(["--operator-control", &self.ground.endpoint(self.ports.control)])
            .arg("--trust-bundle")
            .arg(bundle)
            .arg("--token")
            .arg(&pod.enrol_token)
            .arg("--api-keys")
            .arg(keys)
            .arg("--state-dir")
            .arg(self.plane.dir().join("state").join(Part::Gateway(replica).to_string()))
            .args(["--listen", &loopback(ports.users)])
            .args(["--admin-listen", &loopback(ports.admin)]);
        self.spawn(Part::Gateway(replica), command, pod)
    }

    /// Has agents and gateways find in their volumes whom the operator wants trusted by now, as kubelets do within a minute or two; and
    /// whoever asks from outside, in [`bundle`](Self::bundle).
    pub async fn mount_trust_again(&self) -> Result<()> {
        for (part, member) in &self.members {
            if matches!(part, Part::Operator(_)) {
                continue;
            }
            let bundle = self
                .kubelet
                .project_config_map(&member.pod, "shardwright-trust", "bundle.pem")
                .await?;
            std::fs::copy(&bundle, &self.bundle).map_err(crate::file(&bundle))?;
        }
        Ok(())
    }

    /// Stops everything in order, agents draining their workers, and removes the Pods and Nodes.
    pub async fn stop(mut self) -> Result<()> {
        // Gateways, agents, operators: whoever is asked goes after those who ask.
        while let Some((part, mut member)) = self.members.pop_last() {
            member.process.stop(STOP_LIMIT).await;
            self.kubelet.delete_pod(&member.pod.spec).await?;
            if !matches!(part, Part::Gateway(_)) {
                self.kubelet.delete_node(&member.pod.spec.node).await?;
            }
        }
        Ok(())
    }

    async fn pod(&self, name: &str, node: &str, component: &str) -> Result<RunningPod> {
        self.kubelet.add_node(node).await?;
        let labels = [
            ("app.kubernetes.io/name", "shardwright"),
            ("app.kubernetes.io/component", component),
        ];
        let spec = PodSpec {
            namespace: NAMESPACE.into(),
            name: name.into(),
            node: node.into(),
            service_account: format!("shardwright-{component}"),
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        };
        self.kubelet.start_pod(&self.plane, spec).await
    }

    fn spawn(&mut self, part: Part, command: Command, pod: RunningPod) -> Result<()> {
        let name = part.to_string();
        let process = Process::spawn(&name, &command, &self.plane.dir().join(format!("{name}.log")))?;
        self.members.insert(part, Member { process, command, pod });
        Ok(())
    }
}

fn loopback(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// Installs the chart of this workspace under the release name that the ServiceAccounts' names follow from.
pub fn install_chart(plane: &Plane) -> Result<()> {
    install_chart_with(plane, &[])
}

/// The same with these values, each as `--set` takes it.
pub fn install_chart_with(plane: &Plane, values: &[&str]) -> Result<()> {
    let chart = assets::workspace().join("charts/shardwright");
    let mut helm = plane.helm()?;
    helm.args(["install", RELEASE])
        .arg(chart)
        .args(["--namespace", NAMESPACE, "--create-namespace"])
        .args(values.iter().flat_map(|value| ["--set", value]));
    run(&mut helm).map(drop)
}

/// Upgrades the release to the same chart with the same values, as people do to make anew what somebody removed.
pub fn upgrade_chart(plane: &Plane) -> Result<()> {
    let mut helm = plane.helm()?;
    helm.args(["upgrade", RELEASE])
        .arg(assets::workspace().join("charts/shardwright"))
        .args(["--namespace", NAMESPACE, "--reuse-values"]);
    run(&mut helm).map(drop)
}

/// Applies the chart's definitions of its kinds, which Helm installs once and never again.
pub fn apply_kinds(plane: &Plane) -> Result<()> {
    let folder = assets::workspace().join("charts/shardwright/crds");
    let mut apply = plane.kubectl()?;
    run(apply.args(["apply", "--server-side", "-f"]).arg(&folder))?;
    let mut wait = plane.kubectl()?;
    run(wait.args(["wait", "--for=condition=Established", "-f"]).arg(&folder)).map(drop)
}

/// Runs a tool and returns what it printed; its complaint becomes the error.
pub fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|source| Error::Spawn {
        name: name.clone(),
        source,
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Exited {
        name,
        status: output.status.to_string(),
        log: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
