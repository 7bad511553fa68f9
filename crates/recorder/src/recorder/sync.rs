//! Making what was written durable, on the caller's thread or another.

use std::{io, sync::Arc, time::Instant};

use super::Recorder;
use crate::disk::{Disk, DiskFile};

/// What is to be made durable, on any thread. Give the result to [`Recorder::finish_sync`].
#[derive(Debug)]
pub struct SyncJob {
    disk: Arc<dyn Disk>,
    /// In this order: a head never has more than its catalog.
    files: Vec<Arc<dyn DiskFile>>,
    segments: Vec<(u64, Arc<dyn DiskFile>)>,
    directory: bool,
    doomed: Vec<String>,
}

/// What came out of a [`SyncJob`].
#[derive(Debug)]
#[must_use = "the recorder has to be told"]
pub struct SyncOutcome {
    result: io::Result<()>,
    segments: Vec<u64>,
    doomed: Vec<String>,
}

impl SyncJob {
    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        let lists = self.files.len() + self.segments.len() + self.doomed.len();
        lists == 0 && !self.directory
    }

    /// Does the work; takes as long as the disk does.
    pub fn run(self) -> SyncOutcome {
        let mut files = self
            .files
            .iter()
            .chain(self.segments.iter().map(|(_, file)| file));
        let synced = files.try_for_each(|file| file.sync());
        let result = synced.and_then(|()| {
            if self.directory {
                self.disk.sync()
            } else {
                Ok(())
            }
        });
        SyncOutcome {
            result,
            segments: self.segments.iter().map(|(id, _)| *id).collect(),
            doomed: self.doomed,
        }
    }
}

impl Recorder {
    /// Whether [`Options::sync_every`](crate::Options::sync_every) has passed since the last sync
    /// began. Never in memory.
    #[must_use]
    pub fn sync_due(&self, now: Instant) -> bool {
        let every = self.options.sync_every;
        self.disk.is_some()
            && self
                .last_sync
                .is_none_or(|last| now.saturating_duration_since(last) >= every)
    }

    /// Takes out what has to be done to make everything committed so far durable. Nothing in memory.
    ///
    /// Segments take the place of their heads only after a sync: who never syncs keeps both.
    pub fn begin_sync(&mut self, now: Instant) -> Option<SyncJob> {
        let disk = Arc::clone(self.disk.as_ref()?);
        self.last_sync = Some(now);
        let (catalogs, heads) = self.shelf.take_unsynced();
        let mut files = catalogs;
        files.extend(self.catalog_log.take_unsynced());
        files.extend(heads);
        files.extend(self.head.take_unsynced());
        Some(SyncJob {
            disk,
            files,
            segments: self.shelf.unsynced(),
            directory: std::mem::take(&mut self.shelf.directory_changed),
            doomed: self.shelf.doomed(),
        })
    }

    /// Takes in what a [`SyncJob`] did. After an error nobody knows what the disk has; the error is
    /// returned, and the next scrape begins a new head and a new catalog, while what is in memory of
    /// the old one is sealed.
    pub fn finish_sync(&mut self, synced: SyncOutcome) -> io::Result<()> {
        let Some(disk) = self.disk.clone() else {
            return Ok(());
        };
        let result = synced.result.and_then(|()| {
            self.shelf.bury(&synced.doomed, &*disk);
            synced
                .segments
                .iter()
                .try_for_each(|id| self.shelf.durable(*id, &*disk))
        });
        if result.is_err() {
            for id in &synced.segments {
                self.shelf.discard_written(*id, &*disk);
            }
            self.counters.seal_errors += 1;
            self.shelf.directory_changed = true;
            self.renew = true;
        }
        result
    }

    /// Makes everything committed so far durable, on this thread.
    pub fn sync(&mut self, now: Instant) -> io::Result<()> {
        match self.begin_sync(now) {
            Some(job) => self.finish_sync(job.run()),
            None => Ok(()),
        }
    }
}
