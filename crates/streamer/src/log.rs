//! The append-only log of events: its traits, [`Log`] and [`LogReader`], and two implementations.
//!
//! [`MemoryLog`] keeps everything in memory and is deterministic. [`SegmentLog`] keeps segments and an
//! index in a directory. Both apply the same rules to submissions (`ingest`, `plan`). One
//! [`LogWriter`] thread owns the log and commits the submissions of all publishers together.

mod age_clock;
mod durations;
mod encoding;
mod ingest;
mod known_names;
mod memory;
mod page;
mod plan;
mod previous;
mod store;
mod time_search;
mod writer;

use std::{error::Error, sync::Arc, time::Duration};

use bytes::Bytes;

pub use crate::Bounds;
use crate::{
    Epoch, Event, Operation, Terms,
    hub::{self, ReadFault},
};

pub(crate) use self::{
    durations::DurationHistogram, known_names::KnownNames, previous::complete as complete_previous,
    time_search::offset_of_time,
};
pub use self::{
    durations::Durations,
    encoding::DecodeError,
    memory::MemoryLog,
    previous::with_previous,
    store::{Defect, LogEnd, OpenError, SegmentLog, StoreOptions, Verified},
    writer::{LogWriter, PendingCommit, WriteError, WriterOptions, WriterStats},
};

/// What simulations need of the log.
#[cfg(any(test, feature = "testing"))]
pub mod testing {
    use super::{LogError, LogReader};

    pub use super::store::{SimulationCounts, simulate};

    /// Returns the offset after which the first event with this timestamp or a later one follows, as a
    /// server looks it up.
    ///
    /// # Errors
    ///
    /// Returns an error if the storage fails.
    pub fn offset_of_time(reader: &dyn LogReader, time_ms: i64) -> Result<u64, LogError> {
        super::offset_of_time(reader, time_ms)
    }
}

/// The time after which an idle producer without a marker is forgotten, in milliseconds: 7 days. If
/// it then continues its sequence, the outcome is [`Outcome::Jump`], and it must restart from 1. A
/// system clock that jumps does not shorten it.
pub const PRODUCER_LIFETIME_MS: i64 = 7 * 24 * 60 * 60 * 1000;

/// Size limits of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum size of the payload and the names together, in bytes. Default 1 MiB: the event must
    /// fit, with its envelope, into the 4 MiB that a gRPC peer accepts by default.
    pub entry_bytes: usize,
    /// Maximum length of a name (producer, database, collection, document id), in bytes. Default
    /// 4 KiB.
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

/// The name of a document. Ordered by database, collection, id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentKey {
    /// Database of the document.
    pub database: Arc<str>,
    /// Full path of the collection.
    pub collection: Arc<str>,
    /// Id of the document within the collection.
    pub document_id: Arc<str>,
}

impl DocumentKey {
    /// Returns the key of a document.
    pub fn new(
        database: impl Into<Arc<str>>,
        collection: impl Into<Arc<str>>,
        document_id: impl Into<Arc<str>>,
    ) -> Self {
        Self {
            database: database.into(),
            collection: collection.into(),
            document_id: document_id.into(),
        }
    }

    /// Returns the key of the document that an event changed.
    #[must_use]
    pub fn of(event: &Event) -> Self {
        Self {
            database: Arc::clone(&event.database),
            collection: Arc::clone(&event.collection),
            document_id: Arc::clone(&event.document_id),
        }
    }

    fn as_tuple(&self) -> (&str, &str, &str) {
        (&self.database, &self.collection, &self.document_id)
    }

    fn bytes(&self) -> usize {
        self.database.len() + self.collection.len() + self.document_id.len()
    }
}

/// An entry that a producer submits to the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// Name of the producer. Each producer has its own sequence.
    pub producer: Arc<str>,
    /// Number of the entry, counted per producer from 1.
    pub sequence: u64,
    /// The document that the entry changes.
    pub document: DocumentKey,
    /// The operation; with `None` the log chooses insert or update.
    pub operation: Option<Operation>,
    /// The document as a JSON object; empty for a delete.
    pub data: Bytes,
    /// Metadata from the system that holds the document; `None` if this log is that system.
    pub origin: Option<Origin>,
}

