//! One endpoint, where its pages are read and recorded.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use steadfast_exposition::{Format, Limits, Parser};
use steadfast_recorder::{Recorder, RecorderId, SetOutcome, SourceId, WriteError};
use tracing::{info, warn};

use super::{
    health::{Health, Report, Totals, refusals},
    late::PageSeries,
    page::{Collected, Page},
};
use crate::{
    agent::board::{EndpointState, LastReading},
    scrape::{Miss, Reading},
};

/// What reads the pages of one endpoint into the record.
#[derive(Debug)]
pub(super) struct Desk {
    /// Whose turn it is when a page of the endpoint is read.
    pub(super) member: RecorderId,
    source: SourceId,
    parser: Parser<PageSeries>,
    collected: Collected,
    honor_timestamps: bool,
    /// All series are to be named to the record anew with the next page: something else is said of
    /// a family than when they were, or the record has taken ids back, or may have room again.
    names_anew: bool,
    health: Health,
    /// Whether the last reading was one; unknown before the first.
    up: Option<bool>,
    /// Whether the record had no room for all of the last page.
    short_of_room: bool,
    state: EndpointState,
}

/// Readings after which late series that were refused are named again. Others are with each reading.
const ASKED_AGAIN: u64 = 60;

impl Desk {
    pub(super) fn new(
        url: String,
        member: RecorderId,
        (source, health): (SourceId, SourceId),
        limits: Limits,
        honor_timestamps: bool,
    ) -> Self {
        Self {
            member,
            source,
            parser: Parser::new(limits),
            collected: Collected::default(),
            honor_timestamps,
            names_anew: false,
            health: Health::new(health),
            up: None,
            short_of_room: false,
            state: EndpointState {
                url,
                ..EndpointState::default()
            },
        }
    }

    /// What is known of the endpoint.
    pub(super) fn state(&self) -> &EndpointState {
        &self.state
    }

    /// Samples of the page that is being read, so far.
    pub(super) fn samples(&self) -> usize {
        self.collected.samples().count()
    }

    pub(super) fn begin(&mut self, format: Format) {
        self.parser.begin(format);
        self.collected.abandon();
    }

    pub(super) fn piece(&mut self, recorder: &mut Recorder, piece: &Bytes) {
        let mut page = Page {
            recorder,
            source: self.source,
            collected: &mut self.collected,
            keep_times: self.honor_timestamps,
        };
        self.parser.push(piece, &mut page);
    }

    /// Records the reading, whatever became of it, and adds it to what is known of the endpoint.
    pub(super) fn end(
        &mut self,
        recorder: &mut Recorder,
        reading: Reading,
    ) -> Result<(), WriteError> {
        let Reading {
            time_ms,
            duration,
            page,
            skipped,
            skipped_count,
        } = reading;
        self.state.ticks_skipped += skipped_count;
        // Before the reading, although they came after it began: what it shows is the newest that is
        // known of the endpoint.
        let missed = skipped.into_iter();
        let skipped = missed.map(|tick_ms| recorder.missed(self.source, tick_ms));
        let skipped = skipped.collect::<Result<(), _>>();
        let whole = page.is_ok();
        let page = match page {
            Ok(bytes) => self.finish(recorder, bytes),
            Err(miss) => {
                self.parser.abandon();
                Err(miss)
            }
        };
        let (written, page) = match page {
            Ok(mut totals) => {
                let written = self.record(recorder, time_ms, &mut totals);
                (written, Ok(totals))
            }
            Err(miss) => (recorder.missed(self.source, time_ms), Err(miss)),
        };
        let report = Report {
            duration,
            page: page.as_ref(),
        };
        let told = self.tell(recorder, time_ms, &report);
        self.note(time_ms, duration, page.as_ref());
        if std::mem::take(&mut self.names_anew) {
            self.parser.forget();
            self.collected.forget();
        } else if whole {
            self.collected.finish();
        } else {
            self.collected.abandon();
        }
        skipped.and(written).and(told)
    }

