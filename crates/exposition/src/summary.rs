//! What one scrape came to.

use crate::{fault::Rejections, sink::Refused};

/// Counts of one scrape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of the page.
    pub bytes: u64,
    /// Lines of the page.
    pub lines: u64,
    /// Samples handed to the sink.
    pub samples: u64,
    /// Of those, the ones whose line was remembered from the scrape before.
    pub remembered: u64,
    /// Of the samples, those whose line had a timestamp of its own.
    pub timestamps: u64,
    /// Exemplars that were read, and dropped.
    pub exemplars: u64,
    /// Lines not taken.
    pub rejected: Rejections,
    /// Samples of series that the sink refused, by its reason.
    pub refused: Refusals,
    /// The page is `OpenMetrics` and did not end with `# EOF`: part of it may be missing.
    pub eof_missing: bool,
}

/// How many samples a sink refused, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// See [`Refused::SeriesLimit`].
    pub series_limit: u64,
    /// See [`Refused::Budget`].
    pub budget: u64,
    /// See [`Refused::Unwanted`].
    pub unwanted: u64,
}

impl Refusals {
    /// Samples refused.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.series_limit + self.budget + self.unwanted
    }

    pub(crate) fn count(&mut self, refused: Refused) {
        *match refused {
            Refused::SeriesLimit => &mut self.series_limit,
            Refused::Budget => &mut self.budget,
            Refused::Unwanted => &mut self.unwanted,
        } += 1;
    }
}
