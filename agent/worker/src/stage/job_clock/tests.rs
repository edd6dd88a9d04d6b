use futures::FutureExt;

use super::*;

#[tokio::test]
async fn only_a_job_that_goes_on_is_overdue() {
    let clock = JobClock::new();
    let is_overdue = |limit| clock.overdue(limit).now_or_never().is_some();
    assert!(!is_overdue(Duration::ZERO));
    clock.begin();
    assert!(is_overdue(Duration::ZERO));
    assert!(!is_overdue(Duration::MAX));
    clock.end();
    assert!(!is_overdue(Duration::ZERO));
}
