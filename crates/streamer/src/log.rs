//! The append-only log of changes: what the server needs of it.

use std::sync::Arc;

use bytes::Bytes;

use crate::{Epoch, Event, Operation};

/// An entry a producer wants in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// Who; sequences are counted per producer.
    pub producer: Arc<str>,
    /// Counts the producer's entries from 1.
    pub sequence: u64,
    /// Database of the document.
    pub database: Arc<str>,
    /// Full path of the collection.
    pub collection: Arc<str>,
    /// Id of the document.
    pub document_id: Arc<str>,
    /// What is to be done; `None` lets the log decide between insert and update.
    pub operation: Option<Operation>,
    /// The document as a JSON object; empty for a delete.
    pub data: Bytes,
}

/// What became of a submission. All of them are durable when they are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the log.
    Appended(Arc<Event>),
    /// Its sequence was taken before; nothing was appended.
    Duplicate,
    /// It is wrong and stays wrong; its sequence counts as taken.
    Refused(RefusedEntry),
    /// Its sequence does not follow the last one; nothing was taken.
    Jump {
        /// The newest sequence taken of this producer.
        last: u64,
    },
}

/// Why an entry was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefusedEntry {
    /// The payload is not a JSON object.
    #[error("the document is not a JSON object: {0}")]
    NotAnObject(String),
    /// A name is empty.
    #[error("{0} must not be empty")]
    Empty(&'static str),
    /// The entry is larger than the log takes.
    #[error("the entry has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The largest size taken.
        limit: usize,
    },
}

/// What can go wrong with a log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The storage failed.
    #[error("the log's storage failed")]
    Storage(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An entry can not be read back as it was written.
    #[error("the entry at offset {offset} is damaged: {what}")]
    Damaged {
        /// Which.
        offset: u64,
        /// How it was noticed.
        what: String,
    },
    /// Entries after this offset are no longer in the log.
    #[error("the entries after offset {after} are gone, the log begins after {first}")]
    Trimmed {
        /// The wanted place.
        after: u64,
        /// The oldest place that can be read from.
        first: u64,
    },
}

/// What a log holds: everything after `first`, up to and with `head`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The oldest place that can be read from; 0 while nothing was trimmed.
    pub first: u64,
    /// Offset of the newest entry; 0 while the log is empty.
    pub head: u64,
}

/// The writing side. There is one, and it belongs to one thread.
pub trait Log: Send {
    /// Commits the submissions in order, all in one durable step, and tells what became of each.
    ///
    /// # Errors
    ///
    /// After an error none of them is in the log, and the log must be opened anew before it is
    /// written again.
    fn append(&mut self, batch: Vec<Submission>, now_ms: i64) -> Result<Vec<Outcome>, LogError>;

    /// The newest sequence taken of a producer; 0 when it is unknown.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    fn last_sequence(&mut self, producer: &str) -> Result<u64, LogError>;

    /// A reader of the same log.
    fn reader(&self) -> Arc<dyn LogReader>;
}

/// The reading side. Sees only what is committed; may be called from any thread; blocks.
pub trait LogReader: Send + Sync {
    /// Names the log.
    fn epoch(&self) -> Epoch;

    /// What the log holds now.
    fn bounds(&self) -> Bounds;

    /// The events after `after`, in order, at most `max_events` of them and about `max_bytes` of
    /// weight, at least one if there is one.
    ///
    /// # Errors
    ///
    /// [`LogError::Trimmed`] when the place is before the log's beginning, [`LogError::Damaged`] at
    /// the first entry that can not be read when it is the first one asked for.
    fn read(
        &self,
        after: u64,
        max_events: usize,
        max_bytes: usize,
    ) -> Result<Vec<Arc<Event>>, LogError>;
}
