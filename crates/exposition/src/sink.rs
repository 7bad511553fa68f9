//! The receiver of parsed pages.

use crate::{fault::LineFault, format::Kind, span::LabelSpan};

/// Receives the samples, families and faults of a page.
///
/// The parser uses an id that [`series`](Self::series) returned for as long as each finished scrape
/// contains the line that the id was assigned to. When a scrape finishes, the ids of lines that it
/// did not contain are forgotten; when a scrape is abandoned, the ids that it introduced are. A sink
/// may therefore release every series that the last finished scrape did not contain.
///
/// The crate's front page has an example.
pub trait Sink {
    /// The sink's own identifier of a series.
    type Id: Copy;

    /// Returns the id of a series whose line was not in the last finished scrape.
    ///
    /// The same series may be written in another way, and may occur twice in one scrape; the sink
    /// then returns the same id.
    ///
    /// # Errors
    ///
    /// [`Refused`] if the sink does not store the series. The sample is counted, and the next scrape
    /// asks again.
    fn series(&mut self, series: &SeriesRef<'_>) -> Result<Self::Id, Refused>;

    /// Receives the value of a series. The timestamp is the one on the line, in milliseconds since
    /// 1970.
    fn sample(&mut self, id: Self::Id, value: f64, timestamp_ms: Option<i64>);

    /// Receives the fault of a line that was rejected.
    fn rejected(&mut self, fault: &LineFault<'_>);

    /// Receives a family whose type, help or unit was stated for the first time, has changed, or is
    /// no longer stated.
    ///
    /// A family is reported when it changes, not with every scrape, before or after its samples. What
    /// an abandoned scrape stated about a new family is void; the next scrape states it again.
    fn family(&mut self, family: &FamilyRef<'_>);
}

/// A sink's reason for not storing a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum Refused {
    /// The sink holds the maximum number of series.
    #[error("the limit of series is reached")]
    SeriesLimit,
    /// The sink's memory budget is exhausted.
    #[error("the memory budget is exhausted")]
    Budget,
    /// The sink is configured to drop the series.
    #[error("the series is configured to be dropped")]
    Unwanted,
}

/// A series of a line, with escapes resolved.
#[derive(Clone, Copy, Debug)]
pub struct SeriesRef<'a> {
    /// The metric's name.
    pub name: &'a str,
    /// The labels without the metric's name.
    pub labels: Labels<'a>,
    /// The family of the series, as far as this page up to here, or the page before, states it.
    pub family: FamilyRef<'a>,
}

/// Labels sorted by name, without empty ones: Prometheus treats an empty label as a missing one.
#[derive(Clone, Copy)]
pub struct Labels<'a> {
    text: &'a str,
    spans: &'a [LabelSpan],
}

impl<'a> Labels<'a> {
    pub(crate) fn new(text: &'a str, spans: &'a [LabelSpan]) -> Self {
        Self { text, spans }
    }

    /// Returns the number of labels.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Returns true if there are no labels.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Returns names and values, sorted by the bytes of the names.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&'a str, &'a str)> + use<'a> {
        let text = self.text;
        self.spans.iter().map(move |span| {
            (
                &text[span.name.start..span.name.end],
                &text[span.value.start..span.value.end],
            )
        })
    }

    /// Returns the value of a label; empty if there is no such label.
    #[must_use]
    pub fn value(&self, name: &str) -> &'a str {
        self.iter()
            .find(|(label, _)| *label == name)
            .map_or("", |(_, value)| value)
    }
}

impl std::fmt::Debug for Labels<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// A metric family and what is stated about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FamilyRef<'a> {
    /// The name. For a sample without a family, the sample's name.
    pub name: &'a str,
    /// The `TYPE`, if one was stated.
    pub kind: Option<Kind>,
    /// The `HELP` with escapes resolved, if one was stated.
    pub help: Option<&'a str>,
    /// The `UNIT`, if one was stated.
    pub unit: Option<&'a str>,
}
