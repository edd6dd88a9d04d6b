//! One process of the stack by its name: looked at, killed, started again, as faults and kubelets do.

use std::fmt;

use super::{Member, Stack};
use crate::process::{Process, descendants, kill, working_in};
use crate::{Error, Result};

/// The executable of an agent's workers.
const WORKER: &str = "shardwright-worker";

/// A process of the stack. In the order of their starts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Operator(usize),
    /// By its node.
    Agent(String),
    Gateway(usize),
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The first of them has the plain name: most stacks have no other.
            Self::Operator(0) => formatter.write_str("operator"),
            Self::Operator(replica) => write!(formatter, "operator-{replica}"),
            Self::Agent(node) => write!(formatter, "agent-{node}"),
            Self::Gateway(0) => formatter.write_str("gateway"),
            Self::Gateway(replica) => write!(formatter, "gateway-{replica}"),
        }
    }
}

impl Stack {
    /// All parts that were started, ended ones too.
    pub fn parts(&self) -> Vec<Part> {
        self.members.keys().cloned().collect()
    }

    /// The process of a part; the last one where it has ended.
    pub fn id(&self, part: &Part) -> Option<u32> {
        self.members.get(part).map(|member| member.process.id())
    }

    /// The end of a part's log.
    pub fn log_tail(&self, part: &Part) -> String {
        let member = self.members.get(part);
        member.map_or_else(String::new, |member| member.process.log_tail())
    }

    /// All of a part's log, those of its earlier lives included.
    pub fn log(&self, part: &Part) -> Result<String> {
        let Some(member) = self.members.get(part) else {
            return Err(Error::Other(format!("the stack has no {part}")));
        };
        let log = std::fs::read(member.process.log()).map_err(crate::file(member.process.log()))?;
        Ok(String::from_utf8_lossy(&log).into_owned())
    }

    /// Workers of a node that run, those of an agent's earlier life too.
    pub fn workers(&self, node: &str) -> Vec<u32> {
        working_in(&self.state_dir(node), WORKER)
    }

    /// Kills the process alone; its Pod object stays, as after the crash of a container. An agent's workers outlive it.
    pub fn kill(&mut self, part: &Part) -> Result<()> {
        self.member(part)?.process.kill();
        Ok(())
    }

    /// Kills the process and all that it started; its Pod object stays, as when a node is reset.
    pub fn kill_all_of(&mut self, part: &Part) -> Result<()> {
        kill_tree(&mut self.member(part)?.process);
        if let Part::Agent(node) = part {
            self.workers(node).into_iter().for_each(kill);
        }
        Ok(())
    }

    /// Starts a part again that has ended, as a kubelet does with a container.
    pub fn start_again(&mut self, part: &Part) -> Result<()> {
        let member = self.member(part)?;
        if !member.process.is_running() {
            member.start_again()?;
        }
        Ok(())
    }

    /// Kills an agent and its workers at once, as the loss of its node does. Its Pod object goes too.
    pub async fn kill_agent(&mut self, node: &str) -> Result<()> {
        let part = Part::Agent(node.to_owned());
        let Some(mut member) = self.members.remove(&part) else {
            return Err(Error::Other(format!("no agent runs on {node}")));
        };
        kill_tree(&mut member.process);
        self.workers(node).into_iter().for_each(kill);
        self.kubelet.delete_pod(&member.pod.spec).await
    }

    /// Kills the agent's process alone, see [`kill`](Self::kill).
    pub fn crash_agent(&mut self, node: &str) -> Result<()> {
        self.kill(&Part::Agent(node.to_owned()))
    }

    /// Fails with the log of the first process that has ended.
    pub fn check(&mut self) -> Result<()> {
        self.members.values_mut().try_for_each(|member| member.process.check())
    }

    /// Parts whose process has ended.
    pub fn ended(&mut self) -> Vec<Part> {
        let members = self.members.iter_mut();
        let ended = members.filter_map(|(part, member)| (!member.process.is_running()).then(|| part.clone()));
        ended.collect()
    }

    /// Starts every process again that has ended; returns their names.
    pub fn restart_ended(&mut self) -> Result<Vec<String>> {
        let ended = self.ended();
        for part in &ended {
            self.start_again(part)?;
        }
        Ok(ended.iter().map(Part::to_string).collect())
    }

    fn member(&mut self, part: &Part) -> Result<&mut Member> {
        let member = self.members.get_mut(part);
        member.ok_or_else(|| Error::Other(format!("the stack has no {part}")))
    }
}

impl Member {
    fn start_again(&mut self) -> Result<()> {
        let (name, log) = (self.process.name().to_owned(), self.process.log().to_owned());
        self.process = Process::spawn(&name, &self.command, &log)?;
        Ok(())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let mut nodes = Vec::new();
        for (part, member) in &mut self.members {
            if let Part::Agent(node) = part {
                kill_tree(&mut member.process);
                nodes.push(node.clone());
            }
        }
        for node in nodes {
            self.workers(&node).into_iter().for_each(kill);
        }
    }
}

/// Kills a process and all its descendants: workers have process groups of their own.
fn kill_tree(process: &mut Process) {
    let descendants = descendants(process.id());
    process.kill();
    for id in descendants {
        kill(id);
    }
}
