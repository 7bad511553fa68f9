//! The counters of one scrape.

use crate::{fault::Rejections, sink::Refused};

/// The counters of one scrape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The bytes of the page.
    pub bytes: u64,
    /// The lines of the page.
    pub lines: u64,
    /// The samples passed to the sink.
    pub samples: u64,
    /// The samples whose line was remembered from the scrape before.
    pub remembered: u64,
    /// The samples whose line had a timestamp.
    pub timestamps: u64,
    /// The exemplars, which are checked and dropped.
    pub exemplars: u64,
    /// The rejected lines.
    pub rejected: Rejections,
    /// The samples of series that the sink refused.
    pub refused: Refusals,
    /// The page is `OpenMetrics` and did not end with `# EOF`; part of it may be missing.
    pub eof_missing: bool,
}

/// Numbers of samples that a sink refused, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// The samples refused with [`Refused::SeriesLimit`].
    pub series_limit: u64,
    /// The samples refused with [`Refused::Budget`].
    pub budget: u64,
    /// The samples refused with [`Refused::Unwanted`].
    pub unwanted: u64,
}

impl Refusals {
    /// Returns the number of all refused samples.
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
