//! Figures and their output.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

/// One measured value.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// The measured value, in `unit`.
    pub value: f64,
    /// The unit of the value and the baseline.
    pub unit: &'static str,
    /// The value that it is compared with, from the same run, if there is one.
    pub baseline: Option<f64>,
    /// The factor by which it is better than the baseline; below 1 it is worse. Of what was measured in
    /// pairs it is the median of their ratios, not the ratio of the two values.
    pub ratio: Option<f64>,
}

impl Figure {
    /// Creates a figure without a baseline.
    #[must_use]
    pub fn alone(value: f64, unit: &'static str) -> Self {
        Self {
            value,
            unit,
            baseline: None,
            ratio: None,
        }
    }
}

/// Figures by name.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Figures(BTreeMap<String, Figure>);

impl Figures {
    /// Creates an empty collection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a figure.
    pub fn insert(&mut self, name: String, figure: Figure) {
        self.0.insert(name, figure);
    }

    /// Adds a figure without a baseline.
    pub fn put(&mut self, name: impl Into<String>, unit: &'static str, value: f64) {
        self.insert(name.into(), Figure::alone(value, unit));
    }

    /// Adds a figure with its baseline and the ratio of the two.
    pub fn put_against(
        &mut self,
        name: impl Into<String>,
        unit: &'static str,
        value: f64,
        (baseline, ratio): (f64, f64),
    ) {
        let (baseline, ratio) = (Some(baseline), Some(ratio));
        let figure = Figure {
            value,
            unit,
            baseline,
            ratio,
        };
        self.insert(name.into(), figure);
    }

    /// Adds a figure of which less is better, with its baseline, which may be a goal.
    pub fn put_less(
        &mut self,
        name: impl Into<String>,
        unit: &'static str,
        value: f64,
        baseline: f64,
    ) {
        self.put_against(name, unit, value, (baseline, baseline / value.max(1e-9)));
    }
}

/// Returns one JSON object from names to figures.
///
/// # Errors
///
/// If a figure is not a finite number.
pub fn json(figures: &Figures) -> serde_json::Result<String> {
    serde_json::to_string_pretty(figures)
}

/// Returns a table with a line per figure.
#[must_use]
pub fn table(figures: &Figures) -> String {
    let width = figures.0.keys().map(String::len).max().unwrap_or(0);
    let mut table = String::new();
    for (name, figure) in &figures.0 {
        write!(
            table,
            "{name:<width$}  {:>10.3} {:<10}",
            figure.value, figure.unit
        )
        .expect("writing to a string cannot fail");
        if let (Some(baseline), Some(ratio)) = (figure.baseline, figure.ratio) {
            write!(table, "  baseline {baseline:>10.3}  ratio {ratio:.2}")
                .expect("writing to a string cannot fail");
        }
        table.push('\n');
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratio_above_one_is_better_than_the_baseline() {
        let mut figures = Figures::new();
        figures.put_less("half the time", "ns", 50.0, 100.0);
        figures.put_less("twice the memory", "bytes", 200.0, 100.0);
        let ratio = |name: &str| figures.0[name].ratio;
        assert_eq!(ratio("half the time"), Some(2.0));
        assert_eq!(ratio("twice the memory"), Some(0.5));
    }
}
