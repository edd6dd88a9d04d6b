//! A decision from a file: devices, a model and constraints in, the operator's answer as text out.
//!
//! A file is JSON, with all figures of the cluster and the model as the operator has them, or the short TOML of [`compact`].

mod compact;
mod shapes;

use std::fmt::Write as _;

pub use compact::CompactError;

use serde::Deserialize;
use topology::{Input, Origin};

use crate::{
    Budget, Constraints, Figures, FiguresError, Objective, Plan, Problem, check, estimate, explain, solve, text,
};

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
    /// Steps of the search.
    #[serde(default)]
    nodes: Option<u64>,
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
    let budget = scenario.nodes.map_or_else(Budget::default, |nodes| Budget { nodes });
    let problem = Problem {
        model: estimate(&scenario.model)?,
        topology: topology::build(&scenario.cluster),
        constraints: scenario.constraints,
        objective: scenario.objective,
    };
    Ok(answer(&problem, budget))
}

fn answer(problem: &Problem, budget: Budget) -> String {
    let mut answer = format!("{}: {} layers\n", problem.model.name, problem.model.layers.len());
    for pool in &problem.topology.pools {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(
            answer,
            "memory {}: {} usable",
            pool.name,
            text::bytes(pool.usable_bytes)
        );
    }
    match solve(problem, budget) {
        Ok(solution) => {
            let _ = writeln!(answer, "{}verdict: {}", solution.plan, solution.verdict);
            for device in unmeasured(problem, &solution.plan) {
                let _ = writeln!(
                    answer,
                    "prior: the speed of {device} is from a table and was never measured"
                );
            }
            if let Some(other) = &solution.runner_up {
                let _ = writeln!(answer, "runner-up: {}", other.summary());
            }
            for violation in check(problem, &solution.plan) {
                let _ = writeln!(answer, "VIOLATION: {violation}");
            }
        }
        Err(infeasible) => {
            let explanation = explain(problem, &infeasible);
            let _ = writeln!(answer, "no plan: {}: {}", explanation.reason, explanation.message);
        }
    }
    answer
}

/// Devices of a plan whose predicted times rest on what their maker promises.
fn unmeasured<'p>(problem: &Problem, plan: &'p Plan) -> impl Iterator<Item = &'p str> {
    let stages = plan.stages.iter().map(|stage| stage.device.as_str());
    stages.filter(|name| {
        let device = problem.topology.device(name);
        device.is_some_and(|device| device.bandwidth.origin == Origin::Prior)
    })
}
