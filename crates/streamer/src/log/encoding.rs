//! The encoding of stored values.
//!
//! A record of a segment holds an event or a producer in a compact form of its own ([`StoredEvent`],
//! [`StoredProducer`]); the record has the checksum. A value in the index has a format byte and a
//! checksum, followed by a protobuf message:
//!
//! ```text
//! ┌────────┬───────────────┬──────────────┐
//! │ format │ CRC-32, LE    │ body         │   the checksum covers format, key and body
//! │ 1 byte │ 4 bytes       │ protobuf     │
//! └────────┴───────────────┴──────────────┘
//! ```
//!
//! The checksum includes the key, so that a value stored under another key is detected too. redb
//! verifies its pages only during repair; this checksum detects bit flips at every read.

mod event;

use std::sync::Arc;

use bytes::Bytes;
use prost::{
    Message,
    encoding::{decode_varint, encode_varint},
};

pub(super) use self::event::StoredEvent;
use super::{DocumentKey, ProducerState, ingest::DocumentState};
use crate::{Epoch, Event, Operation, Previous, Terms};

const FORMAT: u8 = 1;
const HEADER: usize = 5;

/// A document: its state, and its last event if that has been trimmed from the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredDocument {
    pub(super) state: DocumentState,
    pub(super) event: Option<Arc<Event>>,
}

/// A producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredProducer {
    pub(super) state: ProducerState,
    /// Time of its last commit, Unix milliseconds.
    pub(super) used_ms: i64,
}

/// The reason why a stored value cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The value does not exist.
    #[error("it is missing")]
    Missing,
    /// The value is shorter than its header.
    #[error("it is truncated")]
    Truncated,
    /// Another version wrote the value.
    #[error("it has the unknown format {0}")]
    UnknownFormat(u8),
    /// The checksum does not match the content.
    #[error("its checksum does not match")]
    Checksum,
    /// The checksum matches, but the content is invalid.
    #[error("its content is invalid")]
    Invalid,
}

impl StoredDocument {
    pub(super) fn encode(&self, key: &DocumentKey) -> Vec<u8> {
        let event = self.event.as_ref();
        let body = DocumentBody {
            version: self.state.version,
            created_at: self.state.created_at,
            deleted: self.state.deleted,
            // Also without the event: it is where a reader finds the event in the segments.
            offset: self.state.offset,
            operation: event.map(|event| operation_number(event.operation)),
            data: event.map_or_else(Bytes::new, |event| event.data.clone()),
            timestamp: event.map_or(0, |event| event.timestamp),
        };
        seal(&key_bytes(key), &body)
    }

    pub(super) fn decode(key: &DocumentKey, encoded: &[u8]) -> Result<Self, DecodeError> {
        let body: DocumentBody = unseal(&key_bytes(key), encoded)?;
        let event = match body.operation {
            None => None,
            Some(number) => Some(Arc::new(Event {
                offset: body.offset,
                database: Arc::clone(&key.database),
                collection: Arc::clone(&key.collection),
                document_id: Arc::clone(&key.document_id),
                operation: operation(number)?,
                data: body.data,
                timestamp: body.timestamp,
                previous: Previous::Unknown,
            })),
        };
        Ok(Self {
            state: DocumentState {
                version: body.version,
                created_at: body.created_at,
                deleted: body.deleted,
                offset: body.offset,
            },
            event,
        })
    }
}

impl StoredProducer {
    pub(super) fn encode(&self, name: &str) -> Vec<u8> {
        seal(name.as_bytes(), &self.body())
    }

    pub(super) fn decode(name: &str, encoded: &[u8]) -> Result<Self, DecodeError> {
        let body: ProducerBody = unseal(name.as_bytes(), encoded)?;
        Ok(Self::from_body(body))
    }

    /// Appends a producer with its name, for a record, which has the checksum: last sequence, time of use,
    /// name with its length, and the marker, if there is one, after a byte.
    pub(super) fn encode_named(&self, name: &str, out: &mut Vec<u8>) {
        encode_varint(self.state.last_sequence, out);
        encode_varint(self.used_ms.cast_unsigned(), out);
        put_text(name, out);
        if let Some(marker) = &self.state.marker {
            // Otherwise an empty one would look like none.
            out.push(0);
            out.extend_from_slice(marker);
        }
    }

    /// Returns an upper bound of the length of an encoded producer with its name.
    pub(super) fn bound(&self, name: &str) -> usize {
        let marker = self.state.marker.as_ref().map_or(0, Bytes::len);
        3 * 10 + name.len() + 1 + marker
    }

    /// Decodes a producer and its name.
    pub(super) fn decode_named(mut encoded: &[u8]) -> Result<(Arc<str>, Self), DecodeError> {
        let from = &mut encoded;
        let last_sequence = number(from)?;
        let used_ms = number(from)?.cast_signed();
        let name = text(from)?.into();
        let marker = from.split_first();
        let marker = marker.map(|(_, marker)| Bytes::copy_from_slice(marker));
        let state = ProducerState {
            last_sequence,
            marker,
        };
        Ok((name, Self { state, used_ms }))
    }

    fn body(&self) -> ProducerBody {
        ProducerBody {
            last_sequence: self.state.last_sequence,
            used_ms: self.used_ms,
            marker: self.state.marker.clone(),
        }
    }

    fn from_body(body: ProducerBody) -> Self {
        Self {
            state: ProducerState {
                last_sequence: body.last_sequence,
                marker: body.marker,
            },
            used_ms: body.used_ms,
        }
    }

    /// Returns `true` if the producer was last used before `oldest_ms` and may be forgotten.
    pub(super) fn is_expired(&self, oldest_ms: i64) -> bool {
        // Without its marker, a source would reread everything or miss what happened meanwhile.
        self.used_ms < oldest_ms && self.state.marker.is_none()
    }
}

