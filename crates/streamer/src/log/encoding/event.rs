//! The encoding of an event in a record of a segment.
//!
//! ```text
//! operation and flags (1 byte), version, timestamp, age, [skew], [delay], [previous],
//! three lengths of parts of the data, database, collection, document id, each with its length,
//! the data without its metadata
//! ```
//!
//! Numbers are varints as in protobuf. The metadata is written as text when the event is decoded: it would
//! be a quarter of a small document, and is known from the numbers. Each length is that of the data before
//! a member of [`METADATA`] and after the one before it.

use std::{io::Write as _, ops::Range, sync::Arc};

use bytes::{Buf as _, Bytes};
use prost::{Message, encoding::encode_varint};

#[cfg(test)]
use super::seal;
use super::{DecodeError, number, operation, operation_number, put_text, take, text, unseal};
use crate::{
    Event, Operation, Previous,
    log::{
        DocumentKey, KnownNames,
        ingest::{DocumentEvent, DocumentState, METADATA},
    },
};

/// Minimum difference of an event's timestamp and the time by which it ages that is stored.
const SKEW_MIN_MS: u64 = 60_000;
/// Maximum length of the metadata as text: names, quotes and colons, and three numbers.
const METADATA_BYTES_MAX: usize = 34 + 3 * 20;

/// A decoded event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredEvent {
    pub(crate) event: Arc<Event>,
    /// The state of the document after the event.
    pub(crate) state: DocumentState,
    /// The time by which the event ages. Differs from its timestamp if the system's clock had jumped.
    pub(crate) logged_ms: i64,
}

/// Flags beside the operation, in the first byte of an event.
mod flags {
    pub(super) const OPERATION: u8 = 0b11;
    /// A skew follows the age.
    pub(super) const SKEW: u8 = 1 << 2;
    /// The time by which the modification time is before the timestamp follows.
    pub(super) const DELAY: u8 = 1 << 3;
    /// The distance to the previous event of the document follows, 0 if the document did not exist. Without
    /// it nothing is known; segments of version 2 never have it.
    pub(super) const PREVIOUS: u8 = 1 << 5;
    /// The data is stored as it is, with its metadata.
    pub(super) const WHOLE: u8 = 1 << 4;
}

impl StoredEvent {
    /// Appends an encoded event; `logged_ms` is the time by which it ages. The record around it has the
    /// checksum and the offset.
    pub(crate) fn encode(
        DocumentEvent {
            event,
            state,
            updated_at,
            metadata,
        }: &DocumentEvent,
        logged_ms: i64,
        out: &mut Vec<u8>,
    ) {
        let delay_ms = event.timestamp.wrapping_sub(*updated_at);
        let delay = (delay_ms != 0).then_some(delay_ms);
        encode_head(event, state, logged_ms, (0, delay), out);
        let mut end = 0;
        for place in metadata {
            encode_varint((place.start - end) as u64, out);
            end = place.end;
        }
        encode_names(event, out);
        let mut end = 0;
        for place in metadata {
            out.extend_from_slice(&event.data[end..place.start]);
            end = place.end;
        }
        out.extend_from_slice(&event.data[end..]);
    }

    /// Appends an encoded event whose data is stored as it is.
    pub(crate) fn encode_whole(&self, out: &mut Vec<u8>) {
        encode_head(
            &self.event,
            &self.state,
            self.logged_ms,
            (flags::WHOLE, None),
            out,
        );
        encode_names(&self.event, out);
        out.extend_from_slice(&self.event.data);
    }

    /// Returns an upper bound of the length of an encoded event.
    pub(crate) fn bound(event: &Event) -> usize {
        // A byte, and twelve numbers of at most ten bytes.
        event.weight() + 1 + 12 * 10
    }

    /// Decodes the event at `offset`.
    pub(crate) fn decode(
        offset: u64,
        encoded: &[u8],
        names: &mut KnownNames,
    ) -> Result<Self, DecodeError> {
        let parts = Parts::decode(encoded)?;
        let data = match parts.lengths {
            Some(lengths) => {
                let updated_at = parts.timestamp.wrapping_sub(parts.delay_ms);
                with_metadata(
                    parts.data,
                    lengths,
                    (parts.created_at, updated_at, parts.version),
                )?
            }
            // Copied: the buffer holds many events, and this one may live longer.
            None => Bytes::copy_from_slice(parts.data),
        };
        let key = parts.key(names);
        Ok(Self {
            event: Arc::new(Event {
                offset,
                database: key.database,
                collection: key.collection,
                document_id: key.document_id,
                operation: parts.operation,
                data,
                timestamp: parts.timestamp,
                previous: parts.previous(offset)?,
            }),
            state: parts.state(offset),
            logged_ms: parts.timestamp.wrapping_sub(parts.skew_ms),
        })
    }

