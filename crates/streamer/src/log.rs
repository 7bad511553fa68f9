//! The append-only log of changes: what the server needs of it, and the logs there are.
//!
//! [`MemoryLog`] keeps everything in memory and is deterministic; [`RedbLog`] keeps a file. Both
//! take submissions by the same rules ([`ingest`]), and one [`LogWriter`] thread owns the writing
//! side and commits for everybody at once.

pub mod ingest;
mod memory;
mod page;
mod plan;
mod record;
mod store;
mod writer;

use std::sync::Arc;

use bytes::Bytes;

pub use crate::Bounds;
use crate::{Epoch, Event, Operation, hub::ReadFault};

pub use self::{
    memory::MemoryLog,
    store::{OpenError, RedbLog, StoreOptions},
    writer::{LogWriter, PendingCommit, WriteError, WriterOptions},
};

/// How long an idle producer is remembered, in milliseconds: 7 days. One without a marker that comes back later and
/// goes on counting is told of a jump, and has to begin again from 1.
pub const PRODUCER_LIFETIME_MS: i64 = 7 * 24 * 60 * 60 * 1000;

/// What a log takes of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest payload together with its names, in bytes. Default 1 MiB: it has to fit, with what
    /// goes around it, into the 4 MiB a gRPC peer accepts by default.
    pub entry_bytes: usize,
    /// Longest name (producer, database, collection, document id), in bytes. Default 4 KiB.
    pub name_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entry_bytes: 1 << 20,
            name_bytes: 4 << 10,
        }
    }
}

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
    /// What the entry brings along when the document lives elsewhere; `None` when this log is where
    /// it is changed.
    pub origin: Option<Origin>,
}

/// What an entry brings along from the system that holds the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Where to go on reading that system after this entry. It is kept with the producer's sequence
    /// in the commit that holds the entry, so that neither is ever ahead of the other. Counts
    /// towards the entry's size.
    pub marker: Bytes,
    /// The document's version there.
    pub version: u64,
    /// When it came into being there, Unix milliseconds.
    pub created_at: i64,
    /// When it changed there, Unix milliseconds.
    pub updated_at: i64,
}

/// What a log remembers of a producer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerState {
    /// The newest sequence taken; 0 for a producer nothing is known of.
    pub last_sequence: u64,
    /// The newest [`Origin::marker`]. A producer that has one is never forgotten.
    pub marker: Option<Bytes>,
}

impl Submission {
    /// Bytes this submission counts for in queues and limits: its payload and its names.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.data.len()
            + self.producer.len()
            + self.database.len()
            + self.collection.len()
            + self.document_id.len()
            + self.origin.as_ref().map_or(0, |origin| origin.marker.len())
    }
}

/// What became of a submission. All of them are durable when they are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the log.
    Appended(Arc<Event>),
    /// Its sequence was taken before; nothing was appended.
    Duplicate,
    /// It is wrong and stays wrong; its sequence counts as taken. Sent again it is refused again.
    Refused(RefusedEntry),
    /// Its sequence does not follow the last one, or is 0; nothing was taken.
    Jump {
        /// The newest sequence taken of this producer.
        last: u64,
    },
}

/// Why an entry was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefusedEntry {
    /// The payload is not a JSON object that every receiver can read: malformed, nested deeper than
    /// 128 levels, a number beyond what a double holds, or half of a surrogate pair.
    #[error("the document is not a JSON object: {0}")]
    NotAnObject(String),
    /// A name is empty. Without a producer there is no sequence that could count as taken.
    #[error("{0} must not be empty")]
    Empty(&'static str),
    /// A name is longer than the log takes. The sequence of a producer with such a name is not
    /// kept.
    #[error("{name} has {bytes} bytes, the limit is {limit}")]
    NameTooLong {
        /// Which name.
        name: &'static str,
        /// Its length.
        bytes: usize,
        /// The longest taken.
        limit: usize,
    },
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
    /// Something the log keeps beside its entries can not be read back as it was written.
    #[error("the log's {what} is damaged; restore the log from a copy, or start a new one")]
    DamagedState {
        /// What.
        what: String,
    },
    /// The disk is too full for the batch. Nothing of it was tried: the log goes on, reading works,
    /// and so does writing as soon as there is room.
    #[error(
        "the disk has {free} bytes left, the log needs {needed} to be safe; make room, or give it a larger disk"
    )]
    Full {
        /// What is left, in bytes.
        free: u64,
        /// What the batch needs at most, and what is always kept free.
        needed: u64,
    },
    /// An earlier failure stopped the writing. What could not be written then may or may not be in
    /// the log; opening it anew tells.
    #[error("the log stopped after an earlier failure and must be opened anew: {cause}")]
    Stopped {
        /// That failure.
        cause: String,
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

impl From<LogError> for ReadFault {
    fn from(error: LogError) -> Self {
        match error {
            // Reading never meets a full disk.
            LogError::Storage(_)
            | LogError::DamagedState { .. }
            | LogError::Full { .. }
            | LogError::Stopped { .. } => Self::Storage(chain(&error)),
            LogError::Damaged { offset, .. } => Self::Damaged { offset },
            LogError::Trimmed { first, .. } => Self::Trimmed { first },
        }
    }
}

/// An error with everything below it, for people.
fn chain(error: &LogError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(below) = source {
        text = format!("{text}: {below}");
        source = below.source();
    }
    text
}

/// Names a document of a log. Ordered by database, collection, id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DocumentKey {
    /// Database of the document.
    pub database: Arc<str>,
    /// Full path of the collection.
    pub collection: Arc<str>,
    /// Id of the document within the collection.
    pub document_id: Arc<str>,
}

