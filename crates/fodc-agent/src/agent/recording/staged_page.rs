//! A page while it is parsed.
//!
//! Series are registered in the record as the parser finds them; samples are staged until the page
//! is complete, because a page without its end is not recorded. A series whose metadata has not
//! come yet stays in [`PendingSeries`] until the end of the page.

use steadfast_exposition::{FamilyRef, LineFault, Refused, SeriesRef, Sink};
use steadfast_recorder::{Labels, LimitError, NAME, Recorder, SeriesId, SourceId};

use super::{
    family_metadata::{FamilyMetadata, meta},
    pending_series::{PageSeries, PendingSeries},
};

/// The state of an endpoint's pages: the current one, and what is kept from one to the next.
#[derive(Debug, Default)]
pub(super) struct StagedPage {
    metadata: FamilyMetadata,
    pending: PendingSeries,
    /// The samples of the current page.
    samples: Vec<Sample>,
    /// The timestamps on its lines, with the index of the sample, in the order of the samples.
    times: Vec<(u32, i64)>,
    /// The series that the page before did not have.
    pub(super) added: u64,
    /// Series were registered before their metadata was complete, for lack of memory.
    registered_early: bool,
    /// The fault of the last rejected line.
    pub(super) last_rejected: Option<String>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    series: PageSeries,
    value: f64,
}

/// The sink of the parser for one endpoint.
pub(super) struct Stager<'a> {
    pub(super) recorder: &'a mut Recorder,
    pub(super) source: SourceId,
    pub(super) staged: &'a mut StagedPage,
    /// Keep the timestamps on lines.
    pub(super) keep_times: bool,
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
        self.clear();
    }

    fn clear(&mut self) {
        // One huge page must not keep its memory reserved for the small ones after it.
        self.samples.shrink_to(2 * self.samples.len());
        self.samples.clear();
        self.times.shrink_to(2 * self.times.len());
        self.times.clear();
        self.added = 0;
        self.registered_early = false;
        self.last_rejected = None;
    }

    /// Returns the number of samples so far.
    pub(super) fn len(&self) -> usize {
        self.samples.len()
    }

    /// Returns each sample's series, value and kept timestamp. The series is `None` if the record
    /// refused it.
    pub(super) fn samples(&self) -> impl Iterator<Item = (Option<SeriesId>, f64, Option<i64>)> {
        let mut times = self.times.iter().peekable();
        let samples = (0_u32..).zip(&self.samples);
        samples.map(move |(index, sample)| {
            let time = times.next_if(|(of, _)| *of == index).map(|(_, time)| *time);
            (self.pending.registered(sample.series), sample.value, time)
        })
    }
}

impl Stager<'_> {
    /// Completes the page: adopts its metadata and registers the pending series. Returns true if
    /// series were registered with metadata that is outdated now.
    pub(super) fn complete(&mut self) -> bool {
        let staged = &mut *self.staged;
        let outdated = staged.metadata.commit(staged.registered_early);
        staged.pending.register(|labels| {
            let meta = staged.metadata.of_sample(labels.name());
            self.recorder.series(self.source, labels, &meta).ok()
        });
        outdated
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
        if let PageSeries::Pending(index) = series {
            self.staged.pending.mark_seen(index);
        }
        if self.keep_times
            && let Some(time) = timestamp_ms
        {
            let index = self.staged.samples.len() as u32;
            self.staged.times.push((index, time));
        }
        self.staged.samples.push(Sample { series, value });
    }

    fn rejected(&mut self, fault: &LineFault<'_>) {
        self.staged.last_rejected = Some(fault.to_string());
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
