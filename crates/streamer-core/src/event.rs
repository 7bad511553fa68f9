//! A change of a document, as the log keeps it and the hub delivers it.

use std::sync::Arc;

use bytes::Bytes;

/// What happened to a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// It came into being, or came back after a delete.
    Insert,
    /// It changed.
    Update,
    /// It is gone.
    Delete,
}

/// One committed change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its offset in the log, from 1, without holes.
    pub offset: u64,
    /// Database of the document.
    pub database: Arc<str>,
    /// Full path of the collection.
    pub collection: Arc<str>,
    /// Id of the document within the collection.
    pub document_id: Arc<str>,
    /// What happened.
    pub operation: Operation,
    /// The document as a JSON object with `createdAt`, `updatedAt`, `version`, and `deleted` when it
    /// is; without `id` and `collection`, which stand beside it.
    pub data: Bytes,
    /// When the server took it, Unix milliseconds.
    pub timestamp: i64,
}

impl Event {
    /// Bytes this event counts for in queues and credit: its payload and its names.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.data.len() + self.database.len() + self.collection.len() + self.document_id.len()
    }
}
