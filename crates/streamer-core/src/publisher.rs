//! Publishing into a Streamer server, through every loss of the stream, once each.

mod core;

use bytes::Bytes;
use steadfast_session::End;

use crate::{Operation, Position};

pub use self::core::{Command, Core, Notice};

/// A change to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Database of the document.
    pub database: String,
    /// Full path of the collection.
    pub collection: String,
    /// Id of the document.
    pub document_id: String,
    /// What is to be done; `None` lets the server decide between insert and update.
    pub operation: Option<Operation>,
    /// The document as a JSON object; empty for a delete.
    pub data: Bytes,
}

/// What became of an entry: it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// Its sequence.
    pub sequence: u64,
    /// A place in the log at or after the entry, the end of the commit it was acknowledged with;
    /// `None` when the log had it already.
    pub position: Option<Position>,
}

/// Why an entry is not known to be durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The server refused it, and would again. It is not in the log.
    #[error("entry {sequence} was refused: {message}")]
    Refused {
        /// Its sequence.
        sequence: u64,
        /// Why, and what to do.
        message: String,
    },
    /// The publisher stopped before the entry was sent, or had stopped before. It is not in the log.
    #[error("entry {sequence} was not sent: {end}")]
    NotSent {
        /// Its sequence.
        sequence: u64,
        /// Why the publisher stopped.
        end: End,
    },
    /// The publisher stopped after the entry was sent and before an answer. It may be in the log;
    /// published again with the same producer and sequence it will be there once.
    #[error("entry {sequence} was sent and not acknowledged: {end}")]
    Unknown {
        /// Its sequence.
        sequence: u64,
        /// Why the publisher stopped.
        end: End,
    },
    /// The publisher is closed, and the entry was not sent. It is not in the log.
    #[error("the publisher is closed; the entry was not sent")]
    Closed,
}

impl Entry {
    /// The document is to be as `data` says; the server decides whether that is an insert.
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

    /// The document is to be gone.
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

    /// Bytes it counts for in queues.
    #[must_use]
    pub fn weight(&self) -> usize {
        64 + self.data.len() + self.database.len() + self.collection.len() + self.document_id.len()
    }
}
