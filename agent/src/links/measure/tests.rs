use super::*;

/// A link that carries so many bytes in a second, after so long.
fn carry(bytes: u64, rate: u64, round_trip_us: u64) -> Bulk {
    Bulk::new(bytes, bytes * 1_000_000 / rate + round_trip_us, round_trip_us)
}

fn bulks(rate: u64, round_trip_us: u64) -> Vec<Bulk> {
    let mut done = Vec::new();
    while let Some(bytes) = next_bulk(&done) {
        done.push(carry(bytes, rate, round_trip_us));
    }
    done
}

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
    let found = measured(vec![300; ECHOES], &sent, &received);
    let bytes: u64 = sent.iter().chain(&received).map(|bulk| bulk.bytes).sum();
    let echoes = 2 * ((ECHOES + WARM_UP) * ECHO_BYTES) as u64;
    let expected_us = (bytes + echoes) * 1_000_000 / 125_000_000;
    assert!(
        found.link_us.abs_diff(expected_us) < 10,
        "{} for {expected_us}",
        found.link_us
    );
    assert!(found.link_us < 150_000, "{} µs of a gigabit link", found.link_us);
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
