//! The recorder of one record.
//!
//! ```text
//!   scrape -> sources (staged) -- commit --> head -- full --> closed parts -- seal --> segment
//!                   |                          |                    |
//!                   +-- new series --> definitions        evicted, oldest first
//! ```

mod budget;
mod closed_parts;
mod commit;
mod definitions;
mod head;
mod maintenance;
mod open;
mod read_only;
mod recover;
mod scrape;
mod seal;
mod storage;
mod sync;
#[cfg(test)]
mod tests;

use std::{fs::File, io, sync::Arc};

use self::{
    closed_parts::ClosedParts, definitions::Definitions, head::Head, seal::Sealer, storage::Storage,
};
use crate::{
    disk::Disk,
    error::{LimitError, OpenError},
    frame::FileKind,
    labels::{Labels, Meta},
    options::{BUDGET_MIN, Options, SOURCES_MAX},
    part::memory_of,
    reader::Reader,
    snapshot::{NewestScrape, Snapshot},
    source::Sources,
    stats::{Counters, Stats},
};

pub(crate) use self::{
    budget::{Budget, Usage},
    open::{LOCK, lock},
    read_only::read_snapshot,
};
pub use self::{
    recover::OpenReport,
    scrape::{Committed, Scrape, SetOutcome},
    sync::{SyncJob, SyncOutcome},
};

/// The id of a source in its recorder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(u32);

/// The id of a series in its recorder.
///
/// An id is valid as long as the series was in the newest scrape of its source, and that scrape did not
/// fail, or the series was asked for since. An id that has become invalid never denotes another series:
/// see [`SetOutcome::Stale`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeriesId {
    source: u32,
    slot: u32,
    generation: u32,
}

/// A recorder of scrapes. It evicts the oldest data to stay within a budget of bytes.
///
/// A directory has one recorder, which writes, and any number of [`Reader`]s beside it. The recorder has
/// no clock and no thread. Dropping it keeps every committed scrape but does not sync.
///
/// ```
/// use steadfast_recorder::{Labels, Meta, NAME, Options, Recorder, Selector};
///
/// let mut recorder = Recorder::in_memory(Options::default())?;
/// let source = recorder.source("http://localhost:9100/metrics")?;
/// for (time_ms, value) in [(1_000, 0.5), (2_000, 0.75)] {
///     let mut scrape = recorder.scrape(source, time_ms);
///     let load = scrape.series(&Labels::new([(NAME, "load")])?, &Meta::default())?;
///     scrape.set(load, value, None);
///     scrape.commit()?;
/// }
/// for series in recorder.reader().window(&Selector::all().name("load"), 0..=10_000) {
///     assert_eq!(series?.samples.len(), 2);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Recorder {
    options: Options,
    budget: Budget,
    storage: Storage,
    /// Keeps the directory locked.
    _lock: Option<File>,
    sources: Sources,
    definitions: Definitions,
    head: Head,
    closed: ClosedParts,
    sealer: Sealer,
    /// A sync failed, so that the content of files on disk is unknown. The next commit starts a new head
    /// and a new catalog.
    files_in_doubt: bool,
    next_id: u64,
    /// The buffer of the next frame.
    frame: Vec<u8>,
    counters: Counters,
}

/// One source of a commit.
#[derive(Clone, Copy, Debug)]
struct Entry {
    source: u32,
    /// The scrape failed.
    missed: bool,
}

impl Recorder {
    /// Creates a record in memory. The budget covers all of its memory.
    ///
    /// # Errors
    ///
    /// If the budget is below [`BUDGET_MIN`].
    pub fn in_memory(options: Options) -> Result<Self, OpenError> {
        Self::new(options, None, None, 0)
    }

    fn new(
        options: Options,
        disk: Option<Arc<dyn Disk>>,
        lock: Option<File>,
        record: u16,
    ) -> Result<Self, OpenError> {
        if options.budget < BUDGET_MIN {
            return Err(OpenError::Budget {
                budget: options.budget,
                least: BUDGET_MIN,
            });
        }
        Ok(Self {
            budget: Budget::whole(options.budget),
            options,
            storage: Storage::new(disk),
            _lock: lock,
            sources: Sources::default(),
            definitions: Definitions::new(1, record),
            head: Head::new(1, 1, record),
            closed: ClosedParts::default(),
            sealer: Sealer::default(),
            files_in_doubt: false,
            // Catalogs and heads share the sequence of ids. The first of both have 1.
            next_id: 2,
            frame: Vec::new(),
            counters: Counters::default(),
        })
    }

    /// Finds or adds a source.
    ///
    /// # Errors
    ///
    /// If there are [`SOURCES_MAX`] sources.
    pub fn source(&mut self, name: &str) -> Result<SourceId, LimitError> {
        if let Some(at) = self.sources.position(name) {
            return Ok(SourceId(at as u32));
        }
        if self.sources.len() >= SOURCES_MAX {
            return Err(LimitError::Sources);
        }
        let name: Arc<str> = name.into();
        self.definitions.add_source(Arc::clone(&name));
        self.sources.add(name);
        Ok(SourceId(self.sources.len() as u32 - 1))
    }

