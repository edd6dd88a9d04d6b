//! One fault at one request of a story, and what must not differ afterwards.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use apimodel::{ApiServer, Failure, Moment, Real, Verdict};

use crate::end::End;
use crate::invariants;
use crate::workflow::Workflow;
use crate::world::{QUIET_AT_THE_END, World};

/// What happens at the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The operator dies before it is carried out, or before it hears the answer, and is started again.
    Crash(Moment),
    /// The same, and another takes over.
    TakenOver(Moment),
    /// It is refused with this, and not carried out.
    Refused(u16),
    /// It is carried out and answered with this.
    Lost(u16),
    /// Its connection breaks before it is carried out, or after.
    Broken(Moment),
}

/// Every one.
pub const FAULTS: [Fault; 10] = [
    Fault::Crash(Moment::Before),
    Fault::Crash(Moment::After),
    Fault::TakenOver(Moment::Before),
    Fault::TakenOver(Moment::After),
    Fault::Refused(409),
    Fault::Refused(429),
    Fault::Refused(500),
    Fault::Lost(504),
    Fault::Broken(Moment::Before),
    Fault::Broken(Moment::After),
];

/// One fault at one request of a story.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The story.
    pub workflow: &'static Workflow,
    /// Counts the operators' requests from the beginning of the story, from 1.
    pub request: usize,
    /// What happens there.
    pub fault: Fault,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            workflow,
            request,
            fault,
        } = self;
        write!(f, "{:?}, request {request}, {fault:?}", workflow.name)
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// The operators' requests in the story, in words.
    pub requests: Vec<String>,
    /// What must never be.
    pub broken: Vec<String>,
    /// The fault came.
    pub struck: bool,
}

#[derive(Debug, Default)]
struct Recorded {
    armed: bool,
    requests: Vec<String>,
    broken: Vec<String>,
    struck: bool,
}

/// Runs a story, with a fault at a request or without.
#[must_use]
pub fn run(workflow: &'static Workflow, fault: Option<(usize, Fault)>) -> Outcome {
    run_on(None, workflow, fault)
}

/// The same on a real API server, which is emptied first.
#[must_use]
pub fn run_on(real: Option<&Arc<Real>>, workflow: &'static Workflow, fault: Option<(usize, Fault)>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without IO needs nothing of the system");
    runtime.block_on(tell(real, workflow, fault))
}

async fn tell(real: Option<&Arc<Real>>, workflow: &'static Workflow, fault: Option<(usize, Fault)>) -> Outcome {
    let mut shape = (workflow.shape)();
    // A place for the one that takes over.
    let spare = shape.operators;
    shape.operators += 1;
    let mut world = match real {
        Some(real) => {
            real.clear();
            World::on(ApiServer::in_front_of(real.clone()), &shape)
        }
        None => World::new(&shape),
    };
    let recorded: Arc<Mutex<Recorded>> = Arc::default();
    let (hook, killed) = watch_requests(&recorded, fault);
    world.api.set_hook(hook);
    let mut failed = (workflow.before)(&mut world).await;
    lock(&recorded).armed = true;
    if matches!(fault, Some((_, Fault::TakenOver(_)))) {
        world.take_over(spare, "operator-9", killed);
    }
    if failed.is_ok() {
        failed = (workflow.story)(&mut world).await;
    }
    lock(&recorded).armed = false;
    let rested = world.settle_for(QUIET_AT_THE_END).await;
    let mut broken = std::mem::take(&mut lock(&recorded).broken);
    broken.extend(failed.and(rested).err());
    broken.extend(invariants::of_history(&world));
    broken.extend(invariants::of_end(&world, false));
    if let Some(real) = real {
        broken.extend(world.api.with(|store| real.compare(store)));
    }
    let requests = std::mem::take(&mut lock(&recorded).requests);
    let struck = lock(&recorded).struck;
    Outcome {
        end: End::of(&world),
        requests,
        broken,
        struck,
    }
}

/// Writes down what operators ask, and strikes at the request that is meant. The receiver is told when it strikes.
fn watch_requests(
    recorded: &Arc<Mutex<Recorded>>,
    fault: Option<(usize, Fault)>,
) -> (apimodel::Hook, tokio::sync::watch::Receiver<bool>) {
    let (tells, told) = tokio::sync::watch::channel(false);
    let recorded = recorded.clone();
    let hook = move |seen: &apimodel::Seen<'_>, moment: Moment| {
        if !seen.client.starts_with("operator") {
            return Verdict::Continue;
        }
        let mut recorded = lock(&recorded);
        if moment == Moment::Before {
            recorded.broken.extend(invariants::of_request(seen));
            if recorded.armed {
                let text = format!("{}: {}", seen.client, seen.request.text());
                recorded.requests.push(text);
            }
        }
        let Some((request, fault)) = fault else {
            return Verdict::Continue;
        };
        // The request that was written down last is the one that is being carried out: nothing else runs in between.
        if !recorded.armed || recorded.struck || recorded.requests.len() != request {
            return Verdict::Continue;
        }
        let failure = |code: u16| {
            let reason = match code {
                409 => "Conflict",
                429 => "TooManyRequests",
                504 => "Timeout",
                _ => "InternalError",
            };
            Verdict::Answer(Failure::new(code, reason, "injected"))
        };
        let verdict = match fault {
            Fault::Crash(when) | Fault::TakenOver(when) if when == moment => Verdict::Crash,
            Fault::Refused(code) if moment == Moment::Before => failure(code),
            Fault::Lost(code) if moment == Moment::After => failure(code),
            Fault::Broken(when) if when == moment => Verdict::Drop,
            _ => return Verdict::Continue,
        };
        recorded.struck = true;
        tells.send_replace(true);
        verdict
    };
    (Arc::new(hook), told)
}

fn lock(recorded: &Mutex<Recorded>) -> MutexGuard<'_, Recorded> {
    recorded.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a plan breaks, beside the run of the same story without a fault; empty where nothing.
#[must_use]
pub fn judge(plan: &Plan, clean: &Outcome) -> Vec<String> {
    compare(plan, clean, run(plan.workflow, Some((plan.request, plan.fault))))
}

/// The same of a run that was made.
#[must_use]
pub fn compare(plan: &Plan, clean: &Outcome, outcome: Outcome) -> Vec<String> {
    let mut found = outcome.broken;
    found.extend(clean.end.differences(&outcome.end));
    if !found.is_empty() {
        let request = outcome.requests.get(plan.request - 1);
        let request = request.map_or("a request that was not made", String::as_str);
        found.insert(0, format!("{plan}: {request}"));
    }
    found
}
