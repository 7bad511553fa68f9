//! Work between commits: writing documents, trimming old events, forgetting idle producers.

use std::sync::Arc;

use redb::{ReadableDatabase, ReadableTable, WriteTransaction};

use super::{
    SegmentLog, StoreOptions,
    disk::removed,
    engine::{self, DOCUMENTS, FIRST, INDEX_FILE, PRODUCERS, decode_producer, set_number, storage},
    head::{self, HEAD_FILE},
    segments::Visited,
};
use crate::{
    Event,
    log::{
        Bounds, DocumentKey, LogError, PRODUCER_LIFETIME_MS, age_clock::AgeClock,
        encoding::StoredEvent, with_sources,
    },
};

/// Maximum number of events trimmed, or producers removed, in one transaction, so that a commit that
/// waits for it is delayed by milliseconds only.
///
/// More than the events of one commit, so that a writer that does one slice after each commit trims
/// faster than it appends.
const SLICE: usize = 2_000;
/// Maximum number of documents that one transaction moves into their rows. Each changes another page of
/// the index, and costs more than all else. More than the entries of one commit, like [`SLICE`].
const KEPT_MAX: usize = 1_100;
/// Interval of the search for events beyond the retention limits.
const RETENTION_INTERVAL_MS: i64 = 1_000;
/// Interval of the search for idle producers.
const PRODUCERS_INTERVAL_MS: i64 = 60 * 60 * 1_000;
/// Minimum step by which the age clock catches up with the system's.
const AGE_STEP_MIN_MS: i64 = 10_000;
/// Maximum age of the documents' table, so that snapshots are recent.
const APPLY_INTERVAL_MS: i64 = 10_000;

/// The retention limits, and the times at which each kind of work was last completed.
#[derive(Debug)]
pub(super) struct Maintenance {
    retention_age_ms: Option<i64>,
    retention_bytes: Option<u64>,
    pub(super) applied_ms: i64,
    retention_checked_ms: Option<i64>,
    stepped_ms: Option<i64>,
    producers_checked_ms: Option<i64>,
}

impl Maintenance {
    pub(super) fn new(options: &StoreOptions) -> Self {
        Self {
            retention_age_ms: options
                .retention_age
                .map(|age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX)),
            retention_bytes: options.retention_bytes,
            applied_ms: 0,
            retention_checked_ms: None,
            stepped_ms: None,
            producers_checked_ms: None,
        }
    }

    /// Returns `true` if an event exceeds the retention limits at this reading of the age clock. `held`
    /// is the size of this event and all later ones.
    fn is_expired(&self, stored: &StoredEvent, held: u64, now_ms: i64) -> bool {
        let age = now_ms.saturating_sub(stored.logged_ms);
        self.retention_age_ms.is_some_and(|limit| age > limit)
            || self.retention_bytes.is_some_and(|limit| held > limit)
    }
}

impl SegmentLog {
    /// Does one slice of the work that is due, and returns `true` if more is due.
    pub(super) fn maintain_slice(&mut self, now_ms: i64) -> Result<bool, LogError> {
        if self.sync_due().is_some_and(|due| due.is_zero()) {
            self.sync()?;
        }
        self.advance_head(now_ms)?;
        let applied_ms = self.maintenance.applied_ms;
        // First: the search for idle producers reads their table, which should be current.
        if self.documents.is_due()
            || (!self.documents.is_empty() && is_due(Some(applied_ms), APPLY_INTERVAL_MS, now_ms))
        {
            self.apply(now_ms)?;
            return Ok(true);
        }
        if is_due(
            self.maintenance.producers_checked_ms,
            PRODUCERS_INTERVAL_MS,
            now_ms,
        ) {
            let aged_ms = self.clock.now_ms(now_ms);
            let more = self.forget_producers(aged_ms)?;
            if !more {
                self.maintenance.producers_checked_ms = Some(now_ms);
            }
            return Ok(true);
        }
        if is_due(
            self.maintenance.retention_checked_ms,
            RETENTION_INTERVAL_MS,
            now_ms,
        ) {
            // Ages follow the age clock. Intervals follow the system's, because `is_due` tolerates
            // a jump.
            let aged_ms = self.step_clock(now_ms);
            let upto = self.expired_upto(aged_ms)?;
            let Bounds { first, .. } = self.shared.bounds();
            if upto > first {
                // The search is repeated after each slice, since it looks only at one slice itself.
                self.trim_slice(upto)?;
                return Ok(true);
            }
            self.maintenance.retention_checked_ms = Some(now_ms);
            // Appending checks only its own file. This finds that an older segment or the index was
            // removed.
            self.check_files()?;
        }
        Ok(false)
    }