/// Metadata of an entry from the external system that holds the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The position in that system after this entry, opaque to the log. It is committed together
    /// with the entry and the producer's sequence, so that none is ever ahead of the others. Counts
    /// towards the size of the entry.
    pub marker: Bytes,
    /// The version of the document in that system.
    pub version: u64,
    /// The creation time in that system, Unix milliseconds.
    pub created_at: i64,
    /// The modification time in that system, Unix milliseconds.
    pub updated_at: i64,
    /// The time at which the change was received from that system, Unix milliseconds.
    pub timestamp: i64,
}

/// The state that the log keeps of a producer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerState {
    /// The newest committed sequence; 0 for an unknown producer.
    pub last_sequence: u64,
    /// The newest [`Origin::marker`]. A producer with a marker is never forgotten.
    pub marker: Option<Bytes>,
}

impl Submission {
    /// Returns an insert or update of `document` without an [`Origin`].
    pub fn new(
        producer: impl Into<Arc<str>>,
        sequence: u64,
        document: DocumentKey,
        data: impl Into<Bytes>,
    ) -> Self {
        Self {
            producer: producer.into(),
            sequence,
            document,
            operation: None,
            data: data.into(),
            origin: None,
        }
    }

    /// Returns the size that counts towards queues and limits: payload, names and marker, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.data.len()
            + self.producer.len()
            + self.document.bytes()
            + self.origin.as_ref().map_or(0, |origin| origin.marker.len())
    }
}

/// The result of a submission. It is durable before it is returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The entry was appended as this event.
    Appended(Arc<Event>),
    /// The sequence was committed before; nothing was appended.
    Duplicate,
    /// The entry is invalid. Its sequence counts as committed; resubmitted, it is refused again.
    Refused(RefusedEntry),
    /// The sequence is 0 or skips numbers; nothing changed.
    Jump {
        /// The newest committed sequence of the producer.
        last: u64,
    },
}

/// The reason why an entry was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefusedEntry {
    /// The payload is not a JSON object that every receiver can parse: it is malformed, nested deeper
    /// than 128 levels, or contains a number outside the range of a double or a lone surrogate.
    #[error("the document is not a JSON object: {0}")]
    NotAnObject(String),
    /// A name is empty. Without a producer name, no sequence is recorded.
    #[error("{0} must not be empty")]
    Empty(&'static str),
    /// A name is too long. If it is the producer's, no sequence is recorded.
    #[error("{name} has {bytes} bytes, the limit is {limit}")]
    NameTooLong {
        /// The field.
        name: &'static str,
        /// Its length.
        bytes: usize,
        /// The maximum length.
        limit: usize,
    },
    /// The entry is too large.
    #[error("the entry has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The maximum size.
        limit: usize,
    },
}

/// A failure of a log.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The storage failed.
    #[error("the log's storage failed")]
    Storage(#[source] Arc<dyn Error + Send + Sync>),
    /// An event cannot be read back as it was written.
    #[error("the event at offset {offset} is damaged")]
    Damaged {
        /// The offset of the event.
        offset: u64,
        /// The defect.
        source: DecodeError,
    },
    /// Another part of the log cannot be read back as it was written.
    #[error("the log is damaged at its {what}; restore it from a backup, or start a new one")]
    DamagedState {
        /// The damaged part.
        what: String,
        /// The defect.
        source: DecodeError,
    },
    /// The disk has too little space for the batch. Nothing was written. Reads continue to work, and
    /// writes work again when space is freed.
    #[error(
        "the disk has {free} bytes left, the log needs {needed}; free space, or use a larger disk"
    )]
    Full {
        /// Free space, in bytes.
        free: u64,
        /// Upper bound of what the batch needs, plus the reserve that is always kept free.
        needed: u64,
    },
    /// The system refused to store more: the disk or a quota is full, a file would exceed a limit, the
    /// directory is read-only, or too many files are open. Nothing changed, and the same batch may be retried.
    #[error("the disk accepts no more data; free space, raise the limit, or allow writing")]
    NoSpace(#[source] Arc<std::io::Error>),
    /// A file of the log or its directory cannot be opened.
    #[error("cannot open {file}")]
    Open {
        /// The name of the file.
        file: String,
        /// The error of the system.
        source: Arc<std::io::Error>,
    },
    /// An earlier failure stopped all writes. The batch that failed then may or may not be in the
    /// log; reopening the log shows which.
    #[error("the log stopped after an earlier failure and must be reopened")]
    Stopped {
        /// The earlier failure.
        #[source]
        cause: Box<LogError>,
    },
    /// The requested events have been trimmed.
    #[error("the events after offset {after} were trimmed, the log begins after {first}")]
    Trimmed {
        /// The requested offset.
        after: u64,
        /// The oldest offset that can be read from.
        first: u64,
    },
}

