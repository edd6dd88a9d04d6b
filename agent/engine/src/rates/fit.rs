//! PURE: from times of steps to rates.

use super::slice::{By, Shape, Weights};
use super::{PROMPT_ROWS, Rates, Reading, THIN_LAYERS, Times, per_second};

/// Of a step, what reading weights takes at least where it can be told apart from the rest.
const LEAST_PART: u64 = 4;
/// What more context adds is noise where it is less than so much of a step, in percent.
const LEAST_GROWTH_PERCENT: u64 = 3;
/// A strict step computes one row more than it has to; more than ten times as long is a wrong measurement.
const STRICT_PERCENT: std::ops::RangeInclusive<u64> = 100..=1000;

/// A figure that is less by so much, in percent, is a better one.
const BETTER_PERCENT: u64 = 3;
/// Of the long rows' step, rows take no more than this part beside their bytes: noise that looks like it is cut there.
const ROWS_MOST_PART: u64 = 2;

impl Times {
    /// The least of both, figure by figure.
    #[must_use]
    pub fn least(self, other: Self) -> Self {
        let least = |a: u64, b: u64| match (a, b) {
            (0, some) | (some, 0) => some,
            (a, b) => a.min(b),
        };
        let late = match (self.late, other.late) {
            // Of different contexts the longer one says more.
            (Some(a), Some(b)) if a.1 != b.1 => Some(if a.1 > b.1 { a } else { b }),
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Self {
            thin: std::array::from_fn(|at| least(self.thin[at], other.thin[at])),
            narrow: least(self.narrow, other.narrow),
            late,
            strict: least(self.strict, other.strict),
            thick: std::array::from_fn(|at| least(self.thick[at], other.thick[at])),
            prompt: self.prompt.into_iter().chain(other.prompt).min(),
            samples: self.samples.saturating_add(other.samples),
        }
    }
}

impl Times {
    /// Whether any figure is new, or clearly less than it was.
    #[must_use]
    pub fn improves_on(&self, before: &Self) -> bool {
        let figures = |times: &Self| {
            let one = [
                times.narrow,
                times.strict,
                times.late.map_or(0, |late| late.0),
                times.prompt.unwrap_or(0),
            ];
            [&times.thin[..], &times.thick, &one].concat()
        };
        let is_better = |(now, was): (u64, u64)| now > 0 && (was == 0 || now < was - was * BETTER_PERCENT / 100);
        figures(self).into_iter().zip(figures(before)).any(is_better)
    }
}

impl Rates {
    /// The rates that explain these times of so many devices that work as one.
    #[must_use]
    pub fn of(times: &Times, members: u32) -> Self {
        let (step_ns, layer_ns) = thin(times.thin, THIN_LAYERS);
        let beside_ns = |shape: &Shape| layer_ns.saturating_mul(shape.layers.into()).saturating_add(step_ns);
        let timed = |shape: &Shape, ns: u64| Timed::of(shape, ns, beside_ns(shape));
        let narrow = Shape::narrow(By::members(members));
        let thick = Weights::ALL.map(Shape::thick);
        let all = Weights::ALL.iter().zip(&thick).zip(times.thick);
        let all: Vec<Timed> = all.map(|((_, shape), ns)| timed(shape, ns)).collect();
        let row_ps = all
            .first()
            .map_or(0, |long| row_ps(long, &timed(&narrow, times.narrow)));
        let late = times
            .late
            .and_then(|(late_ns, positions)| attention(narrow.attention_flops(positions), times.narrow, late_ns));
        let flops = 2 * thick[0].parameters() * u64::from(PROMPT_ROWS);
        let arithmetic_ns = |prompt_ns: u64| prompt_ns.saturating_sub(beside_ns(&thick[0])).max(1);
        Self {
            step_ns,
            layer_ns,
            row_ps,
            reading: all.iter().filter_map(|timed| timed.reading(row_ps)).collect(),
            attention_flops_per_second: late,
            strict_percent: (times.strict > 0).then(|| percent(times.strict, times.narrow)),
            flops_per_second: times.prompt.map(|ns| per_second(flops, arithmetic_ns(ns))),
            samples: times.samples,
        }
    }
}

/// A step through layers of weights, timed.
#[derive(Clone, Copy, Debug)]
struct Timed {
    bits: u32,
    bytes: u64,
    rows: u64,
    /// The whole step.
    row_ns: u64,
    /// Of it, what weights take.
    weights_ns: u64,
}

impl Timed {
    fn of(shape: &Shape, row_ns: u64, beside_ns: u64) -> Self {
        Self {
            bits: shape.weights.bits(),
            bytes: shape.weight_bytes(),
            rows: shape.rows(),
            row_ns,
            weights_ns: row_ns.saturating_sub(beside_ns),
        }
    }