/// Encodes a number of the log's metadata.
pub(super) fn encode_number(name: &str, value: u64) -> Vec<u8> {
    seal(name.as_bytes(), &NumberBody { value })
}

/// Decodes a number of the log's metadata.
pub(super) fn decode_number(name: &str, encoded: &[u8]) -> Result<u64, DecodeError> {
    unseal::<NumberBody>(name.as_bytes(), encoded).map(|body| body.value)
}

/// Encodes the table of terms.
pub(super) fn encode_terms(name: &str, terms: &Terms) -> Vec<u8> {
    let (epochs, heads) = terms
        .as_parts()
        .iter()
        .map(|(id, head)| (id.0, *head))
        .unzip();
    seal(name.as_bytes(), &TermsBody { epochs, heads })
}

/// Decodes the table of terms.
pub(super) fn decode_terms(name: &str, encoded: &[u8]) -> Result<Terms, DecodeError> {
    let body: TermsBody = unseal(name.as_bytes(), encoded)?;
    // Two repeated fields are independent in protobuf. `zip` would silently drop the rest of one.
    if body.epochs.len() != body.heads.len() {
        return Err(DecodeError::Invalid);
    }
    let parts = body.epochs.into_iter().map(Epoch).zip(body.heads);
    Terms::from_parts(parts.collect()).ok_or(DecodeError::Invalid)
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    encode_varint(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

fn number(from: &mut &[u8]) -> Result<u64, DecodeError> {
    decode_varint(from).map_err(|_| DecodeError::Invalid)
}

fn take<'a>(from: &mut &'a [u8], length: usize) -> Result<&'a [u8], DecodeError> {
    let (taken, rest) = from.split_at_checked(length).ok_or(DecodeError::Invalid)?;
    *from = rest;
    Ok(taken)
}

fn text<'a>(from: &mut &'a [u8]) -> Result<&'a str, DecodeError> {
    let length = usize::try_from(number(from)?).map_err(|_| DecodeError::Invalid)?;
    std::str::from_utf8(take(from, length)?).map_err(|_| DecodeError::Invalid)
}

fn seal(key: &[u8], body: &impl Message) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(HEADER + body.encoded_len());
    // The checksum covers the encoded body, so its bytes are filled in last.
    encoded.extend_from_slice(&[FORMAT, 0, 0, 0, 0]);
    body.encode(&mut encoded)
        .expect("a vector has no capacity limit");
    let checksum = checksum(FORMAT, key, &encoded[HEADER..]);
    encoded[1..HEADER].copy_from_slice(&checksum.to_le_bytes());
    encoded
}

fn unseal<M: Message + Default>(key: &[u8], encoded: &[u8]) -> Result<M, DecodeError> {
    let body = check(key, encoded)?;
    // Copied: the engine lends its bytes only for the transaction, the value lives longer.
    M::decode(Bytes::copy_from_slice(body)).map_err(|_| DecodeError::Invalid)
}

/// Verifies the format and the checksum, and returns the body.
fn check<'a>(key: &[u8], encoded: &'a [u8]) -> Result<&'a [u8], DecodeError> {
    let Some((&[format, a, b, c, d], body)) = encoded.split_first_chunk::<HEADER>() else {
        return Err(DecodeError::Truncated);
    };
    // Before the checksum: another format may compute it in another way.
    if format != FORMAT {
        return Err(DecodeError::UnknownFormat(format));
    }
    if checksum(format, key, body) != u32::from_le_bytes([a, b, c, d]) {
        return Err(DecodeError::Checksum);
    }
    Ok(body)
}

fn checksum(format: u8, key: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[format]);
    // With its length, no other split into key and body has the same input.
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(body);
    hasher.finalize()
}

/// Encodes a key injectively: each part with its length.
fn key_bytes(key: &DocumentKey) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in [&key.database, &key.collection, &key.document_id] {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

const fn operation_number(operation: Operation) -> u32 {
    match operation {
        Operation::Insert => 1,
        Operation::Update => 2,
        Operation::Delete => 3,
    }
}

const fn operation(number: u32) -> Result<Operation, DecodeError> {
    match number {
        1 => Ok(Operation::Insert),
        2 => Ok(Operation::Update),
        3 => Ok(Operation::Delete),
        // 0 is what prost returns for a field that is absent.
        0 | 4.. => Err(DecodeError::Invalid),
    }
}

#[derive(Clone, PartialEq, Message)]
struct DocumentBody {
    #[prost(uint64, tag = "1")]
    version: u64,
    #[prost(int64, tag = "2")]
    created_at: i64,
    #[prost(bool, tag = "3")]
    deleted: bool,
    #[prost(uint64, tag = "4")]
    offset: u64,
    #[prost(uint32, optional, tag = "5")]
    operation: Option<u32>,
    #[prost(bytes = "bytes", tag = "6")]
    data: Bytes,
    #[prost(int64, tag = "7")]
    timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ProducerBody {
    #[prost(uint64, tag = "1")]
    last_sequence: u64,
    #[prost(int64, tag = "2")]
    used_ms: i64,
    #[prost(bytes = "bytes", optional, tag = "3")]
    marker: Option<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
struct NumberBody {
    #[prost(uint64, tag = "1")]
    value: u64,
}

#[derive(Clone, PartialEq, Message)]
struct TermsBody {
    #[prost(fixed64, repeated, tag = "1")]
    epochs: Vec<u64>,
    /// The head at the beginning of each.
    #[prost(uint64, repeated, tag = "2")]
    heads: Vec<u64>,
}

#[cfg(test)]
mod tests;
