//! Figures, and how they are shown.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

/// One measured value.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What was measured, in `unit`.
    pub value: f64,
    /// The unit of value and baseline.
    pub unit: &'static str,
    /// What it is compared with, taken in the same run; none if it stands for itself.
    pub baseline: Option<f64>,
    /// How many times better than the baseline; below 1 it is worse. It is the median of the
    /// ratios of pairs, not the ratio of the two values.
    pub ratio: Option<f64>,
}

impl Figure {
    /// A value that stands for itself.
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
pub type Figures = BTreeMap<String, Figure>;

/// One object, figure name to figure.
///
/// # Errors
///
/// If a figure is not a finite number.
pub fn json(figures: &Figures) -> serde_json::Result<String> {
    serde_json::to_string_pretty(figures)
}

/// A line per figure, for people.
#[must_use]
pub fn table(figures: &Figures) -> String {
    let width = figures.keys().map(String::len).max().unwrap_or(0);
    let mut table = String::new();
    for (name, figure) in figures {
        write!(
            table,
            "{name:<width$}  {:>10.3} {:<10}",
            figure.value, figure.unit
        )
        .expect("a string takes what is written");
        if let (Some(baseline), Some(ratio)) = (figure.baseline, figure.ratio) {
            write!(table, "  baseline {baseline:>10.3}  ratio {ratio:.2}")
                .expect("a string takes what is written");
        }
        table.push('\n');
    }
    table
}