    /// `None` where reading is a small part of the step: then noise would be taken for speed.
    fn reading(&self, row_ps: u64) -> Option<Reading> {
        let rows_ns = row_ps.saturating_mul(self.rows) / 1000;
        let reading_ns = self.weights_ns.saturating_sub(rows_ns);
        (reading_ns >= self.row_ns / LEAST_PART && reading_ns > 0).then(|| Reading {
            bits: self.bits,
            bytes_per_second: per_second(self.bytes, reading_ns),
        })
    }
}

/// Of a step, what it takes whatever its layers, and of each layer, beside weights: from steps through few and through many
/// layers that hardly have any.
fn thin(ns: [u64; 2], layers: [u32; 2]) -> (u64, u64) {
    let [few, many] = layers.map(u64::from);
    let layer_ns = ns[1].saturating_sub(ns[0]) / (many - few).max(1);
    (ns[0].saturating_sub(layer_ns * few), layer_ns)
}

/// What a row of weights takes beside its bytes, picoseconds: out of few long rows and many short ones of one format. Where the
/// short ones are no slower, it is nothing.
fn row_ps(long: &Timed, short: &Timed) -> u64 {
    // long.ns = long.bytes / rate + long.rows × row, and the same of short: the rate falls out.
    let [long_ns, short_ns] = [long, short].map(|timed| i128::from(timed.weights_ns));
    let [long_bytes, short_bytes] = [long, short].map(|timed| i128::from(timed.bytes.max(1)));
    let excess = short_ns * long_bytes - long_ns * short_bytes;
    let rows = i128::from(short.rows) * long_bytes - i128::from(long.rows) * short_bytes;
    if excess <= 0 || rows <= 0 {
        return 0;
    }
    let most = long.weights_ns.saturating_mul(1000) / ROWS_MOST_PART / long.rows.max(1);
    u64::try_from(excess * 1000 / rows).unwrap_or(most).min(most)
}

/// Out of what a step took before and after the context grew by positions that take so much arithmetic.
fn attention(flops: u64, before_ns: u64, after_ns: u64) -> Option<u64> {
    let grown_ns = after_ns.saturating_sub(before_ns);
    (grown_ns > before_ns * LEAST_GROWTH_PERCENT / 100).then(|| per_second(flops, grown_ns))
}

/// One time in percent of another.
fn percent(strict_ns: u64, row_ns: u64) -> u32 {
    let percent = strict_ns.saturating_mul(100) / row_ns.max(1);
    let percent = percent.clamp(*STRICT_PERCENT.start(), *STRICT_PERCENT.end());
    u32::try_from(percent).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a step through a shape takes at these rates, and what of it is not weights.
    fn timed(shape: &Shape, bytes_per_second: u64, row_ps: u64, beside_ns: u64) -> Timed {
        let reading_ns = shape.weight_bytes() * 1_000_000_000 / bytes_per_second;
        Timed::of(shape, beside_ns + reading_ns + shape.rows() * row_ps / 1000, beside_ns)
    }

    #[test]
    fn rates_that_gave_the_times_are_found_again() {
        for row_ps in [0, 5_000, 20_000] {
            let thick = timed(&Shape::thick(Weights::Q4), 20_000_000_000, row_ps, 300_000);
            let narrow = timed(&Shape::narrow(By::One), 20_000_000_000, row_ps, 900_000);
            let found = super::row_ps(&thick, &narrow);
            assert!(found.abs_diff(row_ps) <= 2, "{found} ps, not {row_ps}");
            let reading = thick.reading(found).expect("a rate");
            assert!(
                reading.bytes_per_second.abs_diff(20_000_000_000) < 10_000_000,
                "{reading:?}"
            );
        }
    }

    #[test]
    fn the_least_of_several_measurements_counts_figure_by_figure() {
        let first = Times {
            thin: [30, 70],
            narrow: 100,
            late: Some((200, 300)),
            prompt: None,
            samples: 3,
            ..Times::default()
        };
        let second = Times {
            thin: [40, 60],
            narrow: 90,
            late: Some((210, 300)),
            strict: 180,
            prompt: Some(7),
            samples: 2,
            ..Times::default()
        };
        let least = Times {
            thin: [30, 60],
            narrow: 90,
            late: Some((200, 300)),
            strict: 180,
            prompt: Some(7),
            samples: 5,
            ..Times::default()
        };
        assert_eq!(first.least(second), least);
        assert_eq!(second.least(first), least);
        assert_eq!(first.least(Times::default()), first);
        let longer = Times {
            late: Some((900, 301)),
            ..first
        };
        assert_eq!(first.least(longer).late, Some((900, 301)));
    }

    #[test]
    fn what_is_a_little_less_is_no_news() {
        let before = Times {
            thin: [1000, 2000],
            narrow: 1000,
            ..Times::default()
        };
        let with_narrow = |narrow| {
            let mut times = before;
            times.narrow = narrow;
            times
        };
        assert!(!before.improves_on(&before));
        assert!(!with_narrow(980).improves_on(&before));
        assert!(!with_narrow(1500).improves_on(&before));
        assert!(with_narrow(960).improves_on(&before));
        let more = Times { strict: 5, ..before };
        assert!(more.improves_on(&before));
        assert!(!before.improves_on(&more), "what was not measured now stays");
    }

    #[test]
    fn a_device_of_known_rates_is_found_to_have_them() {
        let weights_ns = |shape: &Shape, row_ps: u64| shape.weight_bytes() / 20 + shape.rows() * row_ps / 1000;
        let row_ns = |shape: &Shape| 50_000 + 10_000 * u64::from(shape.layers) + weights_ns(shape, 5_000);
        let narrow = row_ns(&Shape::narrow(By::One));
        let times = Times {
            thin: THIN_LAYERS.map(|layers| 50_000 + 10_000 * u64::from(layers)),
            narrow,
            late: Some((narrow + Shape::narrow(By::One).attention_flops(300) / 10, 300)),
            strict: 2 * narrow,
            thick: Weights::ALL.map(|weights| row_ns(&Shape::thick(weights))),
            prompt: None,
            samples: 9,
        };
        let rates = Rates::of(&times, 1);
        assert_eq!((rates.step_ns, rates.layer_ns), (50_000, 10_000));
        assert!(rates.row_ps.abs_diff(5_000) < 50, "{rates:?}");
        assert_eq!(rates.reading.len(), Weights::ALL.len());
        for reading in &rates.reading {
            assert!(
                reading.bytes_per_second.abs_diff(20_000_000_000) < 200_000_000,
                "{rates:?}"
            );
        }
        assert_eq!(rates.attention_flops_per_second, Some(10_000_000_000));
        assert_eq!((rates.strict_percent, rates.flops_per_second), (Some(200), None));
    }

    #[test]
    fn noise_that_looks_like_slow_rows_leaves_a_rate() {
        let thick = timed(&Shape::thick(Weights::Q4), 20_000_000_000, 0, 0);
        let slow = timed(&Shape::narrow(By::One), 1_000_000_000, 0, 0);
        let found = row_ps(&thick, &slow);
        let rate = thick.reading(found).expect("a rate").bytes_per_second;
        assert!(rate.abs_diff(40_000_000_000) < 100_000_000, "{rate}");
    }

    #[test]
    fn short_rows_that_are_no_slower_cost_nothing() {
        let thick = timed(&Shape::thick(Weights::Q4), 20_000_000_000, 0, 0);
        let narrow = timed(&Shape::narrow(By::One), 30_000_000_000, 0, 0);
        assert_eq!(row_ps(&thick, &narrow), 0);
    }

    #[test]
    fn a_rate_is_told_only_where_reading_can_be_told_apart_from_the_rest_of_a_step() {
        let shape = Shape::thick(Weights::Q4);
        let reading = |beside_ns| Timed::of(&shape, 11_000_000, beside_ns).reading(0);
        let found = reading(1_000_000).expect("a rate");
        assert_eq!(found.bytes_per_second, shape.weight_bytes() * 100);
        for beside_ns in [9_000_000, 11_000_000, 40_000_000] {
            assert_eq!(reading(beside_ns), None);
        }
    }

    #[test]
    fn layers_and_the_step_are_told_apart() {
        assert_eq!(thin([50_000, 210_000], [2, 18]), (30_000, 10_000));
        assert_eq!(thin([50_000, 40_000], [2, 18]), (50_000, 0), "noise is not negative");
    }

    #[test]
    fn attention_that_hardly_shows_is_not_told() {
        assert_eq!(attention(1_000_000, 1_000_000, 1_100_000), Some(10_000_000_000));
        assert_eq!(attention(1_000_000, 1_000_000, 1_020_000), None);
        assert_eq!(attention(1_000_000, 1_000_000, 900_000), None);
    }

    #[test]
    fn a_strict_step_is_never_told_to_be_faster() {
        assert_eq!([percent(210, 100), percent(90, 100), percent(1, 0)], [210, 100, 100]);
    }
}
