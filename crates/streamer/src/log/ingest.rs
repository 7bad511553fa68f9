//! The rules that turn a submission into an event. Pure, and shared by all logs.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::{error::Category, value::RawValue};

use super::{Limits, RefusedEntry, Submission};
use crate::{Event, Operation};

/// The state of a document in the log, without its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DocumentState {
    /// The number of its changes; continues across a delete.
    pub(super) version: u64,
    /// Creation time, Unix milliseconds.
    pub(super) created_at: i64,
    /// The last change was a delete.
    pub(super) deleted: bool,
    /// Offset of the last change.
    pub(super) offset: u64,
}

/// An event and the state of its document after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DocumentEvent {
    pub(super) event: Arc<Event>,
    pub(super) state: DocumentState,
}

/// The relation of a submitted sequence to the committed ones of its producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sequence {
    /// The next one.
    Next,
    /// Already committed.
    Committed,
    /// Skips numbers, or is 0: sequences start at 1.
    Jump,
}

/// Compares `sequence` with `last`, the newest committed one (0 for a new producer).
pub(super) fn check_sequence(last: u64, sequence: u64) -> Sequence {
    if sequence == 0 {
        Sequence::Jump
    } else if sequence <= last {
        Sequence::Committed
    } else if sequence - last == 1 {
        Sequence::Next
    } else {
        Sequence::Jump
    }
}

/// Turns a submission into the event at `offset`. `document` is the state of its document before it,
/// `now_ms` the server's time.
///
/// Without a named operation, the result is an update if the document exists and an insert
/// otherwise. A named operation is kept, even an insert of an existing document, because it is the
/// producer's statement of what happened; it does not change the creation time. An
/// [`Origin`](super::Origin) replaces version and times.
///
/// # Errors
///
/// Returns [`RefusedEntry`] if the entry is invalid; it is then invalid at any time.
pub(super) fn ingest(
    submission: &Submission,
    document: Option<&DocumentState>,
    offset: u64,
    now_ms: i64,
    limits: &Limits,
) -> Result<DocumentEvent, RefusedEntry> {
    // Before the payload is parsed, so that the cost of a refused entry is bounded as well.
    check_sizes(submission, limits)?;
    let alive = document.filter(|state| !state.deleted);
    let operation = submission.operation.unwrap_or(match alive {
        Some(_) => Operation::Update,
        None => Operation::Insert,
    });
    let deleted = match operation {
        Operation::Insert | Operation::Update => false,
        Operation::Delete => true,
    };
    // A repeated delete keeps the creation time of the deleted document; any other change of a
    // deleted document creates it anew.
    let lifetime = if deleted { document } else { alive };
    let created_at = lifetime.map_or(now_ms, |state| state.created_at);
    // Versions continue across a delete, so that they are never reused.
    let version = document.map_or(0, |state| state.version) + 1;
    let origin = submission.origin.as_ref();
    let (version, created_at, updated_at) = match origin {
        None => (version, created_at, now_ms),
        Some(origin) => (origin.version, origin.created_at, origin.updated_at),
    };

    // The payload of a delete is not even parsed: a malformed one must not keep the document alive.
    let fields = if deleted {
        BTreeMap::new()
    } else {
        parse_object(&submission.data)?
    };
    let key = &submission.document;
    Ok(DocumentEvent {
        event: Arc::new(Event {
            offset,
            database: Arc::clone(&key.database),
            collection: Arc::clone(&key.collection),
            document_id: Arc::clone(&key.document_id),
            operation,
            data: with_metadata(fields, created_at, updated_at, version, deleted),
            timestamp: origin.map_or(now_ms, |origin| origin.timestamp),
        }),
        state: DocumentState {
            version,
            created_at,
            deleted,
            offset,
        },
    })
}

/// Encodes the document with the server's metadata, which replaces user fields of the same names.
fn with_metadata(
    mut fields: BTreeMap<String, Box<RawValue>>,
    created_at: i64,
    updated_at: i64,
    version: u64,
    deleted: bool,
) -> Bytes {
    // Both are sent beside the document.
    fields.remove("id");
    fields.remove("collection");
    let mut set = |name: &str, text: String| {
        let value = RawValue::from_string(text).expect("a number and `true` are JSON");
        // Replaces a field of the user: a subscriber must be able to trust these names.
        fields.insert(name.to_owned(), value);
    };
    set("createdAt", created_at.to_string());
    set("updatedAt", updated_at.to_string());
    set("version", version.to_string());
    if deleted {
        set("deleted", "true".to_owned());
    }
    serde_json::to_vec(&fields)
        .expect("a map of strings to JSON values is JSON")
        .into()
}

fn check_sizes(submission: &Submission, limits: &Limits) -> Result<(), RefusedEntry> {
    for (name, value) in [
        ("producer", &submission.producer),
        ("database", &submission.document.database),
        ("collection", &submission.document.collection),
        ("document id", &submission.document.document_id),
    ] {
        if value.is_empty() {
            return Err(RefusedEntry::Empty(name));
        }
        if value.len() > limits.name_bytes {
            return Err(RefusedEntry::NameTooLong {
                name,
                bytes: value.len(),
                limit: limits.name_bytes,
            });
        }
    }
    // The marker is part of the weight: it is written in the same commit.
    let bytes = submission.weight();
    if bytes > limits.entry_bytes {
        return Err(RefusedEntry::TooLarge {
            bytes,
            limit: limits.entry_bytes,
        });
    }
    Ok(())
}

/// Parses a JSON object into its members. Values keep their exact text, so that no number is
/// rounded. Of duplicate keys the last one wins, as in Go and JavaScript.
fn parse_object(data: &[u8]) -> Result<BTreeMap<String, Box<RawValue>>, RefusedEntry> {
    let refuse = |error: serde_json::Error| {
        RefusedEntry::NotAnObject(match error.classify() {
            Category::Syntax | Category::Eof => error.to_string(),
            // These texts of serde quote the value, and error messages must not contain payloads.
            Category::Data | Category::Io => format!(
                "a value at line {} column {} cannot be represented",
                error.line(),
                error.column()
            ),
        })
    };
    // For another JSON type, serde could only be quoted as "cannot be represented".
    if data.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(RefusedEntry::NotAnObject(
            "expected `{` at the beginning".to_owned(),
        ));
    }
    // Parsing into `RawValue` checks the syntax only, so everything else is checked first.
    // The limit of 128 levels is serde_json's recursion limit, which skipping into `RawValue`
    // lacks.
    let Readable = serde_json::from_slice(data).map_err(refuse)?;
    serde_json::from_slice(data).map_err(refuse)
}

/// A JSON value that every receiver can parse: nested at most 128 levels deep, without lone
/// surrogates, and with numbers in the range of a double. An event that breaks the parsers of all
/// subscribers must be refused before it is in the log.
struct Readable;

impl<'de> Deserialize<'de> for Readable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Readable {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Self, E> {
        if value.is_finite() {
            Ok(self)
        } else {
            Err(E::custom("a number is too large"))
        }
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self, A::Error> {
        // Keys as well: a lone surrogate in a key breaks a parser like one in a value.
        while fields.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

#[cfg(test)]
mod tests;
