//! The table of documents, and the states that are not in it yet.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use redb::ReadTransaction;

use super::{
    engine::{APPLIED_UPTO, DOCUMENTS, damaged_document, decode_document, number, storage},
    reads::Reads,
    segments::{Segments, Visited},
};
use crate::{
    Event,
    log::{
        DocumentKey, DocumentPage, DocumentQuery, LogError,
        encoding::{DecodeError, StoredProducer},
        ingest::DocumentState,
        page::Row,
    },
};

/// The number of records after which the index is written. With more, recovery after a crash and each
/// write of the index take longer; with fewer, the same pages are written more often.
const RECORDS_DUE: usize = 16_384;
/// The number of records after which a commit waits until the index is written. As many may be on their way
/// to it.
pub(super) const RECORDS_MAX: usize = RECORDS_DUE + 2_048;
/// The memory for keys after which a commit waits until the index is written, in bytes.
const KEY_BYTES_MAX: usize = 8 << 20;

/// The size of records after which the index is written, in bytes. Opening after a crash reads them again,
/// which takes less than a second.
const REPLAY_BYTES_DUE: u64 = 128 << 20;
/// The size of records after which a commit waits until the index is written, in bytes.
const REPLAY_BYTES_MAX: u64 = 2 * REPLAY_BYTES_DUE;

/// The newest states of documents: all that are not in the index yet, and some that are.
///
/// An entry is found by the hash of its key, so that a commit need not read the index for documents that
/// changed lately. No entry is ever older than the index. What is in the index is kept in two
/// generations: when the younger one is full, the older one is forgotten.
#[derive(Debug, Default)]
pub(super) struct DocumentStates {
    /// Each with the number of the transaction that writes it to the index.
    young: HashMap<DocumentKey, (DocumentState, u64)>,
    young_bytes: usize,
    old: HashMap<DocumentKey, (DocumentState, u64)>,
    /// The documents whose newest state the next transaction writes.
    pending: Vec<DocumentKey>,
    /// The number of the next transaction, from 1.
    transaction: u64,
    /// The records since the last transaction began.
    waiting: Records,
    /// Those of the transaction that runs.
    running: Records,
}

#[derive(Clone, Copy, Debug, Default)]
struct Records {
    count: usize,
    /// Size of the keys and markers of documents and producers with a new state.
    key_bytes: usize,
    /// Their size in the segments.
    bytes: u64,
}

/// Maximum size of a generation, in bytes. Two take about 16 MiB.
const GENERATION_BYTES: usize = 8 << 20;
/// The size of an entry besides its key: two copies of the pointers to the key, the state, the heads of
/// the key's parts, and free places of the table.
const ENTRY_BYTES: usize = 192;

impl DocumentStates {
    /// Adds the states after a commit of `records` records.
    pub(super) fn extend(
        &mut self,
        states: impl IntoIterator<Item = (DocumentKey, DocumentState)>,
        records: usize,
    ) {
        for (key, state) in states {
            let bytes = key.bytes();
            let pending = (state, self.transaction);
            if let Some(known) = self.young.get_mut(&key) {
                if std::mem::replace(known, pending).1 == self.transaction {
                    continue;
                }
            } else {
                self.young_bytes += bytes + ENTRY_BYTES;
                self.young.insert(key.clone(), pending);
            }
            self.waiting.key_bytes += bytes;
            self.pending.push(key);
        }
        self.waiting.count += records;
    }

    /// Returns the newest state if it is known without the index.
    pub(super) fn get(&self, key: &DocumentKey) -> Option<DocumentState> {
        let known = self.young.get(key).or_else(|| self.old.get(key));
        known.map(|(state, _)| *state)
    }