impl LogError {
    /// Wraps an error of the storage.
    pub fn storage(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Storage(Arc::from(error.into()))
    }

    /// Returns `true` if the log has changed nothing and works again when there is space.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::NoSpace(_))
    }
}

impl From<LogError> for ReadFault {
    fn from(error: LogError) -> Self {
        match error {
            // `Full` and `NoSpace` are here for completeness: only writes return them.
            LogError::Storage(_)
            | LogError::DamagedState { .. }
            | LogError::Full { .. }
            | LogError::NoSpace(_)
            | LogError::Open { .. }
            | LogError::Stopped { .. } => Self::Storage(with_sources(&error)),
            LogError::Damaged { offset, .. } => Self::Damaged { offset },
            LogError::Trimmed { first, .. } => Self::Trimmed { first },
        }
    }
}

/// Formats an error and its source chain in one line.
pub(crate) fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// A request for one page of documents.
#[derive(Clone, Copy, Debug)]
pub struct DocumentQuery<'a> {
    /// Database of the documents.
    pub database: &'a str,
    /// Full path of the collection; `None` for the whole database.
    pub collection: Option<&'a str>,
    /// The key to continue after, from [`DocumentPage::next`]; `None` for the first page.
    pub after: Option<&'a DocumentKey>,
    /// Maximum number of documents; 0 counts as 1.
    pub max_documents: usize,
    /// Approximate maximum weight of the documents, in bytes. The first one may exceed it.
    pub max_bytes: usize,
}

impl<'a> DocumentQuery<'a> {
    /// Returns the query for the first page of all documents of a database, without limits.
    #[must_use]
    pub fn all(database: &'a str) -> Self {
        Self {
            database,
            collection: None,
            after: None,
            max_documents: usize::MAX,
            max_bytes: usize::MAX,
        }
    }
}

/// One page of the documents in a log, in the order of their keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentPage {
    /// The last event of each document. Deleted documents are omitted.
    pub documents: Vec<Arc<Event>>,
    /// The offset at which the page shows every document.
    pub as_of: u64,
    /// The key to continue after; `None` on the last page.
    pub next: Option<DocumentKey>,
}

impl From<DocumentPage> for hub::DocumentPage {
    /// Converts a page of one collection.
    fn from(page: DocumentPage) -> Self {
        Self {
            documents: page.documents,
            as_of: page.as_of,
            next: page.next.map(|key| key.document_id),
        }
    }
}

/// The writing side of a log. It has one owner, on one thread.
pub trait Log: Send {
    /// Commits the submissions in order, in one durable step, and returns one outcome for each.
    ///
    /// # Errors
    ///
    /// After an error that [is full](LogError::is_full) nothing has changed, and the same batch may be retried. After any
    /// other error, no reader of this handle ever sees any event of the batch, and the log must be
    /// reopened before it accepts more. Only then is it known if the batch was stored, because a disk
    /// that reported a failure may still have written; the batch is stored entirely or not at all.
    fn append(&mut self, batch: Vec<Submission>, now_ms: i64) -> Result<Vec<Outcome>, LogError>;

    /// Does one slice of the work that must not delay a commit, such as retention. Returns `true` if
    /// more work is due now.
    ///
    /// # Errors
    ///
    /// Returns an error if the storage fails; the log must then be reopened.
    fn maintain(&mut self, now_ms: i64) -> Result<bool, LogError>;

    /// Lets [`Log::maintain`] return before slow work is done, which then runs on a thread of the log. A log in front
    /// of which submitters wait is maintained so.
    fn maintain_in_background(&mut self) {
        // Correct for a log without slow work.
    }

