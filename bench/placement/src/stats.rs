//! Many numbers as few.

/// The value that this share of all does not exceed; NaN of nothing.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

pub fn geometric_mean(values: &[f64]) -> f64 {
    mean(&values.iter().map(|value| value.ln()).collect::<Vec<f64>>()).exp()
}

pub fn largest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NAN, f64::max)
}

/// Of all, how many are below a limit, in percent.
pub fn percent_below(values: &[f64], limit: f64) -> f64 {
    let below = values.iter().filter(|value| **value < limit).count();
    100.0 * below as f64 / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::{geometric_mean, largest, percent_below, percentile};

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(percentile(&values, 0.5), 2.0);
        assert_eq!(percentile(&values, 0.99), 4.0);
        assert_eq!(percentile(&values, 0.0), 1.0);
        assert!(percentile(&[], 0.5).is_nan());
    }

    #[test]
    fn a_geometric_mean_is_that_of_ratios() {
        assert!((geometric_mean(&[0.5, 2.0]) - 1.0).abs() < 1e-12);
        assert_eq!(largest(&[1.0, 3.0]), 3.0);
        assert_eq!(percent_below(&[1.0, 2.0, 3.0, 4.0], 3.0), 50.0);
    }
}
