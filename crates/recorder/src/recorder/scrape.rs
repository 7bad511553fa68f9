//! One scrape being taken.

use super::{Recorder, SeriesId, SourceId};
use crate::{
    error::{LimitError, WriteError},
    labels::{Labels, Meta},
};

/// What became of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetOutcome {
    /// It is the series' value in this scrape.
    Stored,
    /// The series has a value in this scrape; this one is counted and left out.
    Duplicate,
    /// The id is not good any more, or another source's: ask for the series again.
    Stale,
}

/// What was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Series with a value.
    pub samples: usize,
    /// Values left out because their series had one.
    pub duplicates: u64,
}

/// One scrape being taken. Nothing of it is recorded before [`Scrape::commit`].
#[derive(Debug)]
#[must_use = "a scrape that is not committed is not recorded"]
pub struct Scrape<'a> {
    recorder: &'a mut Recorder,
    source: SourceId,
    time: i64,
    duplicates: u64,
}

impl<'a> Scrape<'a> {
    pub(super) fn new(recorder: &'a mut Recorder, source: SourceId, time: i64) -> Self {
        Self {
            recorder,
            source,
            time,
            duplicates: 0,
        }
    }

    /// [`Recorder::series`] for this scrape's source.
    pub fn series(&mut self, labels: &Labels, meta: &Meta) -> Result<SeriesId, LimitError> {
        self.recorder.series(self.source, labels, meta)
    }

    /// Gives a series its value, bit for bit, and the time its line brought along (Unix,
    /// milliseconds), which is kept only when timestamps are honoured.
    pub fn set(&mut self, series: SeriesId, value: f64, time_ms: Option<i64>) -> SetOutcome {
        let live = &mut self.recorder.lives[self.source.0 as usize];
        if series.source != self.source.0 || live.generation(series.slot) != Some(series.generation)
        {
            return SetOutcome::Stale;
        }
        let (group, bit) = Recorder::slot_group(series.slot);
        if live.seen[group] & bit != 0 {
            self.duplicates += 1;
            return SetOutcome::Duplicate;
        }
        live.seen[group] |= bit;
        live.next[series.slot as usize] = value.to_bits();
        if let Some(time) = time_ms
            && self.recorder.options.honor_timestamps
        {
            live.stamps
                .push((series.slot, time.wrapping_sub(self.time)));
        }
        SetOutcome::Stored
    }

    /// Records the scrape, with one write (and one before it when there are new series). After an
    /// error nothing of it is recorded and the record is as it was; the next may succeed.
    pub fn commit(self) -> Result<Committed, WriteError> {
        self.recorder.counters.duplicates += self.duplicates;
        let samples = self.recorder.write_scrape(self.source.0, self.time)?;
        Ok(Committed {
            samples,
            duplicates: self.duplicates,
        })
    }
}

impl Drop for Scrape<'_> {
    fn drop(&mut self) {
        self.recorder.lives[self.source.0 as usize].abandon();
    }
}

impl Recorder {
    /// Records that a scrape at `time_ms` failed: none of the source's series was there.
    ///
    /// # Panics
    ///
    /// When `source` is another recorder's.
    pub fn missed(&mut self, source: SourceId, time_ms: i64) -> Result<(), WriteError> {
        assert!(
            (source.0 as usize) < self.lives.len(),
            "the source is another recorder's"
        );
        self.write_missed(source.0, time_ms)
    }
}
