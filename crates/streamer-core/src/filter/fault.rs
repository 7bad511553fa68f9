//! What can be wrong with a filter.

use std::fmt;

use super::Op;

/// A filter that can not be used, and why.
///
/// The text is what a server puts after `failed to compile filters: `. Where the original server
/// has a text of its own it is exactly that; in other cases the condition is named as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidFilter {
    /// Index of the condition, from 0.
    pub index: usize,
    /// Its field, cut after 64 characters.
    pub field: String,
    /// What is wrong with it.
    pub fault: FilterFault,
}

/// What is wrong with a condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterFault {
    /// The operator is none.
    #[error("unsupported operator: {0}")]
    UnsupportedOperator(String),
    /// There is no value.
    #[error("value is nil")]
    NoValue,
    /// There is a value, or an element of a list, without a kind.
    #[error("unsupported proto value type: <nil>")]
    NoKind,
    /// A number is infinite or not a number.
    #[error("the value is not a finite number; nothing compares with it")]
    NotFinite,
    /// `in` with something that is not a list.
    #[error("the operator in needs a list, the value is {found}; for equality use ==")]
    NotAList {
        /// Kind of the value.
        found: &'static str,
    },
    /// An order was asked of a list.
    #[error("the operator {op} has no meaning for a list; lists are equal or not")]
    NoOrder {
        /// The operator.
        op: Op,
    },
    /// `_id` is compared with something that no id can be.
    #[error("a document id is a string, the value is {found}")]
    DocumentIdNotText {
        /// Kind of the value.
        found: &'static str,
    },
    /// `_id` is compared with an empty text.
    #[error("a document id is not empty; to see the whole collection leave the filter out")]
    EmptyDocumentId,
    /// More conditions than the receiver takes.
    #[error("more than {limit} filters in one subscription")]
    TooManyConditions {
        /// The most that are taken.
        limit: usize,
    },
    /// More elements of lists than the receiver takes.
    #[error("more than {limit} elements in the lists of one subscription")]
    TooManyElements {
        /// The most that are taken.
        limit: usize,
    },
    /// More bytes than the receiver takes.
    #[error("more than {limit} bytes of filters in one subscription")]
    TooManyBytes {
        /// The most that are taken.
        limit: usize,
    },
    /// Lists nested deeper than the receiver takes.
    #[error("lists nested deeper than {limit}")]
    TooDeep {
        /// The deepest that is taken.
        limit: usize,
    },
}

impl InvalidFilter {
    pub(super) fn at(index: usize, field: &str, fault: FilterFault) -> Self {
        Self {
            index,
            field: field.chars().take(FIELD_CHARS_MAX).collect(),
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

/// A field is the client's text and goes back to it in an error; this much of it names it.
const FIELD_CHARS_MAX: usize = 64;
