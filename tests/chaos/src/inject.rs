//! Faults, done to the processes of a stack and the links between its nodes.

mod links;

use localplane::process;
use localplane::stack::{Part, Stack};

use crate::history::Kind;
use crate::schedule::Planned;

/// What a fault struck, and what must be undone when it is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Struck {
    /// In words.
    pub target: String,
    /// The part that ends by it, which is started again as a kubelet does.
    pub killed: Option<Part>,
    /// What is undone after a while.
    pub undo: Option<Undo>,
}

/// How a fault that lasts is ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undo {
    /// The process goes on, if it is still there.
    Thaw(u32),
    /// It is started again.
    StartApiServer,
    /// Every link is perfect again.
    MendLinks,
    /// The node may be used again.
    Uncordon(String),
}

/// Strikes; `None` where there is no victim of that kind now.
///
/// # Errors
/// A part that the stack does not have.
pub fn strike(stack: &mut Stack, model: &str, planned: &Planned) -> localplane::Result<Option<Struck>> {
    match planned.kind {
        Kind::WorkerKilled | Kind::WorkerFrozen => Ok(strike_worker(stack, planned)),
        Kind::ApiServerKilled => {
            stack.plane_mut().kill_apiserver();
            Ok(Some(Struck {
                target: format!("kube-apiserver, away for {:.1} s", planned.lasts.as_secs_f64()),
                killed: None,
                undo: Some(Undo::StartApiServer),
            }))
        }
        Kind::NodeCordoned => cordon(stack, model, planned),
        kind if kind.is_of_links() => links::strike(stack, model, planned),
        _ => strike_part(stack, planned),
    }
}

/// The nodes of the model's stages, in their order.
fn holding(stack: &Stack, model: &str) -> localplane::Result<Vec<String>> {
    let model = stack.model("default", model)?;
    let stages = model["status"]["placement"]["stages"].as_array();
    let nodes = stages.into_iter().flatten().filter_map(|stage| stage["node"].as_str());
    Ok(nodes.map(str::to_owned).collect())
}

fn cordon(stack: &Stack, model: &str, planned: &Planned) -> localplane::Result<Option<Struck>> {
    let holding = holding(stack, model)?;
    let Some(node) = planned.victim(holding.len()).and_then(|victim| holding.get(victim)) else {
        return Ok(None);
    };
    stack.kubectl(&["cordon", node])?;
    Ok(Some(Struck {
        target: format!("{node} for {:.1} s", planned.lasts.as_secs_f64()),
        killed: None,
        undo: Some(Undo::Uncordon(node.clone())),
    }))
}

fn strike_worker(stack: &Stack, planned: &Planned) -> Option<Struck> {
    let workers: Vec<(String, u32)> = stack
        .parts()
        .into_iter()
        .filter_map(|part| match part {
            Part::Agent(node) => Some(node),
            Part::Operator(_) | Part::Gateway(_) => None,
        })
        .flat_map(|node| stack.workers(&node).into_iter().map(move |id| (node.clone(), id)))
        .collect();
    let (node, id) = workers.get(planned.victim(workers.len())?)?.clone();
    let target = format!("worker {id} of {node}");
    if planned.kind == Kind::WorkerKilled {
        process::kill(id);
        return Some(Struck {
            target,
            killed: None,
            undo: None,
        });
    }
    process::freeze(id);
    Some(Struck {
        target: format!("{target} for {:.1} s", planned.lasts.as_secs_f64()),
        killed: None,
        undo: Some(Undo::Thaw(id)),
    })
}

fn strike_part(stack: &mut Stack, planned: &Planned) -> localplane::Result<Option<Struck>> {
    let wanted: fn(&Part) -> bool = match planned.kind {
        Kind::OperatorKilled => |part| matches!(part, Part::Operator(_)),
        Kind::GatewayKilled => |part| matches!(part, Part::Gateway(_)),
        _ => |part| matches!(part, Part::Agent(_)),
    };
    let candidates: Vec<Part> = stack.parts().into_iter().filter(wanted).collect();
    let Some(part) = planned
        .victim(candidates.len())
        .and_then(|victim| candidates.get(victim))
    else {
        return Ok(None);
    };
    let mut struck = Struck {
        target: part.to_string(),
        killed: Some(part.clone()),
        undo: None,
    };
    match planned.kind {
        Kind::NodeKilled => stack.kill_all_of(part)?,
        Kind::AgentFrozen => {
            if let Some(id) = stack.id(part) {
                process::freeze(id);
                struck.undo = Some(Undo::Thaw(id));
            }
            struck.target = format!("{part} for {:.1} s", planned.lasts.as_secs_f64());
            struck.killed = None;
        }
        // A gateway's tokeniser and renderer go with it, as they do in its container.
        Kind::GatewayKilled | Kind::OperatorKilled => stack.kill_all_of(part)?,
        _ => stack.kill(part)?,
    }
    Ok(Some(struck))
}

/// Ends a fault that lasted.
///
/// # Errors
/// An API server that does not come back.
pub async fn undo(stack: &mut Stack, undo: &Undo) -> localplane::Result<()> {
    match undo {
        Undo::Thaw(id) => {
            process::thaw(*id);
            Ok(())
        }
        Undo::StartApiServer => stack.plane_mut().restart_apiserver().await,
        Undo::MendLinks => {
            if let Some(network) = stack.network() {
                network.mend();
            }
            Ok(())
        }
        Undo::Uncordon(node) => stack.kubectl(&["uncordon", node]).map(drop),
    }
}
