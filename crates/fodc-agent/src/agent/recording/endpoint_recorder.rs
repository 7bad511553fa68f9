//! Records the scrapes of one endpoint.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use steadfast_exposition::{Format, Limits, Parser};
use steadfast_recorder::{Recorder, RecorderId, Scrape, SourceId, WriteError};
use tracing::{debug, info, warn};

use super::{
    health::{Health, Totals, refusals},
    pending_series::PageSeries,
    staged_page::{StagedPage, Stager},
    transition_log::{Transition, TransitionLog},
};
use crate::{
    agent::status::{EndpointStatus, LastScrape, REJECTED_KEPT},
    scrape::{ScrapeError, ScrapeOutcome, error_chain},
};

/// Records the scrapes of one endpoint.
#[derive(Debug)]
pub(super) struct EndpointRecorder {
    /// The recorder that holds its pages and their health.
    pub(super) id: RecorderId,
    source: SourceId,
    parser: Parser<PageSeries>,
    staged: StagedPage,
    honor_timestamps: bool,
    /// All series have to be registered again with the next page: metadata has changed, the record
    /// has evicted series, or it may have capacity again.
    reset_parser: bool,
    health: Health,
    transitions: TransitionLog,
    /// The last scrape was stored only in part because the budget was exhausted.
    truncated: bool,
    status: EndpointStatus,
}

/// The scrapes after which pending series that the record refused are registered again. The parser
/// does so for all others with each scrape.
const RETRY_REFUSED_EVERY: u64 = 60;

impl EndpointRecorder {
    pub(super) fn new(
        url: String,
        id: RecorderId,
        (source, health): (SourceId, SourceId),
        limits: Limits,
        honor_timestamps: bool,
    ) -> Self {
        Self {
            id,
            source,
            parser: Parser::new(limits),
            staged: StagedPage::default(),
            honor_timestamps,
            reset_parser: false,
            health: Health::new(health),
            transitions: TransitionLog::default(),
            truncated: false,
            status: EndpointStatus {
                url,
                ..EndpointStatus::default()
            },
        }
    }

    pub(super) fn status(&self) -> &EndpointStatus {
        &self.status
    }

    /// Returns the samples of the current page so far.
    pub(super) fn staged_samples(&self) -> usize {
        self.staged.samples
    }

    /// Begins a page. One before it that was not finished is dropped.
    pub(super) fn begin(&mut self, recorder: &mut Recorder, format: Format) {
        self.parser.begin(format);
        self.staged.abandon();
        recorder.discard(self.source);
    }

    /// Parses the next piece of the page.
    pub(super) fn piece(&mut self, recorder: &mut Recorder, piece: &Bytes) {
        let (parser, mut stager) = self.stager(recorder);
        parser.push(piece, &mut stager);
    }

    /// Records a scrape, successful or not, and updates the status.
    pub(super) fn finish(
        &mut self,
        recorder: &mut Recorder,
        outcome: ScrapeOutcome,
    ) -> Result<(), Arc<WriteError>> {
        let ScrapeOutcome {
            time_ms, duration, ..
        } = outcome;
        // All of them, also those that are not listed with their time.
        self.status.ticks_skipped += outcome.skipped_count;
        // The skipped ticks come after the beginning of the scrape, but are recorded before it: the
        // newest entry of the record has to be the newest state of the endpoint.
        let skipped = (outcome.skipped.into_iter())
            .try_for_each(|tick_ms| recorder.missed(self.source, tick_ms));
        let complete = outcome.page.is_ok();
        let mut page = match outcome.page {
            Ok(bytes) => self.complete_page(recorder, bytes),
            Err(error) => {
                self.parser.abandon();
                Err(error)
            }
        };
        let mut scrape = recorder.scrape(self.source, time_ms);
        match &mut page {
            Ok(totals) => self.count_samples(&scrape, totals),
            Err(_) => scrape.fail(),
        }
        self.health.add(&mut scrape, duration, page.as_ref());
        let written = scrape.commit().map(|_| ()).map_err(Arc::new);
        // Before a failed write makes it a miss: `/metrics` shows what the endpoint responded.
        let is_scraped = page.is_ok();
        if let (true, Err(error)) = (is_scraped, &written) {
            page = Err(ScrapeError::NotRecorded(
                Arc::clone(error) as Arc<dyn Error + Send + Sync>
            ));
            let mut scrape = recorder.scrape(self.source, time_ms);
            scrape.fail();
            self.health.add(&mut scrape, duration, page.as_ref());
            // A miss is small: it may fit where the page did not.
            scrape.commit().ok();
        }
        self.update_status((time_ms, duration, is_scraped), page.as_ref());
        if std::mem::take(&mut self.reset_parser) {
            // Not earlier: the ids of this page were still needed above.
            self.parser.forget();
            self.staged.forget();
        } else if complete {
            self.staged.finish();
        } else {
            self.staged.abandon();
        }
        skipped.map_err(Arc::new).and(written)
    }

