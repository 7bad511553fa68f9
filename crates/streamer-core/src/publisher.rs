//! The publisher core: entries on their way into the log, each stored once across every reconnect.

mod core;

use bytes::Bytes;
use steadfast_session::End;

use crate::{Operation, Position};

pub use self::core::{Command, Core, Event};

/// A document on its way into the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The database of the document.
    pub database: String,
    /// The full path of the collection.
    pub collection: String,
    /// The id of the document.
    pub document_id: String,
    /// The kind of change; `None` lets the server decide between insert and update.
    pub operation: Option<Operation>,
    /// The document as a JSON object; empty for a delete.
    pub data: Bytes,
}

/// The acknowledgement of an entry: it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// The sequence of the entry.
    pub sequence: u64,
    /// The end of the commit that was acknowledged, at or after the entry. `None` if the log
    /// contained the entry before.
    pub position: Option<Position>,
}

/// The error of an entry that is not known to be durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The server refused the entry, and would again. It is not in the log.
    #[error("entry {sequence} was refused: {message}")]
    Refused {
        /// The sequence of the entry.
        sequence: u64,
        /// The reason, and what to do.
        message: String,
    },
    /// The publisher stopped before it sent the entry. It is not in the log.
    #[error("entry {sequence} was not sent")]
    NotSent {
        /// The sequence of the entry.
        sequence: u64,
        /// The reason why the publisher stopped.
        #[source]
        end: End,
    },
    /// The publisher stopped after it sent the entry and before a response. The entry may be in the
    /// log. Publish it again with the same producer and sequence to have it there exactly once.
    #[error("entry {sequence} was sent but not acknowledged")]
    Unknown {
        /// The sequence of the entry.
        sequence: u64,
        /// The reason why the publisher stopped.
        #[source]
        end: End,
    },
    /// The publisher is closed and did not send the entry. It is not in the log.
    #[error("the publisher is closed; the entry was not sent")]
    Closed,
}

impl Entry {
    /// Creates an entry that stores a document. The server decides whether it is an insert.
    pub fn upsert(
        database: impl Into<String>,
        collection: impl Into<String>,
        document_id: impl Into<String>,
        data: impl Into<Bytes>,
    ) -> Self {
        Self {
            database: database.into(),
            collection: collection.into(),
            document_id: document_id.into(),
            operation: None,
            data: data.into(),
        }
    }

    /// Creates an entry that deletes a document.
    pub fn delete(
        database: impl Into<String>,
        collection: impl Into<String>,
        document_id: impl Into<String>,
    ) -> Self {
        let entry = Self::upsert(database, collection, document_id, Bytes::new());
        Self {
            operation: Some(Operation::Delete),
            ..entry
        }
    }

    /// Returns the bytes that the entry counts for in queues.
    #[must_use]
    pub fn weight(&self) -> usize {
        // 64 for the entry itself: without it, empty entries would have no bound in bytes.
        64 + self.data.len() + self.database.len() + self.collection.len() + self.document_id.len()
    }
}
