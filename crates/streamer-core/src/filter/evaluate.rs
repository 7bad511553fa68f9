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

/// The value of a field, as conditions see it. A value of another type is `None`.
///
/// There are two readings of a document, the parsed [`Document`] and that of the matcher, and one
/// meaning of the operators.
pub(crate) trait FieldValue<'a>: Copy {
    /// Returns the bytes of a text.
    fn text(self) -> Option<&'a [u8]>;
    fn number(self) -> Option<Number>;
    fn bool(self) -> Option<bool>;
    /// Returns the elements of a list.
    fn elements(self) -> Option<impl ExactSizeIterator<Item = Self>>;
    /// Returns whether it is an object with a member of this name.
    fn has_member(self, name: &str) -> bool;
}

impl<'a> FieldValue<'a> for &'a Json {
    fn text(self) -> Option<&'a [u8]> {
        self.as_str().map(str::as_bytes)
    }

    fn number(self) -> Option<Number> {
        self.as_number().and_then(Number::of_json)
    }

    fn bool(self) -> Option<bool> {
        self.as_bool()
    }

    fn elements(self) -> Option<impl ExactSizeIterator<Item = Self>> {
        self.as_array().map(|elements| elements.iter())
    }

    fn has_member(self, name: &str) -> bool {
        self.as_object()
            .is_some_and(|members| members.contains_key(name))
    }
}

/// Returns whether a field that is present satisfies a condition.
pub(crate) fn holds<'a>(op: Op, value: &Value, field: impl FieldValue<'a>) -> bool {
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

fn contains<'a>(field: impl FieldValue<'a>, value: &Value) -> bool {
    if let Some(mut elements) = field.elements() {
        return elements.any(|element| equal(element, value));
    }
    match value {
        Value::Text(name) => field.has_member(name),
        Value::Int(_) | Value::Double(_) | Value::Bool(_) | Value::List(_) => false,
    }
}

/// Returns whether a field equals a value; numbers by their value, lists element by element.
pub(crate) fn equal<'a>(field: impl FieldValue<'a>, value: &Value) -> bool {
    match value {
        Value::List(values) => field.elements().is_some_and(|elements| {
            elements.len() == values.len()
                && elements
                    .zip(values)
                    .all(|(element, value)| equal(element, value))
        }),
        Value::Text(_) | Value::Int(_) | Value::Double(_) | Value::Bool(_) => {
            order(field, value).is_some_and(Ordering::is_eq)
        }
    }
}

/// Returns `None` if the two have no order: values of different types, and lists.
fn order<'a>(field: impl FieldValue<'a>, value: &Value) -> Option<Ordering> {
    match value {
        Value::Text(text) => Some(field.text()?.cmp(text.as_bytes())),
        Value::Int(int) => Some(field.number()?.cmp(&Number::from(*int))),
        Value::Double(double) => Some(field.number()?.cmp(&Number::from(*double))),
        Value::Bool(bool) => Some(field.bool()?.cmp(bool)),
        Value::List(_) => None,
    }
}
