//! The table of documents, and the states that are not in it yet.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use redb::ReadTransaction;

use super::{
    SegmentLog,
    engine::{
        APPLIED_UPTO, DOCUMENTS, PRODUCERS, damaged_document, decode_document, number, set_number,
        storage,
    },
    segments::{Segments, Visited},
};
use crate::{
    Event,
    log::{
        DocumentKey, DocumentPage, DocumentQuery, LogError,
        encoding::{DecodeError, StoredDocument, StoredProducer},
        ingest::DocumentState,
    },
};

/// The number of events after which the documents are written. With more, recovery after a crash and
/// each write take longer; with fewer, frequently changed pages are written more often.
const EVENTS_DUE: usize = 4_096;
/// The number of events after which a commit waits until the documents are written.
const EVENTS_MAX: usize = 4 * EVENTS_DUE;
/// The memory for keys after which a commit waits until the documents are written, in bytes.
const KEY_BYTES_MAX: usize = 8 << 20;

/// Documents whose state in the table is outdated, with their new state, and the number of producers
/// of which this is true.
#[derive(Debug, Default)]
pub(super) struct PendingStates {
    states: BTreeMap<DocumentKey, DocumentState>,
    key_bytes: usize,
    events: usize,
    producers: usize,
}

impl PendingStates {
    /// Adds the document states after a commit of `events` events.
    pub(super) fn extend(
        &mut self,
        states: impl IntoIterator<Item = (DocumentKey, DocumentState)>,
        events: usize,
    ) {
        for (key, state) in states {
            let bytes = key.bytes();
            if self.states.insert(key, state).is_none() {
                self.key_bytes += bytes;
            }
        }
        self.events += events;
    }

    pub(super) fn state(&self, key: &DocumentKey) -> Option<DocumentState> {
        self.states.get(key).copied()
    }

    /// Counts producers with a new state.
    pub(super) fn count_producers(&mut self, producers: &[(Arc<str>, StoredProducer)]) {
        // Counted again for each commit of one producer. This only writes the index a little
        // earlier.
        self.producers += producers.len();
        for (name, producer) in producers {
            self.key_bytes += name.len() + producer.state.marker.as_ref().map_or(0, Bytes::len);
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.events == 0 && self.producers == 0
    }

    /// Returns `true` if there are enough states to be worth a transaction.
    pub(super) const fn is_due(&self) -> bool {
        self.events + self.producers >= EVENTS_DUE || self.key_bytes >= KEY_BYTES_MAX / 2
    }

    /// Returns `true` if no more states may be added.
    pub(super) const fn is_full(&self) -> bool {
        self.events + self.producers >= EVENTS_MAX || self.key_bytes >= KEY_BYTES_MAX
    }
}

impl SegmentLog {
    /// Brings the index up to the head.
    pub(super) fn apply(&mut self, now_ms: i64) -> Result<(), LogError> {
        if !self.pending.is_empty() {
            // redb cannot continue after a failed write, so that it must not begin one on a full
            // disk.
            // The index must not know of more than the segments hold after a power failure.
            self.sync()?;
            let transaction = self.begin_index_commit()?;
            {
                let mut table = transaction.open_table(DOCUMENTS).map_err(storage)?;
                for (key, state) in &self.pending.states {
                    let document = StoredDocument {
                        state: *state,
                        // Read from its segment until the event is trimmed there.
                        event: None,
                    };
                    let encoded = document.encode(key);
                    table.insert(key.as_tuple(), &*encoded).map_err(storage)?;
                }
            }
            {
                let mut table = transaction.open_table(PRODUCERS).map_err(storage)?;
                for (name, producer) in &*self.shared.producers() {
                    let encoded = producer.encode(name);
                    table.insert(&**name, &*encoded).map_err(storage)?;
                }
            }
            // In the same transaction, so that after a crash exactly the later events are reapplied.
            set_number(&transaction, APPLIED_UPTO, self.shared.bounds().head)?;
            transaction.commit().map_err(storage)?;
            // Only after the commit: until then commits and readers need the states in memory.
            self.pending = PendingStates::default();
            self.shared.producers().clear();
        }
        self.maintenance.applied_ms = now_ms;
        Ok(())
    }
}

/// Reads one page of documents.
pub(super) fn read(
    transaction: &ReadTransaction,
    segments: &Segments,
    query: DocumentQuery<'_>,
) -> Result<DocumentPage, LogError> {
    // From the same transaction as the rows, so that it is exactly their age.
    let as_of = number(transaction, APPLIED_UPTO)?;
    let documents = transaction.open_table(DOCUMENTS).map_err(storage)?;
    let (start, end) = query.range();
    let bounds = (
        start.as_ref().map(DocumentKey::as_tuple),
        end.as_ref().map(DocumentKey::as_tuple),
    );
    let range = documents.range(bounds).map_err(storage)?;
    let items = range.map(|item| {
        let (key, encoded) = item.map_err(storage)?;
        let (database, collection, id) = key.value();
        let load = move |key: &DocumentKey| {
            let document = decode_document(key, encoded.value())?;
            if document.state.deleted {
                return Ok(None);
            }
            if document.event.is_some() {
                return Ok(document.event);
            }
            last_event(segments, document.state.offset).map(Some)
        };
        Ok((DocumentKey::new(database, collection, id), load))
    });
    query.collect(as_of, items)
}

pub(super) fn last_event(segments: &Segments, offset: u64) -> Result<Arc<Event>, LogError> {
    let mut found = Err(damaged_document(DecodeError::Missing));
    // `visit` excludes its start. The offset of a live document is at least 1.
    segments.visit(offset - 1, offset, |visited| {
        found = match visited {
            Visited::Event(stored, _) => Ok(stored.event),
            Visited::Damaged { error, .. } => Err(damaged_document(error)),
        };
        false
    })?;
    found
}
