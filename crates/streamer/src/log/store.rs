//! The log in a file.
//!
//! One directory holds a lock file and one database file with four tables: the events by offset,
//! the producers' last sequences, the documents, and a few numbers about the log itself. A commit
//! of events writes the first two only. Documents are written later and many at once, in
//! transactions of their own that also say how far they are (`applied_upto`); what is not written
//! yet is kept in memory, and read again from the events when the log is opened.
//!
//! redb's types and panics end here.

mod documents;
mod engine;
mod open;
mod reader;
mod retention;
mod space;

use std::{
    fmt,
    fs::File,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use redb::ReadableDatabase;

pub use self::open::OpenError;
use self::{
    documents::Pending,
    engine::{DOCUMENTS, Documents, Engine, PRODUCERS, Producers, guarded, storage},
    retention::Housekeeping,
    space::Space,
};
use super::{
    Bounds, DocumentKey, Limits, Log, LogError, LogReader, Outcome, ProducerState, Submission,
    ingest::DocumentState,
    plan::{Known, Plan},
    record::{StoredEvent, StoredProducer},
};
use crate::Epoch;

/// How a log in a file is kept.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoreOptions {
    /// Names the log when it is created; a log that exists keeps its name. Should be random.
    pub epoch: Epoch,
    /// What is taken of one entry.
    pub limits: Limits,
    /// Memory for pages of the file, in bytes. Default 64 MiB.
    pub cache_bytes: usize,
    /// Entries older than this may be dropped. Default: none, they are kept.
    pub retention_age: Option<Duration>,
    /// The oldest entries are dropped while all of them have more bytes than this. The file has more:
    /// documents stay, and a file does not shrink. Default: none, they are kept.
    pub retention_bytes: Option<u64>,
    /// Disk space that is left to others, in bytes. Entries are refused with [`LogError::Full`] before
    /// they would use it: a disk that is full in the middle of a commit stops the log, and one that
    /// is full altogether may not even let it be opened. Default 64 MiB. Not looked at where the
    /// system does not tell (anything but Unix).
    pub min_free_bytes: u64,
    /// Check every page of the file when it is opened, which takes a second or so per gigabyte.
    /// Default: no, since every value is checked when it is read.
    pub verify_on_open: bool,
}

/// A log in a directory of its own.
///
/// Only one handle at a time, in one process, has the log open. Appended entries survive `kill -9`
/// and, as far as the disk keeps its word, a power cut.
///
/// Any failure of the storage, a panic inside it included, stops the writing for good: after a
/// failed sync nobody knows what is on the disk, and trying again would call it written. The log
/// is then dropped with all its readers, and opened anew.
pub struct RedbLog {
    shared: Arc<Shared>,
    limits: Limits,
    space: Space,
    pending: Pending,
    housekeeping: Housekeeping,
    /// Bytes of all records, the dropped ones included.
    bytes: u64,
    /// Why no more is written.
    failure: Option<String>,
}

/// What the writing side and the readers have in common.
struct Shared {
    engine: Engine,
    epoch: Epoch,
    bounds: Mutex<Bounds>,
    /// Unlocked when it is closed, after the engine.
    _lock: File,
}

impl StoreOptions {
    /// Options for a log that is named `epoch` when it is created.
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
    /// Names the log.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.shared.epoch
    }

    /// Runs a step that writes, and stops the log when it fails.
    fn write<T>(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        if let Some(cause) = &self.failure {
            let cause = cause.clone();
            return Err(LogError::Stopped { cause });
        }
        let result = guarded(|| step(self));
        match &result {
            // Nothing was tried.
            Ok(_) | Err(LogError::Full { .. }) => {}
            Err(error) => self.failure = Some(describe(error)),
        }
        result
    }

    fn commit(&mut self, batch: Vec<Submission>, now_ms: i64) -> Result<Vec<Outcome>, LogError> {
        self.space.suffices(&batch)?;
        if self.pending.is_over_bound() {
            self.apply_documents(now_ms)?;
        }
        let head = self.shared.bounds().head;
        let transaction = self.shared.engine.begin_read().map_err(storage)?;
        let mut known = Stored {
            producers: transaction.open_table(PRODUCERS).map_err(storage)?,
            documents: transaction.open_table(DOCUMENTS).map_err(storage)?,
            pending: &self.pending,
        };
        let plan = Plan::new(batch, head, now_ms, &self.limits, &mut known)?;
        drop((known, transaction));
        if plan.changes_nothing() {
            return Ok(plan.outcomes);
        }

        let mut bytes = self.bytes;
        let transaction = self.shared.engine.begin_commit()?;
        {
            let mut events = transaction.open_table(engine::EVENTS).map_err(storage)?;
            for entry in &plan.entries {
                let record = StoredEvent::encode(entry, bytes);
                bytes = bytes.saturating_add(record.len() as u64);
                let offset = entry.event.offset;
                events.insert(offset, &*record).map_err(storage)?;
            }
            let mut producers = transaction.open_table(PRODUCERS).map_err(storage)?;
            for (name, state) in plan.producers {
                let producer = StoredProducer {
                    state,
                    used_ms: now_ms,
                };
                let record = producer.encode(&name);
                producers.insert(&*name, &*record).map_err(storage)?;
            }
        }
        transaction.commit().map_err(storage)?;

        self.bytes = bytes;
        self.pending.extend(plan.documents, plan.entries.len());
        self.shared
            .set_bounds(|bounds| bounds.head += plan.entries.len() as u64);
        Ok(plan.outcomes)
    }
}

impl Log for RedbLog {
    fn append(&mut self, batch: Vec<Submission>, now_ms: i64) -> Result<Vec<Outcome>, LogError> {
        self.write(|log| log.commit(batch, now_ms))
    }

    fn maintain(&mut self, now_ms: i64) -> Result<bool, LogError> {
        self.write(|log| log.keep_house(now_ms))
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
            .field("epoch", &self.shared.epoch)
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

/// What the tables and the documents that are not in them yet say together.
struct Stored<'a> {
    producers: Producers,
    documents: Documents,
    pending: &'a Pending,
}

impl Known for Stored<'_> {
    fn producer(&mut self, name: &str) -> Result<ProducerState, LogError> {
        reader::producer(&self.producers, name)
    }

    fn document(&mut self, key: &DocumentKey) -> Result<Option<DocumentState>, LogError> {
        match self.pending.state(key) {
            Some(state) => Ok(Some(state)),
            None => documents::state(&self.documents, key),
        }
    }
}

/// An error with its causes, in one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
