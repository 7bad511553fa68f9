//! What a parser hands over, and to whom.

use crate::{fault::LineFault, format::Kind, grammar::LabelSpan};

/// Takes what a parser reads.
///
/// An id that [`series`](Self::series) returned is used again for as long as each finished scrape
/// has the line it was given for. The ids of lines that were not in the last finished scrape are
/// forgotten when it finishes; those given in an abandoned scrape, when it is abandoned. A sink may
/// thus forget what the last finished scrape did not have.
pub trait Sink {
    /// Names a series cheaply.
    type Id: Copy;

    /// A series whose line was not in the last finished scrape. It may be known by another way of
    /// writing it, and it may occur twice in one scrape; a sink returns the same id then.
    ///
    /// # Errors
    ///
    /// [`Refused`] if the sink has no room for it or does not want it. The sample is counted, and
    /// the next scrape asks again.
    fn series(&mut self, series: &SeriesRef<'_>) -> Result<Self::Id, Refused>;

    /// The value of a series. The timestamp is the line's own, in milliseconds since 1970.
    fn sample(&mut self, id: Self::Id, value: f64, timestamp_ms: Option<i64>);

    /// A line that was not taken.
    fn rejected(&mut self, fault: &LineFault<'_>);

    /// A family of which type, help or unit became known, changed, or is no longer stated. It is
    /// reported when it changes, not with every scrape, and may come before or after its samples.
    /// What an abandoned scrape said of a new family is void; the next one says it again.
    fn family(&mut self, family: &FamilyRef<'_>);
}

/// Why a sink takes no samples of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum Refused {
    /// It holds as many series as it may.
    #[error("the limit of series is reached")]
    SeriesLimit,
    /// It has no bytes left.
    #[error("the budget of bytes is used up")]
    Budget,
    /// It was told to leave it out.
    #[error("not wanted")]
    Unwanted,
}

/// A series as it stands on a line, resolved.
#[derive(Clone, Copy, Debug)]
pub struct SeriesRef<'a> {
    /// The metric's name.
    pub name: &'a str,
    /// Its labels.
    pub labels: Labels<'a>,
    /// The family it belongs to, as far as the page, or the one before, has told by now.
    pub family: FamilyRef<'a>,
}

/// Labels in the order of their names, without those whose value is empty: for Prometheus an empty
/// label and a missing one are the same.
#[derive(Clone, Copy)]
pub struct Labels<'a> {
    text: &'a str,
    spans: &'a [LabelSpan],
}

impl<'a> Labels<'a> {
    pub(crate) fn new(text: &'a str, spans: &'a [LabelSpan]) -> Self {
        Self { text, spans }
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Names and values in the order of the names, compared as bytes.
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

    /// The value of a label; empty if there is none of the name.
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

/// What is known of a metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FamilyRef<'a> {
    /// Its name. For a sample without a family it is the sample's.
    pub name: &'a str,
    /// Its `TYPE`, if one was stated.
    pub kind: Option<Kind>,
    /// Its `HELP`, resolved, if one was stated.
    pub help: Option<&'a str>,
    /// Its `UNIT`, if one was stated.
    pub unit: Option<&'a str>,
}
