//! The rules that turn a change of a Puller into a change of a document.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use steadfast_wire::puller::ChangeEvent;

use super::document::{DocumentHash, StoredDocument, hash_of_physical_id, object};
use crate::Operation;

/// The change of a document, as the source reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceChange {
    /// The database of the document.
    pub database: String,
    /// The full path of the collection.
    pub collection: String,
    /// The document.
    pub id: SourceId,
    /// The kind of the change.
    pub operation: Operation,
    /// The fields of the user, a JSON object.
    pub data: Bytes,
    /// The version of the document.
    pub version: u64,
    /// The creation time, Unix milliseconds.
    pub created_at: i64,
    /// The modification time, Unix milliseconds.
    pub updated_at: i64,
    /// The time at which the Puller received the change, Unix milliseconds.
    pub timestamp: i64,
}

/// What a change says of the id of its document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceId {
    /// The id.
    Named(String),
    /// The hash of the document's path: the fields of a deleted document are gone, its id with them.
    Hashed(DocumentHash),
}

/// The reason for which a change is no change of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Dropped {
    /// A hard delete names neither database nor collection. The document was deleted softly before, or
    /// its whole database is gone.
    #[error("a hard delete, which names no document")]
    HardDelete,
    /// The operation is none of `insert`, `update`, `replace` and `delete`.
    #[error("an unknown operation")]
    UnknownOperation,
    /// The change has no document.
    #[error("a change without a document")]
    NoDocument,
    /// The document is not a stored document.
    #[error("a document that cannot be read")]
    Malformed,
    /// The document has no id, and its hash belongs to no document that is known here.
    #[error("a change of a document that is not known here")]
    UnknownDocument,
}

/// The only field of the user that matters here.
#[derive(Deserialize)]
struct WithId<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
}

/// Turns a change of a Puller into a change of a document.
///
/// # Errors
///
/// Returns the reason if the change is none of a document.
pub fn transform(change: &ChangeEvent) -> Result<SourceChange, Dropped> {
    // Before the document: a hard delete has none.
    let kind = change.op_type.as_str();
    match kind {
        "insert" | "update" | "replace" => {}
        "delete" => return Err(Dropped::HardDelete),
        _ => return Err(Dropped::UnknownOperation),
    }
    if change.full_doc.is_empty() {
        return Err(Dropped::NoDocument);
    }
    let stored: StoredDocument<'_> = object(&change.full_doc).map_err(|_| Dropped::Malformed)?;
    let operation = match (kind, stored.deleted) {
        // A replacement recreates a document that was deleted softly. A deleted document that is
        // inserted is an insert, as at the original: only coalescing makes one, which is never asked
        // for.
        ("insert", _) | ("replace", false) => Operation::Insert,
        ("update", false) => Operation::Update,
        (_, true) => Operation::Delete,
        (_, false) => return Err(Dropped::UnknownOperation),
    };
    let data = stored.data.map_or("{}", RawValue::get);
    let fields: WithId<'_> = object(data.as_bytes()).map_err(|_| Dropped::Malformed)?;
    let named = fields
        .id
        .and_then(|id| serde_json::from_str::<String>(id.get()).ok())
        .filter(|id| !id.is_empty());
    let id = match named {
        Some(id) => SourceId::Named(id),
        None => hash_of_physical_id(&change.mgo_doc_id)
            .or_else(|| hash_of_physical_id(&stored.id))
            .map(SourceId::Hashed)
            .ok_or(Dropped::UnknownDocument)?,
    };
    let data = match operation {
        Operation::Delete => Bytes::new(),
        Operation::Insert if stored.deleted => mark_deleted(data)?,
        Operation::Insert | Operation::Update => Bytes::copy_from_slice(data.as_bytes()),
    };
    Ok(SourceChange {
        database: change.database.clone(),
        collection: stored.collection,
        id,
        operation,
        data,
        version: u64::try_from(stored.version).unwrap_or(0),
        created_at: stored.created_at,
        updated_at: stored.updated_at,
        timestamp: change.timestamp,
    })
}

/// Returns the fields with `deleted`, which the log sets for deletes only.
fn mark_deleted(data: &str) -> Result<Bytes, Dropped> {
    let mut fields: BTreeMap<String, Box<RawValue>> =
        serde_json::from_str(data).map_err(|_| Dropped::Malformed)?;
    let value = RawValue::from_string("true".to_owned()).expect("`true` is JSON");
    fields.insert("deleted".to_owned(), value);
    let data = serde_json::to_vec(&fields).expect("a map of strings to JSON values is JSON");
    Ok(data.into())
}

#[cfg(test)]
mod tests;
