//! The store that responses are read from.

use std::{error::Error, ops::ControlFlow};

use steadfast_exposition::Kind;

/// A store of samples that is read from a thread that may block.
///
/// It hands its series to a [`Visitor`] one by one and collects nothing, so a response about hours
/// needs no more memory than one about seconds. Times are Unix milliseconds.
pub trait SampleStore: Send + Sync + 'static {
    /// Visits the newest sample of every live series, each with its own time.
    ///
    /// # Errors
    ///
    /// When the store cannot be read. What was visited before remains valid.
    fn latest(&self, visitor: &mut dyn Visitor) -> Result<(), StoreError>;

    /// Visits every sample from `from` to `to`, both included. Nothing is visited if `from` is
    /// after `to`.
    ///
    /// # Errors
    ///
    /// As [`SampleStore::latest`].
    fn window(&self, from: i64, to: i64, visitor: &mut dyn Visitor) -> Result<(), StoreError>;
}

/// A receiver of series and their samples.
pub trait Visitor {
    /// Receives a series and decides whether its samples follow in [`Visitor::samples`].
    fn series(&mut self, series: &Series<'_>) -> Visit;

    /// Receives samples of the last series in recorded order: `values[i]` was read at `times[i]`.
    /// A long series may come in several calls. `Break` ends the whole visit.
    fn samples(&mut self, times: &[i64], values: &[f64]) -> ControlFlow<()>;
}

/// The next step of a visit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// The samples of this series.
    Samples,
    /// The next series.
    Skip,
    /// The end of the visit.
    Stop,
}

/// One series of a store.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Series<'a> {
    /// The name of the metric.
    pub name: &'a str,
    /// The labels of the series without its name.
    pub labels: &'a [(&'a str, &'a str)],
    /// The help text, empty if there is none.
    pub help: &'a str,
    /// The type of the metric's family.
    pub kind: Kind,
    /// The source it was scraped from; series of one source share their times.
    pub source: u64,
    /// The container of that source, if known.
    pub container: Option<&'a str>,
}

/// A store that cannot be read. Its source is the store's own error.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the record")]
pub struct StoreError(#[source] Box<dyn Error + Send + Sync>);

impl StoreError {
    /// Creates an error with this cause.
    pub fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }
}