    /// Returns the time after which [`Log::maintain`] must be called, if something is due then.
    fn maintenance_due(&self) -> Option<Duration> {
        None
    }

    /// Returns an error if entries of this size would be refused because [the disk is
    /// full](LogError::is_full). Writes nothing.
    ///
    /// # Errors
    ///
    /// Returns the error with which [`Log::append`] would refuse them.
    fn check_space(&self, bytes: usize) -> Result<(), LogError> {
        // Correct for a log that learns of a full disk from its writes alone.
        let _ = bytes;
        Ok(())
    }

    /// Notes that a producer is connected, so that it does not age. An unknown one stays unknown.
    ///
    /// # Errors
    ///
    /// Returns an error if the storage fails; the log must then be reopened.
    fn touch(&mut self, producer: &str, now_ms: i64) -> Result<(), LogError> {
        // Correct only for a log that never forgets a producer.
        let (_, _) = (producer, now_ms);
        Ok(())
    }

    /// Removes the events up to and including `upto`, or up to the head if that is smaller. Readers
    /// behind it get [`LogError::Trimmed`]. Documents are unaffected.
    ///
    /// # Errors
    ///
    /// Returns an error if the storage fails; the log must then be reopened.
    fn trim(&mut self, upto: u64) -> Result<(), LogError>;

    /// Returns a reader of the same log.
    fn reader(&self) -> Arc<dyn LogReader>;
}

/// The figures of a log's storage. A log in memory has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogStats {
    /// The size of the files with events, in bytes.
    pub bytes: u64,
    /// The number of files with events.
    pub files: usize,
    /// The durations of the syncs since the log was opened.
    pub syncs: Durations,
    /// The number of events and states that were read when the log was opened, because the index did
    /// not have them.
    pub recovered: u64,
    /// The number of changes that damage took before the index knew of them. Documents that are new, or have
    /// not changed since, are in doubt.
    pub lost_changes: u64,
    /// The time that opening the log took.
    pub opened_in: Duration,
    /// The interval of syncs, if commits are acknowledged before they are synced.
    pub sync_interval: Option<Duration>,
}

/// The reading side of a log. It sees only committed events. Its methods block, and may be called
/// from any thread.
pub trait LogReader: Send + Sync {
    /// Returns the terms of the log. The current one began when this handle was opened.
    fn terms(&self) -> Terms;

    /// Returns the current term, the epoch of all positions that are read now.
    fn epoch(&self) -> Epoch {
        self.terms().current()
    }

    /// Returns the range of offsets that the log holds now.
    fn bounds(&self) -> Bounds;

    /// Returns the events after `after`, in order and without holes: at most `max_events` of them
    /// with about `max_bytes` of weight, and at least one if there is one and `max_events` is not 0.
    /// Returns nothing when `after` is the head or beyond.
    ///
    /// # Errors
    ///
    /// Returns [`LogError::Trimmed`] if `after` is before the beginning of the log, and
    /// [`LogError::Damaged`] if the first requested event cannot be decoded. A later damaged event
    /// ends the page instead.
    fn read(
        &self,
        after: u64,
        max_events: usize,
        max_bytes: usize,
    ) -> Result<Vec<Arc<Event>>, LogError>;

    /// Returns the state of a producer, from which it resumes.
    ///
    /// # Errors
    ///
    /// Returns an error if the storage fails or is damaged.
    fn producer(&self, name: &str) -> Result<ProducerState, LogError>;

    /// Returns one page of the existing documents. A page may hold fewer documents than requested, even
    /// none, and still not be the last.
    ///
    /// The documents may lag behind the head; [`DocumentPage::as_of`] is their offset. Each page is
    /// read separately and may be newer than the one before. A snapshot as of the last page is all
    /// pages in order, followed by the events from the first page's `as_of` to the last page's.
    ///
    /// # Errors
    ///
    /// Returns an error if the storage fails or is damaged.
    fn documents(&self, query: DocumentQuery<'_>) -> Result<DocumentPage, LogError>;

    /// Returns the figures of the storage.
    fn stats(&self) -> LogStats {
        LogStats::default()
    }
}

#[cfg(test)]
mod conformance;
