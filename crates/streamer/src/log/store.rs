//! The log in a directory: segments with an index.
//!
//! One directory holds a lock file, segments with the events and the states of producers, an index, and
//! a file that names the head ([`head`]). The index is a redb database with three tables, for producers,
//! documents, and a few numbers of metadata.
//! A commit is one write and one sync of a segment. The index is written later and in bulk, by
//! transactions that also record how far they have come (`applied_upto`). States that are not written
//! yet are kept in memory, and are rebuilt from the segments when the log is opened.
//!
//! Types and panics of redb do not leave this module.

mod conversion;
mod disk;
mod documents;
mod engine;
mod head;
mod index_job;
mod lost_changes;
mod maintenance;
mod open;
mod overlay;
mod reader;
mod reads;
mod segment;
mod segments;
#[cfg(any(test, feature = "testing"))]
mod simulated_disk;
#[cfg(any(test, feature = "testing"))]
mod simulation;
mod verify;

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use redb::ReadableDatabase;

#[cfg(any(test, feature = "testing"))]
pub use self::simulation::{SimulationCounts, simulate};
use self::{
    disk::{Disk, DiskFile},
    documents::DocumentStates,
    engine::{
        DOCUMENTS, Documents, Engine, INDEX_FILE, PRODUCERS, Producers, catch_panics, storage,
    },
    head::HeadFile,
    index_job::{IndexMode, Removal, Running, SLICE},
    lost_changes::LostChanges,
    maintenance::Maintenance,
    segment::{CommitBuffer, Kind},
    segments::{Appender, Segments},
};
pub use self::{
    open::OpenError,
    verify::{Defect, LogEnd, Verified},
};
use super::{
    Bounds, DocumentKey, Limits, Log, LogError, LogReader, Outcome, ProducerState, Submission,
    age_clock::AgeClock,
    encoding::{StoredEvent, StoredProducer},
    ingest::DocumentState,
    plan::{CommitPlan, CommittedState},
    with_sources,
};
use crate::{Epoch, Terms};

/// Settings of a [`SegmentLog`].
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
    /// Maximum size of all events as they are stored, in bytes; the oldest are removed beyond it. What the last commit
    /// of a segment left free counts. The segments occupy at most a quarter more, or two of the largest commits if
    /// that is more. The index is separate: it holds the documents.
    /// Default: unlimited.
    pub retention_bytes: Option<u64>,
    /// Size of a segment, in bytes. Default 16 MiB, or an eighth of `retention_bytes` if that is less.
    pub segment_bytes: usize,
    /// Disk space that is left free, in bytes. Entries that would use it fail with
    /// [`LogError::Full`]: if the disk filled up during a commit, the log would stop, and on a full
    /// disk it may not even open. Default 64 MiB. Ignored on systems other than Unix.
    pub min_free_bytes: u64,
    /// Acknowledge commits before they are synced, and sync them at this interval. A crash of the
    /// system or a power failure then loses about as much as was acknowledged in this time; the end of
    /// the process loses nothing. Default: each commit is synced before it is acknowledged.
    pub sync_interval: Option<Duration>,
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
pub struct SegmentLog {
    shared: Arc<Shared>,
    limits: Limits,
    appender: Appender,
    disk: Arc<dyn Disk>,
    min_free_bytes: u64,
    documents: DocumentStates,
    lost: LostChanges,
    maintenance: Maintenance,
    index_mode: IndexMode,
    /// The transaction of the index that was begun and not finished.
    running: Option<Running>,
    /// The rows that the last transaction of the index changed.
    #[cfg(test)]
    index_rows: usize,
    clock: AgeClock,
    /// The last step of the clock.
    stepped: Instant,
    /// The index waits for space, which was reported.
    index_waits: bool,
    sync_interval: Option<Duration>,
    /// The time of the first commit that is not synced.
    unsynced_since: Option<Instant>,
    /// `None` if the log is only read, as the next one.
    head_file: Option<HeadFile>,
    /// The file in which redb has the index.
    index_file: Option<Arc<dyn DiskFile>>,
    /// The failure that stopped all writes.
    failure: Option<LogError>,
}

