//! The documents in the body of a request.

use serde_json::value::RawValue;
use steadfast_streamer::{
    Entry,
    client::{JsonFieldsError, json_fields},
};

use super::Operation;
use crate::http::error::ApiError;

/// The most documents of one request.
const MAX_DOCUMENTS: usize = 10_000;

/// Reads one object, an array of objects, or one object per line.
pub(super) fn documents(
    body: &[u8],
    (database, collection): (&str, &str),
    operation: Operation,
) -> Result<Vec<Entry>, ApiError> {
    let text = str::from_utf8(body).map_err(|error| {
        let before = &body[..error.valid_up_to()];
        let line = before.split(|byte| *byte == b'\n').count();
        ApiError::invalid(format!("line {line} of the body is not UTF-8"))
    })?;
    // Files that some editors write begin with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut entries = Vec::new();
    for value in values(text)? {
        if entries.len() == MAX_DOCUMENTS {
            let message = format!("a request has at most {MAX_DOCUMENTS} documents; send several");
            return Err(ApiError::too_large(message));
        }
        let fault = |fault| ApiError::invalid(format!("document {}: {fault}", entries.len() + 1));
        let (id, data) = document(value).map_err(fault)?;
        entries.push(match operation {
            Operation::Upsert => Entry::upsert(database, collection, id, data),
            Operation::Delete => Entry::delete(database, collection, id),
        });
    }
    if entries.is_empty() {
        return Err(ApiError::invalid("the body has no document"));
    }
    Ok(entries)
}

fn values(text: &str) -> Result<Vec<&RawValue>, ApiError> {
    let values = if text.trim_start().starts_with('[') {
        serde_json::from_str(text)
    } else {
        serde_json::Deserializer::from_str(text)
            .into_iter()
            .collect()
    };
    values.map_err(|error| ApiError::invalid(format!("the body is not JSON: {error}")))
}

/// Returns the id and the other fields, whose values keep their text: a parsed number would be rounded.
fn document(value: &RawValue) -> Result<(String, String), String> {
    let fields = json_fields(value).map_err(|error| match error {
        JsonFieldsError::Repeated(name) => format!("`{name}` is there twice"),
        other => {
            // The position is one in the document, not in the body.
            let text = other.to_string();
            text.split(" at line ").next().unwrap_or(&text).to_owned()
        }
    });
    let mut fields = fields?;
    let id = fields.remove("id").ok_or("no `id`")?;
    let id: String = serde_json::from_str(id.get()).map_err(|_| "`id` is not a text")?;
    if id.is_empty() {
        return Err("`id` is empty".to_owned());
    }
    let data = serde_json::to_string(&fields).expect("JSON values are JSON");
    Ok((id, data))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str, operation: Operation) -> Result<Vec<String>, String> {
        let entries = documents(body.as_bytes(), ("d", "c"), operation);
        let entries = entries.map_err(|error| format!("{error:?}"))?;
        let describe = |it: Entry| {
            let data = String::from_utf8(it.data.to_vec()).unwrap();
            format!(
                "{}/{}/{} {:?} {data}",
                it.database, it.collection, it.document_id, it.operation
            )
        };
        Ok(entries.into_iter().map(describe).collect())
    }

    #[test]
    fn bodies_are_an_object_an_array_or_lines() {
        let a = r#"d/c/a None {"n":1.10}"#;
        let b = "d/c/b None {}";
        for (body, expected) in [
            (r#"{"n":1.10,"id":"a"}"#, &[a][..]),
            (" [{\"id\":\"a\",\"n\":1.10},\n{\"id\":\"b\"}] ", &[a, b]),
            ("{\"id\":\"a\",\"n\":1.10}\n\n{\"id\":\"b\"}\n", &[a, b]),
            (
                "\u{feff}{\"id\":\"a\",\"n\":1.10}\r\n{\"id\":\"b\"}",
                &[a, b],
            ),
            ("\u{feff}[{\"id\":\"b\"}]", &[b]),
        ] {
            assert_eq!(read(body, Operation::Upsert).unwrap(), expected, "{body}");
        }
        let deleted = read(r#"{"id":"a","n":1}"#, Operation::Delete).unwrap();
        assert_eq!(deleted, ["d/c/a Some(Delete) "]);
    }

    #[test]
    fn faults_of_bodies_name_the_document() {
        let many = "{\"id\":\"a\"}\n".repeat(MAX_DOCUMENTS + 1);
        for (body, expected) in [
            ("", "no document"),
            ("[]", "no document"),
            ("{", "not JSON: EOF"),
            ("[{\"id\":\"a\"},]", "not JSON: trailing comma"),
            ("{\"id\":\"a\"}\n{\"n\":1}", "document 2: no `id`"),
            ("{\"id\":7}", "document 1: `id` is not a text"),
            ("{\"id\":\"\"}", "document 1: `id` is empty"),
            ("7", "document 1: not a JSON object"),
            ("[[1]]", "document 1: not a JSON object"),
            (
                "{\"id\":\"a\"}\n\u{feff}{\"id\":\"b\"}",
                "not JSON: expected value at line 2",
            ),
            (
                "[{\"id\":\"a\",\"n\":1,\"n\":1}]",
                "document 1: `n` is there twice\"",
            ),
            (
                "{\"id\":\"a\",\"id\":\"b\"}",
                "document 1: `id` is there twice",
            ),
            (&many, "at most 10000 documents"),
        ] {
            let error = read(body, Operation::Upsert).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let body = b"{\"id\":\"a\"}\n{\"id\":\"\xff\"}";
        let error = documents(body, ("d", "c"), Operation::Upsert).unwrap_err();
        assert!(format!("{error:?}").contains("line 2 of the body is not UTF-8"));
    }
}
