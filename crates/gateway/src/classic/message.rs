//! The messages on the wire.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::{Value as Json, json, value::RawValue};
use steadfast_streamer::{
    Change, Filter, Operation,
    filter::{Condition, FieldPath, Op, Value},
};

/// Any message of a client.
#[derive(Debug, Deserialize)]
pub(super) struct Envelope {
    pub(super) id: Option<String>,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) payload: Option<Box<RawValue>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Auth {
    pub(super) token: String,
    pub(super) database: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Subscribe {
    pub(super) query: Query,
    pub(super) include_data: bool,
    pub(super) send_snapshot: bool,
}

/// What a client wants to see. The order, the limit and the start are those of the snapshot.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Query {
    pub(super) collection: String,
    filters: Option<Vec<QueryFilter>>,
    pub(super) order_by: Option<Vec<Order>>,
    pub(super) limit: Option<i64>,
    pub(super) start_after: Option<String>,
    /// Deleted documents are not kept, so that no snapshot has them.
    show_deleted: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct QueryFilter {
    field: String,
    op: String,
    #[serde(default)]
    value: Json,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Order {
    pub(super) field: String,
    #[serde(default)]
    direction: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Unsubscribe {
    pub(super) id: String,
}

/// The most fields that an order may have: each is looked up in two documents for each comparison.
const MAX_ORDER: usize = 8;

pub(super) const HEARTBEAT: &str = r#"{"type":"heartbeat"}"#;

impl Query {
    /// Returns the conditions.
    ///
    /// # Errors
    ///
    /// Returns what is wrong with the first one that is wrong, or with the order.
    pub(super) fn filter(&self) -> Result<Filter, String> {
        let fields = self.order_by.as_ref().map_or(0, Vec::len);
        if fields > MAX_ORDER {
            return Err(format!(
                "an order has at most {MAX_ORDER} fields, and this one has {fields}"
            ));
        }
        let filters = self.filters.iter().flatten();
        let conditions = filters.map(|QueryFilter { field, op, value }| {
            let op: Op = op.parse().map_err(|error| format!("{error}"))?;
            let value = Value::try_from(value).map_err(|error| error.to_string())?;
            Ok(Condition::new(FieldPath::from(&**field), op, value))
        });
        let conditions: Vec<_> = conditions.collect::<Result<_, String>>()?;
        Filter::new(conditions).map_err(|error| error.to_string())
    }
}

impl Order {
    pub(super) fn is_descending(&self) -> bool {
        self.direction.eq_ignore_ascii_case("desc")
    }
}

/// Returns an acknowledgement.
pub(super) fn acknowledgement(kind: &str, id: Option<&str>) -> String {
    match id {
        Some(id) => json!({"id": id, "type": kind}).to_string(),
        None => json!({"type": kind}).to_string(),
    }
}

/// Returns an error. One refusal of the original has no code.
pub(super) fn error(id: Option<&str>, code: Option<&str>, text: &str) -> String {
    let mut payload = json!({"message": text});
    if let Some(code) = code {
        payload["code"] = code.into();
    }
    let mut error = json!({"type": "error", "payload": payload});
    if let Some(id) = id {
        error["id"] = id.into();
    }
    error.to_string()
}

/// Returns the event of a change.
pub(super) fn event(subscription: &str, change: &Change, include_data: bool) -> String {
    let kind = match change.operation {
        Operation::Insert => "create",
        Operation::Update => "update",
        Operation::Delete => "delete",
    };
    let document = include_data.then(|| document(change)).flatten();
    delta(subscription, change, kind, document.as_deref())
}

/// Returns the event of a document that the client no longer sees.
pub(super) fn left(subscription: &str, change: &Change) -> String {
    delta(subscription, change, "delete", None)
}

fn delta(subscription: &str, change: &Change, kind: &str, document: Option<&str>) -> String {
    let mut text = String::with_capacity(128 + document.map_or(0, str::len));
    text.push_str(r#"{"type":"event","payload":{"subId":"#);
    quote(subscription, &mut text);
    text.push_str(r#","delta":{"type":""#);
    text.push_str(kind);
    text.push('"');
    if let Some(document) = document {
        text.push_str(r#","document":"#);
        text.push_str(document);
    }
    text.push_str(r#","id":"#);
    quote(
        &format!("{}/{}", change.collection, change.document_id),
        &mut text,
    );
    // Writing to a string does not fail.
    write!(text, r#","timestamp":{}}}}}}}"#, change.timestamp).ok();
    text
}

/// Returns a snapshot of documents as [`document`] writes them.
pub(super) fn snapshot(subscription: &str, documents: &[String]) -> String {
    let mut text = String::from(r#"{"id":"#);
    quote(subscription, &mut text);
    text.push_str(r#","type":"snapshot","payload":{"subId":"#);
    quote(subscription, &mut text);
    text.push_str(r#","documents":["#);
    text.push_str(&documents.join(","));
    text.push_str("]}}");
    text
}

/// Returns the document of a change, with its id and collection. Its numbers have the text that they were
/// published with. `None` if there is none.
pub(super) fn document(change: &Change) -> Option<String> {
    let data = std::str::from_utf8(&change.data).ok()?.trim();
    let fields = data.strip_prefix('{')?.strip_suffix('}')?.trim();
    let mut text = String::with_capacity(data.len() + 64);
    text.push_str(r#"{"id":"#);
    quote(&change.document_id, &mut text);
    text.push_str(r#","collection":"#);
    quote(&change.collection, &mut text);
    if !fields.is_empty() {
        text.push(',');
        // A line would end a server-sent event. Outside of texts it is a blank, and inside of them it
        // cannot be.
        text.extend(
            fields
                .chars()
                .map(|c| if matches!(c, '\n' | '\r') { ' ' } else { c }),
        );
    }
    text.push('}');
    Some(text)
}

fn quote(text: &str, to: &mut String) {
    // A text is JSON.
    to.push_str(&Json::from(text).to_string());
}