/// Upper bound of the disk space that one byte of a batch needs, in a segment and in the index.
const COST_PER_BYTE: u64 = 8;
/// Upper bound of the disk space that any commit needs besides.
const COST_PER_COMMIT: u64 = 1 << 20;
/// Interval at which the end of a transaction of the index is looked for.
const INDEX_POLL: Duration = Duration::from_millis(5);
/// Free space that is required before the index is written, in bytes.
const INDEX_SPACE: u64 = 16 << 20;

/// State shared by the log and its readers.
struct Shared {
    engine: Engine,
    segments: Arc<Segments>,
    /// States of producers that are newer than those in the index.
    producers: Mutex<BTreeMap<Arc<str>, StoredProducer>>,
    terms: Terms,
    /// The range that readers see. Changes only after the commit that it describes.
    bounds: Mutex<Bounds>,
    /// The events and states that were read when the log was opened.
    recovered: u64,
    lost_changes: u64,
    opened_in: Duration,
    sync_interval: Option<Duration>,
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
            segment_bytes: 16 << 20,
            min_free_bytes: 64 << 20,
            sync_interval: None,
            verify_on_open: false,
        }
    }
}

impl SegmentLog {
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
        // A panic may have left this handle half changed. It is never used again, because it is
        // recorded.
        let result = catch_panics(|| step(self));
        match &result {
            Ok(_) => {}
            // Nothing was written, or the appender cleans up before its next commit.
            Err(error) if error.is_full() => {}
            Err(error) => self.failure = Some(error.clone()),
        }
        result
    }

    fn commit(&mut self, batch: Vec<Submission>, now_ms: i64) -> Result<Vec<Outcome>, LogError> {
        // Before the plan, because the index may have to be written first. On a full disk this
        // refuses a batch of duplicates as well.
        if !batch.is_empty() {
            self.check_batch_space(batch.iter().map(Submission::weight).sum())?;
        }
        // Maintenance normally applies them earlier. A burst that outruns it pays for the index
        // here.
        let head = self.shared.bounds().head;
        // A trimming removes twice as many events as are appended beside it.
        let is_overtaken =
            |running: &Running| running.trims && head - running.began_at >= SLICE as u64 / 2;
        if self.documents.is_full() || self.running.as_ref().is_some_and(is_overtaken) {
            self.finish_index_job(true)?;
        }
        if self.documents.is_full() {
            self.apply(now_ms)?;
        }
        let mut committed = Committed {
            index: None,
            shared: &self.shared,
            documents: &self.documents,
            lost: self.lost,
        };
        // Decided entirely before the first write, so that an invalid entry cannot leave half a
        // commit.
        let plan = CommitPlan::new(batch, head, now_ms, &self.limits, &mut committed)?;
        // redb keeps old pages for as long as a read transaction is open.
        drop(committed);
        // Duplicates and jumps change nothing, and so they cost no sync.
        if plan.is_empty() {
            return Ok(plan.outcomes);
        }

        let new_head = head + plan.events.len() as u64;
        let used_ms = self.clock.now_ms(now_ms);
        let stored = |(name, state)| (name, StoredProducer { state, used_ms });
        let producers: BTreeMap<Arc<str>, _> = plan.producers.into_iter().map(stored).collect();
        let events = plan.events.iter();
        let events = events.map(|appended| StoredEvent::bound(&appended.event));
        let bodies = events.chain(producers.iter().map(|(name, it)| it.bound(name)));
        let bound = bodies.map(CommitBuffer::bound).sum();
        let mut buffer = self.appender.begin(head, bound)?;
        for appended in &plan.events {
            buffer.push(Kind::Event, appended.event.offset, |out| {
                StoredEvent::encode(appended, used_ms, out);
            });
        }
        for (name, producer) in &producers {
            // In the same commit as the entries. A sequence that is stored without its entry would
            // make the resent entry a duplicate.
            buffer.push(Kind::Producer, new_head, |out| {
                producer.encode_named(name, out);
            });
        }
        let bytes = self.appender.bytes();
        self.appender.commit(buffer)?;
        self.documents.count_bytes(self.appender.bytes() - bytes);
        if self.sync_interval.is_some() {
            self.unsynced_since.get_or_insert_with(Instant::now);
        }

        // Only now: if the commit fails, readers must not see the new head.
        self.documents.extend(plan.documents, plan.events.len());
        self.documents.count_producers(&producers);
        self.shared.producers().extend(producers);
        // The last step. Until then a reader stops at the old head, whatever the segments hold.
        self.shared.set_bounds(|bounds| bounds.head = new_head);
        Ok(plan.outcomes)
    }

    /// Returns the time after which commits must be synced, if any is not.
    fn sync_due(&self) -> Option<Duration> {
        let since = self.unsynced_since?;
        Some(self.sync_interval?.saturating_sub(since.elapsed()))
    }

    /// Returns the time after which the head must be named in its file, if it is not.
    fn head_due(&self) -> Option<Duration> {
        let head = self.shared.bounds().head;
        let is_behind = self.head_file.as_ref()?.is_behind(head);
        is_behind.then_some(Duration::from_millis(head::INTERVAL_MS.unsigned_abs()))
    }

    /// Makes everything durable before a clean stop.
    fn close(&mut self) -> Result<(), LogError> {
        self.sync()?;
        let head = self.shared.bounds().head;
        self.head_file
            .as_mut()
            .map_or(Ok(()), |file| file.close(head))
    }

    /// Makes all commits durable.
    fn sync(&mut self) -> Result<(), LogError> {
        self.appender.sync()?;
        self.unsynced_since = None;
        Ok(())
    }

    fn touch_producer(&mut self, name: &str, now_ms: i64) {
        // A damaged state is reported when the producer's next entry needs it.
        let state = self.shared.producer(name).unwrap_or_default();
        if state != ProducerState::default() {
            let used_ms = self.clock.now_ms(now_ms);
            let touched = (Arc::from(name), StoredProducer { state, used_ms });
            self.documents.count_producers([(&touched.0, &touched.1)]);
            self.shared.producers().extend([touched]);
        }
    }

    /// Returns [`LogError::Full`] if the disk may be too full for a batch of this size and for the index,
    /// which cannot continue after a failed write.
    fn check_batch_space(&self, bytes: usize) -> Result<(), LogError> {
        let needed = (bytes as u64)
            .saturating_mul(COST_PER_BYTE)
            .saturating_add(COST_PER_COMMIT)
            .saturating_add(self.min_free_bytes);
        self.check_free(needed)
    }

    /// Returns [`LogError::Full`] if the disk may be too full for a transaction of the index: after a
    /// failed write, redb cannot continue.
    fn check_index_space(&self) -> Result<(), LogError> {
        self.check_free(INDEX_SPACE)?;
        if let Some((length, limit)) = self.disk.length_and_limit(INDEX_FILE) {
            // redb doubles its file when it needs space.
            let needed = length.saturating_mul(2).saturating_add(INDEX_SPACE);
            if limit < needed {
                let why = format!("{INDEX_FILE} needs up to {needed} bytes, the limit is {limit}");
                let error = io::Error::new(io::ErrorKind::FileTooLarge, why);
                return Err(LogError::NoSpace(Arc::new(error)));
            }
        }
        Ok(())
    }

    fn check_free(&self, needed: u64) -> Result<(), LogError> {
        match self.disk.free_bytes() {
            Ok(Some(free)) if free < needed => Err(LogError::Full { free, needed }),
            // Without a figure, a full disk is found by the write itself (`NoSpace`).
            Ok(Some(_) | None) => Ok(()),
            Err(error) => Err(LogError::NoSpace(Arc::new(error))),
        }
    }
}

