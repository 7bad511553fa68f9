//! The documents' table, and the changes that are not in it yet.

use std::{collections::BTreeMap, ops::Bound};

use redb::{ReadTransaction, ReadableTable};

use super::{
    RedbLog,
    engine::{APPLIED_UPTO, DOCUMENTS, Documents, EVENTS, damaged, number, set_number, storage},
};
use crate::log::{
    DocumentKey, DocumentPage, LogError,
    ingest::DocumentState,
    page::Page,
    record::{Damage, StoredDocument, StoredEvent},
};

/// Changes after which the documents are written. More would make opening after a crash and each
/// writing longer, fewer would write hot pages more often.
const CHANGES_DUE: usize = 4_096;
/// Changes after which a commit waits until the documents are written.
const CHANGES_MAX: usize = 4 * CHANGES_DUE;
/// The same for the memory of the keys, in bytes.
const KEY_BYTES_MAX: usize = 8 << 20;
/// Documents looked at for one page, deleted ones included.
const LOOKED_AT_MAX: usize = 16_384;

/// Documents whose state in the table is old, with their new state.
#[derive(Debug, Default)]
pub(super) struct Pending {
    documents: BTreeMap<DocumentKey, DocumentState>,
    key_bytes: usize,
    changes: usize,
}

impl Pending {
    pub(super) fn extend(
        &mut self,
        documents: impl IntoIterator<Item = (DocumentKey, DocumentState)>,
        changes: usize,
    ) {
        for (key, state) in documents {
            let bytes = key.database.len() + key.collection.len() + key.document_id.len();
            if self.documents.insert(key, state).is_none() {
                self.key_bytes += bytes;
            }
        }
        self.changes += changes;
    }

    pub(super) fn state(&self, key: &DocumentKey) -> Option<DocumentState> {
        self.documents.get(key).copied()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.changes == 0
    }

    /// Whether it is worth the writing.
    pub(super) const fn is_due(&self) -> bool {
        self.changes >= CHANGES_DUE || self.key_bytes >= KEY_BYTES_MAX / 2
    }

    /// Whether it must not grow.
    pub(super) const fn is_over_bound(&self) -> bool {
        self.changes >= CHANGES_MAX || self.key_bytes >= KEY_BYTES_MAX
    }
}

impl RedbLog {
    /// Brings the documents' table up to the head.
    pub(super) fn apply_documents(&mut self, now_ms: i64) -> Result<(), LogError> {
        if !self.pending.is_empty() {
            let transaction = self.shared.engine.begin_commit()?;
            {
                let mut table = transaction.open_table(DOCUMENTS).map_err(storage)?;
                for (key, state) in &self.pending.documents {
                    let document = StoredDocument {
                        state: *state,
                        content: None,
                    };
                    let record = document.encode(&parts(key));
                    let key = tuple(key);
                    table.insert(key, &*record).map_err(storage)?;
                }
            }
            set_number(&transaction, APPLIED_UPTO, self.shared.bounds().head)?;
            transaction.commit().map_err(storage)?;
            self.pending = Pending::default();
        }
        self.housekeeping.applied_ms = now_ms;
        Ok(())
    }
}

/// What the table says of a document.
pub(super) fn state(
    table: &Documents,
    key: &DocumentKey,
) -> Result<Option<DocumentState>, LogError> {
    let Some(record) = ReadableTable::get(table, tuple(key)).map_err(storage)? else {
        return Ok(None);
    };
    let document = StoredDocument::decode(&parts(key), record.value()).map_err(not_readable)?;
    Ok(Some(document.state))
}

/// The living documents after `after`, as far as `page` has room.
pub(super) fn read(
    transaction: &ReadTransaction,
    database: &str,
    collection: Option<&str>,
    after: Option<&DocumentKey>,
    mut page: Page,
) -> Result<DocumentPage, LogError> {
    let as_of = number(transaction, APPLIED_UPTO)?;
    let documents = transaction.open_table(DOCUMENTS).map_err(storage)?;
    let events = transaction.open_table(EVENTS).map_err(storage)?;
    let least = DocumentKey::least(database, collection);
    let start = after.map_or(Bound::Included(tuple(&least)), |key| {
        Bound::Excluded(tuple(key))
    });
    let mut seen: Option<DocumentKey> = None;
    let mut next = None;
    let range = documents
        .range((start, Bound::Unbounded))
        .map_err(storage)?;
    for (looked_at, item) in range.enumerate() {
        let (key, record) = item.map_err(storage)?;
        let (key_database, key_collection, id) = key.value();
        if key_database != database || collection.is_some_and(|it| it != key_collection) {
            break;
        }
        if looked_at == LOOKED_AT_MAX || !page.has_room() {
            next = seen;
            break;
        }
        let document = StoredDocument::decode(&[key_database, key_collection, id], record.value())
            .map_err(not_readable)?;
        let key = DocumentKey {
            database: key_database.into(),
            collection: key_collection.into(),
            document_id: id.into(),
        };
        if !document.state.deleted {
            let offset = document.state.offset;
            let event = match document.content {
                Some(content) => content.into_event(&key, offset),
                None => match events.get(offset).map_err(storage)? {
                    Some(record) => {
                        StoredEvent::decode(offset, record.value())
                            .map_err(not_readable)?
                            .event
                    }
                    None => return Err(not_readable(Damage::CutOff)),
                },
            };
            page.push(event);
        }
        seen = Some(key);
    }
    Ok(DocumentPage {
        documents: page.into_events(),
        as_of,
        next,
    })
}

pub(super) fn tuple(key: &DocumentKey) -> (&str, &str, &str) {
    (&key.database, &key.collection, &key.document_id)
}

pub(super) fn parts(key: &DocumentKey) -> [&str; 3] {
    [&key.database, &key.collection, &key.document_id]
}

pub(super) fn not_readable(damage: Damage) -> LogError {
    damaged("record of a document", damage)
}
