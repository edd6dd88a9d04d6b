//! The whole of Shardwright on the local control plane: the chart by a real Helm, and the processes that its Pods would run.

mod objects;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::kubelet::{Kubelet, PodSpec, RunningPod};
use crate::plane::{Plane, free_port};
use crate::process::Process;
use crate::wait::{Seen, until};
use crate::{Error, Result, assets};

pub use objects::condition_of;

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
}

impl AgentSpec {
    /// A node whose agent uses `backends`, with 2 GiB and both cores.
    pub fn new(node: &str, backends: &str) -> Self {
        Self {
            node: node.to_owned(),
            backends: backends.to_owned(),
            memory_limit_bytes: 2 << 30,
            threads: 2,
        }
    }
}

/// A process, how to start it again, and the Pod it stands for. The process goes first.
struct Member {
    process: Process,
    command: Command,
    pod: RunningPod,
}

/// Ports on loopback that all processes agree on.
struct Ports {
    enrol: u16,
    control: u16,
    operator_admin: u16,
    gateway: u16,
    gateway_admin: u16,
}

/// A running installation.
pub struct Stack {
    plane: Plane,
    kubelet: Kubelet,
    ports: Ports,
    operator: Option<Member>,
    gateway: Option<Member>,
    agents: BTreeMap<String, Member>,
    api_key: String,
    bundle: PathBuf,
}

impl Stack {
    /// Starts a control plane in `dir`, installs the chart, and starts operator, agents and gateway. `progress` is told of every
    /// step. Ready means: the processes run; models and devices come later.
    pub async fn start(dir: &Path, agents: &[AgentSpec], progress: &mut dyn FnMut(&str)) -> Result<Self> {
        progress("starting etcd and kube-apiserver");
        let plane = Plane::start(dir).await?;
        let kubelet = Kubelet::new(&plane).await?;
        progress("installing the chart");
        install_chart_with(&plane, &["operator.sourceSecretNamespaces={default}"])?;
        let ports = Ports {
            enrol: free_port()?,
            control: free_port()?,
            operator_admin: free_port()?,
            gateway: free_port()?,
            gateway_admin: free_port()?,
        };
        let mut stack = Self {
            bundle: plane.dir().join("bundle.pem"),
            plane,
            kubelet,
            ports,
            operator: None,
            gateway: None,
            agents: BTreeMap::new(),
            api_key: String::new(),
        };
        progress("starting the operator");
        stack.start_operator().await?;
        for agent in agents {
            progress(&format!("starting the agent of {} ({})", agent.node, agent.backends));
            stack.start_agent(agent).await?;
        }
        progress("starting the gateway");
        stack.start_gateway().await?;
        Ok(stack)
    }