    fn stager<'a>(
        &'a mut self,
        recorder: &'a mut Recorder,
    ) -> (&'a mut Parser<PageSeries>, Stager<'a>) {
        let stager = Stager {
            recorder,
            source: self.source,
            staged: &mut self.staged,
        };
        (&mut self.parser, stager)
    }

    /// Parses the end of the page and checks that it is one.
    fn complete_page(
        &mut self,
        recorder: &mut Recorder,
        bytes: u64,
    ) -> Result<Totals, ScrapeError> {
        let (parser, mut stager) = self.stager(recorder);
        let summary = parser.finish(&mut stager);
        self.reset_parser = stager.complete();
        if summary.eof_missing {
            return Err(ScrapeError::EofMissing);
        }
        let found = summary.samples + summary.refused.total();
        // An empty page is a page; one of which every line is rejected is not.
        if found == 0 && summary.rejected.total() > 0 {
            return Err(ScrapeError::NotMetrics(summary.lines));
        }
        Ok(Totals {
            bytes,
            summary,
            added: self.staged.added,
            ..Totals::default()
        })
    }

    /// Completes the totals of a page with the outcome of its samples.
    fn count_samples(&mut self, scrape: &Scrape<'_>, totals: &mut Totals) {
        let recorded = scrape.staged();
        totals.recorded = recorded.samples as u64;
        totals.duplicates = recorded.duplicates + self.staged.pending_duplicates;
        totals.stale = self.staged.stale;
        totals.pending_refused = self.staged.pending_refused;
        // The parser remembers the ids of evicted series and would use them for ever.
        self.reset_parser |= totals.stale > 0;
        self.reset_parser |=
            totals.pending_refused > 0 && self.status.scrapes.is_multiple_of(RETRY_REFUSED_EVERY);
    }

    fn update_status(
        &mut self,
        (time_ms, duration, is_scraped): (i64, Duration, bool),
        page: Result<&Totals, &ScrapeError>,
    ) {
        self.log_transition(Instant::now(), page);
        let status = &mut self.status;
        status.scrapes += 1;
        status.last = Some(LastScrape {
            time_ms,
            duration,
            missed: page.err().map(|error| error_chain(error)),
            is_scraped,
        });
        match page {
            Ok(totals) => {
                status.samples += totals.recorded;
                let rejected = totals.summary.rejected.iter();
                let rejected = rejected.map(|(reason, count)| (reason.word(), count));
                add_by_reason(&mut status.lines_rejected, rejected);
                add_by_reason(&mut status.samples_refused, refusals(totals));
                if !self.honor_timestamps {
                    status.timestamps_ignored += totals.summary.timestamps;
                }
            }
            Err(error) => *status.missed.entry(error.reason()).or_default() += 1,
        }
        for rejected in self.staged.rejected.drain(..) {
            if status.newest_rejected.contains(&rejected) {
                continue;
            }
            // A page states the same line with every scrape, and it is told once.
            debug!(url = status.url, line = rejected, "line is rejected");
            if status.newest_rejected.len() == REJECTED_KEPT {
                status.newest_rejected.pop_front();
            }
            status.last_rejected = Some(rejected.clone());
            status.newest_rejected.push_back(rejected);
        }
    }

    /// Logs that the endpoint is up or down, or exceeds the budget, once per change; and not every change
    /// of an endpoint that flaps.
    fn log_transition(&mut self, now: Instant, page: Result<&Totals, &ScrapeError>) {
        let url = &self.status.url;
        let transition = self.transitions.on_scrape(now, page.is_ok());
        match (transition, page) {
            (None, _) => {}
            (Some(Transition { is_first: true, .. }), Ok(totals)) => {
                info!(%url, samples = totals.recorded, "endpoint is scraped");
            }
            // The loss was logged as a warning, so its end is too.
            (Some(Transition { unlogged, .. }), Ok(totals)) => {
                warn!(%url, samples = totals.recorded, unlogged, "endpoint is scraped again");
            }
            (Some(Transition { unlogged, .. }), Err(error)) => {
                warn!(%url, error = error_chain(error), unlogged, "endpoint cannot be scraped");
            }
        }
        if let Ok(totals) = page {
            let samples = totals.over_budget();
            let before = std::mem::replace(&mut self.truncated, samples > 0);
            if samples > 0 && !before {
                warn!(%url, samples, "budget of the record is too small for all series of the endpoint");
            }
        }
    }
}

fn add_by_reason(
    totals: &mut BTreeMap<&'static str, u64>,
    counts: impl IntoIterator<Item = (&'static str, u64)>,
) {
    for (reason, count) in counts {
        if count > 0 {
            *totals.entry(reason).or_default() += count;
        }
    }
}