    /// Names the head in its file, if that is due.
    fn advance_head(&mut self, now_ms: i64) -> Result<(), LogError> {
        let head = self.shared.bounds().head;
        // What is not synced may vanish without anybody's doing, and would be called damage.
        if self.unsynced_since.is_none()
            && let Some(file) = &mut self.head_file
            && file.is_behind(head)
            && is_due(file.written_ms, head::INTERVAL_MS, now_ms)
            && let Err(error) = file.advance(head, now_ms)
            // What the file says stays true.
            && !error.is_full()
        {
            return Err(error);
        }
        Ok(())
    }

    /// Advances the age clock. One step ages events by at most a thousandth of the retention age more
    /// than the time that passed, so that little is trimmed before somebody sees that a clock is wrong.
    fn step_clock(&mut self, now_ms: i64) -> i64 {
        // Not for each slice of one trimming.
        if !is_due(self.maintenance.stepped_ms, RETENTION_INTERVAL_MS, now_ms) {
            return self.clock.now_ms(now_ms);
        }
        self.maintenance.stepped_ms = Some(now_ms);
        let passed = self.stepped.elapsed();
        self.stepped += passed;
        let step_ms = self
            .maintenance
            .retention_age_ms
            .map_or(AgeClock::STEP_MS, |age| {
                (age / 1_000).clamp(AGE_STEP_MIN_MS, AgeClock::STEP_MS)
            });
        self.clock.advance(now_ms, passed, step_ms)
    }

    /// Returns an error if a file of the log was removed: what is written to it would be lost.
    fn check_files(&self) -> Result<(), LogError> {
        let names = self.disk.names().map_err(LogError::storage)?;
        let mut files = self.shared.segments.file_names();
        files.extend([INDEX_FILE, HEAD_FILE].map(str::to_owned));
        match files.iter().find(|name| !names.contains(name)) {
            None => Ok(()),
            Some(name) => Err(removed(name)),
        }
    }

    /// Trims the events up to and including `upto`, but at most one slice of them. Returns `true` if
    /// some are left.
    pub(super) fn trim_slice(&mut self, upto: u64) -> Result<bool, LogError> {
        let Bounds { first, .. } = self.shared.bounds();
        if upto <= first {
            return Ok(false);
        }
        let transaction = self.begin_index_commit()?;
        // Each document whose last event is trimmed must have its row, which receives the event.
        self.write_pending(&transaction)?;
        let end = upto.min(first + SLICE as u64);
        let end = self.keep_documents(&transaction, first, end)?;
        // In the transaction of the rows: an event is either readable in the log or kept in its
        // row.
        set_number(&transaction, FIRST, end)?;
        transaction.commit().map_err(storage)?;
        self.on_applied();
        // Before the files go, so that a reader that meets a missing one finds the reason.
        self.shared.set_bounds(|bounds| bounds.first = end);
        // Last: a crash before it leaves files that nobody reads.
        self.shared.segments.remove_before(end);
        Ok(end < upto)
    }

