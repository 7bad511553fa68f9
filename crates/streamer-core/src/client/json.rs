//! Items as lines of JSON, for the command line and for gateways. `docs/subscribe-json.md` describes them.

use std::{borrow::Cow, fmt::Display};

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::{
    Change, GapReason, Item, ResyncReason, Snapshot, WindowUpdate, projection::Projection,
};
use crate::Position;

/// Writes items as JSON objects, each without line breaks.
///
/// The data of a document has the text that the server sent: a parsed number would be rounded.
///
/// ```
/// use steadfast_streamer_core::{
///     Epoch, Position,
///     client::{Item, JsonLines, Snapshot},
/// };
///
/// let mut line = String::new();
/// let end = Item::Snapshot(Snapshot::End(Position::new(Epoch(7), 1)));
/// JsonLines::default().write(&end, &mut line);
/// assert_eq!(line, r#"{"position":"0000000000000007-1","type":"snapshotEnd"}"#);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct JsonLines<'a> {
    /// The value of the field `sub`, if lines of several subscriptions are mixed.
    pub subscription: Option<&'a str>,
    /// The fields of documents that are written; `None` for all.
    pub fields: Option<&'a Projection>,
}

/// The fields of a line besides `data`, in alphabetical order.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    collection: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gap: Option<Gap>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    op: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<Text<Position>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resync: Option<Resync>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<i64>,
    r#type: &'static str,
}

#[derive(Serialize)]
struct Gap {
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped: Option<u64>,
    reason: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Resync {
    lost_from: Text<Position>,
    reason: &'static str,
    snapshot_follows: bool,
}

/// A value that is written as text.
struct Text<T>(T);

impl<T: Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl JsonLines<'_> {
    /// Appends the line of an item, without a line break at its end.
    pub fn write(self, item: &Item, out: &mut String) {
        let mut line = match item {
            Item::Change(change) => Line::of("change", change),
            Item::Left(change) => Line::of("left", change),
            Item::Snapshot(Snapshot::Document(document)) => Line::of("document", document),
            Item::Snapshot(Snapshot::Begin { .. }) => Line::new("snapshotBegin"),
            Item::Snapshot(Snapshot::End(_)) => Line::new("snapshotEnd"),
            // Only a window has bounds, and its lines are those of updates.
            Item::Snapshot(Snapshot::Bound { .. }) => Line::new("snapshotBound"),
            Item::Gap(gap) => Line {
                gap: Some(Gap::of(gap.reason)),
                ..Line::new("gap")
            },
            Item::Resync(resync) => Line {
                resync: Some(Resync {
                    lost_from: Text(resync.lost_from),
                    reason: resync_reason(resync.reason),
                    snapshot_follows: resync.snapshot_follows,
                }),
                ..Line::new("resync")
            },
        };
        line.position = item.position().map(Text);
        let document = match item {
            Item::Change(change) | Item::Snapshot(Snapshot::Document(change)) => Some(change),
            Item::Left(_) | Item::Snapshot(_) | Item::Gap(_) | Item::Resync(_) => None,
        };
        self.finish(line, document, out);
    }

    /// Appends the line of an update of a window, with the document that it shows, if any. `position` is
    /// that of the state shown.
    pub fn write_update(
        self,
        update: &WindowUpdate,
        document: Option<&Change>,
        position: Option<Position>,
        out: &mut String,
    ) {
        let (kind, id, from, index) = match update {
            WindowUpdate::Entered { id, index } => ("entered", id, None, index),
            WindowUpdate::Changed { id, index } => ("changed", id, None, index),
            WindowUpdate::Moved { id, from, to } => ("moved", id, Some(*from), to),
            WindowUpdate::Left { id, index } => ("left", id, None, index),
            WindowUpdate::Whole => {
                let position = position.map(Text);
                let line = Line {
                    position,
                    ..Line::new("whole")
                };
                return self.finish(line, None, out);
            }
        };
        let line = Line {
            id: Some(id),
            from,
            index: Some(*index),
            ..Line::new(kind)
        };
        self.finish(line, document, out);
    }

    /// Appends a document as one object: its data, and before it its id.
    pub fn write_document(self, document: &Change, out: &mut String) {
        out.push_str("{\"id\":");
        out.push_str(&to_json(&*document.document_id));
        let data_at = out.len();
        self.write_data(&document.data, out);
        if let Some(members) = out[data_at..].strip_prefix('{') {
            let is_empty = members.trim_start().starts_with('}');
            out.replace_range(data_at..=data_at, if is_empty { "" } else { "," });
        } else {
            out.insert_str(data_at, ",\"data\":");
            out.push('}');
        }
    }

    fn finish(self, line: Line<'_>, document: Option<&Change>, out: &mut String) {
        let line = Line {
            sub: self.subscription,
            ..line
        };
        out.push_str(&to_json(&line));
        if let Some(document) = document {
            out.pop();
            out.push_str(",\"data\":");
            self.write_data(&document.data, out);
            out.push('}');
        }
    }

    fn write_data(self, data: &[u8], out: &mut String) {
        let Ok(data) = serde_json::from_slice::<&RawValue>(data) else {
            // Another implementation of the server may send data that is not JSON; it is written as text.
            return out.push_str(&to_json(&String::from_utf8_lossy(data)));
        };
        let data = match self.fields {
            None => Cow::Borrowed(data.get()),
            Some(fields) => fields.apply(data),
        };
        if data.contains(['\n', '\r']) {
            // Outside of texts a line break is a blank, and inside of them it cannot be.
            out.push_str(&data.replace(['\n', '\r'], " "));
        } else {
            out.push_str(&data);
        }
    }
}

impl<'a> Line<'a> {
    fn new(kind: &'static str) -> Self {
        Self {
            r#type: kind,
            ..Self::default()
        }
    }

    fn of(kind: &'static str, change: &'a Change) -> Self {
        Self {
            op: Some(change.operation.as_str()),
            database: Some(&change.database),
            collection: Some(&change.collection),
            id: Some(&change.document_id),
            event_id: Some(&change.event_id),
            timestamp: Some(change.timestamp),
            ..Self::new(kind)
        }
    }
}

impl Gap {
    fn of(reason: GapReason) -> Self {
        let (reason, dropped) = match reason {
            GapReason::Disconnected => ("disconnected", None),
            GapReason::Overflow { dropped } => ("overflow", Some(dropped)),
            GapReason::Evicted => ("evicted", None),
            GapReason::LeftProfile => ("leftProfile", None),
            GapReason::TooLarge => ("tooLarge", None),
        };
        Self { dropped, reason }
    }
}

fn resync_reason(reason: ResyncReason) -> &'static str {
    match reason {
        ResyncReason::Unstated => "unstated",
        ResyncReason::Epoch => "epoch",
        ResyncReason::Trimmed => "trimmed",
        ResyncReason::Future => "future",
        ResyncReason::Damaged => "damaged",
        ResyncReason::Refused => "refused",
        ResyncReason::Rights => "rights",
    }
}

fn to_json<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("texts and numbers are JSON")
}

#[cfg(test)]
mod tests;
