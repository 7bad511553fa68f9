//! The same meaning, written a second time and as plainly as possible, to be compared with.
//!
//! It shares nothing with the module under test: it works on the messages themselves, turns values
//! into JSON and compares numbers by all digits of their decimal expansions.

use std::cmp::Ordering;

use serde_json::{Map, Number, Value as Json};
use steadfast_wire::streamer::{self as wire, value::Kind};

use crate::Event;

/// Whether the filters hold for the event's document; `None` if they are to be refused.
pub(crate) fn holds(filters: &[wire::Filter], event: &Event) -> Option<bool> {
    let conditions = filters.iter().map(readable).collect::<Option<Vec<_>>>()?;
    if let [(path, "==" | "eq", value)] = &conditions[..]
        && path[..] == ["_id"]
    {
        let id = value.as_str().filter(|id| !id.is_empty())?;
        return Some(id == &*event.document_id);
    }
    let mut root: Map<String, Json> = serde_json::from_slice(&event.data).unwrap();
    root.insert("id".into(), Json::from(&*event.document_id));
    root.insert("collection".into(), Json::from(&*event.collection));
    let root = Json::Object(root);
    let holds = |(path, op, value): &(Vec<&str>, &str, Json)| match at(&root, path) {
        None => false,
        Some(field) => condition(field, op, value),
    };
    Some(conditions.iter().all(holds))
}

fn readable(filter: &wire::Filter) -> Option<(Vec<&str>, &str, Json)> {
    let value = json(filter.value.as_ref()?)?;
    let allowed = match filter.op.as_str() {
        "==" | "eq" | "!=" | "ne" | "contains" => true,
        "in" => value.is_array(),
        ">" | "gt" | ">=" | "gte" | "<" | "lt" | "<=" | "lte" => {
            !value.is_array() && !value.is_null()
        }
        _ => false,
    };
    let path = if filter.path.is_empty() {
        filter.field.split('.').collect()
    } else {
        filter.path.iter().map(String::as_str).collect()
    };
    allowed.then_some((path, &filter.op, value))
}

fn json(value: &wire::Value) -> Option<Json> {
    Some(match value.kind.as_ref()? {
        Kind::StringValue(text) => Json::from(text.as_str()),
        Kind::IntValue(int) => Json::from(*int),
        Kind::DoubleValue(double) => Json::Number(Number::from_f64(*double)?),
        Kind::BoolValue(bool) => Json::from(*bool),
        Kind::NullValue(true) => Json::Null,
        Kind::NullValue(false) => return None,
        Kind::ListValue(list) => Json::Array(list.values.iter().map(json).collect::<Option<_>>()?),
    })
}

fn at<'a>(json: &'a Json, path: &[&str]) -> Option<&'a Json> {
    match path {
        [] => Some(json),
        [key, inside @ ..] => at(json.as_object()?.get(*key)?, inside),
    }
}

fn condition(field: &Json, op: &str, value: &Json) -> bool {
    let ordered = |wanted: &[Ordering]| match (field, value) {
        (Json::Number(a), Json::Number(b)) => wanted.contains(&compare(a, b)),
        (Json::String(a), Json::String(b)) => wanted.contains(&a.as_bytes().cmp(b.as_bytes())),
        (Json::Bool(a), Json::Bool(b)) => wanted.contains(&u8::from(*a).cmp(&u8::from(*b))),
        _ => false,
    };
    match op {
        "==" | "eq" => same(field, value),
        "!=" | "ne" => !same(field, value),
        ">" | "gt" => ordered(&[Ordering::Greater]),
        ">=" | "gte" => ordered(&[Ordering::Greater, Ordering::Equal]),
        "<" | "lt" => ordered(&[Ordering::Less]),
        "<=" | "lte" => ordered(&[Ordering::Less, Ordering::Equal]),
        "in" => value
            .as_array()
            .unwrap()
            .iter()
            .any(|element| same(field, element)),
        "contains" => match field {
            Json::Array(elements) => elements.iter().any(|element| same(element, value)),
            Json::Object(fields) => value.as_str().is_some_and(|key| fields.contains_key(key)),
            _ => false,
        },
        _ => unreachable!("refused before"),
    }
}

fn same(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Number(a), Json::Number(b)) => compare(a, b) == Ordering::Equal,
        (Json::Array(a), Json::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        _ => a == b,
    }
}

/// By sign, then by length of the whole part, then digit by digit.
pub(crate) fn compare(a: &Number, b: &Number) -> Ordering {
    let (a, b) = (Decimal::of(a), Decimal::of(b));
    match (a.negative, b.negative) {
        (false, false) => a.magnitude().cmp(&b.magnitude()),
        (true, true) => b.magnitude().cmp(&a.magnitude()),
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
    }
}

struct Decimal {
    negative: bool,
    whole: String,
    fraction: String,
}

impl Decimal {
    fn of(number: &Number) -> Self {
        // No double needs more than 1074 digits after the point.
        let text = if number.is_f64() {
            format!("{:.1074}", number.as_f64().unwrap())
        } else {
            number.to_string()
        };
        let magnitude = text.trim_start_matches('-');
        let (whole, fraction) = magnitude.split_once('.').unwrap_or((magnitude, ""));
        let whole = whole.trim_start_matches('0').to_owned();
        let fraction = fraction.trim_end_matches('0').to_owned();
        let zero = whole.is_empty() && fraction.is_empty();
        Self {
            negative: text.starts_with('-') && !zero,
            whole,
            fraction,
        }
    }

    fn magnitude(&self) -> (usize, &str, &str) {
        (self.whole.len(), &self.whole, &self.fraction)
    }
}
