//! Dropping what is old: entries, and producers nobody heard of for long.

use redb::{ReadableDatabase, ReadableTable};

use super::{
    RedbLog, StoreOptions,
    documents::{not_readable, parts, tuple},
    engine::{DOCUMENTS, EVENTS, FIRST, PRODUCERS, damaged, set_number, storage},
};
use crate::log::{
    Bounds, DocumentKey, LogError, PRODUCER_LIFETIME_MS,
    record::{Content, StoredDocument, StoredEvent, StoredProducer},
};

/// Entries dropped in one transaction, so that a commit between two of them waits milliseconds.
///
/// More than the entries of one commit, so that retention keeps up with a writer that does a slice
/// after each.
const SLICE: usize = 2_000;
/// How often retention looks whether something is to be dropped.
const RETENTION_EVERY_MS: i64 = 1_000;
/// How often producers are looked through.
const PRODUCERS_EVERY_MS: i64 = 60 * 60 * 1_000;
/// How long a change may wait until its document is written, so that a snapshot is not old.
const APPLY_AFTER_MS: i64 = 10_000;

/// What is to be done now and then, and when it was done last.
#[derive(Debug)]
pub(super) struct Housekeeping {
    retention_age_ms: Option<i64>,
    retention_bytes: Option<u64>,
    pub(super) applied_ms: i64,
    retained_ms: Option<i64>,
    swept_ms: Option<i64>,
}

impl Housekeeping {
    pub(super) fn new(options: &StoreOptions) -> Self {
        Self {
            retention_age_ms: options
                .retention_age
                .map(|age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX)),
            retention_bytes: options.retention_bytes,
            applied_ms: 0,
            retained_ms: None,
            swept_ms: None,
        }
    }

    /// Whether an entry is beyond what is kept. `held` are the bytes from its record to the end.
    fn has_expired(&self, stored: &StoredEvent, held: u64, now_ms: i64) -> bool {
        let age = now_ms.saturating_sub(stored.event.timestamp);
        self.retention_age_ms.is_some_and(|limit| age > limit)
            || self.retention_bytes.is_some_and(|limit| held > limit)
    }
}

impl RedbLog {
    /// Does one slice of what is due, and tells whether more is.
    pub(super) fn keep_house(&mut self, now_ms: i64) -> Result<bool, LogError> {
        let applied_ms = self.housekeeping.applied_ms;
        if self.pending.is_due()
            || (!self.pending.is_empty() && is_over(Some(applied_ms), APPLY_AFTER_MS, now_ms))
        {
            self.apply_documents(now_ms)?;
            return Ok(true);
        }
        if is_over(self.housekeeping.swept_ms, PRODUCERS_EVERY_MS, now_ms) {
            let more = self.forget_producers(now_ms)?;
            if !more {
                self.housekeeping.swept_ms = Some(now_ms);
            }
            return Ok(true);
        }
        if is_over(self.housekeeping.retained_ms, RETENTION_EVERY_MS, now_ms) {
            let upto = self.expired_upto(now_ms)?;
            let Bounds { first, .. } = self.shared.bounds();
            if upto > first {
                self.trim_slice(upto)?;
                return Ok(true);
            }
            self.housekeeping.retained_ms = Some(now_ms);
        }
        Ok(false)
    }

    /// Drops the oldest entries up to and with `upto`, but not more than a slice of them. Tells
    /// whether some are left.
    pub(super) fn trim_slice(&mut self, upto: u64) -> Result<bool, LogError> {
        let Bounds { first, .. } = self.shared.bounds();
        if upto <= first {
            return Ok(false);
        }
        // A document whose last change is dropped must be in its table, to take the content.
        self.apply_documents(self.housekeeping.applied_ms)?;
        let end = upto.min(first + SLICE as u64);
        let transaction = self.shared.engine.begin_commit()?;
        {
            let mut events = transaction.open_table(EVENTS).map_err(storage)?;
            let mut documents = transaction.open_table(DOCUMENTS).map_err(storage)?;
            for item in events.range(first + 1..=end).map_err(storage)? {
                let (offset, record) = item.map_err(storage)?;
                let offset = offset.value();
                let stored = match StoredEvent::decode(offset, record.value()) {
                    Ok(stored) => stored,
                    Err(damage) => {
                        // Keeping it would stop retention for good.
                        tracing::error!(offset, %damage, "a damaged entry leaves the log");
                        continue;
                    }
                };
                let key = DocumentKey::of(&stored.event);
                let document = documents
                    .get(tuple(&key))
                    .map_err(storage)?
                    .map(|record| StoredDocument::decode(&parts(&key), record.value()))
                    .transpose()
                    .map_err(not_readable)?;
                let Some(mut document) = document
                    .filter(|document| document.state.offset == offset && !document.state.deleted)
                else {
                    continue;
                };
                document.content = Some(Content {
                    operation: stored.event.operation,
                    data: stored.event.data.clone(),
                    timestamp: stored.event.timestamp,
                });
                let record = document.encode(&parts(&key));
                documents.insert(tuple(&key), &*record).map_err(storage)?;
            }
            events
                .retain_in(first + 1..=end, |_, _| false)
                .map_err(storage)?;
        }
        set_number(&transaction, FIRST, end)?;
        transaction.commit().map_err(storage)?;
        self.shared.set_bounds(|bounds| bounds.first = end);
        Ok(end < upto)
    }

    /// The newest of the oldest entries that may go, looking at no more than a slice of them.
    fn expired_upto(&self, now_ms: i64) -> Result<u64, LogError> {
        let housekeeping = &self.housekeeping;
        let Bounds { first, head } = self.shared.bounds();
        let mut upto = first;
        if housekeeping.retention_age_ms.is_none() && housekeeping.retention_bytes.is_none() {
            return Ok(upto);
        }
        let transaction = self.shared.engine.begin_read().map_err(storage)?;
        let events = transaction.open_table(EVENTS).map_err(storage)?;
        for item in events.range(first + 1..=head).map_err(storage)?.take(SLICE) {
            let (offset, record) = item.map_err(storage)?;
            let offset = offset.value();
            // A damaged one goes together with the next good one that goes.
            let Ok(stored) = StoredEvent::decode(offset, record.value()) else {
                continue;
            };
            let held = self.bytes.saturating_sub(stored.bytes_before);
            if !housekeeping.has_expired(&stored, held, now_ms) {
                break;
            }
            upto = offset;
        }
        Ok(upto)
    }

    /// Forgets producers that were idle for long, a slice of them, and tells whether some are left.
    fn forget_producers(&mut self, now_ms: i64) -> Result<bool, LogError> {
        let oldest = now_ms.saturating_sub(PRODUCER_LIFETIME_MS);
        let mut idle = Vec::new();
        {
            let transaction = self.shared.engine.begin_read().map_err(storage)?;
            let table = transaction.open_table(PRODUCERS).map_err(storage)?;
            for item in table.iter().map_err(storage)? {
                let (name, record) = item.map_err(storage)?;
                let producer = StoredProducer::decode(name.value(), record.value())
                    .map_err(|damage| damaged("record of a producer", damage))?;
                if producer.is_forgotten(oldest) {
                    idle.push(name.value().to_owned());
                }
                if idle.len() == SLICE {
                    break;
                }
            }
        }
        if !idle.is_empty() {
            let transaction = self.shared.engine.begin_commit()?;
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

/// Whether `interval` passed since `last`, or the clock was set back.
fn is_over(last: Option<i64>, interval_ms: i64, now_ms: i64) -> bool {
    last.is_none_or(|last| now_ms < last || now_ms.saturating_sub(last) >= interval_ms)
}
