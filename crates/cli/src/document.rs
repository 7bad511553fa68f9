//! A document and its operation, as a line of NDJSON.

use serde_json::{Map, Value};
use steadfast_streamer::Operation;

/// A document on its way to a server.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Document {
    pub(crate) id: String,
    /// Without one the server tells insert from update.
    pub(crate) op: Option<Operation>,
    /// The fields without `id` and `op`; empty for a delete.
    pub(crate) data: Map<String, Value>,
}

/// Returns the word for an operation in a line.
pub(crate) fn operation_name(operation: Operation) -> &'static str {
    match operation {
        Operation::Insert => "insert",
        Operation::Update => "update",
        Operation::Delete => "delete",
    }
}

impl Document {
    /// Returns a document to insert or update.
    pub(crate) fn new(id: impl Into<String>, data: Map<String, Value>) -> Self {
        Self {
            id: id.into(),
            op: None,
            data,
        }
    }

    pub(crate) fn delete(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            op: Some(Operation::Delete),
            data: Map::new(),
        }
    }

    /// Parses a line: an object with a text `id`, optionally an `op`, and the fields.
    pub(crate) fn parse(line: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(line)
            .map_err(|error| format!("not JSON (column {}): {}", error.column(), reason(&error)))?;
        let Value::Object(mut data) = value else {
            return Err(
                "not a JSON object; write one document per line, like {\"id\":\"a\"}".into(),
            );
        };
        let id = match data.remove("id") {
            Some(Value::String(id)) if !id.is_empty() => id,
            Some(other) => {
                return Err(format!(
                    "\"id\" is {other}; it must be a text that is not empty"
                ));
            }
            None => return Err("no \"id\"; every document needs one".into()),
        };
        let op = match data.remove("op") {
            None => None,
            Some(other) => match other.as_str() {
                Some("insert") => Some(Operation::Insert),
                Some("update") => Some(Operation::Update),
                Some("delete") => Some(Operation::Delete),
                _ => {
                    return Err(format!(
                        "\"op\" is {other}; it must be insert, update or delete"
                    ));
                }
            },
        };
        // The log stores no fields of a delete, so that those on the line are ignored.
        if op == Some(Operation::Delete) {
            data.clear();
        }
        Ok(Self { id, op, data })
    }

    /// Returns the line that parses to this document.
    pub(crate) fn to_line(&self) -> String {
        let mut whole = self.data.clone();
        whole.insert("id".to_owned(), self.id.as_str().into());
        whole.extend(
            self.op
                .map(|op| ("op".to_owned(), operation_name(op).into())),
        );
        Value::Object(whole).to_string()
    }
}

/// Returns the error without its position, which the caller prints.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_back_as_written() {
        for line in [
            r#"{"id":"a"}"#,
            r#"{"id":"a","n":1,"t":["x"]}"#,
            r#"{"id":"a","n":1,"op":"insert"}"#,
            r#"{"id":"a","op":"delete"}"#,
        ] {
            let document = Document::parse(line).unwrap();
            assert_eq!(document.to_line(), line);
        }
    }

    #[test]
    fn a_wrong_line_says_what_is_wrong_with_it() {
        for (line, expected) in [
            ("", "not JSON"),
            ("{\"id\":\"a\",}", "column 11"),
            ("[1]", "not a JSON object"),
            ("{}", "no \"id\""),
            ("{\"id\":7}", "\"id\" is 7"),
            ("{\"id\":\"\"}", "not empty"),
            (
                "{\"id\":\"a\",\"op\":\"upsert\"}",
                "insert, update or delete",
            ),
            ("{\"id\":\"a\",\"op\":4}", "\"op\" is 4"),
        ] {
            let error = Document::parse(line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
