//! Committing scrapes: the definitions they need, then one frame with all of them; and starting new
//! files when they are due.

use super::{Entry, Recorder, definitions::Definitions, storage::file_cost};
use crate::{
    error::WriteError,
    frame::{Log, begin_frame},
};

/// The number of scrapes after which a head is closed if a meta has changed.
const META_CHANGE_SCRAPES: usize = 64;

/// The size of dead definitions that is never worth a new catalog.
const DEAD_BYTES_MIN: u64 = 4 << 10;

/// The capacity of the frame buffer that is kept between commits.
const FRAME_CAPACITY_MAX: usize = 256 << 10;

impl Recorder {
    /// Commits the entries of a frame, with the staged values of their sources.
    pub(super) fn commit(&mut self, entries: &[Entry], time: i64) -> Result<(), WriteError> {
        let written = self
            .prepare_files()
            .and_then(|()| self.append_entries(entries, time));
        self.counters.write_errors += u64::from(written.is_err());
        // A slice with each commit, so that none waits for a whole head.
        self.seal_slice();
        self.sources.recount();
        if self.storage.is_memory() {
            // What cannot be evicted has limits of its own, so that a failure here passes.
            self.make_room(0).ok();
        }
        written
    }

    /// Starts a new head and a new catalog if they are due, and writes the definitions of new series.
    fn prepare_files(&mut self) -> Result<(), WriteError> {
        // Before anything is counted: evicted data no longer keeps the series of its source alive.
        self.forget_evicted();
        let dead = self.dead_bytes();
        // Without dead definitions a new catalog would be as large as this one.
        let is_over_limit = dead > DEAD_BYTES_MIN && self.exceeds_definition_limits();
        if self.is_head_full() || is_over_limit || self.files_in_doubt {
            // A catalog belongs to whole heads: it can change only between two.
            self.close_head();
            if is_over_limit || self.is_catalog_outdated(dead) || self.files_in_doubt {
                self.renew_catalog()?;
            }
        }
        self.write_definitions()
    }

    /// Returns true if the next commit starts a new head.
    pub(super) fn is_head_full(&self) -> bool {
        // A changed meta needs a new catalog, and that a new head. An exporter that changes one with every
        // page must not start both with every page.
        let scrapes = self.head.scrapes();
        scrapes >= self.options.head_scrapes as usize
            || self.head.len() > self.budget.head_max()
            || self.definitions.has_meta_changes() && scrapes >= META_CHANGE_SCRAPES
    }

    fn exceeds_definition_limits(&self) -> bool {
        let most = self.budget.definitions_max();
        self.definitions.memory() > most || self.sources.memory() > most
    }

    /// Returns true if the catalog has changed metas or too many dead definitions.
    fn is_catalog_outdated(&self, dead: u64) -> bool {
        // Series that died before the catalog's first head have no data left once that is evicted.
        let is_outlived = dead > 0 && self.definitions.id() < self.oldest_part_id();
        let is_wasteful = dead > DEAD_BYTES_MIN && dead > self.definitions.memory() / 3;
        is_outlived || is_wasteful || self.definitions.has_meta_changes()
    }

    /// Returns the size of definitions of dead series, assuming that all have the same length.
    fn dead_bytes(&self) -> u64 {
        let defined = self.sources.count_defined().max(1);
        let dead = defined.saturating_sub(self.sources.count_alive());
        self.definitions.memory() * dead as u64 / defined as u64
    }

    /// Declares the series of sources dead that have no data any more.
    fn forget_evicted(&mut self) {
        let oldest = self.oldest_part_id();
        self.sources.forget_evicted(oldest);
    }

    fn oldest_part_id(&self) -> u64 {
        self.closed.oldest_id().unwrap_or(self.head.id())
    }

    /// Closes the head and starts another. Writes nothing.
    pub(super) fn close_head(&mut self) {
        let next = self.head.next(self.next_id, self.definitions.id());
        self.next_id += 1;
        let head = std::mem::replace(&mut self.head, next);
        if let Some((part, cost, log)) = head.close(&mut self.storage) {
            self.closed.push(part.id, Some(part), cost, Some(log));
        }
    }