impl DocumentKey {
    /// Names the document an event changed.
    #[must_use]
    pub fn of(event: &Event) -> Self {
        Self {
            database: Arc::clone(&event.database),
            collection: Arc::clone(&event.collection),
            document_id: Arc::clone(&event.document_id),
        }
    }

    /// A key that is not after any document of the collection, or of the database.
    fn least(database: &str, collection: Option<&str>) -> Self {
        Self {
            database: database.into(),
            collection: collection.unwrap_or_default().into(),
            document_id: "".into(),
        }
    }

    fn belongs_to(&self, database: &str, collection: Option<&str>) -> bool {
        *self.database == *database && collection.is_none_or(|it| *self.collection == *it)
    }
}

/// Some of the documents a log holds, in the order of their keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentPage {
    /// The last change of each, deleted documents left out.
    pub documents: Vec<Arc<Event>>,
    /// The page shows every document as of this offset.
    pub as_of: u64,
    /// Where the next page begins; `None` at the end.
    pub next: Option<DocumentKey>,
}

/// The writing side. There is one, and it belongs to one thread.
pub trait Log: Send {
    /// Commits the submissions in order, all in one durable step, and tells what became of each.
    ///
    /// # Errors
    ///
    /// After [`LogError::Full`] nothing has happened, and the same batch may be tried again. After any
    /// other error no reader of this log ever sees any of them, and the log takes no more: it must
    /// be opened anew. Whether they are in it then is not known before, because a disk that
    /// failed to confirm may still have written; all of them are, or none.
    fn append(&mut self, batch: Vec<Submission>, now_ms: i64) -> Result<Vec<Outcome>, LogError>;

    /// Does a slice of the work that need not hold up a commit: retention, forgetting producers,
    /// and the like. Tells whether more is due at once.
    ///
    /// # Errors
    ///
    /// When the storage fails; the log must then be opened anew.
    fn maintain(&mut self, now_ms: i64) -> Result<bool, LogError>;

    /// Drops the entries up to and with `upto`, never beyond the head. Readers that are behind it
    /// get [`LogError::Trimmed`]; documents stay as they are.
    ///
    /// # Errors
    ///
    /// When the storage fails; the log must then be opened anew.
    fn trim(&mut self, upto: u64) -> Result<(), LogError>;

    /// A reader of the same log.
    fn reader(&self) -> Arc<dyn LogReader>;
}

/// The reading side. Sees only what is committed; may be called from any thread; blocks.
pub trait LogReader: Send + Sync {
    /// Names the log.
    fn epoch(&self) -> Epoch;

    /// What the log holds now.
    fn bounds(&self) -> Bounds;

    /// The events after `after`, in order and without holes, at most `max_events` of them and about
    /// `max_bytes` of weight, at least one if there is one and `max_events` is not 0. Nothing when
    /// `after` is the head or beyond it.
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

    /// What the log remembers of a producer: where it goes on.
    ///
    /// # Errors
    ///
    /// When the storage fails or is damaged.
    fn producer(&self, name: &str) -> Result<ProducerState, LogError>;

    /// The living documents of a collection, or of a whole database when `collection` is `None`,
    /// after the key `after`: at most `max_documents` of them, 0 counting
    /// as 1, and about `max_bytes` of weight. A page may hold fewer, even none, and not be the last.
    ///
    /// A log may keep its documents behind its head: [`DocumentPage::as_of`] tells how far. Pages
    /// are taken one by one, and each may be newer than the one before. The whole as of the last
    /// page is the pages in order, and on top of them the log from the first page's `as_of` to the
    /// last page's.
    ///
    /// # Errors
    ///
    /// When the storage fails or is damaged.
    fn documents(
        &self,
        database: &str,
        collection: Option<&str>,
        after: Option<&DocumentKey>,
        max_documents: usize,
        max_bytes: usize,
    ) -> Result<DocumentPage, LogError>;
}

#[cfg(test)]
mod conformance;
