//! The recorder: takes scrapes, keeps them within its budget, and hands out readers.

mod found;
mod open;
mod read_only;
mod room;
mod scrape;
mod seal;
mod shared;
mod sync;
#[cfg(test)]
mod tests;
mod write;

use std::{collections::BTreeMap, fs::File, sync::Arc, time::Instant};

use crate::{
    catalog::{Catalog, Definition, MetaIndex, bounded_meta},
    disk::Disk,
    error::{LimitError, OpenError},
    frame::{FileKind, Log},
    labels::{Labels, Meta},
    live::{KeyHasher, Live},
    options::{BUDGET_MIN, Grant, Options, SOURCES_MAX},
    part::{CatalogForm, Form, Part, Tracks, span_of},
    reader::{LatestOf, Reader, Snapshot},
    rows::GROUP,
    shelf::Shelf,
    stats::{Counters, Stats},
};

pub(crate) use self::{
    found::cut,
    open::{LOCK, lock},
    read_only::open_read_only_at,
    shared::Claim,
    write::{MISSED, NAMES, SCRAPE},
};
pub use self::{
    open::OpenReport,
    scrape::{Committed, Scrape, SetOutcome},
    seal::{SealJob, SealOutcome},
    sync::{SyncJob, SyncOutcome},
};

/// Most series whose changed meta is remembered until the next catalog; others are told again then.
const META_CHANGES_MAX: usize = 1 << 14;

/// One source of a recorder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(u32);

/// One series of a recorder.
///
/// It is good as long as the series was in its source's newest scrape, and that was recorded and not
/// missed, or the series was asked for since. Later it may be taken back; it never comes to mean another series
/// ([`SetOutcome::Stale`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeriesId {
    source: u32,
    slot: u32,
    generation: u32,
}

/// Takes scrapes and keeps them, the oldest leaving first, within a budget of bytes.
///
/// One per directory; it writes, [`Reader`]s read beside it. It has no clock, no thread and no
/// randomness that can be seen. Dropping it loses nothing that was committed, but syncs nothing.
#[derive(Debug)]
pub struct Recorder {
    options: Options,
    grant: Grant,
    disk: Option<Arc<dyn Disk>>,
    /// Held as long as the recorder is.
    _lock: Option<File>,
    hasher: KeyHasher,
    lives: Vec<Live>,
    /// Series that are alive, as of the end of the last commit.
    alive: usize,
    /// Series defined since.
    defined: usize,
    catalog: Arc<Catalog>,
    catalog_log: Log,
    metas: MetaIndex,
    /// Series, by source and slot, of which something else is said than their definition has. The next
    /// catalog has it right.
    meta_changes: BTreeMap<(u32, u32), Arc<Meta>>,
    head: Log,
    /// Blocks of the catalog that the head has said it needs.
    head_names: u64,
    tracks: Tracks,
    /// What was written is in doubt: the next scrape begins a new head and a new catalog.
    renew: bool,
    next_id: u64,
    shelf: Shelf,
    sealing: Option<seal::Sealing>,
    /// A segment that another thread is making.
    sealing_elsewhere: Option<seal::Elsewhere>,
    /// Commits before sealing is tried again after an error.
    seal_pause: u32,
    last_sync: Option<Instant>,
    frame: Vec<u8>,
    counters: Counters,
}

impl Recorder {
    /// A record in memory. The budget covers all of it.
    pub fn in_memory(options: Options) -> Result<Self, OpenError> {
        Self::new(options, None, None)
    }

    fn new(
        options: Options,
        disk: Option<Arc<dyn Disk>>,
        lock: Option<File>,
    ) -> Result<Self, OpenError> {
        if options.budget < BUDGET_MIN {
            return Err(OpenError::Budget {
                budget: options.budget,
                least: BUDGET_MIN,
            });
        }
        Ok(Self {
            grant: Grant::whole(options.budget),
            options,
            disk,
            _lock: lock,
            hasher: KeyHasher::default(),
            lives: Vec::new(),
            alive: 0,
            defined: 0,
            catalog: Arc::new(Catalog::new(1)),
            catalog_log: Log::new(FileKind::Catalog, 1, 1),
            metas: MetaIndex::default(),
            meta_changes: BTreeMap::new(),
            head: Log::new(FileKind::Head, 1, 1),
            head_names: 0,
            tracks: Vec::new(),
            renew: false,
            next_id: 2,
            shelf: Shelf::default(),
            sealing: None,
            sealing_elsewhere: None,
            seal_pause: 0,
            last_sync: None,
            frame: Vec::new(),
            counters: Counters::default(),
        })
    }

    /// Finds a source by its name, or adds it.
    pub fn source(&mut self, name: &str) -> Result<SourceId, LimitError> {
        if let Some(at) = self.lives.iter().position(|live| &*live.name == name) {
            return Ok(SourceId(at as u32));
        }
        if self.lives.len() >= SOURCES_MAX {
            return Err(LimitError::Sources);
        }
        let name: Arc<str> = name.into();
        Arc::make_mut(&mut self.catalog).add_source(Arc::clone(&name));
        self.lives.push(Live::new(name));
        self.tracks.push(None);
        Ok(SourceId(self.lives.len() as u32 - 1))
    }

