//! A scrape that is being recorded.

use super::{Entry, Recorder, SeriesId, SourceId};
use crate::{
    error::{LimitError, WriteError},
    labels::{Labels, Meta},
};

/// The outcome of setting a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetOutcome {
    /// The value is part of the scrape.
    Stored,
    /// The series has a value in the scrape already. This one is counted and dropped.
    Duplicate,
    /// The id is invalid now, or of another source. Get a new one from [`Recorder::series`].
    Stale,
}

/// The number of values in a scrape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Series with a value.
    pub samples: usize,
    /// Values dropped because their series had one.
    pub duplicates: u64,
}

/// A scrape that is being recorded. Nothing is recorded before [`Scrape::commit`]; dropping it
/// discards it.
///
/// A second source can be part of the scrape: what is known about the scrape itself, such as its
/// duration, is then committed together with the values, in one frame. After a crash the record has
/// both or neither.
///
/// ```
/// use steadfast_recorder::{Labels, Meta, NAME, Options, Recorder};
///
/// let mut recorder = Recorder::in_memory(Options::default())?;
/// let source = recorder.source("http://localhost:9100/metrics")?;
/// let health = recorder.source("health:http://localhost:9100/metrics")?;
/// let meta = Meta::default();
///
/// let mut scrape = recorder.scrape(source, 1_700_000_000_000);
/// let load = scrape.series(&Labels::new([(NAME, "load")])?, &meta)?;
/// scrape.set(load, 0.25, None);
/// let samples = scrape.staged().samples;
/// scrape.add_source(health);
/// let count = scrape.series_of(health, &Labels::new([(NAME, "samples")])?, &meta)?;
/// scrape.set(count, samples as f64, None);
/// scrape.commit()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a scrape is recorded by committing it"]
pub struct Scrape<'a> {
    recorder: &'a mut Recorder,
    time: i64,
    source: SourceId,
    /// The scrape failed.
    missed: bool,
    /// Further sources.
    added: Vec<SourceId>,
}

impl<'a> Scrape<'a> {
    pub(super) fn new(recorder: &'a mut Recorder, source: SourceId, time: i64) -> Self {
        Self {
            recorder,
            time,
            source,
            missed: false,
            added: Vec::new(),
        }
    }

    /// Finds or adds a series of the scraped source. See [`Recorder::series`].
    pub fn series(&mut self, labels: &Labels, meta: &Meta) -> Result<SeriesId, LimitError> {
        self.recorder.series(self.source, labels, meta)
    }

    /// Finds or adds a series of any source. See [`Recorder::series`].
    ///
    /// # Panics
    ///
    /// If `source` is of another recorder.
    pub fn series_of(
        &mut self,
        source: SourceId,
        labels: &Labels,
        meta: &Meta,
    ) -> Result<SeriesId, LimitError> {
        self.recorder.series(source, labels, meta)
    }

    /// Sets the value of a series of this scrape's sources. See [`Recorder::stage`].
    pub fn set(&mut self, series: SeriesId, value: f64, time_ms: Option<i64>) -> SetOutcome {
        let source = SourceId(series.source);
        let is_open = if source == self.source {
            !self.missed
        } else {
            self.added.contains(&source)
        };
        if is_open {
            self.recorder.stage(series, value, time_ms)
        } else {
            SetOutcome::Stale
        }
    }

    /// Returns the number of values that the scraped source has in the scrape so far.
    #[must_use]
    pub fn staged(&self) -> Committed {
        self.recorder.staged(self.source)
    }

    /// Marks the scrape as failed. The values of the scraped source are discarded, and none of its
    /// series is present at the time of the scrape. Sources that are added are not affected.
    pub fn fail(&mut self) {
        self.recorder.discard(self.source);
        self.missed = true;
    }

    /// Adds a source to the scrape. Its values are committed with those of the scraped source.
    ///
    /// # Panics
    ///
    /// If `source` is of another recorder.
    pub fn add_source(&mut self, source: SourceId) {
        self.recorder.assert_own(source);
        if source != self.source && !self.added.contains(&source) {
            self.added.push(source);
        }
    }

    /// Records the scrape with one write, after one more write if there are new series. Returns the
    /// number of values of all its sources.
    ///
    /// # Errors
    ///
    /// If the scrape cannot be written or exceeds the budget. Nothing of it is recorded then, and the
    /// next may succeed. Until then, its values are the latest that readers of this recorder get, with
    /// the time of the scrape.
    pub fn commit(self) -> Result<Committed, WriteError> {
        let mut committed = Committed::default();
        let mut entries = Vec::with_capacity(1 + self.added.len());
        for source in self.sources() {
            let staged = self.recorder.staged(source);
            committed.samples += staged.samples;
            committed.duplicates += staged.duplicates;
            entries.push(Entry {
                source: source.0,
                missed: self.missed && source == self.source,
            });
        }
        if let Err(error) = self.recorder.commit(&entries, self.time) {
            // Dropping this scrape discards them, and a full disk must not hide the newest values.
            for entry in entries.iter().filter(|entry| !entry.missed) {
                self.recorder.sources[entry.source].keep_unrecorded(self.time);
            }
            return Err(error);
        }
        Ok(committed)
    }

    fn sources(&self) -> impl Iterator<Item = SourceId> {
        std::iter::once(self.source).chain(self.added.iter().copied())
    }
}

impl Drop for Scrape<'_> {
    fn drop(&mut self) {
        // After a commit nothing is staged any more.
        self.recorder.discard(self.source);
        for source in &self.added {
            self.recorder.discard(*source);
        }
    }
}
