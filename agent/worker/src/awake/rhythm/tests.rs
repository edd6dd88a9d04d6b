use super::{LONGEST_US, Moment, Rhythm};

/// What is said after steps so far apart, of which so much was spent waiting for a core.
fn after_delays(gaps_us: impl IntoIterator<Item = (u64, u64)>) -> Option<u64> {
    let mut rhythm = Rhythm::default();
    let mut now = Moment {
        now_us: 7,
        delayed_us: 1_000_000,
    };
    let mut said = rhythm.step(now);
    for (gap_us, delayed_us) in gaps_us {
        now.now_us += gap_us;
        now.delayed_us += delayed_us;
        said = rhythm.step(now);
    }
    said
}

fn after(gaps_us: &[u64]) -> Option<u64> {
    after_delays(gaps_us.iter().map(|gap_us| (*gap_us, 0)))
}

#[test]
fn a_first_step_is_not_a_rhythm() {
    assert_eq!(after(&[]), None);
}

#[test]
fn the_next_step_is_expected_for_four_times_as_long_as_usual() {
    assert_eq!(after(&[8_000]), Some(32_000));
    assert_eq!(after(&[8_000; 20]), Some(32_000));
}

#[test]
fn nobody_is_expected_for_longer_than_the_limit() {
    assert_eq!(after(&[40_000]), Some(LONGEST_US));
    assert_eq!(after(&[LONGEST_US]), Some(LONGEST_US));
}

#[test]
fn steps_that_are_far_apart_are_not_waited_for() {
    assert_eq!(after(&[LONGEST_US + 1]), None);
    assert_eq!(after(&[8_000, 8_000, 300_000]), None);
}

#[test]
fn after_a_silence_the_rhythm_is_learnt_anew() {
    assert_eq!(after(&[8_000, 8_000, 300_000, 2_000]), Some(8_000));
}

#[test]
fn one_late_step_does_not_make_a_rhythm() {
    let mut gaps_us = [2_000; 32];
    gaps_us[15] = 42_000;
    assert_eq!(after(&gaps_us[..=15]), Some(48_000));
    assert!(after(&gaps_us).is_some_and(|expected_us| expected_us < 9_000));
}

#[test]
fn a_clock_that_stands_still_is_fine() {
    assert_eq!(after(&[0, 0]), Some(0));
}

#[test]
fn a_crowded_core_is_left_to_the_others() {
    assert_eq!(after_delays([(8_000, 4_000); 3]), None);
    // What a stage's own two threads wait for each other is no crowd.
    assert_eq!(after_delays([(8_000, 200); 3]), Some(32_000));
}

/// Steps of 10 ms on a core that is crowded whenever it is kept awake: after which of them it was.
fn tried(rhythm: &mut Rhythm, from_us: u64, steps: u64) -> Vec<u64> {
    let mut now = Moment {
        now_us: from_us,
        delayed_us: from_us,
    };
    let mut awake = false;
    let mut tried = Vec::new();
    for step in 0..steps {
        now.now_us += 10_000;
        now.delayed_us += if awake { 6_000 } else { 100 };
        awake = rhythm.step(now).is_some();
        if awake {
            tried.push(step);
        }
    }
    tried
}

#[test]
fn a_crowd_that_is_met_again_and_again_is_tried_ever_more_rarely() {
    let tried = tried(&mut Rhythm::default(), 0, 100 * 60);
    // One second is a hundred steps.
    let pauses: Vec<u64> = tried.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses[0] > 100 && pauses[0] < 110, "{pauses:?}");
    assert!(pauses.windows(2).all(|pair| pair[1] > pair[0]), "{pauses:?}");
    assert!(tried.len() <= 6, "{tried:?}");
}

#[test]
fn a_crowd_that_has_gone_is_forgotten_once_it_was_away_for_as_long_as_it_was_avoided() {
    let mut rhythm = Rhythm::default();
    tried(&mut rhythm, 0, 100 * 20);
    let mut now = Moment {
        now_us: 20_000_000,
        delayed_us: 0,
    };
    // A minute alone.
    let mut awake = Vec::new();
    for _ in 0..100 * 60 {
        now.now_us += 10_000;
        awake.push(rhythm.step(now).is_some());
    }
    assert!(awake.iter().skip(100 * 17).all(|awake| *awake));
    assert_eq!(rhythm.crowd.away_us, 0);
}
