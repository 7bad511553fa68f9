//! The snapshots of a subscription, as far as they were received.

use bytes::Bytes;

use crate::Position;

/// The state of the snapshots of one subscription. It outlives streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SnapshotState {
    /// No snapshot is wanted.
    Unwanted,
    /// The application's state is whole, or was when it stored its position.
    Whole,
    /// A snapshot is needed, and nothing of it was received.
    Due,
    /// Some documents were received, up to the cursor.
    Reading(Bytes),
    /// All documents were received. The snapshot is whole at this position.
    Following(Bytes, Position),
}

impl SnapshotState {
    /// The state of a new subscription that begins at a position, or has none.
    pub(super) fn new(is_wanted: bool, start: Option<Position>) -> Self {
        match (is_wanted, start) {
            (false, _) => Self::Unwanted,
            (true, None) => Self::Due,
            (true, Some(_)) => Self::Whole,
        }
    }

    /// Returns the cursor to request the rest with, empty if there is none; `None` if no snapshot is
    /// wanted.
    pub(super) fn request(&self) -> Option<Bytes> {
        match self {
            Self::Unwanted => None,
            Self::Whole | Self::Due => Some(Bytes::new()),
            Self::Reading(cursor) | Self::Following(cursor, _) => Some(cursor.clone()),
        }
    }

    pub(super) fn is_wanted(&self) -> bool {
        *self != Self::Unwanted
    }

    /// Returns true while documents are missing: no change is received, and none may be asked for by
    /// position.
    pub(super) fn needs_documents(&self) -> bool {
        matches!(self, Self::Due | Self::Reading(_))
    }

    /// Returns true while the application's state is not whole, so that no position may be stored.
    pub(super) fn is_open(&self) -> bool {
        self.needs_documents() || matches!(self, Self::Following(..))
    }

    /// Notes that the position is lost, from which changes were to follow.
    pub(super) fn on_position_lost(&mut self) {
        if self.is_wanted() {
            *self = Self::Due;
        }
    }

    /// Ends the snapshot if it is whole at an offset, and returns whether it ended.
    pub(super) fn end_at(&mut self, offset: u64) -> bool {
        let ends = matches!(self, Self::Following(_, at) if at.offset <= offset);
        if ends {
            *self = Self::Whole;
        }
        ends
    }

    /// Returns the position at which the snapshot is whole, if a change at `offset` is beyond it.
    pub(super) fn ends_before(&self, offset: u64) -> Option<Position> {
        match self {
            Self::Following(_, at) if at.offset < offset => Some(*at),
            _ => None,
        }
    }
}