    /// Finds or adds a series of a source. A changed `meta` becomes visible with the next catalog, after
    /// 64 scrapes at most.
    ///
    /// # Errors
    ///
    /// If the budget cannot hold the definition of another series.
    ///
    /// # Panics
    ///
    /// If `source` is of another recorder.
    pub fn series(
        &mut self,
        source: SourceId,
        labels: &Labels,
        meta: &Meta,
    ) -> Result<SeriesId, LimitError> {
        self.assert_own(source);
        let source = source.0;
        let hash = self.sources.hash(labels.key());
        let (sources, catalog) = (&self.sources[source], self.definitions.catalog());
        let slot = if let Some(slot) = sources.find(hash, labels.key(), catalog) {
            let defined = sources.definition(slot, catalog, |definition| definition.meta);
            self.definitions.update_meta(source, slot, defined, meta);
            slot
        } else {
            if !self.has_room_for_series(labels, meta) {
                self.counters.series_refused += 1;
                return Err(LimitError::Budget);
            }
            let define = |slot| self.definitions.define(source, slot, labels.key(), meta);
            self.sources.add_series(source, hash, define)
        };
        let generation = self.sources[source].generation(slot);
        Ok(SeriesId {
            source,
            slot,
            generation: generation.unwrap_or_default(),
        })
    }

    fn assert_own(&self, source: SourceId) {
        assert!(
            (source.0 as usize) < self.sources.len(),
            "the source is of another recorder"
        );
    }

    /// Sets the value of a series in the next scrape of its source, bit for bit. `time_ms` is the
    /// timestamp of the line in Unix milliseconds, which is stored only if
    /// [`Options::honor_timestamps`](crate::Options::honor_timestamps) is set.
    ///
    /// A page can be staged while it arrives, before the time and the outcome of the scrape are known:
    /// values wait here until a [`Scrape`] of the source is committed, or until they are discarded.
    pub fn stage(&mut self, series: SeriesId, value: f64, time_ms: Option<i64>) -> SetOutcome {
        let Some(source) = self.sources.get_mut(series.source as usize) else {
            return SetOutcome::Stale;
        };
        if source.generation(series.slot) != Some(series.generation) {
            return SetOutcome::Stale;
        }
        let time_ms = time_ms.filter(|_| self.options.honor_timestamps);
        if source.staged.set(series.slot, value.to_bits(), time_ms) {
            SetOutcome::Stored
        } else {
            SetOutcome::Duplicate
        }
    }

    /// Discards the values staged for the next scrape of a source.
    ///
    /// # Panics
    ///
    /// If `source` is of another recorder.
    pub fn discard(&mut self, source: SourceId) {
        self.assert_own(source);
        self.sources[source.0].staged.clear();
    }

    fn staged(&self, source: SourceId) -> Committed {
        let staged = &self.sources[source.0].staged;
        Committed {
            samples: staged.samples(),
            duplicates: staged.duplicates(),
        }
    }

    /// Begins to record a scrape that was made at `time_ms` (Unix milliseconds). It starts with the
    /// values staged so far; see [`Recorder::stage`].
    ///
    /// # Panics
    ///
    /// If `source` is of another recorder.
    pub fn scrape(&mut self, source: SourceId, time_ms: i64) -> Scrape<'_> {
        self.assert_own(source);
        Scrape::new(self, source, time_ms)
    }

    /// Records that a scrape failed at `time_ms` (Unix milliseconds): none of the source's series was
    /// present. Staged values stay for the next scrape.
    ///
    /// # Errors
    ///
    /// See [`Scrape::commit`].
    ///
    /// # Panics
    ///
    /// If `source` is of another recorder.
    pub fn missed(&mut self, source: SourceId, time_ms: i64) -> Result<(), crate::WriteError> {
        self.assert_own(source);
        let entry = Entry {
            source: source.0,
            missed: true,
        };
        self.commit(&[entry], time_ms)
    }

    /// Creates a reader of everything committed so far.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new([self.snapshot()])
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let latest = (0..).zip(self.sources.iter());
        let latest = latest.map(|(source, state)| {
            let (last, newest) = state.newest_scrape();
            NewestScrape {
                source,
                name: Arc::clone(&state.name),
                last,
                newest: Arc::clone(newest),
            }
        });
        // A catalog has all sources of the catalogs before it. Only if the newest head could not be
        // continued, the sources of older parts are not known here.
        let is_known = self.sources.len() > 0 || self.closed.is_empty();
        let names = self.sources.iter().map(|source| Arc::clone(&source.name));
        let current = self.definitions.catalog();
        let mut snapshot = Snapshot {
            sources: is_known.then(|| names.collect()),
            disk: self.storage.disk().cloned(),
            latest: latest.collect(),
            current: Arc::clone(current),
            ..Snapshot::default()
        };
        let parts = self.closed.parts().cloned();
        for part in parts.chain(self.head.to_part()) {
            let id = part.catalog;
            snapshot.push(part, || self.closed.catalog(id, current));
        }
        snapshot
    }

    /// Returns statistics.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let unsealed = self.closed.parts().filter_map(|part| part.rows());
        let unsealed: u64 = unsealed.map(|rows| memory_of(rows)).sum();
        Stats {
            budget: self.budget.limit,
            used: self.used(),
            memory: self.memory() + unsealed + self.head.memory(),
            series: self.sources.count_newest(),
            evicted_parts: self.closed.evicted(),
            counters: self.counters,
        }
    }

    /// Returns true if nothing is recorded.
    pub(crate) fn is_empty(&self) -> bool {
        self.closed.is_empty() && self.head.span().is_none()
    }

    /// Closes the head for good, so that all of the record can be evicted.
    pub(crate) fn retire(&mut self) {
        if self.head.span().is_some() {
            self.close_head();
        }
    }

    /// Removes the files of a record that is empty.
    pub(crate) fn remove_files(&self) -> io::Result<()> {
        let Some(disk) = self.storage.disk() else {
            return Ok(());
        };
        for (name, _) in disk.list()? {
            if FileKind::parse(name.strip_suffix(".tmp").unwrap_or(&name)).is_some() {
                disk.remove(&name)?;
            }
        }
        Ok(())
    }
}
