//! The stored form of what a log keeps: a format byte and a checksum around a compact encoding.
//!
//! ```text
//! ┌────────┬───────────────┬──────────────┐
//! │ format │ CRC-32, LE    │ body         │   the checksum covers format, key and body
//! │ 1 byte │ 4 bytes       │ protobuf     │
//! └────────┴───────────────┴──────────────┘
//! ```
//!
//! The key is part of the checksum, so that a value that turns up under another key is noticed too.
//! The storage engine checks its pages only when it repairs, so this is what finds a flipped bit.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::{DocumentKey, ProducerState, ingest::DocumentState, plan::Entry};
use crate::{Event, Operation};

const FORMAT: u8 = 1;
const HEADER: usize = 5;

/// An event as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredEvent {
    pub(super) event: Arc<Event>,
    /// The document after it.
    pub(super) state: DocumentState,
    /// Bytes of all records before this one. Only differences mean something: how much the log
    /// holds between two events is known without reading what lies between them.
    pub(super) bytes_before: u64,
}

/// A document as it is stored: its state, and its last event once that is no longer in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredDocument {
    pub(super) state: DocumentState,
    /// What the event holds beside the document's names and offset.
    pub(super) content: Option<Content>,
}

/// The part of an event that is kept with its document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) operation: Operation,
    pub(super) data: Bytes,
    pub(super) timestamp: i64,
}

/// A producer as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredProducer {
    pub(super) state: ProducerState,
    /// When it was taken, Unix milliseconds.
    pub(super) used_ms: i64,
}

/// Why a value is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Damage {
    #[error("it is cut off")]
    CutOff,
    #[error("it has the unknown format {0}")]
    UnknownFormat(u8),
    #[error("its checksum does not match")]
    Checksum,
    #[error("its content makes no sense")]
    Nonsense,
}

impl StoredEvent {
    /// Encodes an entry. `bytes_before` counts the records before it.
    pub(super) fn encode(entry: &Entry, bytes_before: u64) -> Vec<u8> {
        let Entry { event, state } = entry;
        let body = EventBody {
            database: event.database.to_string(),
            collection: event.collection.to_string(),
            document_id: event.document_id.to_string(),
            operation: number(event.operation),
            data: event.data.clone(),
            timestamp: event.timestamp,
            version: state.version,
            // Most documents change when they are old, but a difference is never longer.
            age_ms: event.timestamp.wrapping_sub(state.created_at),
            bytes_before,
        };
        seal(&event.offset.to_le_bytes(), &body)
    }

    /// Reads back what [`Self::encode`] wrote for the event at `offset`.
    pub(super) fn decode(offset: u64, record: &[u8]) -> Result<Self, Damage> {
        let body: EventBody = unseal(&offset.to_le_bytes(), record)?;
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
            }),
            state: DocumentState {
                version: body.version,
                created_at: body.timestamp.wrapping_sub(body.age_ms),
                deleted: operation == Operation::Delete,
                offset,
            },
            bytes_before: body.bytes_before,
        })
    }
}

impl StoredDocument {
    pub(super) fn encode(&self, key: &[&str; 3]) -> Vec<u8> {
        let content = self.content.as_ref();
        let body = DocumentBody {
            version: self.state.version,
            created_at: self.state.created_at,
            deleted: self.state.deleted,
            offset: self.state.offset,
            operation: content.map(|content| number(content.operation)),
            data: content.map_or_else(Bytes::new, |content| content.data.clone()),
            timestamp: content.map_or(0, |content| content.timestamp),
        };
        seal(&document_key(key), &body)
    }

    pub(super) fn decode(key: &[&str; 3], record: &[u8]) -> Result<Self, Damage> {
        let body: DocumentBody = unseal(&document_key(key), record)?;
        let content = match body.operation {
            None => None,
            Some(number) => Some(Content {
                operation: operation(number)?,
                data: body.data,
                timestamp: body.timestamp,
            }),
        };
        Ok(Self {
            state: DocumentState {
                version: body.version,
                created_at: body.created_at,
                deleted: body.deleted,
                offset: body.offset,
            },
            content,
        })
    }
}

impl Content {
    /// The event it was, given the rest.
    pub(super) fn into_event(self, key: &DocumentKey, offset: u64) -> Arc<Event> {
        Arc::new(Event {
            offset,
            database: Arc::clone(&key.database),
            collection: Arc::clone(&key.collection),
            document_id: Arc::clone(&key.document_id),
            operation: self.operation,
            data: self.data,
            timestamp: self.timestamp,
        })
    }
}

impl StoredProducer {
    pub(super) fn encode(&self, name: &str) -> Vec<u8> {
        let body = ProducerBody {
            last_sequence: self.state.last_sequence,
            used_ms: self.used_ms,
            marker: self.state.marker.clone(),
        };
        seal(name.as_bytes(), &body)
    }

    pub(super) fn decode(name: &str, record: &[u8]) -> Result<Self, Damage> {
        let body: ProducerBody = unseal(name.as_bytes(), record)?;
        Ok(Self {
            state: ProducerState {
                last_sequence: body.last_sequence,
                marker: body.marker,
            },
            used_ms: body.used_ms,
        })
    }

    /// Whether nobody heard of it since `oldest_ms`, and it may be forgotten. Without its marker a
    /// source would begin anew, or miss what happened meanwhile.
    pub(super) fn is_forgotten(&self, oldest_ms: i64) -> bool {
        self.used_ms < oldest_ms && self.state.marker.is_none()
    }
}

/// Encodes a number the log keeps about itself.
pub(super) fn encode_number(name: &str, value: u64) -> Vec<u8> {
    seal(name.as_bytes(), &NumberBody { value })
}

/// Reads back what [`encode_number`] wrote.
pub(super) fn decode_number(name: &str, record: &[u8]) -> Result<u64, Damage> {
    unseal::<NumberBody>(name.as_bytes(), record).map(|body| body.value)
}

fn seal(key: &[u8], body: &impl Message) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEADER + body.encoded_len());
    record.extend_from_slice(&[FORMAT, 0, 0, 0, 0]);
    body.encode(&mut record)
        .expect("a vector grows as far as it is asked to");
    let checksum = checksum(FORMAT, key, &record[HEADER..]);
    record[1..HEADER].copy_from_slice(&checksum.to_le_bytes());
    record
}

fn unseal<M: Message + Default>(key: &[u8], record: &[u8]) -> Result<M, Damage> {
    let Some((&[format, a, b, c, d], body)) = record.split_first_chunk::<HEADER>() else {
        return Err(Damage::CutOff);
    };
    if format != FORMAT {
        return Err(Damage::UnknownFormat(format));
    }
    if checksum(format, key, body) != u32::from_le_bytes([a, b, c, d]) {
        return Err(Damage::Checksum);
    }
    // One copy out of the page; the payload is a part of it.
    M::decode(Bytes::copy_from_slice(body)).map_err(|_| Damage::Nonsense)
}

fn checksum(format: u8, key: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[format]);
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(body);
    hasher.finalize()
}

/// One text out of three, such that different threes never give the same.
fn document_key(key: &[&str; 3]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in key {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

const fn number(operation: Operation) -> u32 {
    match operation {
        Operation::Insert => 1,
        Operation::Update => 2,
        Operation::Delete => 3,
    }
}

const fn operation(number: u32) -> Result<Operation, Damage> {
    match number {
        1 => Ok(Operation::Insert),
        2 => Ok(Operation::Update),
        3 => Ok(Operation::Delete),
        0 | 4.. => Err(Damage::Nonsense),
    }
}

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

#[cfg(test)]
mod tests;
