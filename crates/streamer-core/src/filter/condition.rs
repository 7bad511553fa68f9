//! One condition on one field.

use std::fmt;

use super::{FieldPath, FilterFault, Op, Value};

/// The field that stands for the document's id when it is the only condition.
pub(super) const DOCUMENT_ID: &str = "_id";

/// One condition on one field.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// The path of the field.
    pub field: FieldPath,
    /// The operator.
    pub op: Op,
    /// The value that the field is compared with.
    pub value: Value,
}

impl Condition {
    /// Creates a condition. [`Filter::new`](super::Filter::new) checks it.
    pub fn new(field: impl Into<FieldPath>, op: Op, value: impl Into<Value>) -> Self {
        Self {
            field: field.into(),
            op,
            value: value.into(),
        }
    }

    pub(super) fn check(&self) -> Result<(), FilterFault> {
        // Refused and not ignored: a condition that never holds would be silence for the client.
        if !self.value.is_finite() {
            return Err(FilterFault::NotFinite);
        }
        let list = matches!(self.value, Value::List(_));
        match self.op {
            Op::In if !list => Err(FilterFault::NotAList {
                found: self.value.kind(),
            }),
            // They have no order, so that the condition could never hold.
            Op::Gt | Op::Ge | Op::Lt | Op::Le if list || self.value == Value::Null => {
                Err(FilterFault::NoOrder {
                    op: self.op,
                    found: self.value.kind(),
                })
            }
            Op::Eq | Op::Ne | Op::Gt | Op::Ge | Op::Lt | Op::Le | Op::In | Op::Contains => Ok(()),
        }
    }

    /// Checks a condition that is the only one of its filter.
    pub(super) fn check_document_id(&self) -> Result<(), FilterFault> {
        if self.field.as_dotted() != Some(DOCUMENT_ID) || self.op != Op::Eq {
            return Ok(());
        }
        match &self.value {
            // The original takes it for the whole collection (S5).
            Value::Text(id) if id.is_empty() => Err(FilterFault::EmptyDocumentId),
            Value::Text(_) => Ok(()),
            Value::Null | Value::Int(_) | Value::Double(_) | Value::Bool(_) | Value::List(_) => {
                Err(FilterFault::DocumentIdNotText {
                    found: self.value.kind(),
                })
            }
        }
    }
}

/// Writes the text that [`Filter::from_text`](super::Filter::from_text) reads.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.field, self.op, self.value)
    }
}
