//! A page while it is parsed.
//!
//! Series are registered in the record as the parser finds them, and their values are staged in it:
//! a page without its end is not recorded. A series whose metadata has not come yet stays in
//! [`PendingSeries`] with its value until the end of the page.

use std::collections::VecDeque;

use steadfast_exposition::{FamilyRef, LineFault, Refused, SeriesRef, Sink};
use steadfast_recorder::{Labels, LimitError, NAME, Recorder, SeriesId, SetOutcome, SourceId};

use super::{
    family_metadata::{FamilyMetadata, meta},
    pending_series::{PageSeries, PendingSample, PendingSeries, Sample},
};
use crate::agent::status::REJECTED_KEPT;

/// The state of an endpoint's pages: the current one, and what is kept from one to the next.
#[derive(Debug, Default)]
pub(super) struct StagedPage {
    metadata: FamilyMetadata,
    pending: PendingSeries,
    /// The samples of the current page, counted also if the record did not take them.
    pub(super) samples: usize,
    /// Samples of series that the record has evicted since they were registered.
    pub(super) stale: u64,
    /// Samples of pending series that were refused.
    pub(super) pending_refused: u64,
    /// Further samples of a pending series.
    pub(super) pending_duplicates: u64,
    /// The series that the page before did not have.
    pub(super) added: u64,
    /// Series were registered before their metadata was complete, for lack of memory.
    registered_early: bool,
    /// The faults of the last rejected lines, the newest last.
    pub(super) rejected: VecDeque<String>,
}

/// The sink of the parser for one endpoint.
pub(super) struct Stager<'a> {
    pub(super) recorder: &'a mut Recorder,
    pub(super) source: SourceId,
    pub(super) staged: &'a mut StagedPage,
}

impl StagedPage {
    /// Drops a page that was not completed.
    pub(super) fn abandon(&mut self) {
        self.pending.abandon();
        self.metadata.abandon();
        self.clear();
    }

    /// Finishes a page that was recorded.
    pub(super) fn finish(&mut self) {
        self.pending.finish();
        self.clear();
    }

    /// Drops everything that refers to the parser's memory, after the parser was reset.
    pub(super) fn forget(&mut self) {
        self.pending.forget();
        self.metadata.on_reset();
        self.clear();
    }

    fn clear(&mut self) {
        self.samples = 0;
        self.stale = 0;
        self.pending_refused = 0;
        self.pending_duplicates = 0;
        self.added = 0;
        self.registered_early = false;
        self.rejected.clear();
    }
}

impl Stager<'_> {
    /// Completes the page: adopts its metadata, registers the pending series and stages their values.
    /// Returns true if series were registered with metadata that is outdated now.
    pub(super) fn complete(&mut self) -> bool {
        let StagedPage {
            metadata, pending, ..
        } = self.staged;
        let outdated = metadata.commit(self.staged.registered_early);
        pending.register(|labels, sample| {
            let meta = metadata.of_sample(labels.name());
            let Ok(series) = self.recorder.series(self.source, labels, &meta) else {
                self.staged.pending_refused += 1;
                return None;
            };
            // The id is a moment old, so that it cannot be stale.
            self.recorder.stage(series, sample.value, sample.time_ms);
            Some(series)
        });
        outdated
    }

    fn stage(&mut self, series: SeriesId, sample: Sample) {
        match self.recorder.stage(series, sample.value, sample.time_ms) {
            SetOutcome::Stored | SetOutcome::Duplicate => {}
            SetOutcome::Stale => self.staged.stale += 1,
        }
    }
}

impl Sink for Stager<'_> {
    type Id = PageSeries;

    fn series(&mut self, series: &SeriesRef<'_>) -> Result<PageSeries, Refused> {
        let name = std::iter::once((NAME, series.name));
        let mut labels =
            Labels::new(name.chain(series.labels.iter())).map_err(|_| Refused::Unwanted)?;
        // The parser calls this only for series that it does not remember from the last page.
        self.staged.added += 1;
        let FamilyRef {
            name, kind, help, ..
        } = series.family;
        let suffix = series.name.strip_prefix(name).unwrap_or_default();
        let mut meta = meta(kind.unwrap_or_default(), help.unwrap_or_default(), suffix);
        if kind.is_none() || help.is_none() {
            labels = match self.staged.pending.add(labels, labels_bytes(series)) {
                Ok(pending) => return Ok(pending),
                Err(labels) => labels,
            };
            self.staged.registered_early = true;
            if kind.is_none() {
                // A page that states its metadata late did so the last time, too.
                meta = self.staged.metadata.of_sample(series.name);
            }
        }
        let registered = self.recorder.series(self.source, &labels, &meta);
        registered
            .map(PageSeries::Registered)
            // The parser counts the refused samples by reason.
            .map_err(|error| match error {
                LimitError::Budget => Refused::Budget,
                _ => Refused::SeriesLimit,
            })
    }

    fn sample(&mut self, series: PageSeries, value: f64, timestamp_ms: Option<i64>) {
        self.staged.samples += 1;
        let sample = Sample {
            value,
            time_ms: timestamp_ms,
        };
        let index = match series {
            PageSeries::Registered(series) => return self.stage(series, sample),
            PageSeries::Pending(index) => index,
        };
        match self.staged.pending.sample(index, sample) {
            PendingSample::Registered(series) => self.stage(series, sample),
            PendingSample::Waiting => {}
            PendingSample::Duplicate => self.staged.pending_duplicates += 1,
            PendingSample::Refused => self.staged.pending_refused += 1,
        }
    }

    fn rejected(&mut self, fault: &LineFault<'_>) {
        let rejected = &mut self.staged.rejected;
        if rejected.len() == REJECTED_KEPT {
            rejected.pop_front();
        }
        rejected.push_back(fault.to_string());
    }

    fn family(&mut self, family: &FamilyRef<'_>) {
        self.staged.metadata.update(family);
    }
}

/// Returns about the bytes that the labels of a series take: each text has a length of 2 bytes, and
/// the whole a header.
fn labels_bytes(series: &SeriesRef<'_>) -> usize {
    let pairs = series.labels.iter();
    let pairs = pairs.map(|(name, value)| name.len() + value.len() + 4);
    pairs.sum::<usize>() + NAME.len() + series.name.len() + 20
}
