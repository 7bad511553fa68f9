//! Spans of time.

/// The least and the greatest time of any scrape or sample, in Unix milliseconds.
pub(crate) type Span = (i64, i64);

/// Returns the span that covers all of these.
pub(crate) fn union_of(spans: impl Iterator<Item = Span>) -> Option<Span> {
    spans.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
}
