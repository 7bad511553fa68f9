//! An event: one change of one document, as the log stores it.

use std::sync::Arc;

use bytes::Bytes;

/// The kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// The document was created, or created again after a delete.
    Insert,
    /// The document was changed.
    Update,
    /// The document was deleted.
    Delete,
}

impl Operation {
    /// Returns the word for it in lines of JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// The state of a document before an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Previous {
    /// Not known: a log of an older format does not say it.
    #[default]
    Unknown,
    /// The document did not exist.
    Nothing,
    /// It was that after the event at this offset.
    At(u64),
    /// It was that after this event, which was read from the log. Its own `previous` is not read.
    Read(Arc<Event>),
}

/// One committed change of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The offset in the log. Offsets start at 1 and have no holes.
    pub offset: u64,
    /// The database of the document.
    pub database: Arc<str>,
    /// The full path of the collection.
    pub collection: Arc<str>,
    /// The id of the document within the collection.
    pub document_id: Arc<str>,
    /// The kind of the change.
    pub operation: Operation,
    /// The document as a JSON object, with `createdAt`, `updatedAt`, `version`, and `deleted` if it
    /// is deleted. `id` and `collection` are not part of it; they are fields of the event.
    pub data: Bytes,
    /// The time at which the server accepted the change, in Unix milliseconds.
    pub timestamp: i64,
    /// The state of the document before.
    pub previous: Previous,
}

impl Event {
    /// Returns the bytes that the event counts for in queues and credit: payload and names.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.data.len() + self.database.len() + self.collection.len() + self.document_id.len()
    }

    /// Returns the bytes that the event counts for in limits of memory: with the state of the document
    /// before, if that was read.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let before = match &self.previous {
            Previous::Read(before) => before.weight(),
            Previous::Unknown | Previous::Nothing | Previous::At(_) => 0,
        };
        self.weight() + before
    }
}
