//! The log in a file.
//!
//! One directory holds a lock file and one database file with four tables: events by offset,
//! producers, documents, and a few numbers of metadata. A commit writes only the first two.
//! Documents are written later and in bulk, by transactions that also record how far they have come
//! (`applied_upto`). Document states that are not written yet are kept in memory, and are rebuilt
//! from the events when the log is opened.
//!
//! Types and panics of redb do not leave this module.

mod disk_space;
mod documents;
mod engine;
mod maintenance;
mod open;
mod reader;

use std::{
    fmt,
    fs::File,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use redb::ReadableDatabase;

pub use self::open::OpenError;
use self::{
    disk_space::DiskSpace,
    documents::PendingDocuments,
    engine::{DOCUMENTS, Documents, EVENTS, Engine, PRODUCERS, Producers, catch_panics, storage},
    maintenance::Maintenance,
};
use super::{
    Bounds, DocumentKey, Limits, Log, LogError, LogReader, Outcome, ProducerState, Submission,
    encoding::{StoredEvent, StoredProducer},
    ingest::DocumentState,
    plan::{CommitPlan, CommittedState},
};
use crate::{Epoch, Terms};

/// Settings of a log in a file.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoreOptions {
    /// The id of the term that begins when the log is opened. Must be random: with an id that was used
    /// before, a copy of the log that is put back looks like the log itself.
    pub epoch: Epoch,
    /// Size limits of one entry.
    pub limits: Limits,
    /// Size of the page cache, in bytes. Default 64 MiB.
    pub cache_bytes: usize,
    /// Maximum age of events; older ones may be removed. Default: unlimited.
    pub retention_age: Option<Duration>,
    /// Maximum size of all events, in bytes; the oldest are removed beyond it. The file is larger: it
    /// also holds the documents, and it does not shrink. Default: unlimited.
    pub retention_bytes: Option<u64>,
    /// Disk space that is left free, in bytes. Entries that would use it fail with
    /// [`LogError::Full`]: if the disk filled up during a commit, the log would stop, and on a full
    /// disk it may not even open. Default 64 MiB. Ignored on systems other than Unix.
    pub min_free_bytes: u64,
    /// Verify every page when the log is opened, which takes about a second per gigabyte. Default:
    /// no, because every value is verified when it is read.
    pub verify_on_open: bool,
}

/// A log in a directory of its own.
///
/// Only one handle in one process can have the log open. Committed events survive `kill -9` and, if
/// the disk honours syncs, a power failure.
///
/// Any failure of the storage, including a panic inside it, stops all writes: after a failed sync
/// the content of the disk is unknown, and a retry could report it as written. The log must then be
/// dropped with all its readers, and reopened.
pub struct RedbLog {
    shared: Arc<Shared>,
    limits: Limits,
    disk_space: DiskSpace,
    pending: PendingDocuments,
    maintenance: Maintenance,
    /// Total size of all encoded events, including the trimmed ones.
    bytes: u64,
    /// The failure that stopped all writes.
    failure: Option<LogError>,
}

/// State shared by the log and its readers.
struct Shared {
    engine: Engine,
    terms: Terms,
    /// The range that readers see. Changes only after the commit that it describes.
    bounds: Mutex<Bounds>,
    /// Fields drop in order: the directory is unlocked after the engine has closed its file.
    _lock: File,
}

impl StoreOptions {
    /// Returns the default options for a log that begins this term.
    #[must_use]
    pub fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            limits: Limits::default(),
            cache_bytes: 64 << 20,
            retention_age: None,
            retention_bytes: None,
            min_free_bytes: 64 << 20,
            verify_on_open: false,
        }
    }
}