    /// Moves the events after `first`, up to `end`, into the rows of the documents of which they are the
    /// last ones. Returns the offset that it reached.
    fn keep_documents(
        &self,
        transaction: &WriteTransaction,
        first: u64,
        end: u64,
    ) -> Result<u64, LogError> {
        let (mut reached, mut kept) = (first, 0);
        let mut documents = transaction.open_table(DOCUMENTS).map_err(storage)?;
        let mut keep = |event: Arc<Event>| {
            let key = DocumentKey::of(&event);
            // Most events are not the last ones of their documents, which costs no read of the index.
            let newest = self.documents.get(&key);
            if newest.is_some_and(|state| state.offset != event.offset) {
                return Ok(false);
            }
            let mut document = match engine::document(&documents, &key) {
                Ok(Some(document)) => document,
                // Only after damage: the row of each document that is known has just been written.
                Ok(None) => return Ok(false),
                Err(error @ LogError::DamagedState { .. }) => {
                    tracing::error!(error = with_sources(&error), "a document is lost");
                    return Ok(false);
                }
                Err(error) => return Err(error),
            };
            // Only the last event of a live document is kept: a row of a deleted one has no content.
            if document.state.offset != event.offset || document.state.deleted {
                return Ok(false);
            }
            document.event = Some(event);
            let encoded = document.encode(&key);
            documents
                .insert(key.as_tuple(), &*encoded)
                .map_err(storage)?;
            Ok(true)
        };
        let mut failed = None;
        self.shared.segments.visit(first, end, |visited| {
            match visited {
                Visited::Event(stored, _) => {
                    let offset = stored.event.offset;
                    match keep(stored.event) {
                        Ok(is_kept) => {
                            reached = offset;
                            kept += usize::from(is_kept);
                        }
                        Err(error) => failed = Some(error),
                    }
                }
                Visited::Damaged { upto, error } => {
                    // If it were kept, no later event could ever be trimmed.
                    tracing::error!(upto, %error, "trimming damaged events");
                    reached = upto;
                }
            }
            failed.is_none() && kept < KEPT_MAX
        })?;
        failed.map_or(Ok(reached), Err)
    }

    /// Returns the newest of the oldest events that exceed the retention limits, searching at most
    /// one slice.
    fn expired_upto(&self, now_ms: i64) -> Result<u64, LogError> {
        let maintenance = &self.maintenance;
        let Bounds { first, head } = self.shared.bounds();
        let mut upto = first;
        if maintenance.retention_age_ms.is_none() && maintenance.retention_bytes.is_none() {
            return Ok(upto);
        }
        let end = head.min(first + SLICE as u64);
        self.shared.segments.visit(first, end, |visited| {
            // A damaged event has no time; it is trimmed with the next event that expires.
            if let Visited::Event(stored, bytes_before) = visited {
                // Both totals include what was trimmed, so that their difference is what the log
                // still holds.
                let held = self.appender.bytes().saturating_sub(bytes_before);
                if !maintenance.is_expired(&stored, held, now_ms) {
                    return false;
                }
                upto = stored.event.offset;
            }
            true
        })?;
        Ok(upto)
    }

    /// Removes one slice of the idle producers, and returns `true` if some may be left.
    fn forget_producers(&mut self, now_ms: i64) -> Result<bool, LogError> {
        let oldest = now_ms.saturating_sub(PRODUCER_LIFETIME_MS);
        let mut idle = Vec::new();
        {
            let transaction = self.shared.engine.begin_read().map_err(storage)?;
            let table = transaction.open_table(PRODUCERS).map_err(storage)?;
            for item in table.iter().map_err(storage)? {
                let (name, encoded) = item.map_err(storage)?;
                // A damaged one is reported when it is used.
                let producer = decode_producer(name.value(), encoded.value()).ok();
                if producer.is_some_and(|producer| producer.is_expired(oldest)) {
                    idle.push(name.value().to_owned());
                }
                if idle.len() == SLICE {
                    break;
                }
            }
        }
        if !idle.is_empty() {
            let transaction = self.begin_index_commit()?;
            {
                let mut table = transaction.open_table(PRODUCERS).map_err(storage)?;
                for name in &idle {
                    table.remove(&**name).map_err(storage)?;
                }
            }
            transaction.commit().map_err(storage)?;
        }
        Ok(idle.len() == SLICE)
    }
}

/// Returns `true` if `interval_ms` has passed since `last`, or the clock was set back.
fn is_due(last: Option<i64>, interval_ms: i64, now_ms: i64) -> bool {
    last.is_none_or(|last| now_ms < last || now_ms.saturating_sub(last) >= interval_ms)
}
