//! The first documents of an order: what a window is, and the places of documents in it.
//!
//! Values are ordered by kind: null and missing, then false, true, numbers by value, texts byte by byte,
//! lists, objects. Two lists have the same value here, and so have two objects, and two texts that begin
//! with the same 1,024 bytes: places are kept in memory by the thousand. Documents of equal value
//! are ordered by their ids, ascending in both directions. The order is total, so that the first documents
//! are the same for everyone.

use std::{cmp::Reverse, sync::Arc};

use serde_json::Value as Json;
use steadfast_wire::streamer::{self as wire, window_bound::Value as WireValue};

use crate::filter::{Document, FieldPath, Number};

/// The direction of an order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// The least value first.
    #[default]
    Ascending,
    /// The greatest value first.
    Descending,
}

/// The first documents that match a filter, in the order of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Window {
    /// The path of the field.
    pub field: FieldPath,
    /// The direction.
    pub direction: Direction,
    /// The number of documents shown.
    pub limit: u32,
    /// The number of documents kept beyond them, which take the places of those that leave. When they are
    /// used up, the server reads the collection again. Without any, that is each time one leaves.
    pub reserve: u32,
}

/// The place of a document in the order of a window.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    value: Directed,
    id: Arc<str>,
}

/// A value, greatest first if descending. Places of one window have one direction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Directed {
    Ascending(OrderValue),
    Descending(Reverse<OrderValue>),
}

/// The value of a field, ordered by kind and then within the kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum OrderValue {
    Null,
    Bool(bool),
    Number(Number),
    Text(Box<str>),
    List,
    Object,
}

/// The request for a window is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidWindow {
    #[error("a window needs the path of a field; its order has none")]
    NoField,
    #[error("the path of a window's field has {bytes} bytes; the limit is {limit}")]
    LongField { bytes: usize, limit: usize },
    #[error("the id of the window's bound has {bytes} bytes; the limit is {limit}")]
    LongBound { bytes: usize, limit: usize },
    #[error("a window of 0 documents shows nothing; its limit must be at least 1")]
    NoLimit,
    #[error(
        "the window has {documents} documents with its reserve; the limit is {limit} \
         (window_documents)"
    )]
    TooLarge { documents: u64, limit: usize },
    #[error("a window needs `snapshot` and `left`")]
    NoSnapshot,
}

impl Window {
    /// Creates a window with a reserve of as many documents as the limit, at least 16 and at most 256.
    #[must_use]
    pub fn new(field: impl Into<FieldPath>, direction: Direction, limit: u32) -> Self {
        Self {
            field: field.into(),
            direction,
            limit,
            reserve: limit.clamp(16, 256),
        }
    }

    /// Returns the number of documents kept when a window begins.
    pub(crate) fn capacity(&self) -> usize {
        self.limit as usize + self.reserve as usize
    }

    /// Returns the place of a document. One that cannot be read has no field.
    pub(crate) fn place(&self, document: &Document<'_>) -> Place {
        let value = document.field(&self.field).ok().flatten();
        Place::of(self.direction, value, &document.event().document_id)
    }

    /// Reads a window and its bound from a request.
    pub(crate) fn of_wire(
        request: &wire::SubscribeRequest,
        (field_bytes, documents): (usize, usize),
    ) -> Result<Option<(Self, Option<Place>)>, InvalidWindow> {
        let Some(window) = &request.window else {
            return Ok(None);
        };
        let field_len = FieldPath::wire_len(&window.field, &window.path);
        let wanted = u64::from(window.limit) + u64::from(window.reserve);
        if request.snapshot.is_none() || !request.left {
            return Err(InvalidWindow::NoSnapshot);
        } else if field_len == 0 {
            return Err(InvalidWindow::NoField);
        } else if field_len > field_bytes {
            return Err(InvalidWindow::LongField {
                bytes: field_len,
                limit: field_bytes,
            });
        } else if window.limit == 0 {
            return Err(InvalidWindow::NoLimit);
        } else if wanted > documents as u64 {
            return Err(InvalidWindow::TooLarge {
                documents: wanted,
                limit: documents,
            });
        }
        let read = Self {
            field: FieldPath::of_wire(&window.field, &window.path),
            direction: Direction::of(window.descending),
            limit: window.limit,
            reserve: window.reserve,
        };
        let bound = window.bound.as_ref();
        if let Some(bound) = bound.filter(|bound| bound.document_id.len() > field_bytes) {
            return Err(InvalidWindow::LongBound {
                bytes: bound.document_id.len(),
                limit: field_bytes,
            });
        }
        let bound = bound.map(|bound| read.place_of_wire(bound));
        Ok(Some((read, bound)))
    }

