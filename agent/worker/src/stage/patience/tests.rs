use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{Alarm, Patience};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_step_behind_others_has_its_time_from_when_the_one_before_it_was_finished() {
    let mut patience = Patience::new(SECOND);
    assert_eq!(patience.deadline(), None);
    patience.begin();
    let first = patience.deadline().unwrap();
    patience.begin();
    assert_eq!(patience.deadline(), Some(first));
    patience.end();
    assert!(patience.deadline().unwrap() >= first);
    patience.end();
    assert_eq!(patience.deadline(), None);
}

#[tokio::test]
async fn an_alarm_follows_its_deadline_in_both_directions() {
    let mut alarm = Alarm::new();
    let far = Instant::now() + 3600 * SECOND;
    assert!(timeout(Duration::ZERO, alarm.at(None)).await.is_err());
    assert!(timeout(Duration::ZERO, alarm.at(Some(far))).await.is_err());
    alarm.at(Some(Instant::now())).await;
    assert!(timeout(Duration::ZERO, alarm.at(Some(far))).await.is_err());
}