    /// Decodes the document of the event at `offset`, and its state after it.
    pub(crate) fn decode_state(
        offset: u64,
        encoded: &[u8],
        names: &mut KnownNames,
    ) -> Result<(DocumentKey, DocumentState), DecodeError> {
        let parts = Parts::decode(encoded)?;
        Ok((parts.key(names), parts.state(offset)))
    }

    /// Returns the value in a log of format 1.
    #[cfg(test)]
    pub(crate) fn encode_format_1(&self) -> Vec<u8> {
        let event = &self.event;
        let body = EventBody {
            database: event.database.to_string(),
            collection: event.collection.to_string(),
            document_id: event.document_id.to_string(),
            operation: operation_number(event.operation),
            data: event.data.clone(),
            timestamp: event.timestamp,
            version: self.state.version,
            age_ms: event.timestamp.wrapping_sub(self.state.created_at),
            bytes_before: 0,
            skew_ms: event.timestamp.wrapping_sub(self.logged_ms),
        };
        seal(&event.offset.to_le_bytes(), &body)
    }

    /// Decodes the event at `offset` from its value in a log of format 1.
    pub(crate) fn decode_format_1(offset: u64, value: &[u8]) -> Result<Self, DecodeError> {
        let body: EventBody = unseal(&offset.to_le_bytes(), value)?;
        let operation = operation(body.operation)?;
        Ok(Self {
            event: Arc::new(Event {
                offset,
                database: body.database.into(),
                collection: body.collection.into(),
                document_id: body.document_id.into(),
                operation,
                data: body.data,
                timestamp: body.timestamp,
                previous: Previous::Unknown,
            }),
            state: DocumentState {
                version: body.version,
                created_at: body.timestamp.wrapping_sub(body.age_ms),
                deleted: operation == Operation::Delete,
                offset,
            },
            logged_ms: body.timestamp.wrapping_sub(body.skew_ms),
        })
    }
}

/// An encoded event.
struct Parts<'a> {
    operation: Operation,
    version: u64,
    timestamp: i64,
    created_at: i64,
    skew_ms: i64,
    delay_ms: i64,
    /// The distance to the previous event, if it is stored.
    previous: Option<u64>,
    /// The lengths of the parts of the data; `None` if it is whole.
    lengths: Option<[usize; METADATA.len()]>,
    database: &'a str,
    collection: &'a str,
    document_id: &'a str,
    data: &'a [u8],
}

impl<'a> Parts<'a> {
    fn decode(mut encoded: &'a [u8]) -> Result<Self, DecodeError> {
        let from = &mut encoded;
        let first = from.try_get_u8().map_err(|_| DecodeError::Invalid)?;
        let has = |flag| first & flag != 0;
        let operation = operation(u32::from(first & flags::OPERATION))?;
        let version = number(from)?;
        let timestamp = number(from)?.cast_signed();
        let created_at = timestamp.wrapping_sub(signed(from)?);
        let skew_ms = if has(flags::SKEW) { signed(from)? } else { 0 };
        let delay_ms = if has(flags::DELAY) { signed(from)? } else { 0 };
        let previous = has(flags::PREVIOUS).then(|| number(from)).transpose()?;
        let mut lengths = None;
        if !has(flags::WHOLE) {
            for length in lengths.insert([0; METADATA.len()]) {
                *length = usize::try_from(number(from)?).map_err(|_| DecodeError::Invalid)?;
            }
        }
        Ok(Self {
            operation,
            version,
            timestamp,
            created_at,
            skew_ms,
            delay_ms,
            previous,
            lengths,
            database: text(from)?,
            collection: text(from)?,
            document_id: text(from)?,
            data: from,
        })
    }

    fn key(&self, names: &mut KnownNames) -> DocumentKey {
        names.key(self.database, self.collection, self.document_id)
    }

