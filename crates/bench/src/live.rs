//! Live sets and windows: the cost of a change for each view that it touches, and the rate of a snapshot.

mod snapshot;
mod views;

use anyhow::Result;
use steadfast_bench::{figure::Figures, measure::load_average};

/// Measures both. A quick run has fewer views and documents.
pub(crate) fn run(quick: bool) -> Result<Figures> {
    let mut figures = Figures::new();
    views::measure(if quick { 10_000 } else { 100_000 }, &mut figures)?;
    snapshot::measure(if quick { 100_000 } else { 1_000_000 }, &mut figures)?;
    figures.put("live_load_average", "tasks", load_average()?);
    Ok(figures)
}
