//! Conversions between domain types and the messages on the wire, for client, publisher and hub.
//!
//! Only filters are converted elsewhere, in `filter::wire`, because they are checked on the way.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use prost::encoding::{
    WireType, encode_key, encode_varint, encoded_len_varint, int32, int64, key_len,
};
use steadfast_wire::{publisher, streamer as wire};

use crate::{
    Epoch, Event, Operation, Position,
    client::{
        item::{Change, ResyncReason},
        received::ReceivedEvent,
        violation::Violation,
    },
};

/// An error: the number names no operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not an operation: 0 unspecified, 1 insert, 2 update, 4 delete")]
pub struct UnknownOperation(pub i32);

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

impl From<wire::ResyncReason> for ResyncReason {
    fn from(reason: wire::ResyncReason) -> Self {
        match reason {
            wire::ResyncReason::Unspecified => Self::Unstated,
            wire::ResyncReason::Epoch => Self::Epoch,
            wire::ResyncReason::Trimmed => Self::Trimmed,
            wire::ResyncReason::Future => Self::Future,
            wire::ResyncReason::Damaged => Self::Damaged,
            wire::ResyncReason::Rights => Self::Rights,
        }
    }
}

// `Operation::from_wire` and `Operation::to_wire` use the numbers of entries for events, too.
const _: () = {
    use publisher::Operation as OfEntry;
    use wire::OperationType as OfEvent;
    assert!(OfEntry::Unspecified as i32 == OfEvent::Unspecified as i32);
    assert!(OfEntry::Insert as i32 == OfEvent::Insert as i32);
    assert!(OfEntry::Update as i32 == OfEvent::Update as i32);
    assert!(OfEntry::Delete as i32 == OfEvent::Delete as i32);
};

impl Operation {
    /// Reads an operation from the wire; `None` stands for an unspecified one.
    ///
    /// Events and entries have the same numbers. They are bits of a set in the original, so that 3
    /// names none.
    ///
    /// # Errors
    ///
    /// Returns an error if the number names no operation.
    pub fn from_wire(number: i32) -> Result<Option<Self>, UnknownOperation> {
        match publisher::Operation::try_from(number) {
            Ok(publisher::Operation::Unspecified) => Ok(None),
            Ok(publisher::Operation::Insert) => Ok(Some(Self::Insert)),
            Ok(publisher::Operation::Update) => Ok(Some(Self::Update)),
            Ok(publisher::Operation::Delete) => Ok(Some(Self::Delete)),
            Err(_) => Err(UnknownOperation(number)),
        }
    }

    /// Returns the number of an operation on the wire; `None` stands for an unspecified one.
    pub(crate) fn to_wire(operation: Option<Self>) -> i32 {
        match operation {
            None => publisher::Operation::Unspecified,
            Some(Self::Insert) => publisher::Operation::Insert,
            Some(Self::Update) => publisher::Operation::Update,
            Some(Self::Delete) => publisher::Operation::Delete,
        }
        .into()
    }
}

/// Appends a field with a `StreamerEvent`, without the copy of every part. Its id, which never changes, is the
/// event's position in the term in which it was written.
pub(crate) fn put_event(tag: u32, epoch: Epoch, event: &Event, out: &mut Vec<u8>) {
    let id = Position::new(epoch, event.offset).to_string();
    let before = [&*id, &event.database, &event.collection, &event.document_id];
    let operation = Operation::to_wire(Some(event.operation));
    // Without a value, a field is not written.
    let field_len = |tag: u32, bytes: &[u8]| match bytes.len() {
        0 => 0,
        length => key_len(tag) + encoded_len_varint(length as u64) + length,
    };
    let texts: usize = (1..)
        .zip(before)
        .map(|(tag, text)| field_len(tag, text.as_bytes()))
        .sum();
    let has_timestamp = event.timestamp != 0;
    let length = texts
        + int32::encoded_len(5, &operation)
        + field_len(6, &event.data)
        + if has_timestamp {
            int64::encoded_len(7, &event.timestamp)
        } else {
            0
        };
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
    let start = out.len();
    for (tag, text) in (1..).zip(before) {
        if !text.is_empty() {
            put_bytes(tag, text.as_bytes(), out);
        }
    }
    int32::encode(5, &operation, out);
    if !event.data.is_empty() {
        put_bytes(6, &event.data, out);
    }
    if has_timestamp {
        int64::encode(7, &event.timestamp, out);
    }
    debug_assert_eq!(out.len(), start + length);
}

/// Appends a field of bytes or text.
pub(crate) fn put_bytes(tag: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// The names of the newest change. Changes of one collection share them instead of having copies.
#[derive(Clone, Debug, Default)]
pub(crate) struct LastNames {
    database: Arc<str>,
    collection: Arc<str>,
}

/// Returns the change of a received event. `data` is its data, and `position` that of its delivery.
pub(crate) fn change_from_wire(
    event: &ReceivedEvent<'_>,
    data: Bytes,
    position: Option<Position>,
    names: &mut LastNames,
) -> Result<Change, Violation> {
    let Ok(Some(operation)) = Operation::from_wire(event.operation) else {
        return Err(Violation::UnknownOperation {
            event_id: event.event_id.to_owned(),
            operation: event.operation,
        });
    };
    Ok(Change {
        position,
        event_id: event.event_id.into(),
        database: share(&mut names.database, event.database),
        collection: share(&mut names.collection, event.collection),
        document_id: event.document_id.into(),
        operation,
        data,
        timestamp: event.timestamp,
    })
}

fn share(last: &mut Arc<str>, name: &str) -> Arc<str> {
    if **last != *name {
        *last = name.into();
    }
    Arc::clone(last)
}

/// Returns the end of the commit that an acknowledgement names; `None` if it names none, because the
/// log contained the entry before.
pub(crate) fn acknowledged_position(ack: &publisher::Ack) -> Option<Position> {
    // Offsets begin at 1, so that 0 is free to say "none".
    (ack.offset > 0).then(|| Position::new(Epoch(ack.epoch), ack.offset))
}

/// Returns whole milliseconds, `u32::MAX` if there are more.
pub(crate) fn millis_to_wire(span: Duration) -> u32 {
    u32::try_from(span.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn event_is_encoded_as_its_message() {
        let full = Event {
            previous: crate::Previous::Unknown,
            offset: 300,
            database: "default".into(),
            collection: "users".into(),
            document_id: "u".repeat(200).into(),
            operation: Operation::Delete,
            data: Bytes::from_static(b"{}"),
            timestamp: -1,
        };
        let bare = Event {
            database: "".into(),
            data: Bytes::new(),
            operation: Operation::Insert,
            timestamp: 0,
            ..full.clone()
        };
        for event in [full, bare] {
            let mut out = Vec::new();
            put_event(2, Epoch(7), &event, &mut out);
            let message = wire::StreamerEvent {
                event_id: Position::new(Epoch(7), event.offset).to_string(),
                database: event.database.to_string(),
                collection: event.collection.to_string(),
                document_id: event.document_id.to_string(),
                operation: Operation::to_wire(Some(event.operation)),
                document_data: event.data,
                timestamp: event.timestamp,
            };
            let delivery = wire::EventDelivery {
                event: Some(message),
                ..wire::EventDelivery::default()
            };
            assert_eq!(out, delivery.encode_to_vec());
        }
    }
}
