//! What many timings come to.

use std::time::{Duration, Instant};

/// The highest of several measurements of a rate: whatever else the machine does can only slow it down. 0 of none.
pub fn best(rates: &[f64]) -> f64 {
    rates.iter().copied().fold(0.0, f64::max)
}

/// The lowest of several measurements of a time, for the same reason; infinite of none.
pub fn shortest(times: &[f64]) -> f64 {
    times.iter().copied().fold(f64::INFINITY, f64::min)
}

/// The value below which a share (0 to 1) of the samples lie: the nearest rank. 0 of none.
pub fn percentile(samples: &mut [f64], share: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let rank = (samples.len() as f64 * share).ceil() as usize;
    samples.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// Events per second while all of several streams run: from the moment at which the last of them had its first event to the
/// moment at which the first of them had its last. 0 where the streams do not overlap.
pub fn concurrent_rate(streams: &[Vec<Instant>]) -> f64 {
    let begun = streams.iter().filter_map(|stream| stream.first()).max();
    let ended = streams.iter().filter_map(|stream| stream.last()).min();
    let (Some(begun), Some(ended)) = (begun, ended) else {
        return 0.0;
    };
    let seconds = ended.saturating_duration_since(*begun).as_secs_f64();
    if seconds <= 0.0 {
        return 0.0;
    }
    let within = |at: &&Instant| *at > begun && *at <= ended;
    streams.iter().flatten().filter(within).count() as f64 / seconds
}

/// `count` in `time`, per second.
pub fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{best, concurrent_rate, percentile, shortest};

    #[test]
    fn a_round_that_was_disturbed_does_not_count() {
        assert_eq!(best(&[91.0, 12.0, 90.0]), 91.0);
        assert_eq!(shortest(&[3.0, 0.5, 1.0]), 0.5);
    }

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let mut samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&mut samples, 0.5), 50.0);
        assert_eq!(percentile(&mut samples, 0.99), 99.0);
        assert_eq!(percentile(&mut samples, 1.0), 100.0);
        assert_eq!(percentile(&mut [7.0], 0.99), 7.0);
        assert_eq!(percentile(&mut [], 0.5), 0.0);
    }

    #[test]
    fn only_the_time_in_which_all_streams_run_counts() {
        let start = Instant::now();
        let stream = |first: u64, last: u64| -> Vec<Instant> {
            (first..=last)
                .map(|second| start + Duration::from_secs(second))
                .collect()
        };
        // Both run from 5 to 10: five events each.
        assert_eq!(concurrent_rate(&[stream(0, 10), stream(5, 20)]), 2.0);
        assert_eq!(concurrent_rate(&[stream(0, 3), stream(5, 9)]), 0.0);
        assert_eq!(concurrent_rate(&[]), 0.0);
    }
}
