//! The form in which equal filters are equal bytes.

use crate::filter::{Condition, Filter, Number, Op, Value};

/// The form in which filters that ask the same are equal bytes: numbers by their value (`5` and
/// `5.0` are one), conditions and elements of `in` sorted and named once.
///
/// Two filters of one form hold for the same documents. The reverse is not attempted: `a > 1`
/// beside `a > 2` is another form than `a > 2` alone.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Form(Box<[u8]>);

impl Form {
    pub(super) fn of(filter: &Filter) -> Self {
        Self(as_set(filter.conditions().iter().map(condition)).into())
    }
}

fn condition(condition: &Condition) -> Vec<u8> {
    let mut bytes = Vec::new();
    push_text(&condition.field, &mut bytes);
    bytes.push(condition.op as u8);
    match (condition.op, &condition.value) {
        (Op::In, Value::List(values)) => {
            let element = |value: &Value| {
                let mut bytes = Vec::new();
                push_value(value, &mut bytes);
                bytes
            };
            let elements = as_set(values.iter().map(element));
            push_length(elements.len(), &mut bytes);
            bytes.extend(elements);
        }
        (_, value) => push_value(value, &mut bytes),
    }
    bytes
}

/// Each part tells its own end, so the parts need nothing between them.
fn as_set(parts: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut parts: Vec<_> = parts.collect();
    parts.sort_unstable();
    parts.dedup();
    parts.concat()
}

fn push_value(value: &Value, bytes: &mut Vec<u8>) {
    match value {
        Value::Text(text) => {
            bytes.push(b's');
            push_text(text, bytes);
        }
        Value::Int(int) => push_number((*int).into(), bytes),
        Value::Double(double) => push_number((*double).into(), bytes),
        Value::Bool(false) => bytes.push(b'f'),
        Value::Bool(true) => bytes.push(b't'),
        Value::List(values) => {
            bytes.push(b'l');
            push_length(values.len(), bytes);
            for element in values {
                push_value(element, bytes);
            }
        }
    }
}

fn push_number(number: Number, bytes: &mut Vec<u8>) {
    match number {
        Number::Whole(whole) => {
            bytes.push(b'w');
            bytes.extend(whole.to_le_bytes());
        }
        Number::Double(double) => {
            bytes.push(b'd');
            bytes.extend(double.to_bits().to_le_bytes());
        }
    }
}

fn push_text(text: &str, bytes: &mut Vec<u8>) {
    push_length(text.len(), bytes);
    bytes.extend(text.as_bytes());
}

fn push_length(length: usize, bytes: &mut Vec<u8>) {
    bytes.extend((length as u64).to_le_bytes());
}
