//! Sealing and syncing as a recorder does them: the parts that touch several of its parts.

use std::{io, sync::Arc};

use super::{
    Recorder,
    seal::SealResult,
    storage::file_cost,
    sync::{SyncJob, SyncOutcome},
};
use crate::segment::Index;

impl Recorder {
    /// Seals a bounded slice of the oldest closed head.
    pub(super) fn seal_slice(&mut self) {
        if let Some((id, result)) = self.sealer.step(self.closed.unsealed()) {
            self.accept_segment(id, result);
        }
    }

    fn accept_segment(&mut self, id: u64, result: SealResult) {
        let is_sealed = if let Ok((bytes, index)) = result {
            self.store_segment(id, bytes, index).is_ok()
        } else {
            debug_assert!(false, "rows can be read back");
            self.closed.mark_unsealable(id);
            false
        };
        if is_sealed {
            self.counters.sealed += 1;
        } else {
            self.sealer.pause();
        }
    }

    /// Stores a segment, unless its part is evicted.
    fn store_segment(&mut self, id: u64, mut bytes: Vec<u8>, index: Index) -> io::Result<()> {
        let len = bytes.len() as u64;
        let cost = if self.storage.is_memory() {
            bytes.capacity() as u64
        } else {
            file_cost(len)
        };
        // An error means that every closed part was evicted, this one included.
        if self.make_room(cost).is_err() || !self.closed.contains(id) {
            return Ok(());
        }
        if let Some(file) = self.storage.write_segment(id, &bytes)? {
            self.closed.add_segment(id, file, len);
        } else {
            bytes.shrink_to_fit();
            self.closed.seal_in_memory(id, bytes, index);
        }
        Ok(())
    }

    /// Hands out the work of making everything committed so far durable. Returns `None` in memory.
    ///
    /// A segment replaces its head only after a sync. Without any sync the record keeps both.
    pub fn begin_sync(&mut self) -> Option<SyncJob> {
        let disk = Arc::clone(self.storage.disk()?);
        let [catalogs, heads] = self.closed.take_unsynced();
        // In this order, so that a durable head never needs a catalog that is not.
        let mut files = catalogs;
        files.extend(self.definitions.take_unsynced());
        files.extend(heads);
        files.extend(self.head.take_unsynced());
        Some(SyncJob {
            disk,
            files,
            segments: self.closed.unsynced_segments(),
            directory_changed: self.storage.take_directory_changed(),
            // A copy: what becomes obsolete while the sync runs has to wait for the next one.
            obsolete: self.closed.obsolete(),
        })
    }

    /// Completes a sync.
    ///
    /// # Errors
    ///
    /// If the sync failed. The content of the files on disk is unknown then, so that the next commit
    /// starts a new head and a new catalog. The data of the old head is still in memory and is sealed.
    pub fn finish_sync(&mut self, outcome: SyncOutcome) -> io::Result<()> {
        if self.storage.is_memory() {
            return Ok(());
        }
        let result = outcome.result.and_then(|()| {
            let (closed, storage) = (&mut self.closed, &mut self.storage);
            closed.note_synced();
            closed.remove_obsolete(&outcome.obsolete, storage);
            let mut segments = outcome.segments.iter();
            segments.try_for_each(|id| closed.publish_segment(*id, storage))
        });
        if result.is_err() {
            // Linux reports a failed write-back once and may drop the pages, so that a second fsync
            // would prove nothing.
            for id in &outcome.segments {
                self.closed.discard_segment(*id, &mut self.storage);
            }
            // The failed sync has taken this flag.
            self.storage.set_directory_changed();
            self.files_in_doubt = true;
        }
        result
    }

    /// Makes everything committed so far durable, on this thread.
    ///
    /// # Errors
    ///
    /// See [`Recorder::finish_sync`].
    pub fn sync(&mut self) -> io::Result<()> {
        match self.begin_sync() {
            Some(job) => self.finish_sync(job.run()),
            None => Ok(()),
        }
    }
}
