//! A changed document as filters see it.

use std::cell::OnceCell;

use serde_json::{Map, Value as Json};

use crate::Event;

/// A changed document as filters see it: the fields of the event's data, plus `id` and
/// `collection` of the event itself, which win over fields of the same name.
///
/// The JSON is read when the first field is asked for, and once, however many filters look.
/// Whole numbers between `i64::MIN` and `u64::MAX` are kept exactly, others are doubles. Data of
/// no bytes is a document without fields of its own.
#[derive(Debug)]
pub struct Document<'a> {
    event: &'a Event,
    fields: OnceCell<Result<Map<String, Json>, InvalidDocument>>,
}

/// The data of an event is not a document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the data of the event at offset {offset} can not be filtered: {fault}")]
pub struct InvalidDocument {
    /// Offset of the event.
    pub offset: u64,
    /// What is wrong.
    pub fault: DocumentFault,
}

/// What is wrong with bytes that should be a JSON object. Never contains any of the data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentFault {
    /// Not JSON, or JSON beyond what is read: deeper than 128 levels, or with a number that no
    /// double reaches.
    #[error("{what} (line {line}, column {column})")]
    Syntax {
        /// What was noticed.
        what: String,
        /// Where, from 1.
        line: usize,
        /// Where in the line, bytes from 1.
        column: usize,
    },
    /// JSON, but not an object.
    #[error("it is not a JSON object")]
    NotAnObject,
}

impl<'a> Document<'a> {
    /// The document of this event. Reads nothing yet.
    #[must_use]
    pub const fn of(event: &'a Event) -> Self {
        Self {
            event,
            fields: OnceCell::new(),
        }
    }

    /// Reads data as filters will read it; what is taken here, filters can look into.
    ///
    /// # Errors
    ///
    /// When the data is not a JSON object.
    pub fn read(data: &[u8]) -> Result<Map<String, Json>, DocumentFault> {
        match serde_json::from_slice(data) {
            Ok(Json::Object(fields)) => Ok(fields),
            Ok(Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Array(_)) => {
                Err(DocumentFault::NotAnObject)
            }
            Err(error) => Err(DocumentFault::Syntax {
                what: without_place(&error),
                line: error.line(),
                column: error.column(),
            }),
        }
    }

    /// The event.
    #[must_use]
    pub const fn event(&self) -> &'a Event {
        self.event
    }

    /// The fields.
    ///
    /// # Errors
    ///
    /// When the data is not a JSON object; then every time.
    pub fn fields(&self) -> Result<&Map<String, Json>, InvalidDocument> {
        let fields = self.fields.get_or_init(|| flatten(self.event));
        fields.as_ref().map_err(Clone::clone)
    }

    /// The field at a path, `None` if it is missing. The path is split at every `.`; it leads
    /// through objects only.
    ///
    /// # Errors
    ///
    /// When the data is not a JSON object.
    pub fn field(&self, path: &str) -> Result<Option<&Json>, InvalidDocument> {
        let fields = self.fields()?;
        let mut segments = path.split('.');
        let first = segments.next().and_then(|name| fields.get(name));
        Ok(first.and_then(|first| {
            segments.try_fold(first, |inside, name| inside.as_object()?.get(name))
        }))
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
    fields.insert("id".to_owned(), Json::from(&*event.document_id));
    fields.insert("collection".to_owned(), Json::from(&*event.collection));
    Ok(fields)
}

/// The parser's words without its " at line 1 column 7", which callers tell in their own way.
pub(super) fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&place).unwrap_or(&text).to_owned()
}
