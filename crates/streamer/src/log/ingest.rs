//! The rules that turn a submission into an event. Pure, and shared by all logs.

use std::{fmt::Write as _, ops::Range, sync::Arc};

use bytes::Bytes;
use serde_json::error::Category;
use steadfast_streamer_core::matcher::{Member, read_members};

use super::{Limits, RefusedEntry, Submission};
use crate::{Event, Operation, Previous};

/// The state of a document in the log, without its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DocumentState {
    /// The number of its changes; continues across a delete.
    pub(super) version: u64,
    /// Creation time, Unix milliseconds.
    pub(super) created_at: i64,
    /// The last change was a delete.
    pub(super) deleted: bool,
    /// Offset of the last change; 0 if that may be lost, so that the state is in doubt.
    pub(super) offset: u64,
}

impl DocumentState {
    /// Returns the state of a document of which nothing is known but that it had at most `version` changes.
    pub(super) const fn unknown(version: u64) -> Self {
        Self {
            version,
            created_at: 0,
            deleted: true,
            offset: 0,
        }
    }
}

/// An event and the state of its document after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DocumentEvent {
    pub(super) event: Arc<Event>,
    pub(super) state: DocumentState,
    /// Modification time of the document, Unix milliseconds.
    pub(super) updated_at: i64,
    /// Where the data of the event has [`METADATA`], in this order.
    pub(super) metadata: [Range<usize>; METADATA.len()],
}

/// The members of a document whose values are the server's and of every event: creation time,
/// modification time, and version. In the order of their names.
pub(super) const METADATA: [&str; 3] = ["createdAt", "updatedAt", "version"];

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
    // Damage may have taken the last change.
    let certain = document.is_none_or(|state| state.offset > 0);
    // A repeated delete keeps the creation time of the deleted document; any other change of a
    // deleted document creates it anew.
    let lifetime = if deleted && certain { document } else { alive };
    let created_at = lifetime.map_or(now_ms, |state| state.created_at);
    // Versions continue across a delete, so that they are never reused.
    let version = document.map_or(0, |state| state.version) + 1;
    let origin = submission.origin.as_ref();
    let (version, created_at, updated_at) = match origin {
        None => (version, created_at, now_ms),
        Some(origin) => (origin.version, origin.created_at, origin.updated_at),
    };

    // The payload of a delete is not even parsed: a malformed one must not keep the document alive.
    let members = if deleted {
        Vec::new()
    } else {
        parse_object(&submission.data)?
    };
    let (data, metadata) = with_metadata(members, created_at, updated_at, version, deleted);
    let key = &submission.document;
    Ok(DocumentEvent {
        event: Arc::new(Event {
            offset,
            database: Arc::clone(&key.database),
            collection: Arc::clone(&key.collection),
            document_id: Arc::clone(&key.document_id),
            operation,
            data,
            timestamp: origin.map_or(now_ms, |origin| origin.timestamp),
            previous: match alive {
                _ if !certain => Previous::Unknown,
                Some(state) => Previous::At(state.offset),
                None => Previous::Nothing,
            },
        }),
        state: DocumentState {
            version,
            created_at,
            deleted,
            offset,
        },
        updated_at,
        metadata,
    })
}

/// Encodes the document with the server's metadata, which replaces user fields of the same names.
/// Returns also where [`METADATA`] is.
fn with_metadata(
    data: Vec<Member<'_>>,
    created_at: i64,
    updated_at: i64,
    version: u64,
    deleted: bool,
) -> (Bytes, [Range<usize>; METADATA.len()]) {
    let values = [
        created_at.to_string(),
        updated_at.to_string(),
        version.to_string(),
    ];
    // With the lifetime of the values.
    let mut members: Vec<Member<'_>> = data;
    // `id` and `collection` are sent beside the document. A subscriber must be able to trust the others.
    members.retain(|member| {
        let name = &*member.name;
        !METADATA.contains(&name) && !["id", "collection"].contains(&name)
    });
    for (name, value) in METADATA.into_iter().zip(&values) {
        let name = name.into();
        members.push(Member { name, value });
    }
    if deleted {
        members.push(Member {
            name: "deleted".into(),
            value: "true",
        });
    }
    // Stable: of members with one name the last one stays the last.
    members.sort_by(|one, other| one.name.cmp(&other.name));
    let mut places = [const { 0..0 }; METADATA.len()];
    let length = members.iter().map(|it| it.name.len() + it.value.len() + 4);
    let mut text = String::with_capacity(1 + length.sum::<usize>());
    for (at, member) in members.iter().enumerate() {
        // As in Go and JavaScript, the last one wins.
        if members
            .get(at + 1)
            .is_some_and(|next| next.name == member.name)
        {
            continue;
        }
        text.push(if text.is_empty() { '{' } else { ',' });
        let start = text.len();
        push_name(&member.name, &mut text);
        text.push(':');
        text.push_str(member.value);
        if let Some(number) = METADATA.iter().position(|name| *name == member.name) {
            places[number] = start..text.len();
        }
    }
    text.push('}');
    (text.into(), places)
}

/// Appends a name as a JSON string.
fn push_name(name: &str, text: &mut String) {
    let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    if name.bytes().all(is_plain) {
        text.push('"');
        text.push_str(name);
        text.push('"');
    } else {
        let quoted = serde_json::Value::from(name);
        write!(text, "{quoted}").expect("writing to a string cannot fail");
    }
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
/// rounded.
///
/// An event that breaks the parsers of all subscribers must be refused before it is in the log: at most
/// 128 levels, no lone surrogates, and numbers in the range of a double.
fn parse_object(data: &[u8]) -> Result<Vec<Member<'_>>, RefusedEntry> {
    read_members(data).ok_or_else(|| RefusedEntry::NotAnObject(defect(data)))
}

/// Returns the reason why data is not an object, without any of it.
fn defect(data: &[u8]) -> String {
    // For another JSON type, serde could only be quoted as "cannot be represented".
    if data.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return "expected `{` at the beginning".to_owned();
    }
    match serde_json::from_slice::<serde_json::Value>(data) {
        Ok(_) => "a value cannot be represented".to_owned(),
        Err(error) => match error.classify() {
            Category::Syntax | Category::Eof => error.to_string(),
            // These texts of serde quote the value, and error messages must not contain payloads.
            Category::Data | Category::Io => format!(
                "a value at line {} column {} cannot be represented",
                error.line(),
                error.column()
            ),
        },
    }
}

#[cfg(test)]
mod tests;