    /// Returns the request for the window, without a bound.
    pub(crate) fn to_wire(&self) -> wire::Window {
        let (field, path) = self.field.to_wire();
        wire::Window {
            field,
            path,
            descending: self.direction == Direction::Descending,
            limit: self.limit,
            reserve: self.reserve,
            bound: None,
        }
    }

    /// Reads a place of this window.
    pub(crate) fn place_of_wire(&self, bound: &wire::WindowBound) -> Place {
        let value = match &bound.value {
            None => OrderValue::Null,
            Some(WireValue::BoolValue(bool)) => OrderValue::Bool(*bool),
            Some(WireValue::IntValue(whole)) => OrderValue::Number((*whole).into()),
            Some(WireValue::UintValue(whole)) => OrderValue::Number((*whole).into()),
            // No peer sends one that is not finite; it has a place all the same.
            Some(WireValue::DoubleValue(double)) => OrderValue::Number((*double).into()),
            Some(WireValue::StringValue(text)) => OrderValue::text(text),
            Some(WireValue::List(_)) => OrderValue::List,
            Some(WireValue::Object(_)) => OrderValue::Object,
        };
        Place::new(self.direction, value, bound.document_id.as_str().into())
    }
}

impl Direction {
    fn of(descending: bool) -> Self {
        if descending {
            Self::Descending
        } else {
            Self::Ascending
        }
    }
}

impl Place {
    /// Returns the place of a document with this value; `None` if it does not have the field.
    pub(crate) fn of(direction: Direction, value: Option<&Json>, id: &Arc<str>) -> Self {
        Self::new(direction, OrderValue::of(value), Arc::clone(id))
    }

    fn new(direction: Direction, value: OrderValue, id: Arc<str>) -> Self {
        let value = match direction {
            Direction::Ascending => Directed::Ascending(value),
            Direction::Descending => Directed::Descending(Reverse(value)),
        };
        Self { value, id }
    }

    pub(crate) fn to_wire(&self) -> wire::WindowBound {
        let (Directed::Ascending(value) | Directed::Descending(Reverse(value))) = &self.value;
        let value = match value {
            OrderValue::Null => None,
            OrderValue::Bool(bool) => Some(WireValue::BoolValue(*bool)),
            OrderValue::Number(number) => Some(number_to_wire(*number)),
            OrderValue::Text(text) => Some(WireValue::StringValue(text.to_string())),
            OrderValue::List => Some(WireValue::List(true)),
            OrderValue::Object => Some(WireValue::Object(true)),
        };
        wire::WindowBound {
            document_id: self.id.to_string(),
            value,
        }
    }
}

/// Exact: what neither integer holds came from a double.
fn number_to_wire(number: Number) -> WireValue {
    let Number::Whole(whole) = number else {
        return WireValue::DoubleValue(number.to_f64());
    };
    if let Ok(int) = i64::try_from(whole) {
        WireValue::IntValue(int)
    } else if let Ok(uint) = u64::try_from(whole) {
        WireValue::UintValue(uint)
    } else {
        WireValue::DoubleValue(number.to_f64())
    }
}

impl OrderValue {
    fn of(field: Option<&Json>) -> Self {
        match field {
            None | Some(Json::Null) => Self::Null,
            Some(Json::Bool(bool)) => Self::Bool(*bool),
            // Every number of a document is finite.
            Some(Json::Number(number)) => Number::of_json(number).map_or(Self::Null, Self::Number),
            Some(Json::String(text)) => Self::text(text),
            Some(Json::Array(_)) => Self::List,
            Some(Json::Object(_)) => Self::Object,
        }
    }

    fn text(text: &str) -> Self {
        let mut ends = (0..=text.len().min(TEXT_BYTES)).rev();
        let end = ends.find(|end| text.is_char_boundary(*end));
        Self::Text(text[..end.unwrap_or(0)].into())
    }
}

