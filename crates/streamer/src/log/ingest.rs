//! What becomes of a submission: pure rules, the same for every kind of log.

use std::{collections::BTreeMap, fmt};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::{error::Category, value::RawValue};

use super::{Limits, RefusedEntry, Submission};
use crate::Operation;

/// What the log knows of a document, apart from its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DocumentState {
    /// Changes it had so far, from 1; goes on counting across a delete.
    pub version: u64,
    /// When it came into being, Unix milliseconds.
    pub created_at: i64,
    /// Whether its last change was a delete.
    pub deleted: bool,
    /// Offset of its last change.
    pub offset: u64,
}

/// How a producer's sequence stands to the ones taken before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is the next one.
    Next,
    /// It was taken before.
    Taken,
    /// It does not follow; a sequence of 0 never does, since they count from 1.
    Jump,
}

/// An entry the log takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// What happens to the document.
    pub operation: Operation,
    /// The document as it is stored and delivered.
    pub data: Bytes,
    /// Its version after this change.
    pub version: u64,
    /// When it came into being, Unix milliseconds.
    pub created_at: i64,
}

/// Where `sequence` stands when `last` is the newest one taken, 0 for a new producer.
#[must_use]
pub fn place(last: u64, sequence: u64) -> Place {
    if sequence == 0 {
        Place::Jump
    } else if sequence <= last {
        Place::Taken
    } else if sequence - last == 1 {
        Place::Next
    } else {
        Place::Jump
    }
}

/// Turns a submission whose sequence is the next one into what the log stores.
///
/// `document` is what the log knows of the document, `now_ms` the server's time. An operation that
/// was not named is an update of a document that exists and an insert of one that does not, or not
/// any more. A named operation is kept as it was named, whatever the log knows: it is the
/// producer's word for what happened. It does not change when the document came into being.
///
/// An entry with an [`Origin`](super::Origin) keeps version and times of that place.
///
/// # Errors
///
/// [`RefusedEntry`] when it can not be taken, now or ever.
pub fn ingest(
    submission: &Submission,
    document: Option<&DocumentState>,
    now_ms: i64,
    limits: &Limits,
) -> Result<Accepted, RefusedEntry> {
    check_sizes(submission, limits)?;
    let alive = document.filter(|state| !state.deleted);
    let operation = submission.operation.unwrap_or(match alive {
        Some(_) => Operation::Update,
        None => Operation::Insert,
    });
    let deletes = match operation {
        Operation::Insert | Operation::Update => false,
        Operation::Delete => true,
    };
    // A repeated delete still speaks of the document that was deleted.
    let known = if deletes { document } else { alive };
    let created_at = known.map_or(now_ms, |state| state.created_at);
    let version = document.map_or(0, |state| state.version) + 1;
    // Where the document lives elsewhere, that place counts and keeps the time.
    let (version, created_at, updated_at) = match &submission.origin {
        None => (version, created_at, now_ms),
        Some(origin) => (origin.version, origin.created_at, origin.updated_at),
    };

    let fields = if deletes {
        BTreeMap::new()
    } else {
        object(&submission.data)?
    };
    let data = stamp(fields, created_at, updated_at, version, deletes);
    Ok(Accepted {
        operation,
        data,
        version,
        created_at,
    })
}

/// The document with what the server says of it, whatever the user said under the same names.
fn stamp(
    mut fields: BTreeMap<String, Box<RawValue>>,
    created_at: i64,
    updated_at: i64,
    version: u64,
    deleted: bool,
) -> Bytes {
    // They stand beside the document.
    fields.remove("id");
    fields.remove("collection");
    let mut set = |name: &str, text: String| {
        let value = RawValue::from_string(text).expect("a number and `true` are JSON");
        fields.insert(name.to_owned(), value);
    };
    set("createdAt", created_at.to_string());
    set("updatedAt", updated_at.to_string());
    set("version", version.to_string());
    if deleted {
        set("deleted", "true".to_owned());
    }
    serde_json::to_vec(&fields)
        .expect("a map of texts and JSON values is JSON")
        .into()
}

fn check_sizes(submission: &Submission, limits: &Limits) -> Result<(), RefusedEntry> {
    for (name, value) in [
        ("producer", &submission.producer),
        ("database", &submission.database),
        ("collection", &submission.collection),
        ("document id", &submission.document_id),
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
    let bytes = submission.weight();
    if bytes > limits.entry_bytes {
        return Err(RefusedEntry::TooLarge {
            bytes,
            limit: limits.entry_bytes,
        });
    }
    Ok(())
}

/// The fields of a JSON object with the exact text of their values, so that no number is rounded
/// on its way through. Of equal keys the last one wins, as in Go and in JavaScript.
fn object(data: &[u8]) -> Result<BTreeMap<String, Box<RawValue>>, RefusedEntry> {
    let refuse = |error: serde_json::Error| {
        RefusedEntry::NotAnObject(match error.classify() {
            Category::Syntax | Category::Eof => error.to_string(),
            // These texts quote the value, and payloads do not belong into messages.
            Category::Data | Category::Io => format!(
                "a value at line {} column {} can not be represented",
                error.line(),
                error.column()
            ),
        })
    };
    if data.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(RefusedEntry::NotAnObject(
            "expected `{` at its beginning".to_owned(),
        ));
    }
    let Readable = serde_json::from_slice(data).map_err(refuse)?;
    serde_json::from_slice(data).map_err(refuse)
}

/// Any JSON value that every receiver can read: at most 128 deep, texts without lone surrogates,
/// numbers a double can hold at least roughly. Raw values are copied without such a look, and one
/// entry that makes the parsers of all subscribers fail would be found too late.
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
        while fields.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

#[cfg(test)]
mod tests;
