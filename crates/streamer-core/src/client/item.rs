//! What a subscription yields.

use std::sync::Arc;

use bytes::Bytes;
use steadfast_wire::streamer as wire;

use crate::{Operation, Position};

/// One item of a subscription, in the order of the log.
///
/// An enum, so that whoever consumes it decides what a gap means to them.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Item {
    /// A document changed.
    Change(Change),
    /// Changes may be missing here, and nobody can say which: the peer has no positions.
    Gap(Gap),
    /// Changes are missing here, and it is known between which places.
    Resync(Resync),
}

impl Item {
    /// The place to continue from once this item has had its effect; an application stores it
    /// together with that effect. `None` with a peer that has no positions.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match self {
            Self::Change(change) => change.position,
            Self::Gap(_) => None,
            Self::Resync(resync) => Some(resync.resumes_at),
        }
    }
}

/// A change of a document.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Change {
    /// The place after this change; `None` with a peer that has no positions.
    pub position: Option<Position>,
    /// Names the change; opaque.
    pub event_id: Arc<str>,
    /// Database of the document.
    pub database: Arc<str>,
    /// Full path of the collection.
    pub collection: Arc<str>,
    /// Id of the document within the collection.
    pub document_id: Arc<str>,
    /// What happened.
    pub operation: Operation,
    /// The document as a JSON object, without `id` and `collection`.
    pub data: Bytes,
    /// When the server took it, Unix milliseconds.
    pub timestamp: i64,
}

impl Change {
    /// Bytes this change counts for in queues and credit; the same sum as
    /// [`crate::Event::weight`], since the two ends of a stream count alike.
    #[must_use]
    pub fn weight(&self) -> u64 {
        let names = self.database.len() + self.collection.len() + self.document_id.len();
        (self.data.len() + names) as u64
    }

    /// The change in a delivery, or what is wrong with it.
    pub(super) fn read(
        event: wire::StreamerEvent,
        position: Option<Position>,
    ) -> Result<Self, String> {
        let operation = match wire::OperationType::try_from(event.operation) {
            Ok(wire::OperationType::Insert) => Operation::Insert,
            Ok(wire::OperationType::Update) => Operation::Update,
            Ok(wire::OperationType::Delete) => Operation::Delete,
            Ok(wire::OperationType::Unspecified) | Err(_) => {
                return Err(format!(
                    "event {:?} has the unknown operation {}",
                    event.event_id, event.operation
                ));
            }
        };
        Ok(Self {
            position,
            event_id: event.event_id.into(),
            database: event.database.into(),
            collection: event.collection.into(),
            document_id: event.document_id.into(),
            operation,
            data: event.document_data,
            timestamp: event.timestamp,
        })
    }
}

/// Changes may be missing from here on backwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gap {
    /// Why.
    pub reason: GapReason,
}

/// Why changes may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GapReason {
    /// The stream was cut, and the peer can not continue where it ended.
    Disconnected,
    /// The application did not take items fast enough, and the peer can not be held back.
    Overflow {
        /// How many changes were dropped.
        dropped: u64,
    },
    /// The peer was found to have dropped the subscription without a word.
    Evicted,
    /// A position was held, and the peer now connected has no positions.
    LeftProfile,
}

/// Changes between two places are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resync {
    /// Why.
    pub reason: ResyncReason,
    /// The last place up to which nothing is missing.
    pub lost_from: Position,
    /// The place from which on nothing is missing again.
    pub resumes_at: Position,
}

/// Why a place could not be continued from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResyncReason {
    /// The server gave no reason.
    Unstated,
    /// The log of that epoch is not the log of this server.
    Epoch,
    /// Changes after that place have left the log.
    Trimmed,
    /// The log has not reached that place.
    Future,
    /// A part of the log after that place can not be read.
    Damaged,
    /// The place was refused again and again, whatever the reasons given.
    Refused,
}

impl ResyncReason {
    /// The reason a server gave, or what is wrong with it.
    pub(super) fn read(reason: i32) -> Result<Self, String> {
        match wire::ResyncReason::try_from(reason) {
            Ok(wire::ResyncReason::Unspecified) => Ok(Self::Unstated),
            Ok(wire::ResyncReason::Epoch) => Ok(Self::Epoch),
            Ok(wire::ResyncReason::Trimmed) => Ok(Self::Trimmed),
            Ok(wire::ResyncReason::Future) => Ok(Self::Future),
            Ok(wire::ResyncReason::Damaged) => Ok(Self::Damaged),
            Err(_) => Err(format!("a resync has the unknown reason {reason}")),
        }
    }
}
