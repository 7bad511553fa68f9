//! Events of the log as changes of a Puller.
//!
//! The log is one backend. The time of a change is its offset, so that no two changes have the same one;
//! the hash in its id is the term in which it was written. So a marker names a position exactly, and one
//! of another history is recognized.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::value::RawValue;
use steadfast_wire::puller::{ChangeEvent, PullerEvent};

use super::{
    document::{StoredDocument, collection_hash, physical_id},
    marker::OWN_BACKEND,
    progress::{ClusterTime, EventId, InvalidProgress, Progress},
};
use crate::{Bounds, Epoch, Event, Operation, Position, Terms};

/// Where a consumer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// After what is in the log now.
    Now,
    /// With the oldest event of the log.
    Oldest,
    /// After this offset.
    After(u64),
}

/// The reason for which a consumer cannot begin at its marker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefusedMarker {
    /// The marker cannot be read.
    #[error("invalid 'after' progress marker: {0}")]
    Invalid(#[from] InvalidProgress),
    /// The marker is of another Puller.
    #[error(
        "invalid 'after' progress marker: it names no backend `steadfast`, so that it is of another \
         Puller; subscribe with an empty marker"
    )]
    Foreign,
    /// The marker is of another history of this log, such as one that a restored copy lacks.
    #[error(
        "the log does not know the position {0}; read the state anew, and subscribe with an empty marker"
    )]
    Unknown(Position),
    /// Events after the marker were trimmed.
    #[error(
        "the events after offset {after} were trimmed, the log begins after {first}; read the state \
         anew, and subscribe with an empty marker"
    )]
    Trimmed {
        /// The offset of the marker.
        after: u64,
        /// The oldest offset that can be read after.
        first: u64,
    },
}

/// A change that stands for one or more events of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The newest of them.
    pub event: Arc<Event>,
    /// The kind of all of them together.
    pub operation: Operation,
    /// The offset to resume after once this change and those before it were received.
    pub resume: u64,
}

/// Returns where a consumer with the marker `after` begins.
///
/// # Errors
///
/// Returns the reason if the log cannot continue there without a gap.
pub fn start(after: &str, terms: &Terms, bounds: Bounds) -> Result<Start, RefusedMarker> {
    let progress: Progress = after.parse()?;
    if progress.backends.is_empty() {
        return Ok(Start::Now);
    }
    let id = progress.backends.get(OWN_BACKEND);
    let id: EventId = id.ok_or(RefusedMarker::Foreign)?.parse()?;
    let offset = id.time.as_number();
    // The point before every event is the same in each history.
    if offset == 0 {
        return Ok(Start::Oldest);
    }
    let epoch = u64::from_str_radix(&id.hash, 16).map_err(|_| InvalidProgress::Id(id.to_string()));
    let position = Position::new(Epoch(epoch?), offset);
    if !terms.contain(position) || offset > bounds.head {
        return Err(RefusedMarker::Unknown(position));
    }
    if offset < bounds.first {
        let (after, first) = (offset, bounds.first);
        return Err(RefusedMarker::Trimmed { after, first });
    }
    Ok(Start::After(offset))
}

/// Returns a heartbeat for a consumer that has received everything up to an offset.
#[must_use]
pub fn heartbeat(offset: u64, terms: &Terms) -> PullerEvent {
    PullerEvent {
        change_event: None,
        progress: progress(offset, terms),
    }
}

/// Returns the message for a change.
///
/// The field `id` is part of the data, for deletes too: consumers find the document by it (P9). A delete
/// is an update that sets `deleted`: consumers drop a hard delete, which names no document (P10).
#[must_use]
pub fn message(change: &Merged, terms: &Terms) -> PullerEvent {
    let event = &change.event;
    let collection_hash = collection_hash(&event.collection);
    let physical_id = physical_id(&event.database, &event.collection, &event.document_id);
    let time = ClusterTime::from_number(event.offset);
    let document = stored_document(event, &physical_id, &collection_hash);
    PullerEvent {
        progress: progress(change.resume, terms),
        change_event: Some(ChangeEvent {
            event_id: event_id(event.offset, terms).to_string(),
            database: event.database.to_string(),
            mgo_coll: "documents".to_owned(),
            mgo_doc_id: physical_id,
            op_type: match change.operation {
                Operation::Insert => "insert",
                Operation::Update | Operation::Delete => "update",
            }
            .to_owned(),
            full_doc: document.into(),
            cluster_time: Some(time.into()),
            timestamp: event.timestamp,
            backend: OWN_BACKEND.to_owned(),
            ..ChangeEvent::default()
        }),
    }
}

