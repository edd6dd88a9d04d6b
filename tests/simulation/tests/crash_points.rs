//! The operator dies, or is refused, at every one of its requests to the API server, and the end is that of a run without.
//!
//! One plan in five is run; `CRASH_POINTS=all` runs all of them, `CRASH_POINTS=text` those whose name has that text, with
//! the operators' log.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use linkemu::random::Random;
use simulation::plan::{FAULTS, Outcome, Plan, judge, run};
use simulation::workflow::WORKFLOWS;

/// Plans of which one is run where not all are.
const ONE_IN: usize = 5;
/// Failures that are told in full, and lines of each: the others are alike.
const TOLD: (usize, usize) = (20, 30);

fn clean() -> Vec<Outcome> {
    let clean: Vec<Outcome> = WORKFLOWS.iter().map(|workflow| run(workflow, None)).collect();
    for (workflow, clean) in WORKFLOWS.iter().zip(&clean) {
        println!("{:45} {:4} requests", workflow.name, clean.requests.len());
        assert!(clean.broken.is_empty(), "{}: {:#?}", workflow.name, clean.broken);
    }
    clean
}

fn plans(clean: &[Outcome]) -> Vec<(Plan, &Outcome)> {
    let mut plans = Vec::new();
    for (workflow, clean) in WORKFLOWS.iter().zip(clean) {
        for request in 1..=clean.requests.len() {
            plans.extend(FAULTS.map(|fault| {
                (
                    Plan {
                        workflow,
                        request,
                        fault,
                    },
                    clean,
                )
            }));
        }
    }
    assert!(plans.len() >= 2000, "only {} plans", plans.len());
    match std::env::var("CRASH_POINTS").unwrap_or_default().as_str() {
        "all" => plans,
        "" => {
            let mut random = Random::new(1);
            plans.retain(|_| random.below(ONE_IN) == 0);
            plans
        }
        text => {
            let _ = tracing_subscriber::fmt()
                .with_max_level(tracing_subscriber::filter::LevelFilter::INFO)
                .try_init();
            plans.retain(|(plan, _)| plan.to_string().contains(text));
            plans
        }
    }
}

#[test]
fn a_fault_at_any_request_leads_to_the_same_end() {
    let began = Instant::now();
    let clean = clean();
    let plans = plans(&clean);
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((plan, clean)) = plans.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = judge(plan, clean);
                    if !found.is_empty() {
                        failures.lock().unwrap().push(found);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    println!(
        "{} plans in {:.1?}, {} fail",
        plans.len(),
        began.elapsed(),
        failures.len()
    );
    let mut told = BTreeSet::new();
    for failure in &failures {
        let alike: String = failure[1].chars().take(60).collect();
        if told.len() < TOLD.0 && told.insert(alike) {
            println!(
                "{}",
                failure.iter().take(TOLD.1).cloned().collect::<Vec<_>>().join("\n    ")
            );
        }
    }
    assert!(failures.is_empty(), "{} of {} plans fail", failures.len(), plans.len());
}

#[test]
fn a_story_without_a_fault_ends_as_it_ended_before() {
    for workflow in &WORKFLOWS {
        let (one, two) = (run(workflow, None), run(workflow, None));
        assert_eq!(one.end.differences(&two.end), Vec::<String>::new(), "{}", workflow.name);
    }
}
