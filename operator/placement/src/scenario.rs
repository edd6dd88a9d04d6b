//! A decision from a file: devices, a model and constraints in, the operator's answer as text out.
//!
//! A file is JSON, with all figures of the cluster and the model as the operator has them, or the short TOML of [`compact`].

mod answer;
mod compact;
mod shapes;

pub use compact::CompactError;

use serde::Deserialize;
use topology::Input;

use crate::{Budget, Constraints, Figures, FiguresError, HeldLayers, Objective, Problem, estimate};

/// What the file says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    cluster: Input,
    model: Figures,
    #[serde(default)]
    constraints: Constraints,
    #[serde(default)]
    objective: Objective,
    #[serde(default)]
    held: Vec<HeldLayers>,
    /// Pipelines, none of which has a device of another.
    #[serde(default = "one_replica")]
    replicas: u32,
    /// Steps of the search.
    #[serde(default)]
    steps: Option<u64>,
    #[serde(default)]
    show: Show,
}

fn one_replica() -> u32 {
    1
}

/// What is told besides the plan.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Show {
    /// Plans between the least latency and the most throughput, this many at most.
    front: u32,
    /// How good each device is for the model.
    scores: bool,
    /// The plan at work, for each of these numbers of streams.
    streams: Vec<u32>,
}

/// A scenario that says nothing that could be decided.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    #[error("not a scenario: {0}")]
    Json(#[from] serde_json::Error),
    #[error("not a scenario: {0}")]
    Toml(#[from] toml::de::Error),
    #[error(transparent)]
    Compact(#[from] CompactError),
    #[error(transparent)]
    Model(#[from] FiguresError),
}

/// Decides a scenario, given as JSON or TOML, and writes the answer down: the plan, its verdict, the next best and what the checker
/// says; or why there is none.
pub fn run(file: &str) -> Result<String, ScenarioError> {
    let scenario: Scenario = if file.trim_start().starts_with('{') {
        serde_json::from_str(file)?
    } else {
        compact::read(file)?
    };
    let mut budget = Budget::default();
    budget.steps = scenario.steps.unwrap_or(budget.steps);
    let problem = Problem {
        model: estimate(&scenario.model)?,
        topology: topology::build(&scenario.cluster),
        constraints: scenario.constraints,
        objective: scenario.objective,
        held: scenario.held,
    };
    Ok(answer::answer(&problem, scenario.replicas, budget, &scenario.show))
}
