//! The faults of filters.

use std::fmt;

use super::{FieldPath, Op};

/// A filter that is not allowed.
///
/// A server writes the text after `failed to compile filters: `. If the original server has a text for
/// the fault, ours is the same; otherwise the text also names the condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidFilter {
    /// The index of the condition, from 0.
    pub index: usize,
    /// The field, cut after 64 characters.
    pub field: String,
    /// The reason.
    pub fault: FilterFault,
}

/// The reason why a condition is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterFault {
    /// The operator does not exist.
    #[error("unsupported operator: {0}")]
    UnsupportedOperator(String),
    /// The value is missing.
    #[error("value is nil")]
    NoValue,
    /// The value or an element of a list has no type.
    #[error("unsupported proto value type: <nil>")]
    NoKind,
    /// A number is infinite or NaN.
    #[error("filter value must be finite: NaN and infinities never match")]
    NotFinite,
    /// The value of `in` is not a list.
    #[error("operator in requires a list and the value is {found}; use == for equality")]
    NotAList {
        /// The type of the value.
        found: &'static str,
    },
    /// The operator orders values, and the value has no order.
    #[error("operator {op} does not apply to {found}; use == or !=")]
    NoOrder {
        /// The operator.
        op: Op,
        /// The type of the value.
        found: &'static str,
    },
    /// `_id` is compared with a value that is not a string.
    #[error("a document id is a string and the value is {found}")]
    DocumentIdNotText {
        /// The type of the value.
        found: &'static str,
    },
    /// `_id` is compared with an empty string.
    #[error("a document id cannot be empty; omit the filter to subscribe to the whole collection")]
    EmptyDocumentId,
    /// There are more conditions than the limit.
    #[error("more than {limit} filters in one subscription")]
    TooManyConditions {
        /// The limit.
        limit: usize,
    },
    /// There are more list elements than the limit.
    #[error("more than {limit} elements in the lists of one subscription")]
    TooManyElements {
        /// The limit.
        limit: usize,
    },
    /// The filter is larger than the limit.
    #[error("more than {limit} bytes of filters in one subscription")]
    TooManyBytes {
        /// The limit.
        limit: usize,
    },
    /// Lists are nested deeper than the limit.
    #[error("lists nested deeper than {limit}")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
}

impl InvalidFilter {
    pub(super) fn at(index: usize, field: &FieldPath, fault: FilterFault) -> Self {
        let text = field
            .as_dotted()
            .map_or_else(|| field.to_string(), str::to_owned);
        Self {
            index,
            // Characters and not bytes, so that none is cut.
            field: text.chars().take(FIELD_CHARS_MAX).collect(),
            fault,
        }
    }
}

impl fmt::Display for InvalidFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fault {
            FilterFault::UnsupportedOperator(_)
            | FilterFault::NoValue
            | FilterFault::NoKind
            | FilterFault::TooManyConditions { .. }
            | FilterFault::TooManyElements { .. }
            // The texts of the original, literally; the others are limits of the whole filter.
            | FilterFault::TooManyBytes { .. } => write!(f, "{}", self.fault),
            FilterFault::NotFinite
            | FilterFault::NotAList { .. }
            | FilterFault::NoOrder { .. }
            | FilterFault::DocumentIdNotText { .. }
            | FilterFault::EmptyDocumentId
            | FilterFault::TooDeep { .. } => {
                let number = self.index + 1;
                write!(f, "filter {number} on {:?}: {}", self.field, self.fault)
            }
        }
    }
}

impl std::error::Error for InvalidFilter {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // The text above already says what the fault says.
        None
    }
}

/// A field is text of the client and returns to it in an error. This many characters identify it.
const FIELD_CHARS_MAX: usize = 64;
