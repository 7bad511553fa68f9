//! The items that a subscription yields.

use std::sync::Arc;

use bytes::Bytes;

use crate::{Event, Operation, Place, Position};

/// An item of a subscription, in the order of the log.
///
/// It is an enum so that the consumer decides what a gap means.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Item {
    /// A document changed.
    Change(Change),
    /// A document changed or was deleted, and does not match the filter. If the application held it, it has
    /// left. The data is empty. Only with `left`.
    Left(Change),
    /// A part of a snapshot. Only with `snapshot`.
    Snapshot(Snapshot),
    /// Changes may be missing here. The server has no positions, so that nobody knows which.
    Gap(Gap),
    /// Changes are missing here, between two known positions.
    Resync(Resync),
}

impl Item {
    /// Returns the position to resume from once this item has had its effect. An application stores
    /// it together with that effect. `None` with a server that has no positions.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match self {
            Self::Change(change) | Self::Left(change) => change.position,
            Self::Snapshot(Snapshot::End(position)) => Some(*position),
            // Whoever continues from a position within a snapshot would miss documents.
            Self::Gap(_)
            | Self::Snapshot(
                Snapshot::Begin { .. } | Snapshot::Bound { .. } | Snapshot::Document(_),
            ) => None,
            Self::Resync(resync) => (!resync.snapshot_follows).then_some(resync.resumes_at),
        }
    }

    /// Returns the change or document of the item, which counts towards queues and credit.
    #[must_use]
    pub fn change(&self) -> Option<&Change> {
        match self {
            Self::Change(change)
            | Self::Left(change)
            | Self::Snapshot(Snapshot::Document(change)) => Some(change),
            Self::Gap(_)
            | Self::Resync(_)
            | Self::Snapshot(Snapshot::Begin { .. } | Snapshot::Bound { .. } | Snapshot::End(_)) => {
                None
            }
        }
    }
}

/// A part of a snapshot: the documents that exist and match the filter.
///
/// Between beginning and end come documents, then changes that happened meanwhile, without a position.
/// At the end, what was received since the beginning is the state at the position of the end. After a
/// lost stream a snapshot continues where it was, or begins again.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Snapshot {
    /// A snapshot begins. Once it has ended, documents received before this are obsolete.
    Begin {
        /// A position from which the changes, with those that leave, make the documents of this snapshot
        /// whole: each document is at least as new. It is no position to resume from before all documents
        /// were received.
        follows: Position,
    },
    /// Of a window, after each beginning: the place up to which documents and changes are received.
    Bound {
        /// The number of the snapshot.
        number: u64,
        /// The place; `None` if all documents that match are received.
        bound: Option<Place>,
    },
    /// A document, as its newest change at that time.
    Document(Change),
    /// The snapshot is whole: it is the state at this position, and changes after it follow.
    End(Position),
}

/// A change of a document.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Change {
    /// The position after this change; `None` with a server that has no positions.
    pub position: Option<Position>,
    /// The id of the event; opaque.
    pub event_id: Arc<str>,
    /// The database of the document.
    pub database: Arc<str>,
    /// The full path of the collection.
    pub collection: Arc<str>,
    /// The id of the document within the collection.
    pub document_id: Arc<str>,
    /// The kind of change.
    pub operation: Operation,
    /// The document as a JSON object, without `id` and `collection`.
    pub data: Bytes,
    /// The time at which the server stored the change, in Unix milliseconds.
    pub timestamp: i64,
}

impl Change {
    /// Creates the change that delivers an event: for tests of what takes items.
    #[must_use]
    pub fn of(event: &Event, event_id: &str, position: Option<Position>) -> Self {
        Self {
            position,
            event_id: event_id.into(),
            database: Arc::clone(&event.database),
            collection: Arc::clone(&event.collection),
            document_id: Arc::clone(&event.document_id),
            operation: event.operation,
            data: event.data.clone(),
            timestamp: event.timestamp,
        }
    }

    /// Returns the bytes that this change counts for in queues and credit.
    ///
    /// The sum equals [`crate::Event::weight`], because both ends of a stream must count alike.
    #[must_use]
    pub fn weight(&self) -> u64 {
        let names = self.database.len() + self.collection.len() + self.document_id.len();
        (self.data.len() + names) as u64
    }

    /// Copies the data out of the buffer in which it was received: kept for long, it would hold the whole
    /// buffer in memory.
    pub(super) fn detached(mut self) -> Self {
        self.data = Bytes::copy_from_slice(&self.data);
        self
    }
}

/// Changes may be missing before this item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gap {
    /// The cause.
    pub reason: GapReason,
}

impl Gap {
    /// Creates a gap: for tests of what takes items.
    #[must_use]
    pub const fn new(reason: GapReason) -> Self {
        Self { reason }
    }
}

/// The cause of a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GapReason {
    /// The stream was lost, and the server cannot resume where it ended.
    Disconnected,
    /// The application did not take items fast enough, and the server cannot be held back.
    Overflow {
        /// The number of changes that were dropped.
        dropped: u64,
    },
    /// The server had dropped the subscription without notice.
    Evicted,
    /// The subscription had a position, and the server now connected has no positions.
    LeftProfile,
    /// A message exceeded the client's limit, `max_message_bytes`, and the server cannot send the
    /// rest without it. Each subscription may have missed the event, and those sent until the
    /// stream was replaced.
    TooLarge,
}

/// The changes between two positions are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resync {
    /// The cause.
    pub reason: ResyncReason,
    /// The last position up to which nothing is missing.
    pub lost_from: Position,
    /// The position from which on nothing is missing again.
    pub resumes_at: Position,
    /// A snapshot follows, because the subscription asked for one. Only its end is a position to resume
    /// from.
    pub snapshot_follows: bool,
}

impl Resync {
    /// Creates a resync after which no snapshot follows: for tests of what takes items.
    #[must_use]
    pub const fn new(reason: ResyncReason, lost_from: Position, resumes_at: Position) -> Self {
        Self {
            reason,
            lost_from,
            resumes_at,
            snapshot_follows: false,
        }
    }
}

/// The reason why a subscription could not continue from its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResyncReason {
    /// The server gave no reason.
    Unstated,
    /// The position belongs to another log.
    Epoch,
    /// Changes after the position have left the log.
    Trimmed,
    /// The log has not reached the position.
    Future,
    /// A part of the log after the position cannot be read.
    Damaged,
    /// Servers refused the position repeatedly.
    Refused,
    /// The client may see other documents than before.
    Rights,
}
