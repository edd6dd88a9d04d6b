use super::*;

/// A link that carries so many bytes in a second, after so long.
fn carry(bytes: u64, rate: u64, round_trip_us: u64) -> Bulk {
    Bulk::new(bytes, bytes * 1_000_000 / rate + round_trip_us, round_trip_us)
}

fn bulks(rate: u64, round_trip_us: u64) -> Vec<Bulk> {
    bulks_of(Effort::Round, rate, round_trip_us)
}

fn bulks_of(effort: Effort, rate: u64, round_trip_us: u64) -> Vec<Bulk> {
    let ([filling, _], mut done) = (effort.fillings(), Vec::new());
    while let Some(bytes) = next_bulk(filling, &done, round_trip_us) {
        done.push(carry(bytes, rate, round_trip_us));
    }
    done
}

/// At a link that carried a gigabit.
const GLANCE_AT_A_GIGABIT: Effort = Effort::Glance {
    send_bytes_per_second: 117_500_000,
    receive_bytes_per_second: 117_500_000,
};

#[test]
fn bulks_grow_until_one_takes_long_enough_to_tell_the_rate() {
    for rate in [1_000_000, 12_500_000, 125_000_000, 1_250_000_000, 3_000_000_000] {
        let done = bulks(rate, 300);
        let found = done.last().unwrap().bytes_per_second();
        assert!(found.abs_diff(rate) < rate / 20, "{found} for {rate}");
        assert!(done.len() <= BULKS_MAX && done.iter().all(|bulk| bulk.bytes <= BULK_BYTES_MAX));
    }
    assert_eq!(
        bulks(1_000_000, 300).len(),
        1,
        "a slow line is not filled for longer than it must"
    );
}

#[test]
fn a_bulk_that_is_lost_in_the_round_trip_errs_on_the_slow_side() {
    let bulk = Bulk::new(1_000_000, 1000, 5000);
    assert_eq!(bulk.us, 250);
    assert_eq!(Bulk::new(10, 0, 0).bytes_per_second(), 10_000_000);
    assert_eq!(Bulk { bytes: 0, us: 0 }.bytes_per_second(), 1, "never zero");
}

#[test]
fn a_round_is_charged_for_every_byte_that_it_carries() {
    let (sent, received) = (bulks(125_000_000, 300), bulks(125_000_000, 300));
    let Echoes { counted, warm_up, .. } = ROUND_ECHOES;
    let found = measured(Effort::Round, vec![300; counted], &sent, &received);
    let bytes: u64 = sent.iter().chain(&received).map(|bulk| bulk.bytes).sum();
    let echoes = 2 * ((counted + warm_up) * ECHO_BYTES) as u64;
    let expected_us = (bytes + echoes) * 1_000_000 / 125_000_000;
    assert!(
        found.link_us.abs_diff(expected_us) < 10,
        "{} for {expected_us}",
        found.link_us
    );
    assert!(found.link_us < 150_000, "{} µs of a gigabit link", found.link_us);
}

#[test]
fn a_glance_ends_as_soon_as_a_link_is_seen_to_be_what_it_was() {
    for rate in [60_000_000, 117_500_000, 400_000_000] {
        assert_eq!(bulks_of(GLANCE_AT_A_GIGABIT, rate, 300).len(), 1, "{rate}");
    }
    let found = measured(
        GLANCE_AT_A_GIGABIT,
        vec![300; GLANCE_ECHOES.counted],
        &bulks_of(GLANCE_AT_A_GIGABIT, 117_500_000, 300),
        &bulks_of(GLANCE_AT_A_GIGABIT, 117_500_000, 300),
    );
    assert!(found.link_us < 2000, "{} µs of a gigabit link", found.link_us);
    assert!(found.round.is_glance);
}

#[test]
fn a_glance_at_a_link_that_is_another_one_goes_on_until_it_knows_the_rate_and_no_longer() {
    for rate in [125_000, 1_175_000, 12_500_000, 1_250_000_000] {
        let done = bulks_of(GLANCE_AT_A_GIGABIT, rate, 300);
        let found = done.last().unwrap().bytes_per_second();
        assert!(found.abs_diff(rate) < rate / 20, "{found} for {rate}");
        assert!(done.iter().all(|bulk| bulk.bytes <= GLANCE_BYTES_MAX));
    }
    let slow = bulks_of(GLANCE_AT_A_GIGABIT, 1_175_000, 300);
    let filled_us: u64 = slow.iter().map(|bulk| bulk.us).sum();
    assert!(filled_us < 60_000, "tokens wait for {filled_us} µs");
}