    /// Finds a series of a source, or adds it. What `meta` says is kept with it; when it changes, the
    /// record has the new one from the next catalog on.
    ///
    /// # Panics
    ///
    /// When `source` is another recorder's.
    pub fn series(
        &mut self,
        source: SourceId,
        labels: &Labels,
        meta: &Meta,
    ) -> Result<SeriesId, LimitError> {
        let hash = self.hasher.hash(labels.key());
        let live = &self.lives[source.0 as usize];
        let slot = if let Some(slot) = live.find(hash, labels.key(), &self.catalog) {
            let known = live.definition(slot, &self.catalog, |definition| definition.meta);
            if known.is_some_and(|known| !self.catalog.says(known, meta))
                && self.meta_changes.len() < META_CHANGES_MAX
            {
                self.meta_changes
                    .insert((source.0, slot), Arc::new(bounded_meta(meta)));
            }
            slot
        } else {
            self.add_series(source, hash, labels, meta)?
        };
        let generation = self.lives[source.0 as usize].generation(slot);
        Ok(SeriesId {
            source: source.0,
            slot,
            generation: generation.unwrap_or_default(),
        })
    }

    fn add_series(
        &mut self,
        source: SourceId,
        hash: u32,
        labels: &Labels,
        meta: &Meta,
    ) -> Result<u32, LimitError> {
        if !self.has_room_for_series(labels, meta) {
            self.counters.series_refused += 1;
            return Err(LimitError::Budget);
        }
        let catalog = Arc::make_mut(&mut self.catalog);
        let meta = bounded_meta(meta);
        let meta = if let Some(index) = self.metas.find(&meta) {
            index
        } else {
            let meta = Arc::new(meta);
            catalog.add_meta(Arc::clone(&meta));
            self.metas.insert(meta)
        };
        let live = &mut self.lives[source.0 as usize];
        let slot = live.next_slot();
        let block = catalog.define(Definition {
            source: source.0,
            slot,
            meta,
            key: labels.key(),
        });
        self.defined += 1;
        Ok(live.take_slot(hash, block))
    }

    /// Begins a scrape that was made at `time_ms` (Unix, milliseconds). Dropped without
    /// [`Scrape::commit`], nothing of it is recorded.
    ///
    /// # Panics
    ///
    /// When `source` is another recorder's.
    pub fn scrape(&mut self, source: SourceId, time_ms: i64) -> Scrape<'_> {
        assert!(
            (source.0 as usize) < self.lives.len(),
            "the source is another recorder's"
        );
        Scrape::new(self, source, time_ms)
    }

    /// A reader of what is recorded now. What is recorded later it does not see.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(self.snapshot())
    }

    fn snapshot(&self) -> Snapshot {
        let mut parts: Vec<Part> = self
            .shelf
            .parts()
            .filter_map(|shelved| shelved.part.clone())
            .collect();
        if let Some(span) = span_of(&self.tracks) {
            let form = Form::Rows(Arc::new(self.tracks.clone()));
            parts.push(Part {
                id: self.head.id(),
                catalog: self.catalog.id,
                names: self.head_names,
                span,
                form,
            });
        }
        let mut catalogs: Vec<(u64, CatalogForm)> = Vec::new();
        for part in &parts {
            if catalogs.last().is_none_or(|(id, _)| *id != part.catalog) {
                catalogs.push((
                    part.catalog,
                    self.shelf.catalog(part.catalog, &self.catalog),
                ));
            }
        }
        let latest = self.lives.iter().enumerate().map(|(index, live)| LatestOf {
            source: index as u32,
            name: Arc::clone(&live.name),
            last: live.last,
            newest: Arc::clone(&live.newest),
        });
        Snapshot {
            place: String::new(),
            sources: None,
            disk: self.disk.clone(),
            parts,
            catalogs,
            latest: latest.collect(),
            current: Arc::clone(&self.catalog),
            damage: Vec::new(),
        }
    }

    /// What there is, in numbers.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let tracks = self
            .shelf
            .rows()
            .flat_map(|tracks| tracks.iter())
            .chain(&self.tracks)
            .flatten();
        Stats {
            budget: self.grant.limit,
            used: self.used(),
            head: self.head.len(),
            catalog: self.catalog_log.len().max(self.catalog.memory()),
            memory: self.memory() + tracks.map(crate::track::Track::memory).sum::<u64>(),
            sources: self.lives.len(),
            series: self
                .lives
                .iter()
                .map(|live| {
                    live.newest
                        .present
                        .iter()
                        .map(|word| word.count_ones() as usize)
                        .sum::<usize>()
                })
                .sum(),
            parts: self.shelf.parts().count() + 1,
            oldest: self.oldest(),
            counters: self.counters,
            evicted_parts: self.shelf.evicted_parts,
        }
    }

    /// Time of the oldest data, Unix milliseconds.
    fn oldest(&self) -> Option<i64> {
        let shelved = self.shelf.parts().filter_map(|part| part.part.as_ref());
        let spans = shelved.map(|part| part.span).chain(span_of(&self.tracks));
        spans.map(|span| span.0).min()
    }

    fn slot_group(slot: u32) -> (usize, u128) {
        (slot as usize / GROUP, 1 << (slot as usize % GROUP))
    }
}