    /// Starts a catalog with the live series, right after the head was closed.
    fn renew_catalog(&mut self) -> Result<(), WriteError> {
        let (mut next, live_slots) = self.definitions.rebuild(self.next_id, &self.sources);
        if !self.storage.is_memory()
            && let Err(error) = self.write_catalog(&mut next)
        {
            // Nothing refers to the new catalog yet. The old one stays current.
            next.discard(&mut self.storage);
            return Err(error);
        }
        let old = std::mem::replace(&mut self.definitions, next);
        self.closed.add_catalog(old.id(), old.close(&self.storage));
        self.closed.remove_unneeded_catalogs(&mut self.storage);
        self.sources.redefine(&live_slots);
        // The head that was just started is empty. Its replacement shares the catalog's id.
        self.head = self.head.next(self.next_id, self.next_id);
        self.next_id += 1;
        self.counters.catalogs += 1;
        if self.files_in_doubt {
            // The segments of earlier heads still need them.
            self.rewrite_catalogs()?;
            // Only here: both logs are new, and the old catalogs are written again.
            self.files_in_doubt = false;
        }
        Ok(())
    }

    /// Writes a new catalog, the size of which `used` does not include.
    fn write_catalog(&mut self, catalog: &mut Definitions) -> Result<(), WriteError> {
        while let Some(frame) = catalog.next_frame() {
            self.make_room(catalog.file_cost_with(&frame))?;
            catalog.append(frame, &mut self.storage)?;
        }
        Ok(())
    }

    /// Writes the definitions that the current catalog's file lacks.
    fn write_definitions(&mut self) -> Result<(), WriteError> {
        if self.storage.is_memory() {
            return self.make_room(0);
        }
        while let Some(frame) = self.definitions.next_frame() {
            let growth = self.definitions.file_cost_with(&frame) - self.definitions.file_cost();
            self.make_room(growth)?;
            self.definitions.append(frame, &mut self.storage)?;
        }
        Ok(())
    }

    /// Replaces the files of the catalogs that were not durable when a sync failed.
    fn rewrite_catalogs(&mut self) -> Result<(), WriteError> {
        for catalog in self.closed.unsynced_catalogs() {
            let bytes = catalog.to_file();
            self.make_room(file_cost(bytes.len() as u64))?;
            // Evicting the last part that needs it removes it.
            if !self.closed.has_catalog(catalog.id) {
                continue;
            }
            let header = catalog.header();
            if let Some(file) = self
                .storage
                .replace(&header.kind.name(catalog.id), &bytes)?
            {
                let log = Log::resumed(header, file, bytes.len() as u64);
                self.closed.replace_log(catalog.id, log);
            }
        }
        Ok(())
    }

    fn append_entries(&mut self, entries: &[Entry], time: i64) -> Result<(), WriteError> {
        let mut frame = std::mem::take(&mut self.frame);
        let appended = self.append_frame(entries, time, &mut frame);
        // The buffer is reused, except that a huge one is not worth its memory.
        frame.clear();
        frame.shrink_to(FRAME_CAPACITY_MAX);
        self.frame = frame;
        appended
    }

    fn append_frame(
        &mut self,
        entries: &[Entry],
        time: i64,
        frame: &mut Vec<u8>,
    ) -> Result<(), WriteError> {
        begin_frame(frame);
        let mut catalog_blocks = Some(self.definitions.catalog().written_blocks());
        let mut encoded = Vec::new();
        for entry in entries {
            let source = &mut self.sources[entry.source];
            if !entry.missed {
                source.staged.set_time(time);
            }
            let staged = (!entry.missed).then_some(&*source);
            // One statement per frame is enough: definitions are written before it.
            let blocks = catalog_blocks.take();
            let head = &self.head;
            encoded.push(head.encode_entry(entry.source, staged, time, blocks, frame));
        }
        // Memory follows the file: after an error neither has the scrapes. What is put in front moves all
        // offsets in the frame.
        let in_front = self.write_frame(frame)?;
        for entry in &encoded {
            let source = &mut self.sources[entry.source()];
            self.head.apply(entry, time, (frame, in_front), source);
        }
        let missed = entries.iter().filter(|entry| entry.missed).count() as u64;
        self.counters.missed += missed;
        self.counters.scrapes += entries.len() as u64 - missed;
        Ok(())
    }

    fn write_frame(&mut self, frame: &mut Vec<u8>) -> Result<usize, WriteError> {
        let growth = if self.storage.is_memory() {
            // Rows are copied to chunks with about as much unused capacity.
            2 * frame.len() as u64
        } else {
            self.head.file_cost(Some(frame)) - self.head.file_cost(None)
        };
        self.make_room(growth)?;
        let blocks = self.definitions.catalog().written_blocks();
        self.head.append(frame, blocks, &mut self.storage)
    }
}
