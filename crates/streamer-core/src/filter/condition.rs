//! One condition on one field.

use std::{fmt, str::FromStr};

use super::{FilterFault, Value};

/// The field that stands for the document's id when it is the only condition.
pub(super) const DOCUMENT_ID: &str = "_id";

/// One condition on one field.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// The path of the field. Each `.` separates two segments and cannot be escaped.
    pub field: String,
    /// The operator.
    pub op: Op,
    /// The value that the field is compared with.
    pub value: Value,
}

/// An operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// Equal.
    Eq,
    /// Present and not equal: a missing field satisfies no condition.
    Ne,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Equal to an element of the value, which must be a list.
    In,
    /// A list with an element equal to the value, or an object with the value as a key.
    Contains,
}

/// The spelling of operators on the wire. Plain servers understand one spelling and refuse the other;
/// we read both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Spelling {
    /// `== != > >= < <= in contains`.
    #[default]
    Symbols,
    /// `eq ne gt gte lt lte in contains`, the older spelling.
    Words,
}

/// A text that is not an operator in either spelling.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unsupported operator: {0}")]
pub struct UnknownOp(pub String);

impl Condition {
    /// Creates a condition. [`Filter::new`](super::Filter::new) checks it.
    pub fn new(field: impl Into<String>, op: Op, value: impl Into<Value>) -> Self {
        Self {
            field: field.into(),
            op,
            value: value.into(),
        }
    }

    pub(super) fn check(&self) -> Result<(), FilterFault> {
        if !self.value.is_finite() {
            return Err(FilterFault::NotFinite);
        }
        let list = matches!(self.value, Value::List(_));
        match self.op {
            Op::In if !list => Err(FilterFault::NotAList {
                found: self.value.kind(),
            }),
            Op::Gt | Op::Ge | Op::Lt | Op::Le if list => Err(FilterFault::NoOrder { op: self.op }),
            Op::Eq | Op::Ne | Op::Gt | Op::Ge | Op::Lt | Op::Le | Op::In | Op::Contains => Ok(()),
        }
    }

    /// Checks a condition that is the only one of its filter.
    pub(super) fn check_document_id(&self) -> Result<(), FilterFault> {
        if self.field != DOCUMENT_ID || self.op != Op::Eq {
            return Ok(());
        }
        match &self.value {
            Value::Text(id) if id.is_empty() => Err(FilterFault::EmptyDocumentId),
            Value::Text(_) => Ok(()),
            Value::Int(_) | Value::Double(_) | Value::Bool(_) | Value::List(_) => {
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
        let plain = |c: char| c.is_alphanumeric() || "._-$@/:".contains(c);
        if !self.field.is_empty() && self.field.chars().all(plain) {
            f.write_str(&self.field)?;
        } else {
            write!(f, "{}", serde_json::Value::from(&*self.field))?;
        }
        write!(f, " {} {}", self.op, self.value)
    }
}

impl Op {
    /// All operators.
    pub const ALL: [Self; 8] = [
        Self::Eq,
        Self::Ne,
        Self::Gt,
        Self::Ge,
        Self::Lt,
        Self::Le,
        Self::In,
        Self::Contains,
    ];

    /// Returns the operator in the given spelling.
    #[must_use]
    pub const fn spelled(self, spelling: Spelling) -> &'static str {
        let (symbol, word) = match self {
            Self::Eq => ("==", "eq"),
            Self::Ne => ("!=", "ne"),
            Self::Gt => (">", "gt"),
            Self::Ge => (">=", "gte"),
            Self::Lt => ("<", "lt"),
            Self::Le => ("<=", "lte"),
            Self::In => ("in", "in"),
            Self::Contains => ("contains", "contains"),
        };
        match spelling {
            Spelling::Symbols => symbol,
            Spelling::Words => word,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.spelled(Spelling::Symbols))
    }
}

impl FromStr for Op {
    type Err = UnknownOp;

    /// Reads both spellings; case matters.
    fn from_str(text: &str) -> Result<Self, UnknownOp> {
        Self::ALL
            .into_iter()
            .find(|op| {
                [Spelling::Symbols, Spelling::Words]
                    .into_iter()
                    .any(|spelling| op.spelled(spelling) == text)
            })
            .ok_or_else(|| UnknownOp(text.to_owned()))
    }
}