    /// Counts the markers and names of producers with a new state.
    pub(super) fn count_producers<'a>(
        &mut self,
        producers: impl IntoIterator<Item = (&'a Arc<str>, &'a StoredProducer)>,
    ) {
        for (name, producer) in producers {
            self.waiting.count += 1;
            let marker = producer.state.marker.as_ref().map_or(0, Bytes::len);
            self.waiting.key_bytes += name.len() + marker;
        }
    }

    /// Counts records in the segments that are not in the index.
    pub(super) const fn count_bytes(&mut self, bytes: u64) {
        self.waiting.bytes += bytes;
    }

    /// Returns the states that the next transaction writes, in the order of their keys: of everything that is
    /// not in the index. The one before must be over.
    pub(super) fn begin_transaction(&mut self) -> Vec<(DocumentKey, DocumentState)> {
        self.transaction += 1;
        self.running = std::mem::take(&mut self.waiting);
        let mut keys = std::mem::take(&mut self.pending);
        // In order, so that the pages of the index are visited once.
        keys.sort_unstable();
        keys.dedup();
        let states = keys.into_iter();
        states
            .filter_map(|key| Some((self.get(&key)?, key)))
            .map(|(state, key)| (key, state))
            .collect()
    }

    /// Notes that what was returned last is in the index.
    pub(super) fn on_applied(&mut self) {
        self.running = Records::default();
        // Only now: what is not in the index must not be forgotten. What is waiting is in it before the older
        // generation goes the next time.
        if self.young_bytes > GENERATION_BYTES {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
    }

    #[cfg(test)]
    pub(super) const fn replay_bytes(&self) -> u64 {
        self.waiting.bytes
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.waiting.count == 0
    }

    /// Returns `true` if there are enough states to be worth a transaction.
    pub(super) const fn is_due(&self) -> bool {
        let Records {
            count,
            key_bytes,
            bytes,
        } = self.waiting;
        count >= RECORDS_DUE || key_bytes >= KEY_BYTES_MAX / 2 || bytes >= REPLAY_BYTES_DUE
    }

    /// Returns `true` if no more states may be added.
    pub(super) const fn is_full(&self) -> bool {
        let Self {
            waiting, running, ..
        } = self;
        waiting.count >= RECORDS_MAX
            || waiting.key_bytes + running.key_bytes >= KEY_BYTES_MAX
            || waiting.bytes + running.bytes >= REPLAY_BYTES_MAX
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
    let rows = range.map(|item| {
        let (key, encoded) = item.map_err(storage)?;
        let (database, collection, id) = key.value();
        let key = DocumentKey::new(database, collection, id);
        let decode = move |key: &DocumentKey| {
            let document = decode_document(key, encoded.value())?;
            Ok(match document.event {
                _ if document.state.deleted => Row::Deleted,
                Some(event) => Row::Known(event),
                None => Row::At(document.state.offset),
            })
        };
        Ok((key, decode))
    });
    let mut reads = Reads::of_single_events();
    query.collect(as_of, rows, |offset| {
        last_event(segments, &mut reads, offset)
    })
}

/// Reads the last event of a document.
pub(super) fn last_event(
    segments: &Segments,
    reads: &mut Reads,
    offset: u64,
) -> Result<Arc<Event>, LogError> {
    let mut found = Err(damaged_document(DecodeError::Missing));
    // `visit` excludes its start. The offset of a live document is at least 1.
    segments.visit_in(reads, offset - 1, offset, |visited| {
        found = match visited {
            Visited::Event(stored, _) => Ok(stored.event),
            Visited::Damaged { error, .. } => Err(damaged_document(error)),
        };
        false
    })?;
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn known_states_are_bounded_and_never_older_than_the_index() {
        // Long names, so that few documents fill a generation.
        let name = "d".repeat(4_000);
        let keys: Vec<_> = (0..6_000)
            .map(|id| DocumentKey::new("db", "c", format!("{name}{id}")))
            .collect();
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut states = DocumentStates::default();
        let (mut newest, mut index) = (BTreeMap::new(), BTreeMap::new());
        let mut forgotten = 0;
        // The transaction that runs, and the offset at which it ends.
        let mut running = None;
        for offset in 1..40_000 {
            let key = &keys[rng.random_range(0..keys.len())];
            let state = DocumentState {
                version: offset,
                created_at: 0,
                deleted: false,
                offset,
            };
            states.extend([(key.clone(), state)], 1);
            newest.insert(key, state);
            assert_eq!(states.get(key), Some(state));
            let known = &keys[rng.random_range(0..keys.len())];
            let expected = newest.get(known).copied();
            match states.get(known) {
                None => assert_eq!(index.get(known).copied(), expected),
                state => assert_eq!(state, expected),
            }
            if running.is_none() && states.is_due() {
                running = Some((
                    states.begin_transaction(),
                    offset + rng.random_range(0..800),
                ));
                assert!(states.is_empty());
            }
            if let Some((written, _)) = running.take_if(|(_, end)| offset >= *end) {
                index.extend(written);
                states.on_applied();
                forgotten += usize::from(states.young.is_empty());
            }
            let bytes = (states.young.len() + states.old.len()) * (name.len() + ENTRY_BYTES);
            assert!(bytes < 2 * (GENERATION_BYTES + KEY_BYTES_MAX), "{bytes}");
        }
        assert!(forgotten > 3, "{forgotten}");
    }

    #[test]
    fn large_records_make_the_index_due() {
        let mut states = DocumentStates::default();
        states.count_bytes(REPLAY_BYTES_DUE - 1);
        assert!(!states.is_due());
        states.count_bytes(1);
        assert!(states.is_due() && !states.is_full());
        states.count_bytes(REPLAY_BYTES_DUE);
        assert!(states.is_full());
        // Those of the transaction that runs count.
        drop(states.begin_transaction());
        assert!(!states.is_due() && states.is_full());
        states.on_applied();
        assert!(!states.is_full());
    }
}
