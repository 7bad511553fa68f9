//! The document of an event, as filters see it.

use std::cell::OnceCell;

use serde_json::{Map, Value as Json};

use super::FieldPath;
use crate::Event;

/// The document of an event, as filters see it: the fields of the event's data, plus `id` and
/// `collection` of the event itself, which replace fields of the same name.
///
/// The JSON is parsed once, when the first field is read. Integers between `i64::MIN` and `u64::MAX`
/// are exact; other numbers are doubles. Empty data is a document without fields of its own.
#[derive(Debug)]
pub struct Document<'a> {
    event: &'a Event,
    fields: OnceCell<Result<Map<String, Json>, InvalidDocument>>,
}

/// The data of an event is not a JSON object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("filters cannot read the event at offset {offset}: {fault}")]
pub struct InvalidDocument {
    /// The offset of the event.
    pub offset: u64,
    /// The reason.
    pub fault: DocumentFault,
}

/// The reason why bytes are not a JSON object. Never contains any of the data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentFault {
    /// Not JSON, or JSON that is nested deeper than 128 levels or has a number beyond the range of a
    /// double.
    #[error("{what} (line {line}, column {column})")]
    Syntax {
        /// The parser's message.
        what: String,
        /// The line, from 1.
        line: usize,
        /// The byte in the line, from 1.
        column: usize,
    },
    /// JSON, but not an object.
    #[error("the data is not a JSON object")]
    NotAnObject,
}

impl<'a> Document<'a> {
    /// Creates the document of an event, without parsing it.
    #[must_use]
    pub const fn of(event: &'a Event) -> Self {
        Self {
            event,
            fields: OnceCell::new(),
        }
    }

    /// Parses data in the way that filters do.
    ///
    /// # Errors
    ///
    /// When the data is not a JSON object.
    pub fn read(data: &[u8]) -> Result<Map<String, Json>, DocumentFault> {
        match serde_json::from_slice(data) {
            Ok(Json::Object(fields)) => Ok(fields),
            // JSON of another kind has no fields to compare. No payload is put into the error.
            Ok(Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Array(_)) => {
                Err(DocumentFault::NotAnObject)
            }
            Err(error) => Err(DocumentFault::Syntax {
                what: without_location(&error),
                line: error.line(),
                column: error.column(),
            }),
        }
    }

    /// Returns the event.
    #[must_use]
    pub const fn event(&self) -> &'a Event {
        self.event
    }

    /// Returns the fields.
    ///
    /// # Errors
    ///
    /// When the data is not a JSON object.
    pub fn fields(&self) -> Result<&Map<String, Json>, InvalidDocument> {
        let fields = self.fields.get_or_init(|| flatten(self.event));
        // Kept even if it failed, so that damaged data is parsed once and not for each filter.
        fields.as_ref().map_err(Clone::clone)
    }

    /// Returns the field at a path, `None` if it is missing.
    ///
    /// # Errors
    ///
    /// When the data is not a JSON object.
    pub fn field(&self, path: &FieldPath) -> Result<Option<&Json>, InvalidDocument> {
        Ok(path.find(self.fields()?))
    }

    /// Returns the fields; `None` if the data is not a JSON object.
    pub(crate) fn into_fields(self) -> Option<Map<String, Json>> {
        self.fields().ok()?;
        self.fields.into_inner()?.ok()
    }
}

fn flatten(event: &Event) -> Result<Map<String, Json>, InvalidDocument> {
    let invalid = |fault| InvalidDocument {
        offset: event.offset,
        fault,
    };
    let mut fields = if event.data.is_empty() {
        Map::new()
    } else {
        Document::read(&event.data).map_err(invalid)?
    };
    // After the data, which must not be able to claim another id or collection.
    fields.insert("id".to_owned(), Json::from(&*event.document_id));
    fields.insert("collection".to_owned(), Json::from(&*event.collection));
    Ok(fields)
}

/// Returns the parser's message without " at line 1 column 7"; callers give the location in their own way.
pub(super) fn without_location(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let location = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&location).unwrap_or(&text).to_owned()
}
