//! Evaluation of filters.

use std::cmp::Ordering;

use serde_json::Value as Json;

use super::{Document, Filter, InvalidDocument, Number, Op, Operand, Selection};

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
        // The event's own id, as the data may be unreadable or have a field of that name.
        Selection::Document(id) => Ok(*document.event().document_id == *id),
        Selection::Conditions(conditions) => {
            for condition in conditions {
                let field = document.field(&condition.field)?;
                let value = Operand::of(&condition.value);
                // Also for `!=`, as in the original: a missing field satisfies nothing.
                if !field.is_some_and(|field| holds(condition.op, value, field)) {
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
    fn is_null(self) -> bool;
    /// Returns the elements of a list.
    fn elements(self) -> Option<impl ExactSizeIterator<Item = Self>>;
    /// Returns whether it is an object with a member of this name.
    fn has_member(self, name: &[u8]) -> bool;
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

    fn is_null(self) -> bool {
        Json::is_null(self)
    }

    fn elements(self) -> Option<impl ExactSizeIterator<Item = Self>> {
        self.as_array().map(|elements| elements.iter())
    }

    fn has_member(self, name: &[u8]) -> bool {
        let (members, name) = (self.as_object(), std::str::from_utf8(name));
        members.is_some_and(|members| name.is_ok_and(|name| members.contains_key(name)))
    }
}

/// Returns whether a field that is present satisfies a condition.
pub(crate) fn holds<'a>(op: Op, value: Operand<'_>, field: impl FieldValue<'a>) -> bool {
    match op {
        Op::Eq => equal(field, value),
        // Values of different types are unequal, so that null differs from everything but null.
        Op::Ne => !equal(field, value),
        Op::Gt => order(field, value).is_some_and(Ordering::is_gt),
        Op::Ge => order(field, value).is_some_and(Ordering::is_ge),
        Op::Lt => order(field, value).is_some_and(Ordering::is_lt),
        Op::Le => order(field, value).is_some_and(Ordering::is_le),
        Op::In => match value {
            Operand::List(values) => values.into_iter().any(|value| equal(field, value)),
            Operand::Null | Operand::Text(_) | Operand::Number(_) | Operand::Bool(_) => false,
        },
        Op::Contains => contains(field, value),
    }
}

fn contains<'a>(field: impl FieldValue<'a>, value: Operand<'_>) -> bool {
    if let Some(mut elements) = field.elements() {
        return elements.any(|element| equal(element, value));
    }
    match value {
        // The keys of an object, never the parts of a string: `contains` is no search in texts.
        Operand::Text(name) => field.has_member(name),
        Operand::Null | Operand::Number(_) | Operand::Bool(_) | Operand::List(_) => false,
    }
}

/// Returns whether a field equals a value; numbers by their value, lists element by element.
pub(crate) fn equal<'a>(field: impl FieldValue<'a>, value: Operand<'_>) -> bool {
    let values = match value {
        Operand::List(values) => values,
        Operand::Null => return field.is_null(),
        Operand::Text(_) | Operand::Number(_) | Operand::Bool(_) => {
            return order(field, value).is_some_and(Ordering::is_eq);
        }
    };
    field.elements().is_some_and(|mut elements| {
        let len = values.len();
        let mut values = values.into_iter();
        elements.len() == len
            && elements.all(|element| values.next().is_some_and(|value| equal(element, value)))
    })
}

/// Returns `None` if the two have no order: values of different types, lists, and null.
fn order<'a>(field: impl FieldValue<'a>, value: Operand<'_>) -> Option<Ordering> {
    match value {
        Operand::Text(text) => Some(field.text()?.cmp(text)),
        Operand::Number(number) => Some(field.number()?.cmp(&number)),
        Operand::Bool(bool) => Some(field.bool()?.cmp(&bool)),
        Operand::Null | Operand::List(_) => None,
    }
}
