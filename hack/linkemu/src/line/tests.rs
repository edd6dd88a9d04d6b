use std::time::{Duration, Instant};

use super::{Line, Quality};

const MILLISECOND: Duration = Duration::from_millis(1);

fn steady(delay: Duration) -> Quality {
    Quality {
        delay,
        ..Quality::PERFECT
    }
}

/// Arrivals of all that is under way, each with the packet's first byte.
fn arrivals(mut line: Line) -> Vec<(Instant, u8)> {
    let mut arrivals = Vec::new();
    while let Some(due) = line.due() {
        let packet = line.pop(due).expect("it is due");
        arrivals.push((due, packet[0]));
    }
    arrivals
}

/// What arrives of 200 packets that are sent a millisecond apart.
fn of_200(quality: Quality, seed: u64, start: Instant) -> Vec<(Instant, u8)> {
    let mut line = Line::new(quality, seed, start);
    for number in 0..200_u8 {
        line.push(start + MILLISECOND * u32::from(number), vec![number; 100]);
    }
    arrivals(line)
}

#[test]
fn a_perfect_line_hands_everything_over_at_once_and_in_order() {
    let start = Instant::now();
    let expected: Vec<_> = (0..200_u8)
        .map(|number| (start + MILLISECOND * u32::from(number), number))
        .collect();
    assert_eq!(of_200(Quality::PERFECT, 1, start), expected);
    assert!(Quality::PERFECT.is_perfect() && !Quality::CUT.is_perfect());
}

#[test]
fn packets_sent_together_arrive_together_one_delay_later() {
    let start = Instant::now();
    let mut line = Line::new(steady(MILLISECOND), 1, start);
    for number in 0..100 {
        line.push(start, vec![number]);
    }
    assert_eq!(line.due(), Some(start + MILLISECOND));
    assert_eq!(line.pop(start), None);
    for number in 0..100 {
        assert_eq!(
            line.pop(start + MILLISECOND),
            Some(vec![number]),
            "bandwidth is not limited"
        );
    }
    assert_eq!((line.held_bytes(), line.due()), (0, None));
}

#[test]
fn each_packet_waits_from_its_own_arrival() {
    let start = Instant::now();
    let mut line = Line::new(steady(MILLISECOND), 1, start);
    line.push(start, vec![1]);
    line.push(start + MILLISECOND / 2, vec![2, 3]);
    assert_eq!(line.held_bytes(), 3);
    assert_eq!(line.pop(start + MILLISECOND), Some(vec![1]));
    assert_eq!(line.pop(start + MILLISECOND), None);
    assert_eq!(line.pop(start + MILLISECOND * 3 / 2), Some(vec![2, 3]));
}

#[test]
fn jitter_follows_from_its_seed_lies_within_its_bounds_and_never_reorders() {
    let start = Instant::now();
    let quality = Quality {
        jitter: 3 * MILLISECOND,
        ..steady(MILLISECOND)
    };
    let first = of_200(quality, 1, start);
    assert!((0..200_u8).eq(first.iter().map(|(_, number)| *number)));
    for (due, number) in &first {
        let waited = *due - (start + MILLISECOND * u32::from(*number));
        assert!((MILLISECOND..=4 * MILLISECOND).contains(&waited), "{waited:?}");
    }
    assert_eq!(first, of_200(quality, 1, start));
    assert_ne!(first, of_200(quality, 2, start));
}

#[test]
fn as_many_are_lost_as_it_says_and_a_seed_loses_the_same_ones() {
    let start = Instant::now();
    let quality = Quality {
        lost_per_mille: 200,
        ..Quality::PERFECT
    };
    let left = of_200(quality, 1, start);
    assert!((140..=180).contains(&left.len()), "{}", left.len());
    assert_eq!(left, of_200(quality, 1, start));
    assert_ne!(left, of_200(quality, 2, start));
    // What one setting does another one does not change.
    let delayed = Quality {
        delay: MILLISECOND,
        ..quality
    };
    let numbers = |packets: Vec<(Instant, u8)>| packets.into_iter().map(|(_, number)| number).collect::<Vec<_>>();
    assert_eq!(numbers(of_200(delayed, 1, start)), numbers(left));
}

#[test]
fn some_overtake_and_none_is_lost_by_it() {
    let start = Instant::now();
    let quality = Quality {
        overtaking_per_mille: 100,
        ..steady(5 * MILLISECOND)
    };
    let order: Vec<u8> = of_200(quality, 1, start)
        .into_iter()
        .map(|(_, number)| number)
        .collect();
    assert!(!order.is_sorted());
    let mut sorted = order.clone();
    sorted.sort_unstable();
    assert!((0..200_u8).eq(sorted));
}

#[test]
fn some_come_twice_the_second_time_behind_later_ones() {
    let start = Instant::now();
    let quality = Quality {
        repeated_per_mille: 100,
        ..steady(5 * MILLISECOND)
    };
    let arrived = of_200(quality, 1, start);
    let times = |number: u8| arrived.iter().filter(|(_, arrived)| *arrived == number).count();
    assert!((0..200_u8).all(|number| matches!(times(number), 1 | 2)));
    let twice = (0..200_u8).filter(|number| times(*number) == 2).count();
    assert!((10..=40).contains(&twice), "{twice}");
    let order: Vec<u8> = arrived.iter().map(|(_, number)| *number).collect();
    assert!(!order.is_sorted());
    assert_eq!(arrived, of_200(quality, 1, start));
}

#[test]
fn at_a_rate_packets_leave_one_after_the_other() {
    let start = Instant::now();
    let quality = Quality {
        // 100 bytes in 2 ms.
        bits_per_second: Some(400_000),
        ..steady(MILLISECOND)
    };
    let mut line = Line::new(quality, 1, start);
    for number in 0..3 {
        line.push(start, vec![number; 100]);
    }
    let at = |milliseconds: u32| start + MILLISECOND * milliseconds;
    assert_eq!(arrivals(line), [(at(3), 0), (at(5), 1), (at(7), 2)]);
}

#[test]
fn packets_above_the_largest_size_vanish_and_smaller_ones_arrive() {
    let start = Instant::now();
    let quality = Quality {
        largest_bytes: Some(1280),
        ..Quality::PERFECT
    };
    let mut line = Line::new(quality, 1, start);
    assert!(line.push(start, vec![1; 1280]));
    assert!(!line.push(start, vec![2; 1281]));
    assert!(line.push(start, vec![3]));
    assert_eq!(arrivals(line), [(start, 1), (start, 3)]);
}

#[test]
fn a_cut_loses_what_is_under_way_and_all_that_comes_until_it_is_mended() {
    let start = Instant::now();
    let mut line = Line::new(steady(MILLISECOND), 1, start);
    assert!(line.push(start, vec![1]));
    line.set(Quality::CUT);
    assert!(!line.push(start, vec![2]));
    assert_eq!((line.due(), line.held_bytes()), (None, 0));
    line.set(Quality::PERFECT);
    assert!(line.push(start + 2 * MILLISECOND, vec![3]));
    assert_eq!(arrivals(line), [(start + 2 * MILLISECOND, 3)]);
}
