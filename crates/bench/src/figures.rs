//! Medians and comparisons of whole runs.

use steadfast_bench::figure::Figure;

/// Returns a figure with its baseline; the ratio is the value's to the baseline's.
pub(crate) fn against(value: f64, unit: &'static str, baseline: f64) -> Figure {
    Figure {
        value,
        unit,
        baseline: Some(baseline),
        ratio: Some(value / baseline),
    }
}

/// Returns the median of one quantity of some runs.
pub(crate) fn median<R>(runs: &[R], key: impl Fn(&R) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(key).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
