//! The receiver of scraped pages.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use steadfast_exposition::Format;

use super::ScrapeError;

/// Takes the pages of one endpoint, piece by piece.
pub(crate) trait PageSink: Send {
    /// Begins a page. A page before it that was not finished is void.
    fn begin(&mut self, format: Format);

    /// Takes the next piece of the page, waiting until there is capacity for it.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the piece is lost and the page must not be finished as complete.
    fn piece(&mut self, piece: Bytes) -> impl Future<Output = ()> + Send;

    /// Returns the bytes of all endpoints' pages that wait to be recorded.
    fn waiting_bytes(&self) -> usize;

    /// Finishes the scrape, waiting until it is recorded.
    fn finish(&mut self, outcome: ScrapeOutcome) -> impl Future<Output = ()> + Send;
}

/// The outcome of one scrape.
#[derive(Debug)]
pub(crate) struct ScrapeOutcome {
    /// The beginning of the scrape in Unix milliseconds, which is the time of its samples.
    pub(crate) time_ms: i64,
    pub(crate) duration: Duration,
    /// The unpacked bytes of the page.
    pub(crate) page: Result<u64, ScrapeError>,
    /// The ticks that passed meanwhile, in Unix milliseconds. Only the first ones are listed.
    pub(crate) skipped: Vec<i64>,
    /// The number of all ticks that passed meanwhile.
    pub(crate) skipped_count: u64,
}