impl Log for SegmentLog {
    fn append(&mut self, batch: Vec<Submission>, now_ms: i64) -> Result<Vec<Outcome>, LogError> {
        self.write(|log| log.commit(batch, now_ms))
    }

    fn maintain(&mut self, now_ms: i64) -> Result<bool, LogError> {
        match self.write(|log| log.maintain_slice(now_ms)) {
            // Reads and the segments go on without the index; what was due is due again later.
            Err(error) if error.is_full() => {
                if !std::mem::replace(&mut self.index_waits, true) {
                    tracing::warn!(%error, "the index of the log waits for space");
                }
                Ok(false)
            }
            result => {
                self.index_waits = false;
                result
            }
        }
    }

    fn check_space(&self, bytes: usize) -> Result<(), LogError> {
        self.check_batch_space(bytes)?;
        // Then the next commit writes the index first.
        if self.documents.is_full() {
            self.check_index_space()?;
        }
        Ok(())
    }

    fn maintenance_due(&self) -> Option<Duration> {
        // Only what is synced may be named in the head's file.
        let due = self.sync_due().or_else(|| self.head_due());
        let running = self.running.as_ref().map(|_| INDEX_POLL);
        due.into_iter().chain(running).min()
    }

    fn maintain_in_background(&mut self) {
        self.index_mode = IndexMode::Thread;
    }

