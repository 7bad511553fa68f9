//! Where answers come from.

use std::ops::ControlFlow;

use steadfast_wire::fodc::MetricType;

/// A record that can be asked, from a thread that may block.
///
/// It goes through its series one by one and tells a [`Visitor`]; nothing is collected, so that an
/// answer about hours needs no more memory than one about seconds. Times are Unix milliseconds.
pub trait Responder: Send + Sync + 'static {
    /// Tells the newest sample of every series that is alive, each with its own time.
    ///
    /// # Errors
    ///
    /// When the record can not be read. What was told before stays true.
    fn latest(&self, visitor: &mut dyn Visitor) -> Result<(), Unreadable>;

    /// Tells every sample from `from` to `to`, both included. Reversed ends tell nothing.
    ///
    /// # Errors
    ///
    /// As [`Responder::latest`].
    fn window(&self, from: i64, to: i64, visitor: &mut dyn Visitor) -> Result<(), Unreadable>;
}

/// Is told of series and their samples.
pub trait Visitor {
    /// A series; its samples follow in [`Visitor::samples`] if it is wanted.
    fn series(&mut self, series: &Series<'_>) -> Wanted;

    /// Samples of the series told last, in the order in which they were recorded: `values[i]` was read at
    /// `times[i]`. A long series may be told in several pieces. Breaking ends the whole telling.
    fn samples(&mut self, times: &[i64], values: &[f64]) -> ControlFlow<()>;
}

/// What a visitor makes of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Its samples are to follow.
    Yes,
    /// The next series is to follow.
    No,
    /// Nothing is to follow.
    Stop,
}

/// One series of a record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Series<'a> {
    /// Name of the metric.
    pub name: &'a str,
    /// Its own labels, without its name.
    pub labels: &'a [(&'a str, &'a str)],
    /// Help text, empty if there is none.
    pub help: &'a str,
    /// Type of the metric's family.
    pub kind: MetricType,
    /// Which source it was scraped from: series of one source share their times.
    pub source: u64,
    /// The container of that source, if it is known.
    pub container: Option<&'a str>,
}

/// The record could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record can not be read: {0}")]
pub struct Unreadable(pub String);