impl RedbLog {
    /// Returns the term that began when the log was opened.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.shared.terms.current()
    }

    /// Runs a step that writes, and stops all writes if it fails.
    fn write<T>(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        if let Some(failure) = &self.failure {
            let cause = Box::new(failure.clone());
            return Err(LogError::Stopped { cause });
        }
        let result = catch_panics(|| step(self));
        match &result {
            // `Full` is returned before anything is written.
            Ok(_) | Err(LogError::Full { .. }) => {}
            Err(error) => self.failure = Some(error.clone()),
        }
        result
    }

    fn commit(&mut self, batch: Vec<Submission>, now_ms: i64) -> Result<Vec<Outcome>, LogError> {
        self.disk_space.check(&batch)?;
        if self.pending.is_full() {
            self.apply_documents(now_ms)?;
        }
        let head = self.shared.bounds().head;
        let transaction = self.shared.engine.begin_read().map_err(storage)?;
        let mut committed = Committed {
            producers: transaction.open_table(PRODUCERS).map_err(storage)?,
            documents: transaction.open_table(DOCUMENTS).map_err(storage)?,
            pending: &self.pending,
        };
        let plan = CommitPlan::new(batch, head, now_ms, &self.limits, &mut committed)?;
        drop((committed, transaction));
        if plan.is_empty() {
            return Ok(plan.outcomes);
        }

        let mut bytes = self.bytes;
        let transaction = self.shared.engine.begin_commit()?;
        {
            let mut events = transaction.open_table(EVENTS).map_err(storage)?;
            for appended in &plan.events {
                let encoded = StoredEvent::encode(appended, bytes);
                bytes = bytes.saturating_add(encoded.len() as u64);
                let offset = appended.event.offset;
                events.insert(offset, &*encoded).map_err(storage)?;
            }
            let mut producers = transaction.open_table(PRODUCERS).map_err(storage)?;
            for (name, state) in plan.producers {
                let used_ms = now_ms;
                let encoded = StoredProducer { state, used_ms }.encode(&name);
                producers.insert(&*name, &*encoded).map_err(storage)?;
            }
        }
        transaction.commit().map_err(storage)?;

        // Only now: if the commit fails, readers must not see the new head.
        self.bytes = bytes;
        self.pending.extend(plan.documents, plan.events.len());
        self.shared
            .set_bounds(|bounds| bounds.head += plan.events.len() as u64);
        Ok(plan.outcomes)
    }
}

impl Log for RedbLog {
    fn append(&mut self, batch: Vec<Submission>, now_ms: i64) -> Result<Vec<Outcome>, LogError> {
        self.write(|log| log.commit(batch, now_ms))
    }

    fn maintain(&mut self, now_ms: i64) -> Result<bool, LogError> {
        self.write(|log| log.maintain_slice(now_ms))
    }

    fn trim(&mut self, upto: u64) -> Result<(), LogError> {
        self.write(|log| {
            let upto = upto.min(log.shared.bounds().head);
            while log.trim_slice(upto)? {}
            Ok(())
        })
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::clone(&self.shared) as Arc<dyn LogReader>
    }
}

impl fmt::Debug for RedbLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbLog")
            .field("epoch", &self.shared.terms.current())
            .field("bounds", &self.shared.bounds())
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn bounds(&self) -> Bounds {
        *self.bounds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_bounds(&self, change: impl FnOnce(&mut Bounds)) {
        change(&mut self.bounds.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// The committed state: the tables, and the documents that are not in their table yet.
struct Committed<'a> {
    producers: Producers,
    documents: Documents,
    pending: &'a PendingDocuments,
}

impl CommittedState for Committed<'_> {
    fn producer(&mut self, name: &str) -> Result<ProducerState, LogError> {
        engine::producer(&self.producers, name)
    }

    fn document(&mut self, key: &DocumentKey) -> Result<Option<DocumentState>, LogError> {
        match self.pending.state(key) {
            Some(state) => Ok(Some(state)),
            None => Ok(engine::document(&self.documents, key)?.map(|document| document.state)),
        }
    }
}

#[cfg(test)]
mod tests;
