use super::*;

#[test]
fn the_wait_is_as_long_as_the_queue_before_it_takes() {
    let mut pace = Pace::default();
    assert_eq!(pace.seconds_until_seated(3), 1, "nothing is known");
    for end in 1..=4 {
        pace.ended(end * 2_000_000, 5);
    }
    assert_eq!(pace.seconds_until_seated(3), 8);
    assert_eq!(pace.seconds_until_seated(1000), 60);
}

#[test]
fn idle_time_is_not_taken_for_slowness() {
    let mut pace = Pace::default();
    for (end_s, waiting) in [(1, 1), (2, 1), (3, 0), (100, 1), (101, 1)] {
        pace.ended(end_s * 1_000_000, waiting);
    }
    assert_eq!(pace.seconds_until_seated(1), 2);
}