/// What is found by bulks over a connection whose windows have so many bytes at first, and twice as many after each round trip.
fn found_through(effort: Effort, rate: u64, round_trip_us: u64, mut window: u64) -> u64 {
    let ([filling, _], mut done) = (effort.fillings(), Vec::new());
    while let Some(bytes) = next_bulk(filling, &done, round_trip_us) {
        let (mut left, mut elapsed_us) = (bytes, round_trip_us);
        while left > window {
            elapsed_us += round_trip_us.max(window * 1_000_000 / rate);
            left -= window;
            window *= 2;
        }
        elapsed_us += left * 1_000_000 / rate;
        done.push(Bulk::new(bytes, elapsed_us, round_trip_us));
    }
    done.last().unwrap().bytes_per_second()
}

/// Ten segments.
const FIRST_WINDOW: u64 = 14_480;

#[test]
fn a_glance_does_not_take_windows_that_open_for_a_slow_link() {
    for round_trip_us in [300, 1000, 5000, 8000, 10_000, 15_000, 20_000, 50_000, 80_000] {
        // The echoes of a round have opened them before.
        let known = found_through(Effort::Round, 117_500_000, round_trip_us, 5 * FIRST_WINDOW);
        let glance = Effort::Glance {
            send_bytes_per_second: known,
            receive_bytes_per_second: known,
        };
        let found = found_through(glance, 117_500_000, round_trip_us, FIRST_WINDOW);
        assert!(found > known / 3, "{found} of {known} at {round_trip_us} us");
    }
}

#[test]
fn a_glance_beside_a_transfer_that_fills_the_link_finds_its_half_of_it() {
    for (rate, round_trip_us) in [
        (117_500_000, 10_000),
        (117_500_000, 20_000),
        (11_750_000, 50_000),
        (11_750_000, 100_000),
    ] {
        let glance = Effort::Glance {
            send_bytes_per_second: rate,
            receive_bytes_per_second: rate,
        };
        let found = found_through(glance, rate / 2, round_trip_us, FIRST_WINDOW);
        assert!(
            found > (rate / history::FAR).min(16_000_000),
            "{found} of {rate} at {round_trip_us} us"
        );
    }
}

#[test]
fn noise_is_as_long_as_a_message_and_not_of_one_byte() {
    let noise = noise();
    assert_eq!(noise.len() as u64, CHUNK_BYTES);
    let mut seen = [false; 256];
    noise.iter().for_each(|byte| seen[usize::from(*byte)] = true);
    assert!(seen.iter().all(|seen| *seen));
}

#[test]
fn only_a_peer_that_is_there_can_put_us_off() {
    let put_off = MeasureError::from(Status::resource_exhausted("busy"));
    assert!(matches!(put_off, MeasureError::PutOff(text) if text.contains("busy")));
    assert!(matches!(
        MeasureError::from(Status::unimplemented("old")),
        MeasureError::Failed(_)
    ));
}

#[test]
fn where_a_round_trip_takes_a_second_two_echoes_tell_it_and_on_a_local_network_all_of_them_do() {
    // Echoes that are made, and those of them that count, where each takes so long and the first three times that.
    let made = |echoes: Echoes, round_trip_ms: u64| {
        let (mut elapsed, mut counted) = (Duration::ZERO, 0);
        for number in 0..echoes.warm_up + echoes.counted {
            let sent_after = elapsed;
            let round_trips = if number == 0 { 3 } else { 1 };
            elapsed += Duration::from_millis(round_trips * round_trip_ms);
            counted += usize::from(echoes.counts(number, sent_after));
            if suffice(counted, elapsed) {
                return (number + 1, counted);
            }
        }
        (echoes.warm_up + echoes.counted, counted)
    };
    assert_eq!(made(ROUND_ECHOES, 1), (36, 32));
    assert_eq!(made(ROUND_ECHOES, 300), (12, 8));
    assert_eq!(made(ROUND_ECHOES, 1000), (4, 2));
    assert_eq!(made(GLANCE_ECHOES, 1), (10, 8));
    assert_eq!(made(GLANCE_ECHOES, 1000), (4, 2));
}
