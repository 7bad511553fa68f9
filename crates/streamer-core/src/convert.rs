//! Conversions between domain types and the messages on the wire.

use std::time::Duration;

use steadfast_wire::streamer as wire;

use crate::{Epoch, Event, Operation, Position};

impl From<Position> for wire::Position {
    fn from(position: Position) -> Self {
        Self {
            epoch: position.epoch.0,
            offset: position.offset,
        }
    }
}

impl From<wire::Position> for Position {
    fn from(position: wire::Position) -> Self {
        Self::new(Epoch(position.epoch), position.offset)
    }
}

impl From<Operation> for wire::OperationType {
    fn from(operation: Operation) -> Self {
        match operation {
            Operation::Insert => Self::Insert,
            Operation::Update => Self::Update,
            Operation::Delete => Self::Delete,
        }
    }
}

/// Returns an event as peers read it. Its id, which never changes, is its position in the term in
/// which it was written.
pub(crate) fn event_to_wire(epoch: Epoch, event: &Event) -> wire::StreamerEvent {
    wire::StreamerEvent {
        event_id: Position::new(epoch, event.offset).to_string(),
        database: event.database.to_string(),
        collection: event.collection.to_string(),
        document_id: event.document_id.to_string(),
        operation: wire::OperationType::from(event.operation).into(),
        document_data: event.data.clone(),
        timestamp: event.timestamp,
    }
}

/// Returns whole milliseconds, `u32::MAX` if there are more.
pub(crate) fn millis_to_wire(span: Duration) -> u32 {
    u32::try_from(span.as_millis()).unwrap_or(u32::MAX)
}
