//! Filters: the conditions of a subscription, as plain data.
//!
//! A [`Filter`] is made once, from the wire ([`Filter::parse`]), from text ([`Filter::from_text`]) or
//! from values ([`Filter::new`]), and then evaluated against many documents. All three apply the same
//! checks, so that evaluation has no errors of its own. Fields and values are data; neither is ever
//! interpreted as an expression.
//!
//! Evaluation never allocates.

mod condition;
mod document;
mod evaluate;
mod fault;
mod number;
mod op;
mod operand;
mod path;
mod text;
mod value;
mod wire;

use std::{fmt, sync::Arc};

pub use self::{
    condition::Condition,
    document::{Document, DocumentFault, InvalidDocument},
    evaluate::evaluate,
    fault::{FilterFault, InvalidFilter},
    op::{Op, Spelling, UnknownOp},
    path::FieldPath,
    text::{InvalidText, TextFault},
    value::{InvalidValue, Value},
    wire::FilterLimits,
};
pub(crate) use self::{
    evaluate::{FieldValue, equal, holds},
    number::Number,
    operand::{Operand, decode_number, encode_number},
};

/// The conditions of a subscription, all of which a document must satisfy.
///
/// Clones share the conditions.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    conditions: Arc<[Condition]>,
}

/// The three kinds of filters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Selection<'a> {
    /// Every document of the collection.
    Collection,
    /// The one document with this id.
    Document(&'a str),
    /// The documents that satisfy all of these conditions; there is at least one.
    Conditions(&'a [Condition]),
}

impl Filter {
    /// Creates a filter that every document satisfies.
    #[must_use]
    pub fn all() -> Self {
        Self {
            conditions: Arc::from([]),
        }
    }

    /// Creates a filter of conditions that must all hold. Every document satisfies an empty filter.
    ///
    /// # Errors
    ///
    /// At the first condition that could never match or not be sent: a number that is not finite, `in`
    /// without a list, an order of lists, a document id that is empty or not a string.
    pub fn new(conditions: impl IntoIterator<Item = Condition>) -> Result<Self, InvalidFilter> {
        let conditions: Arc<[Condition]> = conditions.into_iter().collect();
        for (index, condition) in conditions.iter().enumerate() {
            condition
                .check()
                .map_err(|fault| InvalidFilter::at(index, &condition.field, fault))?;
        }
        // Only alone does `_id` name a document (S5): the original took a value that is no id for
        // the whole collection.
        if let [only] = &*conditions {
            only.check_document_id()
                .map_err(|fault| InvalidFilter::at(0, &only.field, fault))?;
        }
        Ok(Self { conditions })
    }

    /// Returns a filter of the conditions of both. Neither must be the selection of a document.
    pub(crate) fn and(&self, other: &Self) -> Self {
        let conditions = self.conditions.iter().chain(&*other.conditions);
        Self {
            conditions: conditions.cloned().collect(),
        }
    }

    /// Returns the conditions, in the order in which they were given.
    #[must_use]
    pub fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    /// Returns whether a condition has null, or a key with a dot, which the original cannot express.
    pub(crate) fn needs_profile(&self) -> bool {
        self.conditions
            .iter()
            .any(|condition| condition.field.as_dotted().is_none() || condition.value.has_null())
    }

    /// Returns the kind of the filter.
    ///
    /// The field `_id` stands for the document's id only in a filter of a single `==`. With other
    /// conditions or another operator it is an ordinary field.
    #[must_use]
    pub fn selection(&self) -> Selection<'_> {
        match &*self.conditions {
            [] => Selection::Collection,
            [
                Condition {
                    field,
                    op: Op::Eq,
                    value: Value::Text(id),
                },
            ] if field.as_dotted() == Some(condition::DOCUMENT_ID) => Selection::Document(id),
            conditions => Selection::Conditions(conditions),
        }
    }
}

/// Writes the text form of the conditions, separated by commas.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, condition) in self.conditions.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{condition}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
