use super::*;
use proptest::prelude::*;

const HOUR_MS: u64 = 3_600_000;

#[test]
fn the_first_rounds_may_begin_at_once_and_a_debt_is_waited_off() {
    let mut allowance = Allowance::new(1000);
    assert!(allowance.ready_at_ms() <= 1000);
    allowance.spend(100_000, 1000);
    assert!(allowance.ready_at_ms() <= 1000, "two more are saved up");
    allowance.spend(1_000_000, 2000);
    let ready_at_ms = allowance.ready_at_ms();
    assert!(
        ready_at_ms > 300_000,
        "a second of the link is five hundred seconds of the allowance: {ready_at_ms}"
    );
    allowance.spend(0, ready_at_ms);
    assert!(allowance.ready_at_ms() <= ready_at_ms);
}

#[test]
fn a_clock_that_stands_still_gives_nothing() {
    let mut allowance = Allowance::new(1000);
    for _ in 0..10 {
        allowance.spend(100_000, 1000);
    }
    assert!(allowance.ready_at_ms() > 1000);
    let before = allowance;
    allowance.spend(0, 0);
    assert_eq!(allowance, before, "nor one that goes back");
}

proptest! {
    /// Both allowances of a node, spent as fast as they let one: below half a percent of an hour, single rounds aside.
    #[test]
    fn over_an_hour_both_allowances_take_less_than_half_a_percent_of_the_link(
        rounds_us in prop::collection::vec(1_u64..150_000, 1..40),
    ) {
        let mut taken_us = 0;
        for _ in ["begun", "answered"] {
            let mut allowance = Allowance::new(0);
            let mut now_ms = 0;
            for round_us in rounds_us.iter().cycle() {
                now_ms = now_ms.max(allowance.ready_at_ms());
                if now_ms >= HOUR_MS {
                    break;
                }
                allowance.spend(*round_us, now_ms);
                taken_us += round_us;
            }
        }
        prop_assert!(taken_us < HOUR_MS * 1000 / 200, "{taken_us} µs");
    }
}
