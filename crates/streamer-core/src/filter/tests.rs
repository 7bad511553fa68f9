//! Filters from every side: the table of the protocol, listed defects, text, numbers, properties.

mod defects;
pub(crate) mod naive;
pub(crate) mod numbers;
pub(crate) mod properties;
mod table;
mod text;

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value as Json;
use steadfast_wire::streamer::{self as wire, value::Kind};

use super::*;
use crate::{Event, Operation};

/// A change of `default/users/u1` to a document with these fields.
pub(crate) fn event(fields: &Json) -> Event {
    event_of("u1", fields.to_string())
}

pub(crate) fn event_of(document_id: &str, data: impl Into<Bytes>) -> Event {
    Event {
        previous: crate::Previous::Unknown,
        offset: 7,
        database: Arc::from("default"),
        collection: Arc::from("users"),
        document_id: Arc::from(document_id),
        operation: Operation::Update,
        data: data.into(),
        timestamp: 1_700_000_000_000,
    }
}

/// A filter message.
pub(crate) fn message(field: &str, op: &str, kind: Kind) -> wire::Filter {
    wire::Filter {
        field: field.to_owned(),
        op: op.to_owned(),
        value: Some(wire::Value { kind: Some(kind) }),
        path: Vec::new(),
    }
}

pub(crate) fn list(kinds: impl IntoIterator<Item = Kind>) -> Kind {
    let values = kinds
        .into_iter()
        .map(|kind| wire::Value { kind: Some(kind) });
    Kind::ListValue(wire::ListValue {
        values: values.collect(),
    })
}

pub(crate) fn text(text: &str) -> Kind {
    Kind::StringValue(text.to_owned())
}

pub(crate) fn parse(filters: &[wire::Filter]) -> Result<Filter, InvalidFilter> {
    Filter::parse(filters, &FilterLimits::default())
}

/// A filter message with the keys of its path one by one.
pub(crate) fn message_on_keys(keys: &[&str], op: &str, kind: Kind) -> wire::Filter {
    wire::Filter {
        path: keys.iter().map(|&key| key.to_owned()).collect(),
        ..message("", op, kind)
    }
}

/// Whether a single condition holds for a document with these fields.
fn holds(field: &str, op: &str, kind: Kind, fields: &Json) -> bool {
    let filter = parse(&[message(field, op, kind)]).unwrap();
    evaluate(&filter, &Document::of(&event(fields))).unwrap()
}
