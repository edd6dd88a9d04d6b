use super::*;

/// A round at a gigabyte per second, over which an echo takes 32 µs there and back.
fn round(unix_s: i64, round_trips_us: &[u64]) -> Round {
    Round {
        unix_s,
        is_glance: false,
        echo_bytes: ECHO_BYTES,
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
    assert_eq!(figures.send_bytes_per_second, 905_000_000);
    assert_eq!(
        (figures.samples, figures.unix_s),
        (6, 6),
        "of the first three all count, and then none that is far off"
    );
}

const MB: u64 = 1_000_000;

/// What a round finds that sends and receives so fast.
fn rates(unix_s: i64, send: u64, receive: u64) -> Round {
    Round {
        send_bytes_per_second: send,
        receive_bytes_per_second: receive,
        ..round(unix_s, &[132])
    }
}

/// The same of a glance.
fn glance(unix_s: i64, send: u64, receive: u64) -> Round {
    Round {
        is_glance: true,
        echo_bytes: 1 << 10,
        ..rates(unix_s, send, receive)
    }
}

/// A gigabit link of which eight rounds are known, the last of second 8; then these.
fn gigabit(then: impl IntoIterator<Item = Round>) -> History {
    history((1..=8).map(|at| rates(at, 117 * MB, 117 * MB)).chain(then))
}

fn rates_of(history: &History) -> (u64, u64) {
    let figures = history.figures().unwrap();
    (figures.send_bytes_per_second, figures.receive_bytes_per_second)
}

#[test]
fn a_link_that_carries_a_hundredth_three_times_in_a_row_is_another_link() {
    let slow = |at| glance(at, 1_175_000, 1_180_000);
    let two = gigabit([slow(100), slow(115)]);
    assert_eq!(rates_of(&two), (117 * MB, 117 * MB));
    assert!(two.is_in_doubt(), "it is to be looked at soon");
    let three = gigabit([slow(100), slow(115), slow(130)]);
    assert_eq!(rates_of(&three), (1_175_000, 1_180_000));
    let figures = three.figures().unwrap();
    assert_eq!((figures.samples, figures.unix_s), (3, 130));
    assert!(!three.is_in_doubt());
}

#[test]
fn the_same_three_within_a_moment_are_not_enough() {
    let slow = |at| glance(at, MB, MB);
    let mut history = gigabit([slow(100), slow(103), slow(106)]);
    assert_eq!(rates_of(&history), (117 * MB, 117 * MB));
    history.add(slow(110));
    assert_eq!(rates_of(&history), (MB, MB));
}

#[test]
fn a_link_that_jitters_down_to_nothing_and_back_stays_what_it_is() {
    let jittering = (0..300_i64).map(|at| {
        let rate = if at % 3 == 2 { 60 * MB } else { MB };
        glance(100 + 15 * at, rate, rate)
    });
    assert_eq!(rates_of(&gigabit(jittering)), (117 * MB, 117 * MB));
    let in_turns = (0..300_i64).map(|at| match at % 2 {
        0 => glance(100 + 15 * at, MB, 117 * MB),
        _ => glance(100 + 15 * at, 117 * MB, MB),
    });
    assert_eq!(
        rates_of(&gigabit(in_turns)),
        (117 * MB, 117 * MB),
        "each time another direction"
    );
}

#[test]
fn a_processor_that_computes_is_not_taken_for_a_slow_link() {
    let busy = |at| glance(at, 20 * MB, 17 * MB);
    let history = gigabit((0..100).map(|at| busy(100 + 15 * at)));
    assert_eq!(rates_of(&history), (117 * MB, 117 * MB));
    assert!(!history.is_in_doubt());
    // A whole round is made while nothing computes.
    let idle = gigabit((0..3).map(|at| rates(100 + 15 * at, 20 * MB, 17 * MB)));
    assert_eq!(rates_of(&idle), (20 * MB, 17 * MB));
}

#[test]
fn what_a_round_finds_above_what_a_glance_tells_is_settled_by_rounds_alone() {
    for rate in [20 * MB, 1100 * MB] {
        let found = |at| rates(at, rate, rate);
        let mut history = gigabit([found(100)]);
        assert!(history.is_in_doubt() && history.needs_round(), "{rate}");
        // As much of either rate as a glance may find of it.
        history.add(glance(115, rate.min(300 * MB), rate.min(300 * MB)));
        assert!(history.is_in_doubt() && history.needs_round(), "{rate}");
        history.add(found(130));
        history.add(found(145));
        assert_eq!(rates_of(&history), (rate, rate));
        assert!(!history.is_in_doubt() && !history.needs_round());
    }
    let disturbed = gigabit([rates(100, 20 * MB, 20 * MB), rates(115, 110 * MB, 110 * MB)]);
    assert!(!disturbed.is_in_doubt(), "the next round found it as it was");
    let narrow = gigabit([rates(100, MB, 117 * MB)]);
    assert!(narrow.is_in_doubt() && !narrow.needs_round(), "a glance sees that");
}

#[test]
fn a_direction_that_is_as_it_was_keeps_what_is_known_of_it() {
    let one_way = |at| glance(at, MB, 62 * MB);
    let history = gigabit([one_way(100), one_way(115), one_way(130)]);
    assert_eq!(rates_of(&history), (MB, 117 * MB));
}

/// A gigabit link that became slow, and then was found to carry so much three times.
fn slow_and_then(rate: u64) -> History {
    let slow = [100, 115, 130].map(|at| glance(at, MB, MB));
    let then = [200, 215, 230].map(|at| glance(at, rate, rate));
    gigabit(slow.into_iter().chain(then))
}

#[test]
fn a_link_that_is_well_again_is_known_as_it_was_before_though_a_processor_computes() {
    for rate in [90 * MB, 20 * MB] {
        let history = slow_and_then(rate);
        assert_eq!(rates_of(&history), (117 * MB, 117 * MB));
        let figures = history.figures().unwrap();
        assert_eq!((figures.samples, figures.unix_s), (8, 230));
    }
    let mut twice = gigabit([100, 115, 130].map(|at| glance(at, MB, MB)));
    twice.add(glance(200, 90 * MB, 90 * MB));
    twice.add(glance(215, 90 * MB, 90 * MB));
    assert_eq!(rates_of(&twice), (MB, MB), "two may be chance");
}

#[test]
fn a_link_that_is_less_slow_is_known_by_what_was_found_and_later_as_it_was() {
    let mut history = slow_and_then(10 * MB);
    assert_eq!(rates_of(&history), (10 * MB, 10 * MB));
    for at in [300, 315, 330] {
        history.add(glance(at, 80 * MB, 80 * MB));
    }
    assert_eq!(rates_of(&history), (117 * MB, 117 * MB));
}

#[test]
fn rounds_take_the_place_of_glances() {
    let mut history = gigabit([100, 115, 130].map(|at| glance(at, MB, MB)));
    for at in [200, 300] {
        history.add(rates(at, 2 * MB, 2 * MB));
        assert_eq!(history.len(), 3);
    }
    assert_eq!(rates_of(&history), (2 * MB, 2 * MB));
}

#[test]
fn a_glance_keeps_figures_fresh_and_changes_none() {
    let mut history = gigabit([glance(5000, 60 * MB, 300 * MB)]);
    let figures = history.figures().unwrap();
    assert_eq!(rates_of(&history), (117 * MB, 117 * MB));
    assert_eq!((figures.samples, figures.unix_s), (8, 5000));
    history.add(glance(6000, 40 * MB, 117 * MB));
    let unclear = history.figures().unwrap();
    assert_eq!(unclear, figures, "what is less than half says nothing");
    let mut unknown = History::default();
    unknown.add(glance(1, 60 * MB, 60 * MB));
    assert!(unknown.is_empty(), "and nothing of a link that is not known");
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
