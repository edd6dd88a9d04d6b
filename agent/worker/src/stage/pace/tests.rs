use super::*;

fn decoded(pace: &mut StagePace, steps: u64, compute_us: u64) {
    for _ in 0..steps {
        pace.computed(step(1, compute_us));
    }
}

fn step(rows: usize, compute_us: u64) -> Computed {
    Computed {
        rows,
        position: 7,
        compute_us,
    }
}

#[test]
fn the_median_of_single_rows_is_told_once_there_are_enough() {
    let (mut pace, now) = (StagePace::default(), Instant::now());
    decoded(&mut pace, DECODE_TOLD - 1, 3000);
    assert_eq!(pace.told(now), Pace::default());
    // One that waited for the machine.
    pace.computed(step(1, 900_000));
    let told = pace.told(now);
    assert_eq!((told.decode_token_ns, told.decode_samples), (3_000_000, DECODE_TOLD));
    assert_eq!(told.decode_context, 7);
    assert_eq!(told.prefill_samples, 0, "nothing is known of prompts");
}

#[test]
fn prompts_are_told_by_the_row_and_steps_between_count_for_neither() {
    let (mut pace, now) = (StagePace::default(), Instant::now());
    for rows in [2, 8, 31] {
        pace.computed(step(rows, 1));
    }
    for rows in [64, 32, 64, 128] {
        pace.computed(step(rows, rows as u64 * 500));
    }
    let told = pace.told(now);
    assert_eq!((told.prefill_row_ns, told.prefill_samples), (500_000, 4));
    assert_eq!(told.decode_samples, 0);
}

#[test]
fn what_moves_little_or_too_soon_is_not_told_again() {
    let (mut pace, now) = (StagePace::default(), Instant::now());
    decoded(&mut pace, DECODE_TOLD, 1000);
    let first = pace.told(now);
    decoded(&mut pace, 256, 1040);
    assert_eq!(pace.told(now + TOLD_EVERY), first, "4 % are no news");
    decoded(&mut pace, 256, 1100);
    assert_eq!(pace.told(now + TOLD_EVERY / 2), first, "it was told a moment ago");
    let later = pace.told(now + TOLD_EVERY);
    assert_eq!(later.decode_token_ns, 1_100_000);
    decoded(&mut pace, later.decode_samples * 10, 1100);
    let again = pace.told(now + TOLD_EVERY * 2);
    assert!(
        again.decode_samples >= later.decode_samples * 10,
        "ten times the samples are"
    );
}

#[test]
fn an_idle_stage_says_the_same_for_ever_and_a_busy_one_keeps_no_more() {
    let (mut pace, now) = (StagePace::default(), Instant::now());
    decoded(&mut pace, 100_000, 1000);
    let told = pace.told(now);
    assert_eq!(pace.decode.values.len(), DECODE_KEPT);
    for hour in 1..100 {
        assert_eq!(pace.told(now + Duration::from_secs(hour * 3600)), told);
    }
}

#[test]
fn the_latest_count_and_what_was_before_them_is_forgotten() {
    let (mut pace, now) = (StagePace::default(), Instant::now());
    decoded(&mut pace, 1000, 9000);
    decoded(&mut pace, DECODE_KEPT as u64, 2000);
    for _ in 0..DECODE_TOLD {
        pace.hopped(150);
    }
    let told = pace.told(now);
    assert_eq!(told.decode_token_ns, 2_000_000);
    assert_eq!((told.hops_token_ns, told.hops_samples), (150_000, DECODE_TOLD));
}