    fn finish(&mut self, recorder: &mut Recorder, bytes: u64) -> Result<Totals, Miss> {
        let mut page = Page {
            recorder,
            source: self.source,
            collected: &mut self.collected,
            keep_times: self.honor_timestamps,
        };
        let summary = self.parser.finish(&mut page);
        self.names_anew = page.settle();
        let found = summary.samples + summary.refused.total();
        if summary.eof_missing {
            return Err(Miss::EofMissing);
        }
        if found == 0 && summary.rejected.total() > 0 {
            return Err(Miss::NotMetrics(summary.lines));
        }
        Ok(Totals {
            bytes,
            summary,
            added: self.collected.added,
            ..Totals::default()
        })
    }

    fn record(
        &mut self,
        recorder: &mut Recorder,
        time_ms: i64,
        totals: &mut Totals,
    ) -> Result<(), WriteError> {
        let mut scrape = recorder.scrape(self.source, time_ms);
        for (series, value, own) in self.collected.samples() {
            match series.map(|series| scrape.set(series, value, own)) {
                Some(SetOutcome::Stored | SetOutcome::Duplicate) => {}
                Some(SetOutcome::Stale) => totals.stale += 1,
                None => totals.no_room += 1,
            }
        }
        let committed = scrape.commit()?;
        totals.recorded = committed.samples as u64;
        totals.duplicates = committed.duplicates;
        self.names_anew |= totals.stale > 0;
        self.names_anew |= totals.no_room > 0 && self.state.scrapes.is_multiple_of(ASKED_AGAIN);
        Ok(())
    }

    fn tell(
        &mut self,
        recorder: &mut Recorder,
        time_ms: i64,
        report: &Report<'_>,
    ) -> Result<(), WriteError> {
        let values = self.health.values(recorder, report);
        let mut scrape = recorder.scrape(self.health.source(), time_ms);
        for (series, value) in values {
            scrape.set(series, value, None);
        }
        scrape.commit().map(|_| ())
    }

    fn note(&mut self, time_ms: i64, duration: Duration, page: Result<&Totals, &Miss>) {
        let state = &mut self.state;
        let up = self.up.replace(page.is_ok());
        match page {
            Ok(_) if up == Some(true) => {}
            // Who was told of the loss is told of its end.
            Ok(totals) if up == Some(false) => {
                warn!(url = %state.url, samples = totals.recorded, "endpoint is read again");
            }
            Ok(totals) => info!(url = %state.url, samples = totals.recorded, "endpoint is read"),
            Err(_) if up == Some(false) => {}
            Err(miss) => warn!(url = %state.url, %miss, "endpoint is not read"),
        }
        state.scrapes += 1;
        state.last = Some(LastReading {
            time_ms,
            duration,
            missed: page.err().map(ToString::to_string),
        });
        match page {
            Ok(totals) => {
                state.samples += totals.recorded;
                let rejected = totals.summary.rejected.iter();
                add(
                    &mut state.lines_rejected,
                    rejected.map(|(reason, count)| (reason.word(), count)),
                );
                let without_room = totals.without_room();
                let before = std::mem::replace(&mut self.short_of_room, without_room > 0);
                if without_room > 0 && !before {
                    warn!(
                        url = %state.url,
                        samples = without_room,
                        "the budget of the record has no room for all series of the endpoint"
                    );
                }
                add(&mut state.samples_refused, refusals(totals).into_iter());
                if !self.honor_timestamps {
                    state.timestamps_ignored += totals.summary.timestamps;
                }
            }
            Err(miss) => *state.missed.entry(miss.word()).or_default() += 1,
        }
        if let Some(rejected) = self.collected.last_rejected.take() {
            state.last_rejected = Some(rejected);
        }
    }
}

fn add(
    totals: &mut BTreeMap<&'static str, u64>,
    counts: impl Iterator<Item = (&'static str, u64)>,
) {
    for (reason, count) in counts {
        if count > 0 {
            *totals.entry(reason).or_default() += count;
        }
    }
}