/// Returns the changes of a page without merging them.
#[must_use]
pub fn unmerged(page: Vec<Arc<Event>>) -> Vec<Merged> {
    let change = |event: Arc<Event>| Merged {
        operation: event.operation,
        resume: event.offset,
        event,
    };
    page.into_iter().map(change).collect()
}

/// Merges the events of each document in a page, in the order of the newest ones.
///
/// A consumer that resumes in the middle of them receives some again, and misses none: the marker of a
/// change stays before the first event that is not received yet.
#[must_use]
pub fn coalesce(page: Vec<Arc<Event>>) -> Vec<Merged> {
    let mut documents = BTreeMap::new();
    let mut merged: BTreeMap<u64, (u64, Operation, Arc<Event>)> = BTreeMap::new();
    for event in page {
        let key = (
            Arc::clone(&event.database),
            Arc::clone(&event.collection),
            Arc::clone(&event.document_id),
        );
        let newest = event.offset;
        let before = documents.insert(key, newest);
        let before = before.and_then(|before| merged.remove(&before));
        let (first, operation) = match before {
            None => (newest, event.operation),
            Some((first, before, _)) => (first, followed(before, event.operation)),
        };
        merged.insert(newest, (first, operation, event));
    }
    // From the newest: the marker of a change stays before the first events of those after it.
    let mut limit = u64::MAX;
    let mut changes: Vec<Merged> = merged
        .into_values()
        .rev()
        .map(|(first, operation, event)| {
            let resume = event.offset.min(limit);
            limit = limit.min(first - 1);
            Merged {
                event,
                operation,
                resume,
            }
        })
        .collect();
    changes.reverse();
    changes
}

/// Returns the kind of two changes of a document together.
const fn followed(before: Operation, next: Operation) -> Operation {
    match (before, next) {
        // Also after an insert: the consumer may hold the document from before.
        (_, Operation::Delete) => Operation::Delete,
        (Operation::Insert, Operation::Update) | (_, Operation::Insert) => Operation::Insert,
        (Operation::Update | Operation::Delete, Operation::Update) => Operation::Update,
    }
}

fn event_id(offset: u64, terms: &Terms) -> EventId {
    EventId {
        time: ClusterTime::from_number(offset),
        hash: terms.written_in(offset).to_string(),
    }
}

/// Returns the marker after the event at an offset.
fn progress(offset: u64, terms: &Terms) -> String {
    let id = event_id(offset, terms).to_string();
    Progress {
        backends: BTreeMap::from([(OWN_BACKEND.to_owned(), id)]),
    }
    .to_string()
}

/// Returns the document of an event as its backend would store it.
fn stored_document(event: &Event, physical_id: &str, collection_hash: &str) -> Vec<u8> {
    // What the log has stored it has checked, so that this fails for no event.
    let mut fields: BTreeMap<String, Box<RawValue>> =
        serde_json::from_slice(&event.data).unwrap_or_default();
    let mut number = |name: &str| -> i64 {
        let value = fields.remove(name);
        value.map_or(0, |value| value.get().parse().unwrap_or(0))
    };
    let (created_at, updated_at) = (number("createdAt"), number("updatedAt"));
    let version = number("version");
    let deleted = event.operation == Operation::Delete;
    if deleted {
        fields.clear();
    }
    let id = serde_json::value::to_raw_value(&*event.document_id).expect("a text is JSON");
    fields.insert("id".to_owned(), id);
    let data = serde_json::value::to_raw_value(&fields).expect("JSON values are JSON");
    let document = StoredDocument {
        id: physical_id.to_owned(),
        database: event.database.to_string(),
        collection: event.collection.to_string(),
        collection_hash: collection_hash.to_owned(),
        updated_at,
        created_at,
        version,
        data: Some(&data),
        deleted,
    };
    serde_json::to_vec(&document).expect("texts, numbers and JSON values are JSON")
}

#[cfg(test)]
mod tests;
