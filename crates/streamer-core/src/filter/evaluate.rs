//! Evaluation of filters.

use std::cmp::Ordering;

use serde_json::Value as Json;

use super::{Document, Filter, InvalidDocument, Number, Op, Selection, Value};

/// Returns whether the document satisfies the filter.
///
/// A missing field satisfies no condition, whatever the operator. Values of types that cannot be
/// compared are unequal and have no order.
///
/// # Errors
///
/// When the document must be read and is not a JSON object. Filters without conditions and those on
/// the document's id do not read it.
pub fn evaluate(filter: &Filter, document: &Document<'_>) -> Result<bool, InvalidDocument> {
    match filter.selection() {
        Selection::Collection => Ok(true),
        Selection::Document(id) => Ok(*document.event().document_id == *id),
        Selection::Conditions(conditions) => {
            for condition in conditions {
                let field = document.field(&condition.field)?;
                if !field.is_some_and(|field| holds(condition.op, &condition.value, field)) {
                    return Ok(false);
                }
            }
            Ok(true)
        }
    }
}

/// Returns whether a field that is present satisfies a condition.
pub(crate) fn holds(op: Op, value: &Value, field: &Json) -> bool {
    match op {
        Op::Eq => equal(field, value),
        Op::Ne => !equal(field, value),
        Op::Gt => order(field, value).is_some_and(Ordering::is_gt),
        Op::Ge => order(field, value).is_some_and(Ordering::is_ge),
        Op::Lt => order(field, value).is_some_and(Ordering::is_lt),
        Op::Le => order(field, value).is_some_and(Ordering::is_le),
        Op::In => match value {
            Value::List(values) => values.iter().any(|value| equal(field, value)),
            Value::Text(_) | Value::Int(_) | Value::Double(_) | Value::Bool(_) => false,
        },
        Op::Contains => contains(field, value),
    }
}

fn contains(field: &Json, value: &Value) -> bool {
    match field {
        Json::Array(elements) => elements.iter().any(|element| equal(element, value)),
        Json::Object(fields) => match value {
            Value::Text(key) => fields.contains_key(key),
            Value::Int(_) | Value::Double(_) | Value::Bool(_) | Value::List(_) => false,
        },
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => false,
    }
}

/// Returns whether a field equals a value; numbers by their value, lists element by element.
pub(crate) fn equal(field: &Json, value: &Value) -> bool {
    match value {
        Value::List(values) => field.as_array().is_some_and(|elements| {
            elements.len() == values.len()
                && elements
                    .iter()
                    .zip(values)
                    .all(|(element, value)| equal(element, value))
        }),
        Value::Text(_) | Value::Int(_) | Value::Double(_) | Value::Bool(_) => {
            order(field, value).is_some_and(Ordering::is_eq)
        }
    }
}

/// Returns `None` if the two have no order: values of different types, and lists.
fn order(field: &Json, value: &Value) -> Option<Ordering> {
    let number = || field.as_number().and_then(Number::of_json);
    match value {
        Value::Text(text) => Some(field.as_str()?.cmp(text)),
        Value::Int(int) => Some(number()?.cmp(&Number::from(*int))),
        Value::Double(double) => Some(number()?.cmp(&Number::from(*double))),
        Value::Bool(bool) => Some(field.as_bool()?.cmp(bool)),
        Value::List(_) => None,
    }
}