    fn previous(&self, offset: u64) -> Result<Previous, DecodeError> {
        match self.previous {
            None => Ok(Previous::Unknown),
            Some(0) => Ok(Previous::Nothing),
            Some(distance) => match offset.checked_sub(distance) {
                // Offsets start at 1.
                None | Some(0) => Err(DecodeError::Invalid),
                Some(at) => Ok(Previous::At(at)),
            },
        }
    }

    fn state(&self, offset: u64) -> DocumentState {
        DocumentState {
            version: self.version,
            created_at: self.created_at,
            deleted: self.operation == Operation::Delete,
            offset,
        }
    }
}

fn encode_head(
    event: &Event,
    state: &DocumentState,
    logged_ms: i64,
    (more_flags, delay_ms): (u8, Option<i64>),
    out: &mut Vec<u8>,
) {
    // Wraps like the age below: a system clock may return any time.
    let skew_ms = event.timestamp.wrapping_sub(logged_ms);
    // Not stored if it is small, as it usually is.
    let skew_ms = (skew_ms.unsigned_abs() >= SKEW_MIN_MS).then_some(skew_ms);
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    let previous = match &event.previous {
        Previous::Unknown => None,
        Previous::Nothing => Some(0),
        Previous::At(at) => Some(event.offset - at),
        Previous::Read(previous) => Some(event.offset - previous.offset),
    };
    let flags = flag(skew_ms.is_some(), flags::SKEW)
        | flag(delay_ms.is_some(), flags::DELAY)
        | flag(previous.is_some(), flags::PREVIOUS);
    out.push(operation_number(event.operation) as u8 | flags | more_flags);
    encode_varint(state.version, out);
    encode_varint(event.timestamp.cast_unsigned(), out);
    // An age is shorter than a time, most of all for young documents. It wraps, because a wrong clock or
    // an `Origin` may put the creation anywhere.
    put_signed(event.timestamp.wrapping_sub(state.created_at), out);
    for number in [skew_ms, delay_ms].into_iter().flatten() {
        put_signed(number, out);
    }
    if let Some(distance) = previous {
        encode_varint(distance, out);
    }
}

fn encode_names(event: &Event, out: &mut Vec<u8>) {
    for name in [&event.database, &event.collection, &event.document_id] {
        put_text(name, out);
    }
}

/// Returns the data of an event, with its metadata put between the parts of these lengths and the rest.
fn with_metadata(
    mut parts: &[u8],
    lengths: [usize; METADATA.len()],
    (created_at, updated_at, version): (i64, i64, u64),
) -> Result<Bytes, DecodeError> {
    // Exact, so that the buffer need not be copied to its length.
    let mut metadata = Vec::with_capacity(METADATA_BYTES_MAX);
    let mut write = |name: usize, value: &dyn std::fmt::Display| {
        let start = metadata.len();
        write!(metadata, "\"{}\":{value}", METADATA[name])
            .expect("writing to a vector cannot fail");
        start..metadata.len()
    };
    let places: [Range<usize>; METADATA.len()] = [
        write(0, &created_at),
        write(1, &updated_at),
        write(2, &version),
    ];
    let mut data = Vec::with_capacity(parts.len() + metadata.len());
    for (length, place) in lengths.into_iter().zip(places) {
        data.extend_from_slice(take(&mut parts, length)?);
        data.extend_from_slice(&metadata[place]);
    }
    data.extend_from_slice(parts);
    Ok(data.into())
}

fn put_signed(number: i64, out: &mut Vec<u8>) {
    // Zigzag, as in protobuf: small negative numbers are short as well.
    encode_varint(((number << 1) ^ (number >> 63)).cast_unsigned(), out);
}

fn signed(from: &mut &[u8]) -> Result<i64, DecodeError> {
    let zigzag = number(from)?;
    Ok((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
}

/// An event in a log of format 1.
#[derive(Clone, PartialEq, Message)]
struct EventBody {
    #[prost(string, tag = "1")]
    database: String,
    #[prost(string, tag = "2")]
    collection: String,
    #[prost(string, tag = "3")]
    document_id: String,
    #[prost(uint32, tag = "4")]
    operation: u32,
    #[prost(bytes = "bytes", tag = "5")]
    data: Bytes,
    #[prost(int64, tag = "6")]
    timestamp: i64,
    #[prost(uint64, tag = "7")]
    version: u64,
    #[prost(sint64, tag = "8")]
    age_ms: i64,
    #[prost(uint64, tag = "9")]
    bytes_before: u64,
    #[prost(sint64, tag = "10")]
    skew_ms: i64,
}