    fn touch(&mut self, producer: &str, now_ms: i64) -> Result<(), LogError> {
        self.write(|log| {
            log.touch_producer(producer, now_ms);
            Ok(())
        })
    }

    fn trim(&mut self, upto: u64) -> Result<(), LogError> {
        self.write(|log| {
            let upto = upto.min(log.shared.bounds().head);
            log.finish_index_job(true)?;
            // Slices bound the size of one transaction, not the time of this call.
            while log.shared.bounds().first < upto {
                log.begin_index_job(Removal::Events { upto, expiry: None })?;
                log.finish_index_job(true)?;
            }
            Ok(())
        })
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::clone(&self.shared) as Arc<dyn LogReader>
    }
}

impl Drop for SegmentLog {
    fn drop(&mut self) {
        // Also after a failure: the thread holds the lock of the directory.
        if let Err(error) = self.finish_index_job(true) {
            tracing::error!(error = with_sources(&error), "the index was not written");
        }
        // After a failure another sync could report success for data that is lost.
        if self.failure.is_none()
            && let Err(error) = self.close()
        {
            tracing::error!(
                error = with_sources(&error),
                "the newest commits may be lost"
            );
        }
    }
}

impl fmt::Debug for SegmentLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentLog")
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

    fn producers(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, StoredProducer>> {
        self.producers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a producer's state if it is newer than the index.
    fn newer_producer(&self, name: &str) -> Option<ProducerState> {
        self.producers().get(name).map(|newer| newer.state.clone())
    }

    fn set_bounds(&self, change: impl FnOnce(&mut Bounds)) {
        change(&mut self.bounds.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// The committed state: the tables, and the states that are not in them yet.
struct Committed<'a> {
    /// Opened for the first state that is not in memory.
    index: Option<(Producers, Documents)>,
    shared: &'a Shared,
    documents: &'a DocumentStates,
    lost: LostChanges,
}

impl Committed<'_> {
    fn index(&mut self) -> Result<&(Producers, Documents), LogError> {
        let index = if let Some(index) = self.index.take() {
            index
        } else {
            let transaction = self.shared.engine.begin_read().map_err(storage)?;
            let producers = transaction.open_table(PRODUCERS).map_err(storage)?;
            let documents = transaction.open_table(DOCUMENTS).map_err(storage)?;
            (producers, documents)
        };
        Ok(self.index.insert(index))
    }
}

impl CommittedState for Committed<'_> {
    fn producer(&mut self, name: &str) -> Result<ProducerState, LogError> {
        let state = match self.shared.newer_producer(name) {
            Some(newer) => Ok(newer),
            None => engine::producer(&self.index()?.0, name),
        };
        let damaged = |error: &LogError| matches!(error, LogError::DamagedState { .. });
        match state {
            Err(error) if damaged(&error) => {
                // Without its sequence, the producer is told to begin again; the others go on.
                tracing::error!(
                    producer = name,
                    error = with_sources(&error),
                    "state is lost"
                );
                Ok(ProducerState::default())
            }
            state => state,
        }
    }

    fn document(&mut self, key: &DocumentKey) -> Result<Option<DocumentState>, LogError> {
        // Before the table, which lags behind the log until the next `apply`.
        if let Some(state) = self.documents.get(key) {
            return Ok(self.lost.continued(Some(state)));
        }
        match engine::document(&self.index()?.1, key) {
            Err(error @ LogError::DamagedState { .. }) => {
                tracing::error!(error = with_sources(&error), "the document begins anew");
                // Versions still increase: no document has more of them than the log has events.
                Ok(Some(DocumentState::unknown(self.shared.bounds().head)))
            }
            document => Ok(self
                .lost
                .continued(document?.map(|document| document.state))),
        }
    }
}

#[cfg(test)]
mod tests;
