use super::*;

/// A round at a gigabyte per second, over which an echo takes 32 µs there and back.
fn round(unix_s: i64, round_trips_us: &[u64]) -> Round {
    Round {
        unix_s,
        round_trips_us: round_trips_us.to_vec(),
        send_bytes_per_second: 1_000_000_000,
        receive_bytes_per_second: 1_000_000_000,
    }
}

fn history(rounds: impl IntoIterator<Item = Round>) -> History {
    let mut history = History::default();
    rounds.into_iter().for_each(|round| history.add(round));
    history
}

#[test]
fn nothing_measured_is_no_figure_and_never_zero() {
    assert_eq!(History::default().figures(), None);
    let mut empty = round(1, &[]);
    assert_eq!(history([empty.clone()]).figures(), None);
    empty = round(1, &[100]);
    empty.send_bytes_per_second = 0;
    assert_eq!(history([empty]).figures(), None);
    let at_once = history([round(1, &[0])]).figures().unwrap();
    assert_eq!((at_once.latency_p50_us, at_once.latency_p99_us), (1, 1));
}

#[test]
fn latency_is_half_of_there_and_back_without_the_bytes_of_the_echo() {
    let figures = history([round(1, &[432, 232, 1032])]).figures().unwrap();
    assert_eq!((figures.latency_p50_us, figures.latency_p99_us), (200, 500));
}

#[test]
fn the_tail_is_of_all_rounds_and_one_slow_echo_in_hundreds_is_not_the_tail() {
    let usual = [132; 32];
    let mut disturbed = usual;
    disturbed[7] = 90_032;
    let mut rounds = vec![round(1, &disturbed)];
    rounds.extend((2..=8).map(|at| round(at, &usual)));
    let figures = history(rounds.clone()).figures().unwrap();
    assert_eq!((figures.latency_p50_us, figures.latency_p99_us), (50, 50));
    rounds[1] = round(2, &disturbed);
    rounds[2] = round(3, &disturbed);
    assert_eq!(history(rounds).figures().unwrap().latency_p99_us, 45_000);
}

#[test]
fn a_rate_that_jitters_is_the_median_of_its_rounds() {
    let rates = [900, 5, 950, 910, 5, 920, 905, 5];
    let rounds = rates.iter().enumerate().map(|(at, mb)| Round {
        send_bytes_per_second: mb * 1_000_000,
        ..round(at as i64, &[100])
    });
    let figures = history(rounds).figures().unwrap();
    assert_eq!(figures.send_bytes_per_second, 900_000_000);
    assert_eq!((figures.samples, figures.unix_s), (8, 7));
}

#[test]
fn only_the_last_rounds_of_a_day_count() {
    let many = history((0..100).map(|at| round(at, &[100])));
    assert_eq!(many.len(), ROUNDS_MAX);
    let long_ago = history([round(0, &[100]), round(FORGOTTEN_S + 1, &[200])]);
    assert_eq!(long_ago.len(), 1);
}

#[test]
fn a_percentile_is_the_nearest_rank() {
    let hundred: Vec<u64> = (1..=100).collect();
    assert_eq!(percentile(&hundred, 50), Some(50));
    assert_eq!(percentile(&hundred, 99), Some(99));
    assert_eq!(percentile(&[7], 99), Some(7));
    assert_eq!(percentile(&[], 50), None);
}