    /// Base URL of the OpenAI-compatible API.
    pub fn endpoint(&self) -> String {
        format!("https://127.0.0.1:{}/v1", self.ports.gateway)
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

    /// Where an agent keeps what it keeps.
    pub fn state_dir(&self, node: &str) -> PathBuf {
        self.plane.dir().join("state").join(node)
    }

    pub fn kubelet(&self) -> &Kubelet {
        &self.kubelet
    }

    /// Starts the operator, again if it was stopped.
    pub async fn start_operator(&mut self) -> Result<()> {
        let pod = self.pod("shardwright-operator-0", "control-plane", "operator").await?;
        let mut command = Command::new(assets::own("shardwright-operator")?);
        command
            .env("KUBECONFIG", &pod.kubeconfig)
            .args(["--namespace", NAMESPACE, "--pod-name", &pod.spec.name])
            .args(["--enrol-listen", &loopback(self.ports.enrol)])
            .args(["--control-listen", &loopback(self.ports.control)])
            .args(["--admin-listen", &loopback(self.ports.operator_admin)])
            .args([
                "--server-names",
                "localhost,127.0.0.1",
                "--gateway-names",
                "localhost,127.0.0.1",
            ]);
        let process = self.spawn("operator", &command)?;
        self.operator = Some(Member { process, command, pod });
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
        let pod = self
            .pod(&format!("shardwright-agent-{}", spec.node), &spec.node, "agent")
            .await?;
        let bundle = self
            .kubelet
            .project_config_map(&pod, "shardwright-trust", "bundle.pem")
            .await?;
        let mut command = Command::new(assets::own("shardwright-agent")?);
        command
            .env("KUBECONFIG", &pod.kubeconfig)
            .args([
                "--namespace",
                NAMESPACE,
                "--pod-name",
                &pod.spec.name,
                "--node-name",
                &spec.node,
            ])
            .args(["--operator-enrol", &loopback(self.ports.enrol)])
            .args(["--operator-control", &loopback(self.ports.control)])
            .arg("--trust-bundle")
            .arg(bundle)
            .arg("--token")
            .arg(&pod.enrol_token)
            .arg("--state-dir")
            .arg(self.state_dir(&spec.node))
            .args(["--backends", &spec.backends])
            .args(["--listen-ip", "127.0.0.1", "--advertise-ip", "127.0.0.1"])
            .args(["--memory-limit-bytes", &spec.memory_limit_bytes.to_string()])
            .args(["--threads", &spec.threads.to_string()])
            .args(["--admin-listen", &loopback(free_port()?)])
            // A free port each: all nodes share one address here.
            .args(["--weights-listen", "127.0.0.1:0"]);
        let process = self.spawn(&format!("agent-{}", spec.node), &command)?;
        self.agents.insert(spec.node.clone(), Member { process, command, pod });
        Ok(())
    }

    /// Starts the gateway, again if it was stopped.
    pub async fn start_gateway(&mut self) -> Result<()> {
        let pod = self.pod("shardwright-gateway-0", "control-plane", "gateway").await?;
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
        let mut command = Command::new(assets::own("shardwright-gateway")?);
        command
            .args(["--namespace", NAMESPACE, "--pod-name", &pod.spec.name])
            .args(["--operator-enrol", &loopback(self.ports.enrol)])
            .args(["--operator-control", &loopback(self.ports.control)])
            .arg("--trust-bundle")
            .arg(bundle)
            .arg("--token")
            .arg(&pod.enrol_token)
            .arg("--api-keys")
            .arg(keys)
            .arg("--state-dir")
            .arg(self.plane.dir().join("state/gateway"))
            .args(["--listen", &loopback(self.ports.gateway)])
            .args(["--admin-listen", &loopback(self.ports.gateway_admin)]);
        let process = self.spawn("gateway", &command)?;
        self.gateway = Some(Member { process, command, pod });
        Ok(())
    }

    /// Kills an agent and its workers at once, as the loss of its node does. Its Pod object goes too.
    pub async fn kill_agent(&mut self, node: &str) -> Result<()> {
        let Some(mut member) = self.agents.remove(node) else {
            return Err(Error::Other(format!("no agent runs on {node}")));
        };
        kill_tree(&mut member.process);
        self.kubelet.delete_pod(&member.pod.spec).await
    }

    /// Fails with the log of the first process that has ended.
    pub fn check(&mut self) -> Result<()> {
        self.members()
            .map(|member| &mut member.process)
            .try_for_each(Process::check)
    }

    /// Starts every process again that has ended, as a kubelet does with a container; returns their names.
    pub fn restart_ended(&mut self) -> Result<Vec<String>> {
        let mut restarted = Vec::new();
        for member in self.members() {
            if !member.process.is_running() {
                let name = member.process.name().to_owned();
                let log = member.process.log().to_owned();
                member.process = Process::spawn(&name, &member.command, &log)?;
                restarted.push(name);
            }
        }
        Ok(restarted)
    }

    /// Kills the agent's process alone; its Pod object stays, as after the crash of a container.
    pub fn crash_agent(&mut self, node: &str) -> Result<()> {
        let member = self.agents.get_mut(node);
        let member = member.ok_or_else(|| Error::Other(format!("no agent runs on {node}")))?;
        member.process.kill();
        Ok(())
    }

    fn members(&mut self) -> impl Iterator<Item = &mut Member> {
        let processes = self.operator.iter_mut().chain(self.gateway.iter_mut());
        processes.chain(self.agents.values_mut())
    }

    /// Stops everything in order, agents draining their workers, and removes the Pods and Nodes.
    pub async fn stop(mut self) -> Result<()> {
        if let Some(mut gateway) = self.gateway.take() {
            gateway.process.stop(STOP_LIMIT).await;
            self.kubelet.delete_pod(&gateway.pod.spec).await?;
        }
        for (node, mut agent) in std::mem::take(&mut self.agents) {
            agent.process.stop(STOP_LIMIT).await;
            self.kubelet.delete_pod(&agent.pod.spec).await?;
            self.kubelet.delete_node(&node).await?;
        }
        if let Some(mut operator) = self.operator.take() {
            operator.process.stop(STOP_LIMIT).await;
            self.kubelet.delete_pod(&operator.pod.spec).await?;
            self.kubelet.delete_node(&operator.pod.spec.node).await?;
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

    fn spawn(&self, name: &str, command: &Command) -> Result<Process> {
        Process::spawn(name, command, &self.plane.dir().join(format!("{name}.log")))
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        for member in self.agents.values_mut() {
            kill_tree(&mut member.process);
        }
    }
}

/// Kills a process and all its descendants: workers have process groups of their own.
fn kill_tree(process: &mut Process) {
    let descendants = crate::process::descendants(process.id());
    process.kill();
    for id in descendants {
        crate::process::kill(id);
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
