//! What a client asks of the Streamers, and what comes back: plain data.

use std::sync::Arc;

use steadfast_streamer::{
    Change, Direction, Filter, Item, Position, WindowUpdate, filter::FieldPath,
};

/// A subscription that a client wants.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The exact name of the database.
    pub database: Arc<str>,
    /// The full path of the collection.
    pub collection: Arc<str>,
    /// The conditions of the client. Its rights are joined to them.
    pub filter: Filter,
    /// The position after which changes follow; `None` is now.
    pub from: Option<Position>,
    /// Begin with the documents that exist, unless `from` can be continued. Implies `left`.
    pub snapshot: bool,
    /// Tell when a document no longer matches, or may no longer be seen.
    pub left: bool,
    /// Only the first documents of an order. `from` is not used then.
    pub window: Option<Order>,
    /// Tell positions between items, as [`Event::Progress`].
    pub progress: bool,
}

impl Request {
    /// Returns the request for all changes from now on that match.
    #[must_use]
    pub fn changes(database: Arc<str>, collection: Arc<str>, filter: Filter) -> Self {
        Self {
            database,
            collection,
            filter,
            from: None,
            snapshot: false,
            left: false,
            window: None,
            progress: false,
        }
    }
}

/// An order, and the number of its first documents that are wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// The field whose value decides.
    pub field: FieldPath,
    /// The direction.
    pub direction: Direction,
    /// The number of documents.
    pub limit: u32,
}

/// What happened to a subscription.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A Streamer accepted it. The first event, and there is one only.
    Opened {
        /// What follows is after this position; `None` if the Streamer has no positions.
        position: Option<Position>,
    },
    /// An item. The client may see the document of it.
    Item(Item),
    /// A change of the first documents of an order.
    Window {
        /// The change.
        update: WindowUpdate,
        /// The document that entered, changed or moved.
        document: Option<Box<Change>>,
        /// The position of the state shown, if it is whole.
        position: Option<Position>,
    },
    /// Nothing was missed up to this position. Only with [`Request::progress`].
    Progress(Position),
    /// The subscription does not exist, or no more. Nothing follows.
    Ended(End),
}

/// The end of a subscription that its client did not ask for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct End {
    /// The kind of the cause.
    pub code: EndCode,
    /// What a person can be told.
    pub message: String,
}

/// The kind of the cause of an [`End`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndCode {
    /// The client may not see the collection, or it does not exist: one answer for both.
    Denied,
    /// The same request would be refused again.
    Invalid,
    /// A limit of the gateway is reached.
    Limit,
    /// The Streamers did not accept it in time, or ended it.
    Unavailable,
}

impl EndCode {
    /// Returns the word that clients are told.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Invalid => "invalid",
            Self::Limit => "limit",
            Self::Unavailable => "unavailable",
        }
    }
}

impl End {
    /// Creates an end.
    #[must_use]
    pub fn new(code: EndCode, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, message }
    }

    /// Returns the end of a subscription to a collection that the client may not see.
    #[must_use]
    pub fn denied() -> Self {
        Self::new(EndCode::Denied, "you may not subscribe to this collection")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use steadfast_streamer::{Event, Operation, Previous};

    use super::Change;

    /// A change of a document of the collection `orders`.
    pub(crate) fn change(id: &str, operation: Operation, data: &str) -> Change {
        let event = Event {
            offset: 1,
            database: "db".into(),
            collection: "orders".into(),
            document_id: id.into(),
            operation,
            data: data.to_owned().into(),
            timestamp: 5,
            previous: Previous::Unknown,
        };
        Change::of(&event, "e1", None)
    }
}
