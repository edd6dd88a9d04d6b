//! What a given plan costs, as the problem is now.

use crate::{Plan, Problem, domain::Domain, found::Found};

/// The plan with the predictions and the memory of this problem, so that it can be held against a new one. `None` where that
/// would mean nothing: a device in it takes no layers any more, its layers are not those of the model, or there are more devices
/// than the search looks at and one of the plan's is not among them. No constraint is judged; [`crate::check`] does that.
pub fn evaluate(problem: &Problem, plan: &Plan) -> Option<Plan> {
    let domain = Domain::new(problem);
    let candidate = |name: &str| {
        let devices = 0..domain.candidates.len();
        devices.into_iter().find(|index| domain.device(*index).name == name)
    };
    let mut found = Found {
        cost_ns: 0,
        order: Vec::with_capacity(plan.stages.len()),
        ends: Vec::with_capacity(plan.stages.len()),
    };
    let mut first = 0;
    for stage in &plan.stages {
        let follows = stage.first_layer == first && stage.end_layer > first;
        let end = usize::try_from(stage.end_layer).ok()?;
        if !follows || end > domain.layers {
            return None;
        }
        found.order.push(candidate(&stage.device)?);
        found.ends.push(end);
        first = stage.end_layer;
    }
    (found.ends.last() == Some(&domain.layers)).then(|| found.plan(&domain))
}