/// The bytes of a text by which it is ordered, up to the beginning of a character (R-54).
const TEXT_BYTES: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Event, Operation};

    fn event(data: &str, id: &str) -> Event {
        Event {
            previous: crate::Previous::Unknown,
            offset: 1,
            database: "d".into(),
            collection: "c".into(),
            document_id: id.into(),
            operation: Operation::Insert,
            data: bytes::Bytes::copy_from_slice(data.as_bytes()),
            timestamp: 0,
        }
    }

    #[test]
    fn values_of_all_kinds_have_one_order_that_the_wire_keeps() {
        // Each pair of id and value, in ascending order.
        let ordered = [
            ("a", r#"{"other":1}"#),
            ("b", r#"{"v":null}"#),
            ("z", "not JSON"),
            ("b", r#"{"v":false}"#),
            ("a", r#"{"v":true}"#),
            ("a", r#"{"v":-1e300}"#),
            ("a", r#"{"v":-9223372036854775808}"#),
            ("a", r#"{"v":-0.5}"#),
            ("a", r#"{"v":0}"#),
            ("b", r#"{"v":-0.0}"#),
            ("a", r#"{"v":9007199254740992}"#),
            ("a", r#"{"v":9007199254740993}"#),
            ("a", r#"{"v":9223372036854775807}"#),
            ("a", r#"{"v":18446744073709551615}"#),
            ("a", r#"{"v":18446744073709551616}"#),
            ("a", r#"{"v":""}"#),
            ("a", r#"{"v":"10"}"#),
            ("a", r#"{"v":"9"}"#),
            ("a", r#"{"v":"ä"}"#),
            ("a", r#"{"v":[9]}"#),
            ("b", r#"{"v":[1]}"#),
            ("a", r#"{"v":{}}"#),
        ];
        for direction in [Direction::Ascending, Direction::Descending] {
            let window = Window::new("v", direction, 3);
            let mut places = Vec::new();
            for (id, data) in ordered {
                let place = window.place(&Document::of(&event(data, id)));
                assert_eq!(window.place_of_wire(&place.to_wire()), place, "{data}");
                places.push((place, id, data));
            }
            for (at, (place, id, data)) in places.iter().enumerate() {
                for (other, other_id, other_data) in &places[at + 1..] {
                    let equal = OrderValue::cmp(value(place), value(other)).is_eq();
                    let before =
                        equal && id < other_id || !equal && direction == Direction::Ascending;
                    assert_eq!(place < other, before, "{data} and {other_data}");
                }
            }
        }
    }

    #[test]
    fn texts_are_ordered_by_their_first_kibibyte() {
        let window = Window::new("v", Direction::Ascending, 3);
        let place = |text: &str, id| {
            let data = format!(r#"{{"v":"{text}"}}"#);
            window.place(&Document::of(&event(&data, id)))
        };
        let long = "x".repeat(1_024);
        let place_of_long = place(&format!("{long}b"), "a");
        assert_eq!(place_of_long, place(&long, "a"));
        assert!(place_of_long < place(&format!("{long}a"), "b"), "by id");
        assert!(place(&long[1..], "b") < place_of_long);
        // A character that does not fit is left out as a whole.
        let cut = format!("{}ä", &long[1..]);
        assert_eq!(place(&cut, "a"), place(&long[1..], "a"));
        let whole = wire::WindowBound {
            document_id: "a".to_owned(),
            value: Some(WireValue::StringValue(format!("{long}b"))),
        };
        assert_eq!(window.place_of_wire(&whole), place_of_long, "of a peer");
    }

    #[test]
    fn window_that_cannot_be_kept_is_refused() {
        let request = |field: usize, limit, reserve, snapshot: bool, left| wire::SubscribeRequest {
            snapshot: snapshot.then(wire::SnapshotRequest::default),
            left,
            window: Some(Box::new(wire::Window {
                field: "f".repeat(field),
                limit,
                reserve,
                ..wire::Window::default()
            })),
            ..wire::SubscribeRequest::default()
        };
        for (what, request, is_taken) in [
            (
                "all is within the limits",
                request(8, 7, 3, true, true),
                true,
            ),
            ("no snapshot", request(8, 7, 3, false, true), false),
            ("nothing leaves", request(8, 7, 3, true, false), false),
            ("no field", request(0, 7, 3, true, true), false),
            ("a long field", request(9, 7, 3, true, true), false),
            ("no limit", request(8, 0, 3, true, true), false),
            ("a large reserve", request(8, 7, 4, true, true), false),
            (
                "two large numbers",
                request(8, u32::MAX, u32::MAX, true, true),
                false,
            ),
        ] {
            assert_eq!(
                Window::of_wire(&request, (8, 10)).is_ok(),
                is_taken,
                "{what}"
            );
        }
    }

    #[test]
    fn bound_with_a_long_id_is_refused() {
        let request = |bytes| wire::SubscribeRequest {
            snapshot: Some(wire::SnapshotRequest::default()),
            left: true,
            window: Some(Box::new(wire::Window {
                bound: Some(wire::WindowBound {
                    document_id: "x".repeat(bytes),
                    value: None,
                }),
                ..Window::new("v", Direction::Ascending, 3).to_wire()
            })),
            ..wire::SubscribeRequest::default()
        };
        let read = |bytes| Window::of_wire(&request(bytes), (100, 100));
        assert!(matches!(read(100), Ok(Some((_, Some(_))))));
        let refused = InvalidWindow::LongBound {
            bytes: 101,
            limit: 100,
        };
        assert_eq!(read(101), Err(refused));
    }

    fn value(place: &Place) -> &OrderValue {
        let (Directed::Ascending(value) | Directed::Descending(Reverse(value))) = &place.value;
        value
    }
}
