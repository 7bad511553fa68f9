//! A document and its operation, as a line of NDJSON.

use std::collections::BTreeMap;

use serde_json::{Map, Value, value::RawValue};
use steadfast_streamer::{
    Operation,
    client::{JsonFieldsError, json_fields},
};

/// A document on its way to a server.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Document {
    pub(crate) id: String,
    /// Without one the server tells insert from update.
    pub(crate) op: Option<Operation>,
    /// The fields without `id` and `op` as a JSON object, empty for a delete. The values have the text
    /// that they were written with: a parsed number would be rounded.
    pub(crate) data: String,
}

impl Document {
    /// Returns a document to insert or update.
    pub(crate) fn new(id: impl Into<String>, data: Map<String, Value>) -> Self {
        Self {
            id: id.into(),
            op: None,
            data: Value::Object(data).to_string(),
        }
    }

    pub(crate) fn delete(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            op: Some(Operation::Delete),
            data: "{}".to_owned(),
        }
    }

    /// Parses a line: an object with a text `id`, optionally an `op`, and the fields.
    pub(crate) fn parse(line: &str) -> Result<Self, String> {
        let whole: &RawValue = serde_json::from_str(line)
            .map_err(|error| format!("not JSON (column {}): {}", error.column(), reason(&error)))?;
        let mut data = json_fields(whole).map_err(|error| match error {
            JsonFieldsError::NotAnObject => {
                "not a JSON object; write one document per line, like {\"id\":\"a\"}".to_owned()
            }
            JsonFieldsError::Repeated(name) => {
                format!("{name:?} is there twice; a field has one value")
            }
            JsonFieldsError::Malformed(error) => reason(&error),
        })?;
        let id = match data.remove("id").map(text_of) {
            Some(Ok(id)) if !id.is_empty() => id,
            Some(Ok(_)) => return Err("\"id\" is \"\"; it must be a text that is not empty".into()),
            Some(Err(other)) => {
                return Err(format!(
                    "\"id\" is {other}; it must be a text that is not empty"
                ));
            }
            None => return Err("no \"id\"; every document needs one".into()),
        };
        let op = match data.remove("op").map(text_of) {
            None => None,
            Some(op) => match op.as_deref() {
                Ok("insert") => Some(Operation::Insert),
                Ok("update") => Some(Operation::Update),
                Ok("delete") => Some(Operation::Delete),
                _ => {
                    let other = op.unwrap_or_else(|other| other);
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
        let data = serde_json::to_string(&data).expect("JSON values are JSON");
        Ok(Self { id, op, data })
    }

    /// Returns the fields that the server replaces or removes.
    pub(crate) fn system_fields(&self) -> Vec<&'static str> {
        let fields: BTreeMap<String, &RawValue> =
            serde_json::from_str(&self.data).unwrap_or_default();
        SYSTEM_FIELDS
            .into_iter()
            .filter(|name| fields.contains_key(*name))
            .collect()
    }

    /// Returns the line that parses to this document.
    pub(crate) fn to_line(&self) -> String {
        let mut whole: BTreeMap<String, Box<RawValue>> =
            serde_json::from_str(&self.data).expect("the fields are a JSON object");
        let raw = |text: &str| serde_json::value::to_raw_value(text).expect("a text is JSON");
        whole.insert("id".to_owned(), raw(&self.id));
        whole.extend(self.op.map(|op| ("op".to_owned(), raw(op.as_str()))));
        serde_json::to_string(&whole).expect("JSON values are JSON")
    }
}

/// The fields that the server sets itself or sends beside the document.
const SYSTEM_FIELDS: [&str; 4] = ["collection", "createdAt", "updatedAt", "version"];

/// Returns the text that a value is, or the value as it is written if it is no text.
fn text_of(value: &RawValue) -> Result<String, String> {
    serde_json::from_str(value.get()).map_err(|_| value.get().to_owned())
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
            r#"{"beyond":18446744073709551616,"exp":1E2,"id":"a","neg0":-0,"price":10.10,"zero":1.0}"#,
            r#"{"dec":0.1234567890123456789012345,"id":"a"}"#,
            r#"{"id":"a","nested":{"n":1, "n":2,"id":"b"}}"#,
        ] {
            let document = Document::parse(line).unwrap();
            assert_eq!(document.to_line(), line);
        }
    }

    #[test]
    fn fields_that_the_server_sets_are_named() {
        let line = r#"{"id":"a","version":"1.2","createdAt":1,"collection":"mine","v":1}"#;
        let document = Document::parse(line).unwrap();
        assert_eq!(
            document.system_fields(),
            ["collection", "createdAt", "version"]
        );
        let document = Document::parse(r#"{"id":"a","deleted":"no"}"#).unwrap();
        assert!(document.system_fields().is_empty());
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
            (
                "{\"id\":\"a\",\"n\":1,\"n\":1}",
                "\"n\" is there twice; a field has one value",
            ),
            (
                "{\"id\":\"a\",\"n\":1,\"\\u006e\":2}",
                "\"n\" is there twice",
            ),
            ("{\"id\":\"a\",\"id\":\"b\"}", "\"id\" is there twice"),
            ("{\"id\":\"a\",\"\\ud800\":1}", "hex escape"),
        ] {
            let error = Document::parse(line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
